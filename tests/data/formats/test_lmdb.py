"""An LMDB folder as a set: its records come out as they are stored, in whichever process they are asked for."""

import multiprocessing
from pathlib import Path

import lmdb
import pytest

from crnn.data.formats.lmdb import StoreReader
from crnn.data.formats.records import Record, Skipped
from crnn.data.store import LmdbStore
from crnn.errors import DataError, ImageError


def write_store(folder: Path, labels: list[bytes | None], **records: bytes) -> StoreReader:
    """A store as the field's tools write it; ``None``: without a label."""
    entries = {"num-samples": b"%d" % len(labels), **records}
    for number, label in enumerate(labels, 1):
        entries.setdefault(f"image-{number:09d}", b"image %d" % number)
        if label is not None:
            entries[f"label-{number:09d}"] = label
    with lmdb.open(str(folder), map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            if value != b"gone":
                transaction.put(key.encode(), value)
    return StoreReader(folder)


def test_records_beyond_the_count_are_counted(tmp_path):
    reader = write_store(tmp_path, [b"one", b"two", b"three"], **{"num-samples": b"1"})
    found = list(reader)
    assert (len(reader), found[0].label) == (3, "one")
    assert found[1:] == [Skipped(f"image-00000000{number}", "beyond_num_samples") for number in (2, 3)]


def test_records_are_those_of_the_store(tmp_path):
    lexicons = {"lexicon-000000002": b"zwei drei", "large-lexicon-000000002": b"eins zwei drei vier"}
    reader = write_store(tmp_path, [b"one", b"zwei", "größe 日本".encode()], **lexicons)
    found = list(reader)
    assert found == list(reader)
    assert found[0] == Record(key="image-000000001", label="one", path="image-000000001")
    assert (found[1].lexicon, found[1].large_lexicon) == (("zwei", "drei"), ("eins", "zwei", "drei", "vier"))
    assert found[2].label == "größe 日本"
    paths = [record.path for record in reversed(found)]
    assert list(map(reader.image_source(), paths)) == [b"image 3", b"image 2", b"image 1"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # while this process has the file open
        assert pool.map(reader.image_source(), paths) == [b"image 3", b"image 2", b"image 1"]
        pool.close()
        pool.join()


def test_bad_records_are_counted_and_bad_images_say_why(tmp_path, samples):
    faults = {"image-000000004": b"", "lexicon-000000005": b"\xff", "image-000000006": b"gone"}
    reader = write_store(tmp_path, [b"one", None, b"caf\xe9", b"four", b"five", b"six"], **faults)
    labels = ["one", "!bad_record", "!bad_record", "four", "!bad_record", "six"]
    assert [label for _, label in samples(reader)] == labels
    for path, reason in (("image-000000004", "empty"), ("image-000000006", "missing")):
        with pytest.raises(ImageError) as caught:
            reader.image_source()(path)
        assert caught.value.reason == reason


def test_a_store_that_is_damaged_stops_the_reading(tmp_path, monkeypatch):
    reader = write_store(tmp_path, [b"one", b"two", b"three"])
    get = LmdbStore._get

    def damaged(self: LmdbStore, key: str) -> bytes | None:
        if key == "label-000000003":
            raise DataError("words: data.mdb is damaged") from lmdb.CorruptedError()
        return get(self, key)

    monkeypatch.setattr(LmdbStore, "_get", damaged)  # real damage may end the process, depending on the page
    samples = iter(reader)
    assert [next(samples).label for _ in range(2)] == ["one", "two"]
    with pytest.raises(DataError, match=r"data\.mdb is damaged"):
        next(samples)
