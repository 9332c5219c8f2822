"""Sets that are written in shards: dealt fairly, all or nothing, and going on wherever they were killed."""

import json
from pathlib import Path

import pytest

from crnn.data.partial_folder import PartialFolder
from crnn.data.shard_writer import ShardedWriter
from crnn.data.shards import MAX_SHARDS, ShardedStore, shard_name
from crnn.data.store import SHARD_KEY, LmdbStore
from crnn.data.store_file import StoreFile
from crnn.errors import DataError, ImageError


def shard_folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir())


def everything(path: Path, records_of) -> dict[str, object]:
    """All that is in a folder of shards."""
    return {
        "names": sorted(entry.name for entry in path.iterdir()),
        "list": (path / "shards.json").read_text(),
        "records": [records_of(folder) for folder in shard_folders(path)],
    }


def write(path: Path, count: int, num_shards: int) -> None:
    with ShardedWriter(path, num_shards) as writer:
        for number in range(count):
            writer.add(b"picture %d" % number, f"label {number}")


@pytest.mark.parametrize(("count", "num_shards"), [(1, 1), (7, 7), (10, 4), (23, 5), (64, 8)])
def test_samples_come_back_in_their_order_and_every_shard_is_a_store(tmp_path, count, num_shards):
    write(tmp_path / "set", count, num_shards)
    with ShardedStore(tmp_path / "set") as store:
        found = [(store.image_bytes(index), store.label(index)) for index in range(count)]
    assert found == [(b"picture %d" % number, f"label {number}") for number in range(count)]
    folders = shard_folders(tmp_path / "set")
    assert [folder.name for folder in folders] == [shard_name(number, num_shards) for number in range(num_shards)]
    stores = [LmdbStore(folder) for folder in folders]
    sizes = [len(store) for store in stores]
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1
    assert sorted(store.label(i) for store in stores for i in range(len(store))) == sorted(label for _, label in found)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["set"]


def test_the_list_says_what_is_there(tmp_path):
    with ShardedWriter(tmp_path / "set", 3) as writer:
        for number in range(8):
            writer.add(b"picture", str(number), size=(100, 32), lexicon=["a"] if number == 4 else None)
    values = json.loads((tmp_path / "set" / "shards.json").read_text())
    identity = values.pop("id")
    assert values == {
        "format": "crnn-shards",
        "version": 1,
        "samples": 8,
        "records": ["image", "label", "lexicon", "wh"],
        "samples_per_shard": [3, 3, 2],
    }
    marks = [LmdbStore(folder).shard_mark() for folder in shard_folders(tmp_path / "set")]
    assert marks == [f"{identity} {number} 3" for number in range(3)]


# ---- killed between two shards


@pytest.mark.parametrize("ahead", [[0], [2], [0, 1], [1, 2]])
def test_shards_that_are_ahead_of_the_others_are_cut_back(tmp_path, monkeypatch, ahead, records_of):
    """What a killed commit leaves: some shards have its samples, with records that the source has no more."""

    def add(writer: ShardedWriter, numbers: range, lexicon: list[str] | None = None) -> None:
        for number in numbers:
            writer.add(b"picture %d" % number, str(number), lexicon=lexicon)

    with ShardedWriter(tmp_path / "whole", 3) as writer:
        add(writer, range(11))
    path, commit = tmp_path / "set", StoreFile.commit
    with pytest.raises(KeyboardInterrupt), ShardedWriter(path, 3) as writer:  # noqa: PT012 - what is left is the point
        add(writer, range(4))
        writer.commit(b"four")
        add(writer, range(4, 10), lexicon=["gone"])

        def only_some(self: StoreFile, state: bytes | None = None, *, wait: bool = True) -> None:
            if writer._files.index(self) in ahead:
                commit(self, state, wait=wait)

        with monkeypatch.context() as patch:
            patch.setattr(StoreFile, "commit", only_some)
            writer.commit(b"ten")
        raise KeyboardInterrupt
    with ShardedWriter(path, 3) as writer:
        assert (writer.state, writer.num_samples) == (b"four", 4)
        add(writer, range(4, 11))
    assert everything(path, records_of) == everything(tmp_path / "whole", records_of)


@pytest.mark.parametrize("finished", [0, 1, 2, 3])
def test_an_end_that_was_killed_is_done_again(tmp_path, monkeypatch, finished, records_of):
    write(tmp_path / "whole", 10, 3)
    path, finish, left = tmp_path / "set", StoreFile.finish, finished

    def some(self: StoreFile, records: dict[str, str]) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        finish(self, records)

    def none(self: PartialFolder) -> None:
        self.release()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StoreFile, "finish", some)
        patch.setattr(PartialFolder, "publish", none)
        with pytest.raises(KeyboardInterrupt), ShardedWriter(path, 3) as writer:  # noqa: PT012
            for number in range(10):
                writer.add(b"picture %d" % number, f"label {number}")
                if number == 6:
                    writer.commit(b"seven")
    if finished == 3:  # only its name is missing, and it could be anything by now
        with pytest.raises(
            DataError, match=r"is a whole set that has not got its name; rename it to .*/set, or remove"
        ):
            ShardedWriter(path, 3).__enter__()
        return
    with ShardedWriter(path, 3) as writer:
        assert (writer.state, writer.num_samples) == (b"seven", 7)
        for number in range(7, 10):
            writer.add(b"picture %d" % number, f"label {number}")
    assert everything(path, records_of) == everything(tmp_path / "whole", records_of)


def test_a_finished_file_that_goes_back_is_as_if_it_had_not_come_so_far(tmp_path, records_of):
    def write(name: str, count: int) -> StoreFile:
        (tmp_path / name).mkdir()
        file = StoreFile(tmp_path / name, name)
        file.open()
        for number in range(count):
            file.add(b"picture", str(number), ["a"], ["b"], (9, 9))
        return file

    file = write("far", 5)
    file.finish({SHARD_KEY: "mark"})
    file.open()
    assert file.finished_samples() == 5
    with pytest.raises(DataError, match="far: is a whole store that has not got its name"):
        file.go_on()
    file.go_back(2, b"two")
    assert (file.num_samples, file.finished_samples(), file.go_on()) == (2, None, b"two")
    file.close()
    other = write("near", 2)
    other.commit(b"two")
    other.close()
    assert records_of(tmp_path / "far") == records_of(tmp_path / "near")


# ---- what is refused


def test_two_writers_at_one_place_are_kept_apart(tmp_path):
    with ShardedWriter(tmp_path / "set", 2) as writer:
        with pytest.raises(DataError, match=r"set\.partial: another process is writing there"):
            ShardedWriter(tmp_path / "set", 2).__enter__()
        writer.add(b"picture", "a")
        writer.add(b"picture", "b")
    with pytest.raises(DataError, match="set: exists already"):
        ShardedWriter(tmp_path / "set", 2).__enter__()


def test_a_sample_that_cannot_be_stored_takes_no_place(tmp_path):
    with ShardedWriter(tmp_path / "set", 2) as writer:
        writer.add(b"picture", "a")
        with pytest.raises(ImageError, match="shard-00001-of-00002: picture 1 has 0 bytes"):
            writer.add(b"", "b")
        with pytest.raises(DataError, match="surrogate"):
            writer.add(b"picture", "\ud800")
        writer.add(b"picture", "b")
        assert writer.pending_bytes == 2 * len(b"picture")
    with ShardedStore(tmp_path / "set") as store:
        assert [store.label(index) for index in range(len(store))] == ["a", "b"]
    with pytest.raises(RuntimeError, match="with statement"):
        writer.add(b"picture", "label")


def test_many_shards_do_not_exhaust_what_a_process_may_have_open(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 1024), before[1]))
    try:
        write(tmp_path / "set", MAX_SHARDS + 3, MAX_SHARDS)
        with ShardedStore(tmp_path / "set") as store:
            assert [store.label(index) for index in range(len(store))] == [f"label {n}" for n in range(len(store))]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(shard_folders(tmp_path / "set")) == MAX_SHARDS
