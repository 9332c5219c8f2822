"""Stores that are written: what goes in comes out, what is not whole is not there, and nothing is overwritten."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_the_writer_s_keys_are_the_field_s(tmp_path):
    with LmdbWriter(tmp_path / "store") as writer:
        writer.add(b"image", "wörd", lexicon=["word", "wörd"], size=(100, 32))
    with (
        lmdb.open(str(tmp_path / "store"), readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        assert dict(transaction.cursor()) == {
            b"image-000000001": b"image",
            b"label-000000001": "wörd".encode(),
            b"lexicon-000000001": "word wörd".encode(),
            b"wh-000000001": b"100_32",
            b"num-samples": b"1",
        }


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    def write_until_interrupted() -> None:
        with LmdbWriter(tmp_path / "store", commit_every=1) as writer:
            writer.add(b"image", "label")
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
            writer.add(b"image", "label")
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
        writer.add(b"image", "label")
    assert len(LmdbStore(tmp_path / "store")) == 1


def test_the_writer_overwrites_nothing(tmp_path):
    store_folder = tmp_path / "words"
    with LmdbWriter(store_folder) as writer:
        writer.add(b"image", "word")
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


def test_the_writer_refuses_what_it_cannot_store(tmp_path):
    with LmdbWriter(tmp_path / "store") as writer:
        with pytest.raises(ImageError, match="image 1 has 0 bytes"):
            writer.add(b"", "label")
        with pytest.raises(DataError, match="surrogate"):
            writer.add(b"image", "\ud800")
        for word in ("New York", "", "tab\tbed", "wide\u3000space"):
            with pytest.raises(DataError, match="without white space"):
                writer.add(b"image", "label", lexicon=["York", word])
        with pytest.raises(TypeError, match="sequence of words"):
            writer.add(b"image", "label", lexicon="York")
        with pytest.raises(DataError, match="at least 1 by 1"):
            writer.add(b"image", "label", size=(0, 32))
        writer.add(b"image", "label")  # none of the above left half a sample behind
    with LmdbStore(tmp_path / "store") as store:
        assert (len(store), store.label(0), store.lexicon(0), store.stored_size(0)) == (1, "label", None, None)
    with pytest.raises(RuntimeError, match="with statement"):
        writer.add(b"image", "label")
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
        assert writer._file._environment.info()["map_size"] < 4 * 60 * len(image)
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


def test_without_lmdb_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(MissingExtraError, match=r"writing LMDB stores needs the package 'lmdb'.*crnn\[data\]"):
        LmdbWriter(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_lmdb_is_not_imported_before_a_store_is_written():
    code = "import sys, crnn.data.store; print(sorted({'lmdb', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_two_lexicons_are_stored(tmp_path):
    with LmdbWriter(tmp_path / "store") as writer:
        writer.add(b"image", "one", lexicon=["one", "two"], large_lexicon=["one", "two", "three"])
        writer.add(b"image", "two", large_lexicon=["two"])
        with pytest.raises(DataError, match="lexicon word 'New York'"):
            writer.add(b"image", "label", large_lexicon=["New York"])
    with LmdbStore(tmp_path / "store") as store:
        assert (store.lexicon(0), store.large_lexicon(0)) == (("one", "two"), ("one", "two", "three"))
        assert (store.lexicon(1), store.large_lexicon(1)) == (None, ("two",))


def test_a_kept_partial_store_goes_on_behind_the_last_commit(tmp_path):
    def write(numbers: list[int], last: int) -> None:
        with LmdbWriter(tmp_path / "store", map_size=1 << 16, keep_partial=True) as writer:
            assert writer.num_samples == numbers[0]
            for number in numbers:
                writer.add(bytes(50_000), str(number))
                assert writer.pending_bytes > 50_000
                if number == last:
                    writer.commit(b"up to %d" % last)
                    assert writer.pending_bytes == 0
            raise KeyboardInterrupt

    for numbers, last in (([0, 1, 2, 3], 2), ([3, 4, 5], 4), ([5], 99)):
        with pytest.raises(KeyboardInterrupt):
            write(numbers, last)
        assert not (tmp_path / "store").exists()
        with pytest.raises(DataError, match="num-samples"):
            LmdbStore(tmp_path / "store.partial")
    with LmdbWriter(tmp_path / "store", keep_partial=True) as writer:
        assert (writer.num_samples, writer.state) == (5, b"up to 4")
        writer.add(b"end", "end")
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]
    assert [entry.name for entry in sorted((tmp_path / "store").iterdir())] == ["data.mdb"]
    with (
        lmdb.open(str(tmp_path / "store"), readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        assert transaction.get(b"conversion-state") is None
        assert transaction.stat()["entries"] == 13
    with LmdbStore(tmp_path / "store") as store:
        assert [store.label(i) for i in range(6)] == ["0", "1", "2", "3", "4", "end"]


def test_only_what_a_writer_kept_is_gone_on_with(tmp_path):
    partial = tmp_path / "store.partial"
    with pytest.raises(RuntimeError, match="keeps no state"), LmdbWriter(tmp_path / "store") as writer:
        writer.commit(b"")
    with lmdb.open(str(partial)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"image-000000001", b"image")
    with pytest.raises(DataError, match="left by a writer that nobody can go on for"):
        LmdbWriter(tmp_path / "store", keep_partial=True).__enter__()
    with lmdb.open(str(partial)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"num-samples", b"1")
    with pytest.raises(DataError, match="is a whole store that has not got its name; rename it"):
        LmdbWriter(tmp_path / "store", keep_partial=True).__enter__()
    LmdbWriter(tmp_path / "store").discard_earlier()
    assert list(tmp_path.iterdir()) == []
    LmdbWriter(tmp_path / "store").discard_earlier()  # nothing is there, which is as well
    (tmp_path / "store.partial").write_text("a file")
    with pytest.raises(DataError, match="cannot be removed"):
        LmdbWriter(tmp_path / "store").discard_earlier()


def test_a_second_writer_is_refused_while_the_first_is_at_it(tmp_path):
    with LmdbWriter(tmp_path / "store", keep_partial=True) as writer:
        writer.add(b"image", "label")
        with pytest.raises(DataError, match="another process is writing there"):
            LmdbWriter(tmp_path / "store", keep_partial=True).__enter__()
        with pytest.raises(DataError, match="another process is writing there"):
            LmdbWriter(tmp_path / "store").discard_earlier()
    assert len(LmdbStore(tmp_path / "store")) == 1
