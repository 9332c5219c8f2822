"""Training from shards: each rank reads its own ones, and all ranks together make the batches that one would make."""

import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from crnn.checkpoint import read_tensors
from crnn.data.convert import convert
from crnn.data.dataset import StoredBatches
from crnn.data.formats.lists import ListReader
from crnn.data.label_scan import LabelCounts
from crnn.data.rank_stores import check_training_data, open_rank_stores
from crnn.data.shards import ShardList, open_shards, shard_name
from crnn.data.source import open_source
from crnn.errors import ConfigError, DataError
from crnn.train import train
from crnn.training.monitor import Monitor, StepStats

KEEP_RATIO = {"resize": "keep_ratio", "width_step": 16, "min_width": 32, "max_width": 128}
AUGMENT = {"probability": 1.0, "rotate_degrees": 8.0, "noise": 6.0}
LABELS = [letter * (1 + number % 5) for number, letter in enumerate("abcdefghij" * 4 + "abc")]


@pytest.fixture
def words(word_list, tmp_path):
    """A function that makes a set in shards of 43 words, or of other labels."""

    def make(num_shards: int = 4, name: str = "shards", labels: list[str] | None = None) -> Path:
        source = word_list(name=f"{name}_list", labels=labels or LABELS)
        convert(ListReader(source), str(tmp_path / name), shards=num_shards, workers=0)
        return tmp_path / name

    return make


def disk_of(path: Path, folder: Path, rank: int, world_size: int) -> Path:
    """A copy of a set as one rank needs it: the list and its own shards."""
    shards = ShardList.read(path)
    own = shards.num_shards // world_size
    copy = folder / f"rank{rank}of{world_size}" / path.name
    copy.mkdir(parents=True)
    shutil.copy(path / "shards.json", copy)
    for number in range(rank * own, (rank + 1) * own):
        name = shard_name(number, shards.num_shards)
        shutil.copytree(path / name, copy / name)
    return copy


def on_ranks(configs) -> list[StoredBatches]:
    """The batches of several ranks; each in a thread, as they wait for what the others have found."""
    world_size = len(configs)
    given: dict[int, object] = {}
    barrier = threading.Barrier(world_size, timeout=60)

    def source_of(rank: int) -> StoredBatches:
        def gather(value: object) -> list[object]:
            given[rank] = value
            barrier.wait()
            return [given[other] for other in range(world_size)]

        try:
            return StoredBatches(configs[rank], rank, world_size, gather=gather)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(world_size) as pool:
        futures = [pool.submit(source_of, rank) for rank in range(world_size)]
    errors = [future.exception() for future in futures if future.exception() is not None]
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    return [future.result() for future in futures]


def names(batch):
    """Keys without the place of the set on this disk."""
    return [key.split("/", key.count("/") - 1)[-1] for key in batch.keys]


# ---- batches


@pytest.mark.parametrize("image", [{}, KEEP_RATIO], ids=["squash", "keep_ratio"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_with_their_own_shards_make_the_batches_of_one_rank(words, small_config, tmp_path, image, world_size):
    path = words()
    settings = {"image": image, "augment": AUGMENT}
    alone = StoredBatches(small_config(path, data={"shards": "own"}, train={"batch_size": 16}, **settings))
    disks = [disk_of(path, tmp_path, rank, world_size) for rank in range(world_size)]
    ranks = on_ranks(
        [
            small_config(disk, data={"shards": "own"}, train={"batch_size": 16 // world_size}, **settings)
            for disk in disks
        ]
    )
    for number in (0, 3, 40, 2):
        whole, parts = alone[number], [rank[number] for rank in ranks]
        assert sum((names(part) for part in parts), []) == names(whole)  # noqa: RUF017 - some short lists
        for name in ("images", "widths", "target_lengths"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
        assert {part.images.shape[-1] for part in parts} == {whole.images.shape[-1]}
    for source in (alone, *ranks):
        assert (source.num_samples, source.epoch_batches) == (43, 2)
    assert [len(rank.stores) for rank in ranks] == [4 // world_size] * world_size


def test_every_shard_has_an_equal_part_of_every_batch(words, small_config):
    source = StoredBatches(small_config(words(), data={"shards": "own"}))
    for number in range(12):
        folders = [Path(key.split(": ")[0]).name for key in source[number].keys]
        assert folders == [shard_name(shard, 4) for shard in range(4) for _ in range(2)]


@pytest.mark.parametrize("image", [{}, KEEP_RATIO], ids=["squash", "keep_ratio"])
def test_without_the_setting_shards_give_the_batches_of_one_store(words, small_config, tmp_path, image):
    path = words()
    convert(ListReader(tmp_path / "shards_list" / "labels.tsv"), str(tmp_path / "store"), workers=0)
    one, other = (StoredBatches(small_config(p, image=image, augment=AUGMENT)) for p in (path, tmp_path / "store"))
    for number in (0, 7):
        assert torch.equal(one[number].images, other[number].images)
        assert torch.equal(one[number].targets, other[number].targets)
    assert one.counts[0].usable == other.counts[0].usable == 43


def test_sources_with_ratios_some_of_them_not_in_shards(words, word_list, small_config, tmp_path):
    first, second, plain = words(4, "first"), words(2, "second"), word_list(9, "plain")
    data = {"ratios": [2, 1, 1], "shards": "own"}
    alone = StoredBatches(small_config(first, second, plain, data=data, train={"batch_size": 16}))
    ranks = on_ranks(
        [
            small_config(
                *(disk_of(path, tmp_path, rank, 2) for path in (first, second)), plain, data=data,
                train={"batch_size": 8}
            )
            for rank in range(2)
        ]
    )  # fmt: skip
    for number in (0, 5):
        whole, parts = names(alone[number]), [names(rank[number]) for rank in ranks]
        together = [parts[0][:4] + parts[1][:4], parts[0][4:6] + parts[1][4:6], parts[0][6:] + parts[1][6:]]
        assert together == [whole[:8], whole[8:12], whole[12:]]
        assert all("images/" in name for name in whole[12:])
    assert [source.num_samples for source in (alone, *ranks)] == [43 + 43 + 9] * 3


# ---- counts


def test_what_is_left_out_is_counted_over_all_ranks(words, small_config, tmp_path):
    labels = [*LABELS[:16], "x" * 30, "?", "!!", "a-b", "a?b", *LABELS[:11]]
    path = words(4, labels=labels)
    config = small_config(path, data={"shards": "own"}, charset={"unknown": "drop_character"})
    alone = StoredBatches(config)
    ranks = on_ranks(
        [
            small_config(disk_of(path, tmp_path, rank, 2), data={"shards": "own"}, train={"batch_size": 4})
            for rank in range(2)
        ]
    )
    for source in (alone, *ranks):
        (counts,) = source.counts
        assert counts.usable == source.num_samples == 29
        assert counts.skipped == {"empty_label": 2, "too_long": 1}
        assert (counts.changed, counts.lost) == (2, {"-": 1, "?": 1})
        assert sorted(counts.examples["empty_label"]) == sorted(alone.counts[0].examples["empty_label"])
    for key in alone.counts[0].examples["empty_label"]:
        shard, _, record = key.partition("/")
        store = open_source(str(path / shard))
        assert store.label(int(record.removeprefix("image-")) - 1) in ("?", "!!")


def test_examples_are_three_however_many_shards_have_some():
    parts = [
        LabelCounts(f"set/shard-{number}", 1, {"empty": 2}, {"empty": ["a", "b"]}, number, {"-": 1})  # type: ignore[arg-type]
        for number in range(3)
    ]
    whole = LabelCounts.sum("set", parts)
    assert (whole.path, whole.usable, whole.changed) == ("set", 3, 3)
    assert (whole.skipped, whole.lost) == ({"empty": 6}, {"-": 3})
    assert whole.examples == {"empty": ["shard-0/a", "shard-0/b", "shard-1/a"]}
    assert parts[0].examples == {"empty": ["a", "b"]}


# ---- runs


@pytest.mark.usefixtures("one_thread")
def test_a_stopped_run_on_shards_goes_on_bit_for_bit(words, small_config, monkeypatch, capsys):
    path = words()
    sections = {
        "data": {"train": [str(path)], "validation": [str(path)], "shards": "own", "workers": 1},
        "image": {"image_width": 64, "resize": "keep_ratio", "max_width": 96},
        "augment": {"probability": 0.5},
        "train": {"num_steps": 6},
    }
    whole = train(small_config(folder="never", **sections))
    assert "; 43 samples, 6 steps" in capsys.readouterr().err
    report = Monitor.step

    def stopping(self: Monitor, stats: StepStats) -> None:
        report(self, stats)
        if stats.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "step", stopping)
        assert train(small_config(folder="stopped", **sections)).steps == 3
    other = {**sections, "data": {**sections["data"], "shards": "all"}}
    with pytest.raises(ConfigError, match=r"data\.shards was 'own', is 'all'"):
        train(small_config(folder="stopped", **other), resume=True)
    resumed = train(small_config(folder="stopped", **sections), resume=True)
    assert (resumed.steps, resumed.best_accuracy) == (whole.steps, whole.best_accuracy)
    one, two = (read_tensors(run.folder / "checkpoints" / "step-00000006.safetensors")[0] for run in (whole, resumed))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


# ---- what is refused


def test_a_rank_without_one_of_its_shards_says_which(words, small_config, tmp_path):
    path = words()
    disks = [disk_of(path, tmp_path, rank, 2) for rank in range(2)]
    shutil.rmtree(disks[1] / shard_name(3, 4))
    with pytest.raises(DataError, match=r"1 of the 2 shards that are needed here are missing: shard-00003-of-00004\."):
        on_ranks([small_config(disk, data={"shards": "own"}) for disk in disks])
    with pytest.raises(DataError, match=r"2 of the 4 shards that are needed here are missing: shard-00002"):
        StoredBatches(small_config(disks[0]))  # all are needed without the setting


def test_ranks_with_shards_of_two_sets_are_told_so(words, small_config):
    one, other = words(4, "one"), words(4, "other", labels=LABELS[::-1])
    with pytest.raises(DataError, match=r"rank 0 has the set \w{16} in 4 shards, rank 1 has \w{16} in 4 shards; exp"):
        on_ranks([small_config(path, data={"shards": "own"}) for path in (one, other)])
    fewer = words(2, "fewer")
    with pytest.raises(DataError, match=r"rank 0 has the set (\w{16}) in 4 shards, rank 1 has \1 in 2 shards"):
        on_ranks([small_config(path, data={"shards": "own"}) for path in (one, fewer)])


@pytest.mark.parametrize(
    ("num_shards", "world_size", "batch_size", "message"),
    [
        (4, 3, 8, "has 4 shards and there are 3 ranks"),
        (2, 4, 8, "has 2 shards and there are 4 ranks"),
        (4, 2, 3, "has 6 places in a batch of all ranks, which cannot be shared out to 4 shards"),
        (3, 1, 8, "has 8 places in a batch of all ranks, which cannot be shared out to 3 shards"),
    ],
)
def test_numbers_that_do_not_divide_are_refused(words, small_config, num_shards, world_size, batch_size, message):
    path = words(num_shards)
    config = small_config(path, data={"shards": "own"}, train={"batch_size": batch_size})
    for number in range(num_shards):  # before anything else is looked at
        shutil.rmtree(path / shard_name(number, num_shards))
    with pytest.raises(ConfigError, match=f"data.shards is own.* source 1 of data.train {message}; expected"):
        StoredBatches(config, 0, world_size)


def test_the_setting_without_shards_is_refused(words, word_list, small_config):
    plain = word_list(8)
    config = small_config(plain, data={"shards": "own"})
    with pytest.raises(
        ConfigError, match=r"data\.shards is own, and no source of data\.train .* is in shards; .*--shards N"
    ):
        check_training_data(config.data)
    check_training_data(small_config(plain).data)
    path = words()
    check_training_data(small_config(path, plain, data={"shards": "own"}).data)
    shutil.rmtree(path / shard_name(0, 4))  # it may be on another machine
    check_training_data(small_config(path, data={"shards": "own"}).data)
    with pytest.raises(DataError, match="1 of the 4 shards"):
        check_training_data(small_config(path).data)
    (path / "shards.json").write_text("")
    with pytest.raises(DataError, match=r"shards\.json: is damaged"):
        check_training_data(small_config(path, data={"shards": "own"}).data)
    with pytest.raises(DataError, match="nowhere: there is no such file"):
        check_training_data(small_config(data={"train": ["nowhere"], "shards": "own"}).data)


def test_a_validation_set_without_its_pictures_is_found_before_the_run(word_list, small_config):
    good, bad = word_list(20, "good"), word_list(20, "bad")
    pictures = sorted((bad.parent / "images").iterdir(), key=lambda path: int(path.stem))
    for picture in pictures[:-1]:
        picture.unlink()
    with pytest.raises(
        DataError, match=r"data\.validation: none of the first pictures .*1\.png.* relative to the list"
    ):
        check_training_data(small_config(good, data={"validation": [f"mine={bad}"]}).data)
    shutil.copy(pictures[-1], bad.parent / "images" / "5.png")
    check_training_data(small_config(good, data={"validation": [f"mine={bad}"]}).data)


def test_a_shard_without_a_usable_sample_is_named(words, small_config):
    path = words(2, labels=["abc", "?", "bcd"])
    with pytest.raises(DataError, match=r"shard-00001-of-00002: none of its 1 samples can be trained on \(empty_label"):
        StoredBatches(small_config(path, data={"shards": "own"}))
    assert StoredBatches(small_config(path)).num_samples == 2


def test_a_rank_opens_its_own_shards_only(words, small_config, tmp_path):
    path = words()
    stores = open_rank_stores(small_config(path, data={"shards": "own"}).data, 16, 1, 2)
    assert {number: Path(store.path).name for number, store in stores.stores.items()} == {
        2: "shard-00002-of-00004",
        3: "shard-00003-of-00004",
    }
    assert [store.label(0) for store in stores.stores.values()] == [
        store.label(0) for store in open_shards(ShardList.read(path), [2, 3])
    ]
    assert list(stores.by_source()) == [(str(path), 4, range(4))]
