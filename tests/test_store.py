"""Stores of samples: what is written is read back, in every process, and what is damaged says so."""

import gc
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.data.source import open_source, split_name
from crnn.data.store import LmdbStore, LmdbWriter
from crnn.errors import DataError, ImageError, MissingExtraError

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda word: word.split() == [word])
SAMPLES = st.lists(
    st.tuples(
        st.binary(min_size=1, max_size=6000),
        st.text(st.characters(codec="utf-8"), max_size=30),
        st.none() | st.lists(WORDS, max_size=4).map(tuple),
        st.none() | st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
    ),
    min_size=1,
    max_size=12,
)


def write_raw(folder: Path, records: dict[str, bytes]) -> Path:
    """A store as the field's tools write it: with lmdb alone, everything in one folder."""
    with lmdb.open(str(folder), map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        for key, value in records.items():
            transaction.put(key.encode(), value)
    return folder


def numbered(labels: list[str]) -> dict[str, bytes]:
    records = {"num-samples": str(len(labels)).encode()}
    for number, label in enumerate(labels, 1):
        records[f"image-{number:09d}"] = f"picture of {label}".encode() * 300
        records[f"label-{number:09d}"] = label.encode()
    return records


@pytest.fixture
def store_folder(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "words", numbered(["one", "zwei", "três"]))


@settings(max_examples=40, deadline=None)
@given(samples=SAMPLES, commit_every=st.integers(1, 5), map_size=st.sampled_from([1, 1 << 14, 1 << 24]))
def test_what_is_written_is_read_back(samples, commit_every, map_size):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new" / "store"
        with LmdbWriter(path, map_size=map_size, commit_every=commit_every) as writer:
            for image, label, lexicon, size in samples:
                writer.add(image, label, lexicon=lexicon, size=size)
        assert writer.num_samples == len(samples)
        assert [entry.name for entry in path.parent.iterdir()] == ["store"]
        with LmdbStore(path) as store:
            assert len(store) == len(samples)
            read = [
                (store.image_bytes(i), store.label(i), store.lexicon(i), store.stored_size(i))
                for i in range(len(samples))
            ]
        assert read == samples


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


def test_the_writer_s_keys_are_the_field_s(tmp_path):
    with LmdbWriter(tmp_path / "store") as writer:
        writer.add(b"picture", "wörd", lexicon=["word", "wörd"], size=(100, 32))
    with (
        lmdb.open(str(tmp_path / "store"), readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        assert dict(transaction.cursor()) == {
            b"image-000000001": b"picture",
            b"label-000000001": "wörd".encode(),
            b"lexicon-000000001": "word wörd".encode(),
            b"wh-000000001": b"100_32",
            b"num-samples": b"1",
        }


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
    (tmp_path / "data.mdb").write_bytes(b"a picture, say" * 1000)
    with pytest.raises(DataError, match=r"data.mdb \(14000 bytes\) cannot be opened"):
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


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    def write_until_interrupted() -> None:
        with LmdbWriter(tmp_path / "store", commit_every=1) as writer:
            writer.add(b"picture", "label")
            assert (tmp_path / "store.partial" / "data.mdb").exists()
            assert not (tmp_path / "store").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_until_interrupted()
    assert list(tmp_path.iterdir()) == []


@needs_fork
def test_a_killed_writer_leaves_nothing_that_looks_whole(tmp_path):
    def write_and_die() -> None:
        with LmdbWriter(tmp_path / "store", commit_every=1) as writer:
            writer.add(b"picture", "label")
            os._exit(9)

    worker = multiprocessing.get_context("fork").Process(target=write_and_die)
    worker.start()
    worker.join(30)
    assert worker.exitcode == 9
    assert [entry.name for entry in tmp_path.iterdir()] == ["store.partial"]
    with pytest.raises(DataError, match="num-samples"):
        LmdbStore(tmp_path / "store.partial")
    with pytest.raises(DataError, match=r"store\.partial: exists already.*remove that folder"):
        LmdbWriter(tmp_path / "store").__enter__()
    shutil.rmtree(tmp_path / "store.partial")
    with LmdbWriter(tmp_path / "store") as writer:
        writer.add(b"picture", "label")
    assert len(LmdbStore(tmp_path / "store")) == 1


def test_the_writer_overwrites_nothing(tmp_path, store_folder):
    before = (store_folder / "data.mdb").read_bytes()
    with pytest.raises(DataError, match="words: exists already; expected a new or empty folder"):
        LmdbWriter(store_folder).__enter__()
    assert (store_folder / "data.mdb").read_bytes() == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="exists already"):
        LmdbWriter(tmp_path / "file").__enter__()
    with pytest.raises(DataError, match="cannot be written"):
        LmdbWriter(tmp_path / "file" / "store").__enter__()
    (tmp_path / "empty").mkdir()
    with LmdbWriter(f"{tmp_path}/empty/") as writer:
        writer.add(b"picture", "label")
    assert LmdbStore(tmp_path / "empty").label(0) == "label"


def test_a_name_taken_while_writing_loses_nothing(tmp_path):
    writer = LmdbWriter(tmp_path / "store").__enter__()
    writer.add(b"picture", "label")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "other").touch()
    with pytest.raises(DataError, match=r"The store is whole: rename .*store\.partial"):
        writer.__exit__(None, None, None)
    assert LmdbStore(tmp_path / "store.partial").label(0) == "label"


def test_the_writer_refuses_what_it_cannot_store(tmp_path):
    with LmdbWriter(tmp_path / "store") as writer:
        with pytest.raises(ImageError, match="picture 1 has 0 bytes"):
            writer.add(b"", "label")
        with pytest.raises(DataError, match="surrogate"):
            writer.add(b"picture", "\ud800")
        for word in ("New York", "", "tab\tbed", "wide\u3000space"):
            with pytest.raises(DataError, match="without white space"):
                writer.add(b"picture", "label", lexicon=["York", word])
        with pytest.raises(TypeError, match="sequence of words"):
            writer.add(b"picture", "label", lexicon="York")
        with pytest.raises(DataError, match="at least 1 by 1"):
            writer.add(b"picture", "label", size=(0, 32))
        writer.add(b"picture", "label")  # none of the above left half a sample behind
    with LmdbStore(tmp_path / "store") as store:
        assert (len(store), store.label(0), store.lexicon(0), store.stored_size(0)) == (1, "label", None, None)
    with pytest.raises(RuntimeError, match="with statement"):
        writer.add(b"picture", "label")
    with pytest.raises(DataError, match="no sample was added"), LmdbWriter(tmp_path / "none"):
        pass
    with pytest.raises(ValueError, match="commit_every is 0"):
        LmdbWriter(tmp_path / "none", commit_every=0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows gives the file the size of the map")
def test_the_file_grows_with_its_contents(tmp_path):
    image = os.urandom(100_000)
    with LmdbWriter(tmp_path / "store", map_size=1 << 16, commit_every=10) as writer:
        for number in range(60):
            writer.add(image, str(number))
        assert writer._environment.info()["map_size"] < 4 * 60 * len(image)
    size = (tmp_path / "store" / "data.mdb").stat().st_size
    assert 60 * len(image) < size < 1.1 * 60 * len(image)
    with LmdbStore(tmp_path / "store") as store:
        assert all(store.image_bytes(i) == image and store.label(i) == str(i) for i in range(60))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_is_a_data_error(tmp_path):
    code = f"""
import resource
from crnn.data.store import LmdbWriter
from crnn.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    with LmdbWriter({str(tmp_path / "store")!r}, commit_every=5) as writer:
        for number in range(100):
            writer.add(bytes(100_000), str(number))
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "store: cannot be written" in done.stdout
    assert "MiB left, the next records need 1 MiB. Make room" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_without_lmdb_the_message_says_what_to_install(store_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(MissingExtraError, match=r"reading LMDB stores needs the package 'lmdb'.*crnn\[data\]"):
        LmdbStore(store_folder)
    with pytest.raises(MissingExtraError, match="writing LMDB stores"):
        LmdbWriter(tmp_path / "new")


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
