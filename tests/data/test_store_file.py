"""The file of a store: transactions that are written beside, what they could not write, and how full pages are."""

import random
import threading

import lmdb
import pytest

from crnn.data.store import StoreFile
from crnn.errors import DataError


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


def test_commits_that_nobody_waits_for_are_in_order(file, tmp_path):
    for part in range(6):
        add(file, range(20 * part, 20 * part + 20))
        file.commit(b"%d" % part, wait=False)
        assert (file.pending_samples, file.pending_bytes) == (0, 0)
    file.close()
    assert labels(tmp_path / "store") == [str(number) for number in range(120)]
    again = StoreFile(tmp_path / "store", "store")
    again.open()
    assert (again.go_on(), again.num_samples) == (b"5", 120)
    again.finish()
    assert labels(tmp_path / "store") == [str(number) for number in range(120)]


def test_what_could_not_be_written_is_raised_later_and_written_by_the_next_commit(file, tmp_path, monkeypatch):
    add(file, range(3))
    file.commit(b"three")
    real = file._transact

    def failing(*_: object) -> None:
        raise DataError("the disk is full")

    monkeypatch.setattr(file, "_transact", failing)
    add(file, range(3, 5))
    file.commit(b"five", wait=False)
    add(file, range(5, 6))
    monkeypatch.setattr(file, "_transact", real)
    with pytest.raises(DataError, match="the disk is full"):
        file.commit(b"six")
    assert file.pending_bytes > 3 * 5000
    file.commit(b"six")
    file.finish()
    assert labels(tmp_path / "store") == [str(number) for number in range(6)]


def test_an_error_of_the_last_commit_keeps_the_store_from_being_finished(file, monkeypatch):
    def failing(*_: object) -> None:
        raise DataError("the disk is full")

    add(file, range(2))
    monkeypatch.setattr(file, "_transact", failing)
    file.commit(b"two", wait=False)
    monkeypatch.undo()
    with pytest.raises(DataError, match="the disk is full"):
        file.finish()
    assert file.finished_samples() is None


def test_the_caller_goes_on_while_the_disk_is_waited_for(file, monkeypatch):
    go_on = threading.Event()
    real = file._transact

    def slow(records, num_bytes, put, without=()):
        put.set()
        assert go_on.wait(30)
        real(records, num_bytes, put, without)

    monkeypatch.setattr(file, "_transact", slow)
    add(file, range(2))
    file.commit(b"two", wait=False)  # comes back, though nothing is written yet
    add(file, range(2, 4))
    assert file.pending_samples == 2
    go_on.set()
    file.commit(b"four")
    assert file.num_samples == 4


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
