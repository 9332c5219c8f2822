"""The file of a store: transactions, and how full pages are."""

import random

import lmdb
import pytest

from crnn.data.store import StoreFile


@pytest.fixture
def file(tmp_path):
    (tmp_path / "store").mkdir()
    made = StoreFile(tmp_path / "store", "store", map_size=1 << 16)
    made.open()
    yield made
    made.close()


def add(file: StoreFile, numbers: range) -> None:
    for number in numbers:
        file.add(bytes([number % 256]) * 5000, str(number), None, None, (10, 10))


def labels(folder) -> list[str]:
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return [value.decode() for key, value in transaction.cursor() if key.startswith(b"label-")]


def test_commits_are_in_order_and_gone_on_with(file, tmp_path):
    for part in range(6):
        add(file, range(20 * part, 20 * part + 20))
        file.commit(b"%d" % part)
        assert (file.pending_samples, file.pending_bytes) == (0, 0)
    file.close()
    assert labels(tmp_path / "store") == [str(number) for number in range(120)]
    again = StoreFile(tmp_path / "store", "store")
    again.open()
    assert (again.go_on(), again.num_samples) == (b"5", 120)
    again.finish()
    assert labels(tmp_path / "store") == [str(number) for number in range(120)]


@pytest.mark.parametrize(("smallest", "largest", "limit"), [(700, 1900, 1.45), (300, 600, 1.6), (3000, 9000, 1.45)])
def test_pages_are_well_filled(tmp_path, smallest, largest, limit):
    rng = random.Random(1)
    (tmp_path / "store").mkdir()
    file = StoreFile(tmp_path / "store", "store", sync=False)
    file.open()
    size = 0
    for number in range(6000):
        image = bytes(rng.randint(smallest, largest))
        size += len(image)
        file.add(image, "word", None, None, (100, 32))
        if number % 1500 == 1499:
            file.commit()
    file.finish()
    assert (tmp_path / "store" / "data.mdb").stat().st_size < limit * size
    with lmdb.open(str(tmp_path / "store"), readonly=True, lock=False) as environment:
        assert environment.stat()["entries"] == 3 * 6000 + 1  # nothing is left of what kept the pages full
