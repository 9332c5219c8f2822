"""Rendered text, 32 x 100: images per second by stage.

    python benchmarks/synth.py [--preset crnn-vgg] [--count 64] [--workers 0 2] [--device cpu]

``words drawn``: by one process. ``composed``: scenes of words at hand. ``camera``: scenes photographed. ``finished``:
batches as a training gets them, words drawn by worker processes, behind the start. Ratios are to the first of these.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator

import numpy as np
import torch

from common import Row, arguments, measure, report, seconds
from crnn.config.run import Config, load_config, parse_config
from crnn.data.dataset import Batch
from crnn.synth.batches import SynthBatches
from crnn.synth.renderer import Renderer, to_bytes
from crnn.synth.rng import SampleRandom
from crnn.synth.words import has_spaces


def settings(preset: str, fonts: list[str], batch_size: int, workers: int = 0) -> Config:
    """Return a preset at 32 x 100 with rendered text as its only source."""
    values = load_config(preset).model_dump(mode="json", exclude_none=True)
    del values["image"]
    values["data"] |= {"train": ["synth"], "workers": workers}
    values["fonts"] |= {"folders": fonts}
    values["train"]["batch_size"] = batch_size
    return parse_config(values)


class Stages:
    """The stages of rendering, each by itself, with new samples in every call.

    Args:
        config: What is rendered.
        device: Where images are composed.
        count: Samples of a call.
    """

    def __init__(self, config: Config, device: torch.device, count: int) -> None:
        self._renderer, self._device, self._count = Renderer(config, device), device, count
        self._starts = itertools.count(0, count)
        self._words = self._renderer.writer.write(np.arange(count))
        self._masks = torch.from_numpy(self._words.masks).to(device)
        self.draw(), self.compose(), self.photograph()

    def draw(self) -> float:
        """Return words drawn per second."""
        numbers = np.arange(self._count) + next(self._starts)
        return self._count / seconds(lambda: self._renderer.writer.write(numbers))

    @torch.no_grad()
    def compose(self) -> float:
        """Return images composed per second."""
        random = SampleRandom(1, np.arange(self._count) + next(self._starts))

        def work() -> None:
            lines = has_spaces(self._words.texts)
            self._scene = self._renderer.scene(random, self._masks, self._words.ratios, lines, self._beside)
            self._wait()

        passed = seconds(work)
        self._random = random
        return self._count / passed

    @torch.no_grad()
    def photograph(self) -> float:
        """Return images photographed per second, those that were composed last."""

        def work() -> None:
            to_bytes(self._renderer.apply_camera(self._random, self._scene))
            self._wait()

        return self._count / seconds(work)

    def _beside(self, rows: np.ndarray, _: int) -> tuple[torch.Tensor, np.ndarray]:
        return self._masks[torch.from_numpy(rows).to(self._device)], self._words.ratios[rows]

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def finished_rate(batches: Iterator[Batch], count: int, device: torch.device) -> float:
    """Return finished images per second over at least ``count`` of them."""

    def work() -> int:
        done = 0
        while done < count:
            done += len(next(batches))
        if device.type == "cuda":
            torch.cuda.synchronize()
        return done

    return count / seconds(work)


def main() -> None:
    """Print one table."""
    parser = arguments(__doc__, count=64, rounds=3)
    parser.add_argument("--preset", default="crnn-vgg")
    parser.add_argument("--fonts", nargs="+", default=["shipped"], help="as fonts.folders")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--warm-up", type=int, default=512, help="finished images that do not count")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, size = torch.device(options.device), min(64, options.count)
    stages = Stages(settings(options.preset, options.fonts, size), device, options.count)
    rows = [Row("words drawn", stages.draw), Row("composed", stages.compose), Row("camera", stages.photograph)]
    with contextlib.ExitStack() as stack:
        for workers in options.workers:
            config = settings(options.preset, options.fonts, size, workers)
            batches = SynthBatches(config, device=device).iterate(0, 10**9)
            stack.enter_context(contextlib.closing(batches))
            finished_rate(batches, options.warm_up, device)
            work = functools.partial(finished_rate, batches, 4 * options.count, device)
            base = f"finished, {options.workers[0]} workers"
            rows.append(Row(f"finished, {workers} workers", work, base))
        measure(rows, options.rounds)
    report(f"{options.preset}, rendered text, {options.threads} threads, {device}", "images/s", rows, options.json)


if __name__ == "__main__":
    main()
