"""What a run trains on: stored sets, rendered text, or both in every batch, by ratio."""

import contextlib
import multiprocessing
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from crnn.config.run import Config
from crnn.data.dataset import Batch, StoredBatches
from crnn.errors import ConfigError, DataError
from crnn.synth.batches import SynthBatches
from crnn.training.batches import DEPTH, BatchFeed, batches_ahead, default_workers

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

Configs = Callable[..., Config]
Words = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread_and_no_worker_left(one_thread: None) -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


def same(one: Batch, other: Batch) -> bool:
    names = ("images", "targets", "target_lengths")
    return (one.keys, one.skipped) == (other.keys, other.skipped) and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in names
    )


def is_rendered(key: str) -> bool:
    return key.startswith("rendered ")


# ---- one kind


def test_stored_sets_alone_are_what_they_were(synth_config: Configs, word_list: Words) -> None:
    config = synth_config(word_list(30), word_list(10, "more", seed=1), data={"ratios": [1.0, 3.0]})
    feed, source = BatchFeed(config), StoredBatches(config)
    assert (feed.epoch_batches, feed.num_samples) == (source.epoch_batches, 40)
    assert feed.digest == "-".join(f"{found.digest:08x}" for found in source.scans)
    for number, batch in enumerate(feed.iterate(2, 6), start=2):
        assert same(batch, source[number])
        assert not any(map(is_rendered, batch.keys))


def test_rendered_text_alone(synth_config: Configs) -> None:
    config = synth_config(data={"ratios": [2.0]}, synth={"epoch_samples": 800})
    feed, source = BatchFeed(config), SynthBatches(config)
    assert (feed.epoch_batches, feed.num_samples) == (100, 800)
    assert feed.digest == source.digest != ""
    assert feed.remarks() == source.remarks()
    batches = list(feed.iterate(1, 4))
    assert len(batches) == 3
    assert all(same(batch, source[number]) for number, batch in enumerate(batches, start=1))


# ---- both


def mixed(synth_config: Configs, word_list: Words, *order: str, ratios: list[float], **sections: Any) -> Config:
    """Rendered text and two sets, in this order."""
    paths = {"synth": "synth", "one": word_list(30, "one", labels=["ab"] * 30), "two": word_list(9, "two", seed=1)}
    data = {"ratios": ratios, **sections.pop("data", {})}
    return synth_config(*(paths[name] for name in order), data=data, **sections)


@pytest.mark.parametrize(
    ("order", "ratios", "counts"),
    [
        (("synth", "one"), [1.0, 1.0], {"one": 4, "two": 0, "synth": 4}),
        (("one", "synth", "two"), [0.5, 1.5, 0.5], {"one": 2, "two": 1, "synth": 5}),
    ],
)
def test_a_batch_is_shared_out_by_ratio(
    synth_config: Configs, word_list: Words, order: tuple[str, ...], ratios: list[float], counts: dict[str, int]
) -> None:
    feed = BatchFeed(mixed(synth_config, word_list, *order, ratios=ratios))
    assert feed.num_samples == sum({"one": 30, "two": 9}.get(name, 0) for name in order)
    stored = counts["one"] + counts["two"]
    assert feed.epoch_batches == feed.num_samples // stored
    seen: list[str] = []
    for batch in feed.iterate(0, 6):
        assert len(batch) == 8
        assert batch.images.shape == (8, 1, 32, 64)
        assert batch.images.dtype == torch.uint8
        # Stored samples come first.
        assert [is_rendered(key) for key in batch.keys] == [False] * stored + [True] * counts["synth"]
        for name in ("one", "two"):
            assert sum(f"/{name}/" in key for key in batch.keys) == counts[name]
        assert batch.targets.shape == (8, int(batch.target_lengths.max()))
        behind = torch.arange(batch.targets.shape[1]) >= batch.target_lengths[:, None]
        assert (batch.targets[behind] == 0).all()
        seen += batch.keys
    rendered = [key for key in seen if is_rendered(key)]
    assert len(set(rendered)) == len(rendered) == 6 * counts["synth"]


def test_parts_are_what_each_source_gives(synth_config: Configs, word_list: Words) -> None:
    """The stored part is that of a run with these sets alone; the rendered part goes on from batch to batch."""
    config = mixed(synth_config, word_list, "one", "synth", "two", ratios=[2.0, 4.0, 2.0])
    alone = mixed(synth_config, word_list, "one", "two", ratios=[2.0, 2.0], train={"batch_size": 4})
    stored, rendered = StoredBatches(alone), SynthBatches(config, batch_size=4)
    for number, batch in enumerate(BatchFeed(config).iterate(3, 8), start=3):
        first, second = stored[number], rendered[number]
        assert batch.keys == first.keys + second.keys
        assert torch.equal(batch.images, torch.cat([first.images, second.images]))
        for row, target in enumerate([*first.targets, *second.targets]):
            assert batch.targets[row, : len(target)].tolist() == target.tolist()
        assert batch.target_lengths.tolist() == [*first.target_lengths.tolist(), *second.target_lengths.tolist()]


def test_ranks_have_the_samples_that_one_would_have(synth_config: Configs, word_list: Words) -> None:
    """Each rank's part is shared out by the ratios; together they show what one rank would."""
    settings: dict[str, Any] = {"ratios": [1.0, 3.0]}
    whole = list(BatchFeed(mixed(synth_config, word_list, "one", "synth", **settings)).iterate(0, 4))
    halves = mixed(synth_config, word_list, "one", "synth", **settings, train={"batch_size": 4})
    parts = [list(BatchFeed(halves, rank, 2).iterate(0, 4)) for rank in (0, 1)]
    for number, batch in enumerate(whole):
        some = {
            key: (image, target[:length].tolist())
            for part in parts
            for key, image, target, length in zip(
                part[number].keys, part[number].images, part[number].targets, part[number].target_lengths, strict=True
            )
        }
        assert sorted(some) == sorted(batch.keys)
        for row, key in enumerate(batch.keys):
            image, target = some[key]
            assert torch.equal(image, batch.images[row])
            assert target == batch.targets[row, : batch.target_lengths[row]].tolist()


def test_images_that_cannot_be_read_are_left_out_of_their_part(synth_config: Configs, word_list: Words) -> None:
    config = mixed(synth_config, word_list, "one", "synth", ratios=[1.0, 3.0])
    for image in (Path(config.data.train[0]).parent / "images").iterdir():
        image.write_bytes(b"not an image")
    for batch in BatchFeed(config).iterate(0, 2):
        assert len(batch) == batch.images.shape[0] == len(batch.targets) == 6
        assert all(map(is_rendered, batch.keys))
        assert [reason for _, reason in batch.skipped] == ["not_an_image"] * 2


def test_closing_ends_the_workers_of_all_parts(synth_config: Configs, word_list: Words) -> None:
    config = mixed(synth_config, word_list, "one", "synth", ratios=[1.0, 1.0], data={"workers": 1})
    batches = BatchFeed(config).iterate(0, 1000)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []


# ---- batches in turn, where images keep their proportions

KEEP_RATIO: dict[str, Any] = {"resize": "keep_ratio", "max_width": 96}


def mixed_in_batches(synth_config: Configs, word_list: Words, ratios: list[float], **sections: Any) -> Config:
    return mixed(synth_config, word_list, "one", "synth", "two", ratios=ratios, **sections)


def alternating(synth_config: Configs, word_list: Words, ratios: list[float], **sections: Any) -> Config:
    return mixed_in_batches(synth_config, word_list, ratios, image=KEEP_RATIO, **sections)


@pytest.mark.parametrize(
    ("ratios", "share"),
    [([0.5, 9.0, 0.5], 0.9), ([1.0, 1.0, 1.0], 1 / 3)],
)
def test_batches_take_turns_by_ratio(
    synth_config: Configs, word_list: Words, ratios: list[float], share: float
) -> None:
    feed = BatchFeed(alternating(synth_config, word_list, ratios))
    assert feed.num_samples == 39
    assert feed.epoch_batches == max(1, round(39 // 8 / (1 - share)))
    rendered, seen = 0, set[str]()
    for number, batch in enumerate(feed.iterate(0, 30), start=1):
        kinds = {is_rendered(key) for key in batch.keys}
        assert len(kinds) == 1, "wholly stored or wholly rendered"
        rendered += kinds.pop()
        # Never further from its share than half a batch.
        assert abs(rendered - number * share) <= 0.5 + 1e-9
        if not is_rendered(batch.keys[0]):
            assert len(batch) == 8
            seen.update(name for name in ("one", "two") for key in batch.keys if f"/{name}/" in key)
    assert seen == {"one", "two"}


def test_batches_in_turn_are_those_of_their_feeds(synth_config: Configs, word_list: Words) -> None:
    config = alternating(synth_config, word_list, [1.0, 2.0, 1.0])
    alone = mixed(synth_config, word_list, "one", "two", ratios=[1.0, 1.0], image=KEEP_RATIO)
    parts = [StoredBatches(alone), SynthBatches(config)]
    counts = [0, 0]
    for batch in BatchFeed(config).iterate(0, 12):
        kind = is_rendered(batch.keys[0])
        assert same(batch, parts[kind][counts[kind]])
        counts[kind] += 1
    assert counts == [6, 6]


@pytest.mark.parametrize("kind", [mixed_in_batches, alternating])
def test_batches_do_not_depend_on_workers_nor_on_where_one_begins(
    synth_config: Configs, word_list: Words, kind: Callable[..., Config]
) -> None:
    ratios, augment = [1.0, 3.0, 1.0], {"probability": 1.0}
    expected = list(BatchFeed(kind(synth_config, word_list, ratios, augment=augment)).iterate(0, 9))
    changed = BatchFeed(kind(synth_config, word_list, ratios, augment=augment, data={"workers": 2}))
    found = list(changed.iterate(3, 9))
    assert len(found) == 6
    assert all(same(one, other) for one, other in zip(found, expected[3:], strict=True))
    assert list(changed.iterate(7, 7)) == []


def test_ranks_take_the_same_turns(synth_config: Configs, word_list: Words) -> None:
    whole = list(BatchFeed(alternating(synth_config, word_list, [1.0, 2.0, 1.0])).iterate(0, 8))
    halves = alternating(synth_config, word_list, [1.0, 2.0, 1.0], train={"batch_size": 4})
    parts = [list(BatchFeed(halves, rank, 2).iterate(0, 8)) for rank in (0, 1)]
    for number, batch in enumerate(whole):
        some = [part[number] for part in parts]
        assert len({(len(part), part.images.shape[3], is_rendered(part.keys[0])) for part in some}) == 1
        if not is_rendered(batch.keys[0]):
            assert sorted(key for part in some for key in part.keys) == sorted(batch.keys)


# ---- what is refused


@pytest.mark.parametrize(
    ("sources", "ratios", "said"),
    [
        (["one", "synth"], [], r'has "synth" beside stored sets.*data\.ratios, such as \[1\.0, 19\.0\]'),
        (["synth", "synth"], [1.0, 1.0], r'data\.train has "synth" 2 times; expected once'),
        (["one", "synth"], [100.0, 1.0], r"data\.ratios \[100\.0, 1\.0\]: no place in 8 for source 2"),
    ],
)
def test_what_does_not_go_together_is_refused(
    synth_config: Configs, word_list: Words, sources: list[str], ratios: list[float], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        BatchFeed(mixed(synth_config, word_list, *sources, ratios=ratios))


def test_ranks_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crnn.training.batches.usable_cores", lambda: 32)
    for ranks, expected in (("1", 16), ("4", 6), ("16", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        assert default_workers(torch.device("cuda")) == expected


# ---- made ahead, in the same order, whoever makes them

CPU = torch.device("cpu")


def numbered(number: int) -> Batch:
    one = torch.tensor([number])
    return Batch(torch.full((1, 1, 32, 16), number % 256, dtype=torch.uint8), one[:, None], one, (str(number),))


class Counter:
    """Counts batches up and notes who makes them."""

    def __init__(self, last: int, fails_at: int | None = None) -> None:
        self.last, self.fails_at = last, fails_at
        self.makers: list[int] = []
        self.closed = 0

    def __call__(self) -> Generator[Batch]:
        try:
            for number in range(self.last):
                if number == self.fails_at:
                    raise DataError("an image is broken")
                self.makers.append(threading.get_ident())
                yield numbered(number)
        finally:
            self.closed += 1


class Lane:
    """What a stream does, with nothing to wait for; checks that batches are taken in order by another thread."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def make(self, batches: Iterator[Batch]) -> tuple[Batch, Any] | None:
        made = next(batches, None)
        return None if made is None else (made, threading.get_ident())

    def take(self, batch: Batch, done: Any) -> None:
        assert done != threading.get_ident()
        self.taken.append(int(batch.target_lengths))


def test_on_the_cpu_nothing_is_made_ahead() -> None:
    feed = Counter(4)
    batches = batches_ahead(feed(), CPU)
    assert [int(one.target_lengths) for one in batches] == [0, 1, 2, 3]
    assert set(feed.makers) == {threading.get_ident()}


@pytest.mark.parametrize("last", [0, 1, 2, 20])
def test_all_batches_come_in_order_from_one_thread(last: int) -> None:
    feed, lane = Counter(last), Lane()
    assert [int(one.target_lengths) for one in batches_ahead(feed(), CPU, lane)] == list(range(last))
    assert lane.taken == list(range(1, last))  # the first one is made here, with the worker processes
    assert feed.makers[:1] == [threading.get_ident()][:last]
    assert len(set(feed.makers[1:])) <= 1
    assert threading.get_ident() not in feed.makers[1:]
    assert feed.closed == 1


def test_no_more_are_made_than_asked_for() -> None:
    feed, lane = Counter(1000), Lane()
    batches = batches_ahead(feed(), CPU, lane)
    with contextlib.closing(batches):
        for _ in range(5):
            next(batches)
    assert 5 <= len(feed.makers) <= 5 + DEPTH
    assert feed.closed == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("place", [0, 1, 5])
def test_an_error_comes_where_its_batch_would(place: int) -> None:
    feed = Counter(10, fails_at=place)
    batches = batches_ahead(feed(), CPU, Lane())
    assert [int(next(batches).target_lengths) for _ in range(place)] == list(range(place))
    with pytest.raises(DataError, match="an image is broken"):
        next(batches)
    assert feed.closed == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
