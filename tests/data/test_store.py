"""LMDB stores: what goes in comes out, in every process; what is damaged says so; what is not whole is not there."""

import multiprocessing
import os
import pickle
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crnn.data.store as stores
from crnn.data.source import open_source, split_name
from crnn.data.store import LmdbStore, LmdbWriter
from crnn.errors import DataError, ImageError, MissingExtraError

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


def write_raw(folder: Path, records: dict[str, bytes]) -> Path:
    """A store as the field's tools write it: with lmdb alone, everything in one folder."""
    with lmdb.open(str(folder), map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        for key, value in records.items():
            transaction.put(key.encode(), value)
    return folder


def numbered(labels: list[str]) -> dict[str, bytes]:
    records = {"num-samples": str(len(labels)).encode()}
    for number, label in enumerate(labels, 1):
        records[f"image-{number:09d}"] = f"image of {label}".encode() * 300
        records[f"label-{number:09d}"] = label.encode()
    return records


@pytest.fixture
def store_folder(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "words", numbered(["one", "zwei", "três"]))


def is_open(folder: Path) -> bool:
    try:
        lmdb.open(str(folder), readonly=True, lock=False).close()
    except lmdb.Error:
        return True
    return False


# ---- reading


def test_the_field_s_layout_is_read(tmp_path):
    records = numbered(["Hello", "naïve", "日本"])
    records["lexicon-000000002"] = "naive naïve native".encode()
    records["wh-000000003"] = b"100_32"
    with LmdbStore(write_raw(tmp_path / "field", records)) as store:
        assert (store.path, len(store)) == (str(tmp_path / "field"), 3)
        assert [store.label(i) for i in range(3)] == ["Hello", "naïve", "日本"]
        assert store.image_bytes(1) == records["image-000000002"]
        assert store.key(2) == "image-000000003"
        assert [store.lexicon(i) for i in range(3)] == [None, ("naive", "naïve", "native"), None]
        assert [store.stored_size(i) for i in range(3)] == [None, None, (100, 32)]
        for index in (-1, 3):
            with pytest.raises(IndexError, match=f"sample {index} of 3"):
                store.label(index)


def test_spawned_workers_and_pickled_stores_read(store_folder):
    store = LmdbStore(store_folder)
    assert not is_open(store_folder)  # before the first read
    assert store.label(0) == "one"  # open here, which must not travel
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(store.label, range(3)) == ["one", "zwei", "três"]
        pool.close()
        pool.join()
    twin = pickle.loads(pickle.dumps(store))
    store.close()
    assert (twin.path, len(twin), twin.label(1)) == (store.path, 3, "zwei")
    twin.close()


def in_a_fork(read: Callable[[], list[object]]) -> list[object]:
    """What ``read`` returns in a forked process, which must end well."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    worker = multiprocessing.get_context("fork").Process(target=lambda: sender.send(read()))
    worker.start()
    sender.close()  # so that a worker that dies ends the wait
    with receiver:
        result = receiver.recv()
    worker.join(30)
    assert worker.exitcode == 0
    return result


@needs_fork
def test_forked_workers_read_and_close_nothing_of_others(store_folder):
    first, second = LmdbStore(store_folder), LmdbStore(store_folder)
    assert first.label(0) == "one"
    inherited = first._opened

    def read() -> list[object]:
        label = second.label(1)
        first.close()
        labels = [label, second.label(2), LmdbStore(store_folder).label(0), first.label(0)]
        return [*labels, first._opened[1] is second._opened[1], first._opened[1] is inherited[1]]

    assert in_a_fork(read) == ["zwei", "três", "one", "one", True, False]
    assert first._opened is inherited
    assert first.label(1) == "zwei"
    first.close()


def test_stores_on_one_folder_share_it_until_the_last_is_closed(store_folder, tmp_path):
    (tmp_path / "link").symlink_to(store_folder)
    stores = [LmdbStore(store_folder), LmdbStore(store_folder), LmdbStore(tmp_path / "link")]
    assert [store.label(0) for store in stores] == ["one"] * 3
    stores[0].close()
    stores[0].close()
    assert stores[1].label(1) == "zwei"
    stores[1].close()
    assert stores[2].label(2) == "três"
    assert is_open(store_folder)
    stores[2].close()
    assert not is_open(store_folder)
    assert stores[0].label(0) == "one"  # reading opens it again
    stores[0].close()


def test_threads_open_a_store_once(store_folder):
    with LmdbStore(store_folder) as store, ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            assert list(pool.map(store.label, [0, 1, 2] * 8)) == ["one", "zwei", "três"] * 8
            store.close()
            assert not is_open(store_folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num-samples": None}, "has no record 'num-samples'"),
        ({"num-samples": b"three"}, "record 'num-samples' is 'three'; expected a whole number"),
        ({"num-samples": b"9" * 5000}, "expected a whole number"),
        ({"num-samples": b"0"}, "expected at least 1 sample"),
        (
            {"num-samples": b"4", "label-000000000": b"zero"},
            "num-samples is 4, but there is no 'label-000000004' (keys count from 1)",
        ),
    ],
)
def test_a_wrong_count_is_refused(tmp_path, change, message):
    records = {key: value for key, value in (numbered(["one", "two", "three"]) | change).items() if value is not None}
    path = write_raw(tmp_path / "words", records)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        LmdbStore(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("change", "unread"),
    [
        ({}, 0),
        ({"num-samples": b"2"}, 1),
        ({"num-samples": b"1", "image-000000003": None}, 2),
        ({"image-~": b"", "labels": b"", "label-x": b"", "label-9": b"", "image-": b""}, 0),
    ],
)
def test_samples_beyond_the_count_are_counted(tmp_path, change, unread):
    records = {key: value for key, value in (numbered(["one", "two", "three"]) | change).items() if value is not None}
    with LmdbStore(write_raw(tmp_path / "words", records)) as store:
        assert (store.num_unread, len(store)) == (unread, 3 - unread)


def keys_page(data: bytearray, size: int = 4096) -> int:
    """The place of the last page of keys and small records in data.mdb."""
    pages = range(2 * size, len(data), size)
    return max(p for p in pages if struct.unpack_from("<Q2xH", data, p) == (p // size, 2))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, b"\xff"),  # its number
        (10, b"\x01"),  # said to be a page of pages
        (10, b"\x22"),
        (12, b"\x00\x00"),  # the end of its nodes' places
        (12, b"\xff\xff"),
        (16, b"\xd0\xc8"),  # the place of a node
        (16, b"\xfc\x0f"),
        ("node", b"\xff\xff\xff\xff"),  # the length of a record
        ("node", b"\x00\x00\x00\x00\x04\x00"),
        ("node", b"\x00\x00\x00\x00\x00\x00\xff\xff"),  # the length of a key
        ("big", b"\xff\xff\x00\x00"),  # the length of a record on pages of its own
    ],
)
def test_a_damaged_page_is_named_before_it_ends_the_process(tmp_path, place, value):
    path = write_raw(tmp_path / "words", numbered(["one", "two", "three"]))
    data = bytearray((path / "data.mdb").read_bytes())
    page = keys_page(data)
    if isinstance(place, str):
        nodes = [page + node for node in struct.unpack_from("<7H", data, page + 16)]
        place = next(node for node in nodes if (data[node + 4] == 1) == (place == "big"))
    else:
        place += page
    data[place : place + len(value)] = value
    (path / "data.mdb").write_bytes(data)
    with pytest.raises(DataError, match=r"words: data\.mdb is damaged: a page of keys is not as LMDB writes them\."):
        LmdbStore(path)


def test_pages_are_checked_once_and_in_the_order_of_the_file(tmp_path, monkeypatch):
    path = write_raw(tmp_path / "words", numbered([f"{number:03d}" for number in range(300)]))
    visited = []
    children = stores._children
    monkeypatch.setattr(stores, "_children", lambda *place: visited.append(place[-1]) or children(*place))
    for _ in range(2):
        LmdbStore(path)
    leaves = visited[1:]  # below the root
    assert len(leaves) > 5
    assert leaves == sorted(set(leaves))
    page = leaves[0] * 4096
    with (path / "data.mdb").open("r+b") as file:
        file.seek(page)
        file.write(b"\xff")
    os.utime(path / "data.mdb", ns=(1, 1))  # as if the clock had gone on since
    for _ in range(2):
        with pytest.raises(DataError, match="is damaged"):
            LmdbStore(path)


def test_damaged_metadata_is_named(tmp_path):
    path = write_raw(tmp_path / "words", numbered(["one"]))
    whole = (path / "data.mdb").read_bytes()
    for place, value in ((40, b"\0\0"), (4096 + 128, b"\xff")):  # the size of pages, the number of the first
        (path / "data.mdb").write_bytes(whole[:place] + value + whole[place + len(value) :])
        with pytest.raises(DataError, match="is damaged"):
            LmdbStore(path)


@pytest.mark.parametrize("num_samples", [1, 30, 600])
@pytest.mark.parametrize("compact", [False, True])
def test_whole_stores_of_any_size_are_read(tmp_path, num_samples, compact):
    path, copy = write_raw(tmp_path / "words", numbered(["x"])), tmp_path / "copy"
    rng = random.Random(num_samples)
    copy.mkdir()
    with lmdb.open(str(path), map_size=1 << 32, max_dbs=1, sync=False) as environment:
        environment.open_db(b"of another tool", dupsort=True)
        for number in range(1, num_samples + 1):
            with environment.begin(write=True) as transaction:
                transaction.put(b"image-%09d" % number, bytes(rng.choice([1, 900, 2040, 5000, 70_000])))
                transaction.put(b"label-%09d" % number, b"x" * rng.randrange(60))
                transaction.put(b"num-samples", b"%d" % number)
                transaction.put(b"z" * 511, bytes(90_000))  # written and removed again: there are free pages
                transaction.delete(b"z" * 511)
        environment.copy(str(copy), compact=compact)
    with LmdbStore(copy) as store:
        assert (len(store), store.num_unread) == (num_samples, 0)
        assert all(store.image_bytes(index) for index in range(num_samples))


@pytest.mark.parametrize("size", [0, 100, 4096, 8192, 20_000, -1])
def test_a_truncated_file_is_refused(store_folder, size):
    whole = (store_folder / "data.mdb").stat().st_size
    os.truncate(store_folder / "data.mdb", size % whole)
    for _ in range(2):  # the failed attempt leaves nothing open
        with pytest.raises(
            DataError, match=r"words: (there is no data\.mdb that can be|data\.mdb has \d+ bytes, \d+ expected)"
        ):
            LmdbStore(store_folder)


def test_what_is_not_a_store_is_refused(tmp_path):
    for path in (tmp_path / "nothere", tmp_path):
        with pytest.raises(DataError, match=rf"^{path}: there is no data\.mdb .*No such file.*an LMDB folder"):
            LmdbStore(path)
    (tmp_path / "data.mdb").write_bytes(b"an image, say" * 1000)
    with pytest.raises(DataError, match=r"there is no data\.mdb that can be read"):
        LmdbStore(tmp_path)


def test_bad_records_say_which(tmp_path):
    records = numbered(["a", "b", "c"]) | {
        "image-000000002": b"",
        "label-000000002": b"caf\xe9",
        "wh-000000001": b"12x4",
        "lexicon-000000001": b"\xff",
    }
    del records["image-000000001"], records["label-000000001"]
    with LmdbStore(write_raw(tmp_path / "bad", records)) as store:
        for index, reason in [(0, "missing"), (1, "empty")]:
            with pytest.raises(ImageError, match=f"image-00000000{index + 1}") as caught:
                store.image_bytes(index)
            assert caught.value.reason == reason
        with pytest.raises(DataError, match="has no record 'label-000000001'"):
            store.label(0)
        with pytest.raises(DataError, match=r"'label-000000002' is 'caf\\xe9'; expected UTF-8"):
            store.label(1)
        with pytest.raises(DataError, match="'lexicon-000000001'"):
            store.lexicon(0)
        with pytest.raises(DataError, match=r"'wh-000000001' is '12x4'; expected '\{width\}_\{height\}'"):
            store.stored_size(0)


def test_lmdb_is_imported_on_demand_and_its_absence_says_what_to_install(store_folder, monkeypatch):
    code = "import sys, crnn.data.source; print(sorted({'lmdb', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
    monkeypatch.setitem(sys.modules, "lmdb", None)
    for make, what in ((LmdbStore, "reading"), (LmdbWriter, "writing")):
        with pytest.raises(MissingExtraError, match=rf"{what} LMDB stores needs the package 'lmdb'.*crnn\[data\]"):
            make(store_folder)


def test_a_source_may_be_a_store(tmp_path, store_folder):
    for spec in (str(store_folder), f"w={store_folder}"):
        with open_source(spec) as store:
            assert isinstance(store, LmdbStore)
            assert store.path == str(store_folder)
    assert split_name(f"{store_folder}/") == ("words", f"{store_folder}/")
    with pytest.raises(DataError, match="expected the folder"):
        open_source(str(store_folder / "data.mdb"))
    for name in "ab":
        shutil.copytree(store_folder, tmp_path / "sets" / "training" / name)
    named = ", ".join(str(tmp_path / "sets" / "training" / name) for name in "ab")
    with pytest.raises(DataError, match=f"Below it are: {named}"):
        open_source(str(tmp_path / "sets"))


# ---- writing

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda word: word.split() == [word])
SAMPLES = st.lists(
    st.tuples(
        st.binary(min_size=1, max_size=6000),
        st.text(st.characters(codec="utf-8"), max_size=30),
        st.lists(WORDS, max_size=4).map(tuple),
        st.none() | st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(samples=SAMPLES, commit_every=st.integers(1, 5), map_size=st.sampled_from([1, 1 << 14, 1 << 24]))
def test_what_is_written_is_read_back(samples, commit_every, map_size):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("crnn.data.store._MAP_BYTES", map_size)
        path = Path(folder) / "new" / "store"
        with LmdbWriter(path) as writer:
            for number, (image, label, lexicon, size) in enumerate(samples, start=1):
                writer.add(image, label, lexicon=lexicon, size=size)
                if number % commit_every == 0:
                    writer.commit(b"")
        assert writer.num_samples == len(samples)
        assert [entry.name for entry in path.parent.iterdir()] == ["store"]
        with LmdbStore(path) as store:
            assert [
                (store.image_bytes(i), store.label(i), store.lexicon(i) or (), store.stored_size(i))
                for i in range(len(store))
            ] == samples


def test_the_writer_s_keys_are_the_field_s(tmp_path, records_of):
    with LmdbWriter(tmp_path / "store") as writer:
        writer.add(b"image", "wörd", lexicon=["word", "wörd"], large_lexicon=["one", "two"], size=(100, 32))
    assert records_of(tmp_path / "store") == {
        b"image-000000001": b"image",
        b"label-000000001": "wörd".encode(),
        b"large-lexicon-000000001": b"one two",
        b"lexicon-000000001": "word wörd".encode(),
        b"wh-000000001": b"100_32",
        b"num-samples": b"1",
    }
    assert LmdbStore(tmp_path / "store").lexicon(0, large=True) == ("one", "two")


@pytest.mark.parametrize(("smallest", "largest", "limit"), [(700, 1900, 1.45), (3000, 9000, 1.45)])
def test_pages_are_well_filled(tmp_path, records_of, smallest, largest, limit):
    rng = random.Random(1)
    size = 0
    with LmdbWriter(tmp_path / "store") as writer:
        for number in range(6000):
            image = bytes(rng.randint(smallest, largest))
            size += len(image)
            writer.add(image, "word", size=(100, 32))
            if number % 1500 == 1499:
                writer.commit(b"")
    assert (tmp_path / "store" / "data.mdb").stat().st_size < limit * size
    assert len(records_of(tmp_path / "store")) == 3 * 6000 + 1  # nothing is left of what kept the pages full


def test_the_writer_overwrites_nothing(tmp_path):
    store_folder = tmp_path / "words"
    with LmdbWriter(store_folder) as writer:
        writer.add(b"image", "word")
    before = (store_folder / "data.mdb").read_bytes()
    (tmp_path / "file").write_text("x")
    for path, message in (
        (store_folder, "words: exists already; expected a new or empty folder"),
        (tmp_path / "file", "exists already"),
        (tmp_path / "file" / "store", "cannot be written"),
    ):
        with pytest.raises(DataError, match=message):
            LmdbWriter(path).__enter__()
    assert (store_folder / "data.mdb").read_bytes() == before
    (tmp_path / "empty").mkdir()
    with LmdbWriter(f"{tmp_path}/empty/") as writer:
        writer.add(b"image", "label")
    assert LmdbStore(tmp_path / "empty").label(0) == "label"


def test_a_name_taken_while_writing_loses_nothing(tmp_path):
    writer = LmdbWriter(tmp_path / "store").__enter__()
    writer.add(b"image", "label")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "other").touch()
    with pytest.raises(DataError, match=r"The store is whole: rename .*store\.partial"):
        writer.__exit__(None, None, None)
    assert LmdbStore(tmp_path / "store.partial").label(0) == "label"
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(DataError, match="is a whole store that has not got its name; rename it"):
        LmdbWriter(tmp_path / "store").__enter__()


def test_a_store_without_samples_is_not_written(tmp_path):
    with pytest.raises(DataError, match="no sample was added"), LmdbWriter(tmp_path / "none"):
        pass


def test_only_what_a_writer_left_is_gone_on_with_or_removed(tmp_path):
    write_raw(tmp_path / "store.partial", {"image-000000001": b"image"})
    with pytest.raises(DataError, match="left by a writer that nobody can go on for"):
        LmdbWriter(tmp_path / "store").__enter__()
    LmdbWriter(tmp_path / "store").discard_earlier()
    assert list(tmp_path.iterdir()) == []
