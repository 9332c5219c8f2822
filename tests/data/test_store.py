"""Stores of samples: what is there is read, in every process, and what is damaged says so."""

import gc
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import pytest

from crnn.data.source import open_source, split_name
from crnn.data.store import LmdbStore
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


def test_the_field_s_layout_is_read(tmp_path):
    records = numbered(["Hello", "naïve", "日本"])
    records["lexicon-000000002"] = "naive naïve native".encode()
    records["wh-000000003"] = b"100_32"
    with LmdbStore(write_raw(tmp_path / "field", records)) as store:
        assert store.path == str(tmp_path / "field")
        assert len(store) == 3
        assert [store.label(i) for i in range(3)] == ["Hello", "naïve", "日本"]
        assert store.image_bytes(1) == records["image-000000002"]
        assert store.key(2) == "image-000000003"
        assert [store.lexicon(i) for i in range(3)] == [None, ("naive", "naïve", "native"), None]
        assert [store.stored_size(i) for i in range(3)] == [None, None, (100, 32)]
        for index in (-1, 3):
            with pytest.raises(IndexError, match=f"sample {index} of 3"):
                store.label(index)


def test_spawned_workers_read(store_folder):
    store = LmdbStore(store_folder)
    assert store.label(0) == "one"  # open here, which must not travel
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(store.label, range(3)) == ["one", "zwei", "três"]
        pool.close()
        pool.join()
    assert store.label(2) == "três"
    store.close()


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
def test_forked_workers_read_through_their_own_environment(store_folder):
    first, second = LmdbStore(store_folder), LmdbStore(store_folder)
    assert first.label(0) == "one"
    inherited = first._environment()

    def read() -> list[object]:
        labels = [first.label(1), second.label(2)]
        return [*labels, first._environment() is second._environment(), first._environment() is inherited]

    assert in_a_fork(read) == ["zwei", "três", True, False]
    assert first._environment() is inherited
    assert first.label(1) == "zwei"
    first.close()


@needs_fork
def test_closing_what_was_inherited_closes_nothing_else(store_folder):
    first, second = LmdbStore(store_folder), LmdbStore(store_folder)
    assert first.label(0) == "one"

    def read() -> list[object]:
        label = second.label(1)
        first.close()
        return [label, second.label(2), LmdbStore(store_folder).label(0), first.label(0)]

    assert in_a_fork(read) == ["zwei", "três", "one", "one"]
    assert first.label(1) == "zwei"
    first.close()


def test_a_store_that_was_not_read_has_nothing_open(store_folder):
    store = LmdbStore(store_folder)
    lmdb.open(str(store_folder), readonly=True, lock=False).close()
    assert store.label(0) == "one"
    store.close()


def test_a_pickled_store_opens_for_itself(store_folder):
    store = LmdbStore(store_folder)
    assert store.label(0) == "one"
    twin = pickle.loads(pickle.dumps(store))
    assert (twin.path, len(twin), twin.label(1)) == (store.path, 3, "zwei")
    store.close()
    assert twin.label(2) == "três"
    twin.close()


def test_stores_on_one_folder_share_it_until_the_last_is_closed(store_folder, tmp_path):
    (tmp_path / "link").symlink_to(store_folder)
    stores = [LmdbStore(store_folder), LmdbStore(store_folder), LmdbStore(tmp_path / "link")]
    assert [store.label(0) for store in stores] == ["one"] * 3
    stores[0].close()
    stores[0].close()
    assert stores[1].label(1) == "zwei"
    stores[1].close()
    assert stores[2].label(2) == "três"
    with pytest.raises(lmdb.Error, match="already open"):
        lmdb.open(str(store_folder), readonly=True, lock=False)
    stores[2].close()
    lmdb.open(str(store_folder), readonly=True, lock=False).close()
    assert stores[0].label(0) == "one"  # reading opens it again
    stores[0].close()


def test_threads_open_a_store_once(store_folder):
    with LmdbStore(store_folder) as store, ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            assert list(pool.map(store.label, [0, 1, 2] * 8)) == ["one", "zwei", "três"] * 8
            store.close()
            lmdb.open(str(store_folder), readonly=True, lock=False).close()  # nobody has it open


def test_a_forgotten_store_is_closed_with_its_last_reference(store_folder):
    store = LmdbStore(store_folder)
    assert store.label(0) == "one"
    store = None
    gc.collect()
    lmdb.open(str(store_folder), readonly=True, lock=False).close()


def test_a_store_left_open_does_not_disturb_the_end_of_the_process(store_folder):
    code = f"from crnn.data.store import LmdbStore; store = LmdbStore({str(store_folder)!r}); print(store.label(0))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "one", "")


def test_labels_are_not_held(tmp_path):
    path = write_raw(
        tmp_path / "many",
        {"num-samples": b"20000"} | {f"label-{number:09d}": b"some label" for number in range(1, 20001)},
    )
    tracemalloc.start()
    with LmdbStore(path) as store:
        assert all(store.label(i) == "some label" for i in range(20000))
        held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 200_000  # 20,000 strings would take a million bytes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num-samples": None}, "has no record 'num-samples'"),
        ({"num-samples": b"three"}, "record 'num-samples' is 'three'; expected a whole number"),
        ({"num-samples": b"-3"}, "expected a whole number"),
        ({"num-samples": b"9" * 5000}, "expected a whole number"),
        ({"num-samples": b"0"}, "expected at least 1 sample"),
        ({"num-samples": b"4"}, "num-samples is 4, but the last label in it is 'label-000000003'"),
        (
            {"num-samples": b"4", "label-000000000": b"zero"},
            "and the first 'label-000000000', where this layout counts from 1",
        ),
        (
            {f"label-{number:09d}": None for number in (1, 2, 3)},
            "num-samples is 3, but there is no label in it",
        ),
    ],
)
def test_a_wrong_count_is_refused(tmp_path, change, message):
    records = {key: value for key, value in (numbered(["one", "two", "three"]) | change).items() if value is not None}
    path = write_raw(tmp_path / "words", records)
    with pytest.raises(DataError) as caught:
        LmdbStore(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("size", [0, 100, 4096, 8192, 20_000])
def test_a_truncated_file_is_refused(store_folder, size):
    whole = (store_folder / "data.mdb").stat().st_size
    assert whole > 20_000
    os.truncate(store_folder / "data.mdb", size)
    for _ in range(2):  # the failed attempt leaves nothing open
        with pytest.raises(
            DataError, match=r"words: data\.mdb .*[Cc]opy or (download|write) it again|Copy or download"
        ):
            LmdbStore(store_folder)


def test_a_file_truncated_by_its_last_page_is_refused(store_folder):
    whole = (store_folder / "data.mdb").stat().st_size
    os.truncate(store_folder / "data.mdb", whole - 1)
    with pytest.raises(DataError, match=f"has {whole - 1} bytes, {whole} expected: it was cut short"):
        LmdbStore(store_folder)


def test_what_is_not_a_store_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nothere: there is no data\.mdb"):
        LmdbStore(tmp_path / "nothere")
    with pytest.raises(DataError, match="expected an LMDB folder"):
        LmdbStore(tmp_path)
    (tmp_path / "data.mdb").write_bytes(b"an image, say" * 1000)
    with pytest.raises(DataError, match=r"data.mdb \(13000 bytes\) cannot be opened"):
        LmdbStore(tmp_path)


def test_bad_records_say_which(tmp_path):
    records = numbered(["a", "b", "c"]) | {
        "image-000000002": b"",
        "label-000000002": b"caf\xe9",
        "wh-000000001": b"12x4",
    }
    del records["image-000000001"], records["label-000000001"]
    records["lexicon-000000001"] = b"\xff"
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


def test_without_lmdb_the_message_says_what_to_install(store_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(MissingExtraError, match=r"reading LMDB stores needs the package 'lmdb'.*crnn\[data\]"):
        LmdbStore(store_folder)


def test_neither_lmdb_nor_torch_is_imported_before_a_store_is_opened():
    code = "import sys, crnn.data.source; print(sorted({'lmdb', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_source_may_be_a_store(tmp_path, store_folder):
    with open_source(str(store_folder)) as store:
        assert isinstance(store, LmdbStore)
        assert store.path == str(store_folder)
    with open_source(f"w={store_folder}") as store:
        assert store.path == str(store_folder)
    assert split_name(f"{store_folder}/") == ("words", f"{store_folder}/")
    with pytest.raises(DataError, match="expected the folder"):
        open_source(str(store_folder / "data.mdb"))
    for name in "abcde":
        shutil.copytree(store_folder, tmp_path / "sets" / "training" / name)
    with pytest.raises(DataError) as caught:
        open_source(str(tmp_path / "sets"))
    named = ", ".join(str(tmp_path / "sets" / "training" / name) for name in "abcd")
    assert f"Name the one to use: {named}, ..." in str(caught.value)
