"""Sets in shards as they are read: one store like any other, and what is not one set is refused."""

import json
import multiprocessing
import pickle
import shutil
from pathlib import Path

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crnn.data.formats.lmdb import StoreReader
from crnn.data.formats.share import ShareReader
from crnn.data.shard_writer import ShardedWriter
from crnn.data.shards import MAX_SHARDS, ShardedStore, ShardList, open_shards, place_of, shard_name, shard_size
from crnn.data.source import open_source, split_name
from crnn.data.store import LmdbStore
from crnn.data.store_writer import LmdbWriter
from crnn.errors import DataError


def write(path: Path, count: int = 10, num_shards: int = 3, text: str = "label") -> Path:
    with ShardedWriter(path, num_shards) as writer:
        for number in range(count):
            writer.add(
                b"picture %d" % number, f"{text} {number}", size=(number + 1, 32),
                lexicon=["a", "b"] if number == 4 else None, large_lexicon=["a", "b", "c"] if number == 4 else None,
            )  # fmt: skip
    return path


def edit_list(path: Path, **changes: object) -> None:
    file = path / "shards.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


# ---- where a sample is


@given(st.integers(1, MAX_SHARDS), st.integers(1, 3000))
def test_every_place_is_taken_once_and_the_sizes_are_what_they_are_said_to_be(num_shards, num_samples):
    places = [place_of(index, num_shards) for index in range(num_samples)]
    assert len(set(places)) == num_samples
    sizes = [shard_size(number, num_shards, num_samples) for number in range(num_shards)]
    assert sum(sizes) == num_samples
    assert max(sizes) - min(sizes) <= 1
    assert set(places) == {(number, position) for number, size in enumerate(sizes) for position in range(size)}


@given(st.integers(2, 24), st.integers(1, 64))
def test_what_comes_back_every_so_many_samples_comes_to_every_shard(num_shards, period):
    """As where each word of a set comes once as it is and once changed."""
    places = [place_of(index, num_shards)[0] for index in range(0, 40 * num_shards * period, period)]
    counts = [places.count(number) for number in range(num_shards)]
    assert 10 < min(counts) <= 40 <= max(counts) < 80


# ---- one store


def test_the_samples_are_those_of_one_store(tmp_path):
    path = write(tmp_path / "set")
    with LmdbWriter(tmp_path / "store") as writer:
        for number in range(10):
            writer.add(b"picture %d" % number, f"label {number}")
    with open_source(str(path)) as store, LmdbStore(tmp_path / "store") as one:
        assert isinstance(store, ShardedStore)
        assert (len(store), store.path) == (10, str(path))
        for index in range(10):
            assert (store.image_bytes(index), store.label(index)) == (one.image_bytes(index), one.label(index))
            assert store.stored_size(index) == (index + 1, 32)
            expected = (("a", "b"), ("a", "b", "c")) if index == 4 else (None, None)
            assert (store.lexicon(index), store.large_lexicon(index)) == expected
        assert [store.key(index) for index in (0, 1, 9)] == [
            "shard-00000-of-00003/image-000000001",
            "shard-00001-of-00003/image-000000001",
            "shard-00001-of-00003/image-000000004",
        ]
        for index in (-1, 10):
            with pytest.raises(IndexError, match=rf"set: sample {index} of 10"):
                store.label(index)
    assert store.label(3) == "label 3"  # it opens again
    store.close()
    assert split_name(f"{path}/") == ("set", f"{path}/")
    assert len(open_source(f"mine={path}")) == 10


def test_it_can_be_pickled_and_read_in_workers(tmp_path):
    store = ShardedStore(write(tmp_path / "set"))
    assert store.label(0) == "label 0"  # so that this process has a shard open
    assert pickle.loads(pickle.dumps(store)).label(9) == "label 9"
    for method in ("spawn", "fork"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.map(store.label, range(10)) == [f"label {number}" for number in range(10)]
            pool.close()
            pool.join()
    store.close()


def test_a_shard_alone_is_a_store(tmp_path):
    store = open_source(str(write(tmp_path / "set") / shard_name(1, 3)))
    assert isinstance(store, LmdbStore)
    assert [store.label(index) for index in range(len(store))] == ["label 1", "label 4", "label 7", "label 9"]


def test_a_share_of_shards_is_the_share_of_the_store(tmp_path):
    write(tmp_path / "set", 40)
    with LmdbWriter(tmp_path / "store") as writer:
        for number in range(40):
            writer.add(b"picture %d" % number, f"label {number}")
    shares = [
        [getattr(sample, "label", None) for sample in ShareReader(StoreReader(tmp_path / name), 0, 0.5)]
        for name in ("set", "store")
    ]
    assert shares[0] == shares[1]
    assert 5 < sum(label is not None for label in shares[0]) < 35


def test_the_list_comes_back(tmp_path):
    shards = ShardList.read(write(tmp_path / "set"))
    assert (shards.num_samples, shards.num_shards) == (10, 3)
    assert shards.records == ("image", "label", "lexicon", "large-lexicon", "wh")
    assert ShardList._from_json(shards.path, shards.to_json().encode()) == shards


def test_some_shards_may_be_opened_without_the_others(tmp_path):
    path = write(tmp_path / "set")
    for number in (0, 2):
        shutil.rmtree(path / shard_name(number, 3))
    (store,) = open_shards(ShardList.read(path), [1])
    assert len(store) == 4


# ---- what is no whole set


def test_missing_shards_are_named(tmp_path):
    path = write(tmp_path / "set", num_shards=6)
    shutil.rmtree(path / shard_name(4, 6))
    (path / shard_name(1, 6) / "data.mdb").unlink()
    with pytest.raises(DataError) as caught:
        open_source(str(path))
    assert str(caught.value) == (
        f"{path}: 2 of the 6 shards that are needed here are missing: shard-00001-of-00006, shard-00004-of-00006. Copy "
        "them here; a rank that trains with data.shards = 'own' needs only its own"
    )
    for number in (0, 2, 3, 5):
        shutil.rmtree(path / shard_name(number, 6))
    with pytest.raises(DataError, match=r"6 of the 6 .*: shard-00000-of-00006, .*shard-00003-of-00006, \.{4} Copy"):
        open_source(str(path))


def test_a_list_that_is_missing_is_asked_for(tmp_path):
    path = write(tmp_path / "set")
    (path / "shards.json").unlink()
    for opened in (open_source, StoreReader, ShardList.read):
        with pytest.raises(DataError, match=r"set/shards\.json: cannot be read: No such file .*Copy it to them"):
            opened(str(path))


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b'{"format": "other", "version": 1}', b"[" * 100_000,
        b'{"format": "crnn-shards", "version": "1"}', b'{"format": "crnn-shards", "version": 1}',
    ],
)  # fmt: skip
def test_a_damaged_list_is_refused(tmp_path, text):
    path = write(tmp_path / "set")
    (path / "shards.json").write_bytes(text)
    with pytest.raises(
        DataError, match=r"set/shards\.json: is damaged \(.*\); expected the list that .* Copy it again"
    ):
        open_source(str(path))


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": 11},
        {"samples": "10"},
        {"samples": True, "samples_per_shard": [1]},
        {"samples_per_shard": [4, 3, 4]},
        {"samples_per_shard": []},
        {"samples_per_shard": 3},
        {"samples_per_shard": [1] * (MAX_SHARDS + 1), "samples": MAX_SHARDS + 1},
        {"samples": 10**400},
        {"id": 5},
        {"records": [1]},
        {"records": None},
    ],
)
def test_a_list_that_contradicts_itself_is_refused(tmp_path, changes):
    path = write(tmp_path / "set")
    edit_list(path, **changes)
    with pytest.raises(DataError, match=r"shards\.json: is damaged"):
        open_source(str(path))


def test_a_list_of_a_later_version_is_refused(tmp_path):
    path = write(tmp_path / "set")
    edit_list(path, version=2)
    with pytest.raises(DataError, match=r"^\S*shards\.json: is of version 2; expected 1\. Use a newer crnn$"):
        open_source(str(path))


def test_shards_of_two_conversions_are_not_mixed(tmp_path):
    one, other = write(tmp_path / "one"), write(tmp_path / "other", text="Label")
    shutil.rmtree(one / shard_name(1, 3))
    shutil.copytree(other / shard_name(1, 3), one / shard_name(1, 3))
    with pytest.raises(DataError) as caught:
        open_source(str(one))
    first, second = (json.loads((path / "shards.json").read_text())["id"] for path in (one, other))
    assert first != second
    assert str(caught.value) == (
        f"{one}/shard-00001-of-00003: says that it is '{second} 1 3'; {one}/shards.json expects '{first} 1 3' "
        "(set, shard, shards): it is of another conversion. Copy all shards and shards.json of one"
    )


def test_a_shard_under_the_name_of_another_is_refused(tmp_path):
    path = write(tmp_path / "set", 9)
    shutil.rmtree(path / shard_name(1, 3))
    shutil.copytree(path / shard_name(2, 3), path / shard_name(1, 3))
    with pytest.raises(DataError, match=r"shard-00001-of-00003: says that it is '\w{16} 2 3'; "):
        open_source(str(path))


def test_the_same_set_in_another_number_of_shards_is_refused(tmp_path):
    three, two = write(tmp_path / "three", 9), write(tmp_path / "two", 9, 2)
    assert json.loads((three / "shards.json").read_text())["id"] == json.loads((two / "shards.json").read_text())["id"]
    shutil.rmtree(two / shard_name(1, 2))
    shutil.copytree(three / shard_name(1, 3), two / shard_name(1, 2))
    with pytest.raises(DataError, match=r"shard-00001-of-00002: says that it is '\w{16} 1 3'; "):
        open_source(str(two))


def test_a_store_that_is_no_shard_is_refused(tmp_path):
    path = write(tmp_path / "set", 9)
    shutil.rmtree(path / shard_name(1, 3))
    with LmdbWriter(path / shard_name(1, 3)) as writer:
        for number in range(3):
            writer.add(b"picture", str(number))
    with pytest.raises(DataError, match="shard-00001-of-00003: does not say that it is a shard; "):
        open_source(str(path))


def test_a_shard_that_was_changed_is_refused(tmp_path):
    path = write(tmp_path / "set")
    with lmdb.open(str(path / shard_name(2, 3))) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"num-samples", b"2")
    with pytest.raises(
        DataError, match=r"shard-00002-of-00003: has 2 samples; \S*shards\.json expects 3\. It was chan"
    ):
        open_source(str(path))


def test_a_shard_cut_short_is_refused(tmp_path):
    path = write(tmp_path / "set")
    file = path / shard_name(0, 3) / "data.mdb"
    file.write_bytes(file.read_bytes()[:-4096])
    with pytest.raises(
        DataError, match=r"shard-00000-of-00003: data\.mdb has \d+ bytes, \d+ expected: it was cut short"
    ):
        open_source(str(path))


def test_the_list_itself_is_no_source(tmp_path):
    path = write(tmp_path / "set")
    with pytest.raises(DataError, match=r"shards\.json: is a file of an LMDB folder; .*Leave out '/shards\.json'"):
        open_source(str(path / "shards.json"))
