"""An LMDB folder as a set: its records come out as they are stored, in whichever process they are asked for."""

import multiprocessing
import pickle
from pathlib import Path

import lmdb
import pytest

from crnn.data.formats.lmdb import StoreReader
from crnn.data.formats.records import Record, Skipped
from crnn.data.store import LmdbStore
from crnn.errors import DataError, ImageError


def write_store(folder: Path, labels: list[str | bytes | None], **records: bytes) -> Path:
    """A store as the field's tools write it; ``None``: without a label."""
    entries = {"num-samples": b"%d" % len(labels), **records}
    for number, label in enumerate(labels, 1):
        entries.setdefault(f"image-{number:09d}", b"image %d" % number)
        if label is not None:
            entries[f"label-{number:09d}"] = label if isinstance(label, bytes) else label.encode()
    with lmdb.open(str(folder), map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key.encode(), value)
    return folder


def test_records_are_those_of_the_store(tmp_path):
    lexicons = {"lexicon-000000002": b"zwei drei", "large-lexicon-000000002": b"eins zwei drei vier"}
    reader = StoreReader(write_store(tmp_path / "words", ["one", "zwei", "größe 日本"], **lexicons))
    found = list(reader)
    assert found == list(reader)
    assert len(reader) == 3
    assert found[0] == Record(key="image-000000001", label="one", path="image-000000001")
    assert (found[1].lexicon, found[1].large_lexicon) == (("zwei", "drei"), ("eins", "zwei", "drei", "vier"))
    assert found[2].label == "größe 日本"
    images = [reader.read_image(record.path) for record in reversed(found)]
    assert images == [b"image 3", b"image 2", b"image 1"]
    reader.close()
    assert reader.read_image(found[1].path) == b"image 2"  # it opens again
    reader.close()


def test_part_of_a_store_can_be_read(tmp_path):
    folder = write_store(tmp_path, ["a", "b", "c", "d", "e"])
    assert [record.label for record in StoreReader(folder, indices=range(1, 3))] == ["b", "c"]
    reader = StoreReader(str(folder), indices=[4, 0, 4])
    assert ([record.label for record in reader], len(reader)) == (["e", "a", "e"], 3)
    assert [record.path for record in reader] == ["image-000000005", "image-000000001", "image-000000005"]
    assert list(StoreReader(folder, indices=[])) == []
    for indices in ([0, 5], range(-1, 2)):
        with pytest.raises(DataError, match=r"has 5 samples; indices from -?\d to \d were asked for"):
            StoreReader(folder, indices=indices)


def test_bad_records_are_counted_and_bad_images_say_why(tmp_path):
    folder = write_store(
        tmp_path,
        ["one", None, b"caf\xe9", "four", "five", "six"],
        **{"image-000000004": b"", "lexicon-000000005": b"\xff"},
    )
    with lmdb.open(str(folder)) as environment, environment.begin(write=True) as transaction:
        transaction.delete(b"image-000000006")
    reader = StoreReader(folder)
    found = list(reader)
    assert [sample.label if isinstance(sample, Record) else sample for sample in found] == [
        "one",
        Skipped("image-000000002", "bad_record"),
        Skipped("image-000000003", "bad_record"),
        "four",
        Skipped("image-000000005", "bad_record"),
        "six",
    ]
    for index, reason in ((3, "empty"), (5, "missing")):
        with pytest.raises(ImageError) as caught:
            reader.read_image(found[index].path)
        assert caught.value.reason == reason


def test_a_store_that_is_damaged_stops_the_reading(tmp_path, monkeypatch):
    reader = StoreReader(write_store(tmp_path / "words", ["one", "two", "three"]))
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
    reader.close()


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: there is no data\.mdb that can be read in it"):
        StoreReader(tmp_path / "nowhere")


def test_workers_read_images(tmp_path):
    reader = StoreReader(write_store(tmp_path / "words", ["one", "two"]))
    records = list(reader)  # so that this process has the file open
    assert list(pickle.loads(pickle.dumps(reader))) == records
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(reader.read_image, [record.path for record in records]) == [b"image 1", b"image 2"]
        pool.close()
        pool.join()
    reader.close()
