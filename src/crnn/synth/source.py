"""Rendered text as a source of batches, like any other: ``source[number] -> Batch``, without an end.

Words are drawn by worker processes, ahead of the batch that needs them; everything after that is done in batches on the
device that trains, by the process that trains.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crnn.config import Config
from crnn.data.dataset import Batch
from crnn.data.loader import iterate_batches
from crnn.synth.draws import Draws
from crnn.synth.glyphs import cell_width
from crnn.synth.pool import PoolPlan, WordFeed, WordPool
from crnn.synth.renderer import Renderer, to_bytes
from crnn.synth.widths import CLASS_BITS, BatchWidths
from crnn.synth.words import Words

__all__ = ["SynthBatches"]

_CPU_ROWS = 128
"""Pictures composed at a time on a CPU, so that what is worked on stays in its cache."""


class SynthBatches:
    """Batches of rendered text, for one rank.

    Args:
        config: The settings: corpus, faces, look, camera, synth, charset, image, batch size, seed.
        rank: This process among all.
        world_size: Number of processes that share each batch.
        device: Where pictures are composed.
        batch_size: Samples per batch and rank; default: that of the settings.

    Raises:
        ConfigError: The settings leave nothing to draw, or no face to draw it with.
        DataError: A word list, a face folder or a background cannot be read.
    """

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
            WordPool(plan, cell_width(kind.high), self._renderer.max_length, self._renderer.device)
            for plan, kind in zip(self._plans, classes, strict=True)
        ]
        self.skipped: Counter[str] = Counter()

    @property
    def epoch_batches(self) -> int:
        """Batches of what the settings call an epoch."""
        return max(1, int(self._config.synth.epoch_samples / self._widths.mean_size))

    @property
    def num_samples(self) -> int:
        """Samples of what the settings call an epoch."""
        return self._config.synth.epoch_samples

    @property
    def digest(self) -> str:
        """A code of the faces, which the settings only name by their folders."""
        return self._renderer.faces.digest

    def remarks(self) -> list[str]:
        """What it is made of, and what was left out so far, a line each."""
        lines = self._renderer.remarks()
        if self.skipped:
            reasons = ", ".join(f"{count} {why}" for why, count in self.skipped.most_common())
            lines.append(f"rendered text: {self.skipped.total()} texts were passed over: {reasons}")
        return lines

    def __getitem__(self, number: int) -> Batch:
        """This rank's part of batch ``number``; words that it needs and that are not there are drawn at once."""
        kind, place, _ = self._widths.of_batch(number)
        missing = self._pools[kind].missing(self._plans[kind].words(place))
        if len(missing):
            self._put(kind, self._renderer.writer.write(missing))
        return self._batch(number)

    def iterate(self, first: int, last: int) -> Generator[Batch]:
        """Batches ``first`` to ``last`` (not included), their words drawn ahead by ``data.workers`` processes.

        Raises:
            TrainingError: A worker process died.
            DataError: Words cannot be drawn.
        """
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
            to_bytes(self._pictures(samples[start : start + step], words[start : start + step], pool, width))
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

    def _pictures(
        self, samples: npt.NDArray[np.int64], words: npt.NDArray[np.int64], pool: WordPool, width: int
    ) -> Tensor:
        draws = Draws(self._config.train.seed, samples)
        cells, ratios = pool.cells(words[:, 0])
        scene = self._renderer.scene(
            draws, cells, ratios, lambda rows, place: pool.cells(words[rows, 1 + place]), width=width
        )
        return self._renderer.photographed(draws, scene)
