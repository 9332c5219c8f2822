"""Rendered text as an endless source of batches, ``source[number] -> Batch``.

Worker processes draw words ahead of their batch; all else is done in batches on the training device.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Generator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crnn.config.run import Config
from crnn.config.synth import SynthConfig
from crnn.data.dataset import Batch
from crnn.data.loader import iterate_batches
from crnn.distributed import on_device
from crnn.synth.rasterizer import MASK_HEIGHT, Words, WordWriter, mask_width
from crnn.synth.renderer import Renderer, to_bytes
from crnn.synth.rng import SampleRandom
from crnn.synth.widths import CLASS_BITS, BatchWidths

Numbers = npt.NDArray[np.int64]

_LANES = 64  # Most lanes of a batch; any number of ranks that divides it draws no word twice
NUM_NEIGHBORS = 2  # Other words for each sample, for crops that show parts of them


class PoolPlan:
    """Numbers of the words in each batch.

    Words are drawn once and used ``synth.reuse`` times. ``first`` is the number of the first sample and word, ``share``
    the part of the pool; ``batch_size`` covers all ranks.
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

    def samples(self, batch: int) -> Numbers:
        """Return the numbers of this rank's samples of a batch, ``(n,)``, among all samples of the run."""
        return self.first + batch * self.batch_size + self._positions

    def drawn(self, batch: int) -> int:
        """Return the number of words of each lane drawn before a batch: one per sample at first, then fewer."""
        samples = batch * self.per_lane
        start = min(samples, max(1, self.window // 4))
        return start + int((samples - start) / self.reuse)

    def words(self, batch: int) -> Numbers:
        """Return the numbers of each sample's word and its neighbors, ``(n, 1 + NUM_NEIGHBORS)``, of this rank."""
        before, after = self.drawn(batch), self.drawn(batch + 1)
        lane, place = np.divmod(self._positions, self.per_lane)
        random = SampleRandom(self.seed, self.samples(batch))
        oldest = max(0, after - self.window)
        held = np.full(len(lane), after - oldest)
        old = oldest + random.integers("word", held)
        own = np.where(place < after - before, before + place, old)
        others = [oldest + random.integers(f"word beside {i}", held) for i in range(NUM_NEIGHBORS)]
        return self.first + np.stack([own, *others], axis=1) * self.lanes + lane[:, None]

    def slot(self, numbers: Numbers) -> Numbers:
        """Return the place of words in the pool; two that one batch can show never share one."""
        within, lane = np.divmod(numbers - self.first, self.lanes)
        slots: Numbers = (lane - self._first_lane) * self.window + within % self.window
        return slots


class _HeldWords:
    """Numbers of the words in the pool of one rank."""

    def __init__(self, plan: PoolPlan) -> None:
        self._plan = plan
        self._held = np.full(plan.slots, -1, dtype=np.int64)

    def missing(self, numbers: Numbers) -> Numbers:
        """Return the words missing from the pool, each once."""
        wanted = np.unique(numbers)
        missing: Numbers = wanted[self._held[self._plan.slot(wanted)] != wanted]
        return missing

    def hold(self, numbers: Numbers) -> Numbers:
        """Note words as held; return their slots."""
        slots = self._plan.slot(numbers)
        self._held[slots] = numbers
        return slots


class WordFeed:
    """New words by number of the first batch with them, in order.

    Worker processes, each with a copy and its share of the batches, together draw every word once.
    """

    def __init__(self, plans: Sequence[PoolPlan], widths: BatchWidths, writer: WordWriter, first: int) -> None:
        self._plans, self._held = plans, [_HeldWords(plan) for plan in plans]
        self._widths, self._writer, self._next = widths, writer, first

    def __getitem__(self, batch: int) -> Words:
        if batch < self._next:
            raise ValueError(f"batch {batch} was passed; the next one is {self._next}")
        missing = np.empty(0, dtype=np.int64)
        while self._next <= batch:
            kind, number, _ = self._widths.of_batch(self._next)
            missing = self._held[kind].missing(self._plans[kind].words(number))
            self._held[kind].hold(missing)
            self._next += 1
        return self._writer.write(missing)


class WordPool(_HeldWords):
    """Preallocated masks and targets of drawn words; masks on the device, all else on the CPU."""

    def __init__(self, plan: PoolPlan, width: int, max_length: int, device: torch.device) -> None:
        super().__init__(plan)
        self._width, self._device = width, device
        self._ratios = np.ones(plan.slots)
        self._targets = np.zeros((plan.slots, max_length), dtype=np.int32)
        self._lengths = np.zeros(plan.slots, dtype=np.int64)
        self._texts: list[str] = [""] * plan.slots

    @functools.cached_property
    def _masks(self) -> Tensor:
        # Made when the first words come: workers that were forked before keep no copy of it while it fills.
        shape = (self._plan.slots, MASK_HEIGHT, self._width)
        return torch.zeros(shape, dtype=torch.uint8, device=self._device)

    def put(self, words: Words) -> None:
        """Keep words, in the place of older ones."""
        slots = self.hold(words.numbers)
        self._masks.index_copy_(0, on_device(slots, self._device), on_device(words.masks, self._device))
        self._ratios[slots] = words.ratios
        self._targets[slots] = words.targets
        self._lengths[slots] = words.lengths
        for slot, text in zip(slots.tolist(), words.texts, strict=True):
            self._texts[slot] = text

    def masks(self, numbers: Numbers) -> tuple[Tensor, npt.NDArray[np.float64]]:
        """Return ``(n, MASK_HEIGHT, Wc)`` uint8 masks on the device and ``(n,)`` width over height."""
        slots = self._plan.slot(numbers)
        assert (self._held[slots] == numbers).all()
        return self._masks.index_select(0, on_device(slots, self._device)), self._ratios[slots]

    def targets(self, numbers: Numbers) -> tuple[Numbers, Numbers, list[str]]:
        """Return ``(n, S)`` class ids, zero-padded, ``(n,)`` lengths, and the drawn texts."""
        slots = self._plan.slot(numbers)
        lengths = self._lengths[slots]
        targets = self._targets[slots, : int(lengths.max(initial=0))].astype(np.int64)
        return targets, lengths, [self._texts[slot] for slot in slots.tolist()]


_CPU_ROWS = 128  # Images composed at a time on a CPU, to stay in its cache


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
        self.skipped: Counter[str] = Counter()

    @property
    def epoch_batches(self) -> int:
        """Batches of an epoch, ``synth.epoch_samples``."""
        return max(1, int(self._config.synth.epoch_samples / self._widths.mean_size))

    @property
    def num_samples(self) -> int:
        """Samples of an epoch."""
        return self._config.synth.epoch_samples

    @property
    def digest(self) -> str:
        """Checksum of the fonts; the settings name only their folders."""
        return self._renderer.fonts.digest

    def remarks(self) -> list[str]:
        """Return lines on the fonts and texts used and skipped so far."""
        lines = self._renderer.remarks()
        if self.skipped:
            reasons = ", ".join(f"{count} {why}" for why, count in self.skipped.most_common())
            lines.append(f"rendered text: {self.skipped.total()} texts were passed over: {reasons}")
        return lines

    def __getitem__(self, number: int) -> Batch:
        """Return this rank's part of a batch; missing words are drawn at once."""
        kind, place, _ = self._widths.of_batch(number)
        missing = self._pools[kind].missing(self._plans[kind].words(place))
        if len(missing):
            self._put(kind, self._renderer.writer.write(missing))
        return self._batch(number)

    def iterate(self, first: int, last: int) -> Generator[Batch]:
        """Yield batches ``first`` to ``last - 1``, their words drawn ahead by ``data.workers`` processes."""
        feed = WordFeed(self._plans, self._widths, self._renderer.writer, first)
        with contextlib.closing(iterate_batches(feed, first, last, self._config.data)) as drawn:
            for number, words in zip(range(first, last), drawn, strict=True):
                self._put(self._widths.of_batch(number)[0], words)
                yield self._batch(number)

    def _put(self, kind: int, words: Words) -> None:
        self.skipped.update(words.skipped)
        if len(words.numbers):
            self._pools[kind].put(words)

    @torch.no_grad()
    def _batch(self, number: int) -> Batch:
        kind, place, width = self._widths.of_batch(number)
        plan, pool = self._plans[kind], self._pools[kind]
        samples, words = plan.samples(place), plan.words(place)
        step = _CPU_ROWS if self._renderer.device.type == "cpu" else len(samples)
        parts = [
            to_bytes(self._images(samples[start : start + step], words[start : start + step], pool, width))
            for start in range(0, len(samples), step)
        ]
        targets, lengths, texts = pool.targets(words[:, 0])
        return Batch(
            torch.cat(parts),
            torch.full((len(samples),), width, dtype=torch.int64),
            torch.from_numpy(targets),
            torch.from_numpy(lengths),
            tuple(f"rendered {sample}: {text!r}" for sample, text in zip(samples.tolist(), texts, strict=True)),
        )

    def _images(
        self, samples: npt.NDArray[np.int64], words: npt.NDArray[np.int64], pool: WordPool, width: int
    ) -> Tensor:
        random = SampleRandom(self._config.train.seed, samples)
        masks, ratios = pool.masks(words[:, 0])
        scene = self._renderer.scene(
            random, masks, ratios, lambda rows, place: pool.masks(words[rows, 1 + place]), width=width
        )
        return self._renderer.apply_camera(random, scene)
