"""Rendered text as an endless source of batches, each a function of the settings and its number.

Worker processes draw words ahead of their batch, and each is used several times; all else is done in batches on the
training device. Under ``image.resize = "keep_ratio"`` a batch has one width, and one of wide images has fewer.
"""

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Generator, Sequence

import numpy as np
import torch
from torch import Tensor

from crnn.config.run import Config
from crnn.config.synth import SynthConfig
from crnn.data.dataset import Batch
from crnn.data.loader import iterate_batches
from crnn.distributed import on_device
from crnn.synth.filters import Flags, Floats, Integers
from crnn.synth.rasterizer import MASK_HEIGHT, mask_width
from crnn.synth.renderer import Renderer, to_bytes
from crnn.synth.rng import SampleRandom
from crnn.synth.words import CLASS_BITS, WidthClass, Words, WordWriter, has_spaces

_CYCLE = 128  # Batches after which the numbers of batches of each class repeat
_ORDER = 5  # First word of the seeds of the order of batches, distinct from those of words and data

_LANES = 64  # Most lanes of a batch; any number of ranks that divides it draws no word twice
NUM_NEIGHBORS = 2  # Other words for each sample, for crops that show parts of them

_CPU_NUMBERS = 1 << 19  # Pixels, times channels, composed at a time on a CPU, to stay in its cache


class BatchWidths:
    """Class, width and size of each batch over all ranks; ``shares`` (classes,) are those of the crops.

    The narrowest batches have ``batch_size`` samples, wider ones about as many pixels; every size is a multiple of
    ``world_size``. Where that divides a small power of two, sizes are the same.
    """

    def __init__(
        self, classes: Sequence[WidthClass], shares: Floats, batch_size: int, world_size: int, seed: int
    ) -> None:
        self._classes, self._seed = classes, seed
        exact = [batch_size * classes[0].low / kind.high for kind in classes]
        # Sizes divisible among several numbers of ranks, so that all have the same batches.
        shared = math.gcd(batch_size, 1 << int(math.log2(max(exact[-1] / 2.0, 1.0))))
        unit = math.lcm(shared, world_size)
        self.sizes = [max(round(size / unit), 1) * unit for size in exact]  # samples of a batch of each class
        weights = shares / np.array(self.sizes)
        wanted = weights / weights.sum() * _CYCLE
        counts = np.floor(wanted).astype(np.int64)
        # A class that has crops has batches, too.
        counts[(counts == 0) & (wanted > 0.0)] = 1
        while counts.sum() != _CYCLE:
            step = 1 if counts.sum() < _CYCLE else -1
            allowed = np.where(counts + step > 0, step * (wanted - counts), -np.inf)
            counts[int(allowed.argmax())] += step
        self._counts = counts
        self._members = np.repeat(np.arange(len(counts)), counts)
        samples = counts * np.array(self.sizes)
        self.mean_size = float(samples.sum() / _CYCLE)  # samples per batch
        self.samples = samples / samples.sum()  # share of each class among all samples

    def of_batch(self, number: int) -> tuple[int, int, int]:
        """Return the class of a batch, its number among the batches of that class, and its width in pixels."""
        if len(self._classes) == 1:
            return 0, number, self._classes[0].low
        cycle, place = divmod(number, _CYCLE)
        order, widths = self._cycle(cycle)
        kind = int(order[place])
        before = cycle * int(self._counts[kind]) + int((order[:place] == kind).sum())
        found = self._classes[kind]
        return kind, before, found.low + 4 * int(widths[place] * ((found.high - found.low) // 4 + 1))

    @functools.lru_cache(maxsize=4)  # noqa: B019  - one per source, which lives as long as the process
    def _cycle(self, cycle: int) -> tuple[Integers, Floats]:
        rng = np.random.default_rng([self._seed, _ORDER, cycle])
        return rng.permutation(self._members), rng.random(_CYCLE)


class PoolPlan:
    """Numbers of the words in each batch; each word is drawn once and used ``synth.reuse`` times.

    ``first`` is the first number of samples and words, ``share`` the part of the pool, ``batch_size`` over all ranks.
    """

    def __init__(
        self,
        synth: SynthConfig,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        first: int = 0,
        share: float = 1.0,
    ) -> None:
        self.seed, self.batch_size, self.reuse, self.first = seed, batch_size, synth.reuse, first
        self.lanes = math.gcd(batch_size, _LANES)
        self.per_lane = batch_size // self.lanes
        # A batch must find its own new words in the pool.
        self.window = max(int(share * synth.pool_size) // self.lanes, self.per_lane)
        size = batch_size // world_size
        self._positions = np.arange(rank * size, (rank + 1) * size, dtype=np.int64)
        self._first_lane = int(self._positions[0]) // self.per_lane
        self.slots = (int(self._positions[-1]) // self.per_lane - self._first_lane + 1) * self.window

    def samples(self, batch: int) -> Integers:
        """Return the numbers of this rank's samples of a batch, ``(n,)``, among all samples of the run."""
        return self.first + batch * self.batch_size + self._positions

    def drawn(self, batch: int) -> int:
        """Return the number of words of each lane drawn before a batch: one per sample at first, then fewer."""
        samples = batch * self.per_lane
        start = min(samples, max(1, self.window // 4))
        return start + int((samples - start) / self.reuse)

    def words(self, batch: int) -> Integers:
        """Return the numbers of each sample's word and its neighbors, ``(n, 1 + NUM_NEIGHBORS)``, of this rank."""
        before, after = self.drawn(batch), self.drawn(batch + 1)
        lane, place = np.divmod(self._positions, self.per_lane)
        random = SampleRandom(self.seed, self.samples(batch))
        oldest = max(0, after - self.window)
        held = after - oldest
        old = oldest + random.integers("word", held)
        own = np.where(place < after - before, before + place, old)
        others = [oldest + random.integers(f"word beside {i}", held) for i in range(NUM_NEIGHBORS)]
        return self.first + np.stack([own, *others], axis=1) * self.lanes + lane[:, None]

    def slot(self, numbers: Integers) -> Integers:
        """Return the place of words in the pool; two that one batch can show never share one."""
        within, lane = np.divmod(numbers - self.first, self.lanes)
        return np.asarray((lane - self._first_lane) * self.window + within % self.window)


class WordFeed:
    """New words by number of the first batch with them, in order; workers with copies draw every word once."""

    def __init__(self, plans: Sequence[PoolPlan], widths: BatchWidths, writer: WordWriter, first: int) -> None:
        self._plans, self._widths, self._writer, self._next = plans, widths, writer, first
        self._held = [np.full(plan.slots, -1, dtype=np.int64) for plan in plans]

    def __getitem__(self, batch: int) -> Words:
        new = np.empty(0, dtype=np.int64)
        assert batch >= self._next
        while self._next <= batch:
            kind, number, _ = self._widths.of_batch(self._next)
            plan, held = self._plans[kind], self._held[kind]
            words = np.unique(plan.words(number))
            slots = plan.slot(words)
            new = words[held[slots] != words]
            held[slots] = words
            self._next += 1
        return self._writer.write(new)


class WordPool:
    """Preallocated masks and targets of drawn words; masks on the device, all else on the CPU."""

    def __init__(self, plan: PoolPlan, width: int, max_length: int, device: torch.device) -> None:
        self._plan, self._width, self._device = plan, width, device
        self._numbers, self._lengths = np.full((2, plan.slots), -1, dtype=np.int64)
        self._ratios = np.ones(plan.slots)
        self._targets = np.zeros((plan.slots, max_length), dtype=np.int32)
        self._texts = np.full(plan.slots, "", dtype=object)

    @functools.cached_property
    def _masks(self) -> Tensor:
        # Made when the first words come: workers that were forked before keep no copy of it while it fills.
        shape = (self._plan.slots, MASK_HEIGHT, self._width)
        return torch.zeros(shape, dtype=torch.uint8, device=self._device)

    def put(self, words: Words) -> None:
        """Keep words, in the place of older ones."""
        slots = self._plan.slot(words.numbers)
        self._masks.index_copy_(0, on_device(slots, self._device), on_device(words.masks, self._device))
        self._numbers[slots], self._ratios[slots] = words.numbers, words.ratios
        self._targets[slots], self._lengths[slots], self._texts[slots] = words.targets, words.lengths, words.texts

    def masks(self, numbers: Integers) -> tuple[Tensor, Floats]:
        """Return ``(n, MASK_HEIGHT, Wc)`` uint8 masks on the device and ``(n,)`` width over height."""
        slots = self._plan.slot(numbers)
        assert (self._numbers[slots] == numbers).all()
        return self._masks.index_select(0, on_device(slots, self._device)), self._ratios[slots]

    def lines(self, numbers: Integers) -> Flags:
        """Return ``(n,)`` flags of texts with spaces."""
        return has_spaces(self._texts[self._plan.slot(numbers)].tolist())

    def targets(self, numbers: Integers) -> tuple[Integers, Integers, list[str]]:
        """Return ``(n, S)`` class ids, zero-padded, ``(n,)`` lengths, and the drawn texts."""
        slots = self._plan.slot(numbers)
        lengths = self._lengths[slots]
        targets = self._targets[slots, : int(lengths.max(initial=0))].astype(np.int64)
        return targets, lengths, self._texts[slots].tolist()


class SynthBatches:
    """Batches of rendered text, for one rank."""

    def __init__(
        self,
        config: Config,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
        batch_size: int | None = None,
    ) -> None:
        self._config = config
        self._renderer = Renderer(config, device)
        classes, seed = self._renderer.classes, config.train.seed
        size = (batch_size or config.train.batch_size) * world_size
        self._widths = BatchWidths(classes, self._renderer.shares, size, world_size, seed)
        self._plans = [
            PoolPlan(config.synth, seed, size, rank, world_size, kind << CLASS_BITS, share)
            for kind, (size, share) in enumerate(zip(self._widths.sizes, self._widths.samples.tolist(), strict=True))
        ]
        self._pools = [
            WordPool(plan, mask_width(kind.high), self._renderer.max_length, self._renderer.device)
            for plan, kind in zip(self._plans, classes, strict=True)
        ]
        self.num_samples = config.synth.epoch_samples  # of an epoch
        self.epoch_batches = max(1, int(self.num_samples / self._widths.mean_size))
        self.digest = self._renderer.fonts.digest  # the settings name only the folders of fonts
        self.skipped: Counter[str] = Counter()

    def remarks(self) -> list[str]:
        """Return lines on the fonts and texts used and skipped so far."""
        lines = self._renderer.remarks()
        if self.skipped:
            reasons = ", ".join(f"{count} {why}" for why, count in self.skipped.most_common())
            lines.append(f"rendered text: {self.skipped.total()} texts were passed over: {reasons}")
        return lines

    def __getitem__(self, number: int) -> Batch:
        """Return this rank's part of a batch."""
        feed = WordFeed(self._plans, self._widths, self._renderer.writer, number)
        return self._batch(number, feed[number])

    def iterate(self, first: int, last: int) -> Generator[Batch]:
        """Yield batches ``first`` to ``last - 1``, their words drawn ahead by ``data.workers`` processes."""
        feed = WordFeed(self._plans, self._widths, self._renderer.writer, first)
        with contextlib.closing(iterate_batches(feed, first, last, self._config.data)) as drawn:
            for number, words in zip(range(first, last), drawn, strict=True):
                self.skipped.update(words.skipped)
                yield self._batch(number, words)

    @torch.no_grad()
    def _batch(self, number: int, new: Words) -> Batch:
        kind, place, width = self._widths.of_batch(number)
        plan, pool = self._plans[kind], self._pools[kind]
        if len(new.numbers):
            pool.put(new)
        samples, words = plan.samples(place), plan.words(place)
        numbers = self._renderer.height * width * self._config.image.image_channels * len(samples)
        parts = -(-numbers // _CPU_NUMBERS) if self._renderer.device.type == "cpu" else 1
        chunks = zip(np.array_split(samples, parts), np.array_split(words, parts), strict=True)
        images = torch.cat([self._images(*chunk, pool, width) for chunk in chunks])
        targets, lengths, texts = pool.targets(words[:, 0])
        return Batch(
            images,
            torch.from_numpy(targets),
            torch.from_numpy(lengths),
            tuple(f"rendered {sample}: {text!r}" for sample, text in zip(samples.tolist(), texts, strict=True)),
        )

    def _images(self, samples: Integers, words: Integers, pool: WordPool, width: int) -> Tensor:
        random = SampleRandom(self._config.train.seed, samples)
        masks, ratios = pool.masks(words[:, 0])

        def neighbors(rows: Integers, place: int) -> tuple[Tensor, Floats]:
            return pool.masks(words[rows, 1 + place])

        scene = self._renderer.scene(random, masks, ratios, pool.lines(words[:, 0]), neighbors, width=width)
        return to_bytes(self._renderer.apply_camera(random, scene))
