"""How fast rendered text is made, and what it costs a training that is fed by it. One run, medians.

    python benchmarks/synth.py [--rounds 5] [--faces FOLDER ...] [--train] [--device cpu]

Prints words drawn per second (one process), pictures composed and photographed per second (threads as torch takes
them), finished pictures per second with words drawn by worker processes, a plain renderer on one core beside them, and
with --train the steps of both networks fed by rendered text beside the same steps with one constant batch.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from crnn.config import Config
from crnn.config_file import load_config, parse_config
from crnn.data.dataset import Batch, network_input
from crnn.distributed import has_fast_bf16
from crnn.loss import ctc_loss
from crnn.model import build_model
from crnn.synth.draws import Draws
from crnn.synth.renderer import Renderer, to_bytes
from crnn.synth.source import SynthBatches
from crnn.training.optim import build_optimizer, clip_gradients


def settings(preset: str, faces: list[str], batch_size: int | None = None, workers: int = 1) -> Config:
    """A preset with rendered text as its only source."""
    values = load_config(preset).model_dump(mode="json", exclude_none=True)
    values["data"] |= {"train": ["synth"], "workers": workers}
    values["faces"] |= {"folders": faces}
    if batch_size:
        values["train"]["batch_size"] = batch_size
    return parse_config(values)


def rate(count: int, work: Callable[[], object], rounds: int) -> float:
    """Things per second, the median over rounds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return count / statistics.median(times)


def drawing_rate(config: Config, rounds: int) -> float:
    """Words drawn per second by one process."""
    writer = Renderer(config).writer
    writer.write(np.arange(512))  # opens faces
    starts = iter(range(512, 10**9, 512))
    return rate(512, lambda: writer.write(np.arange(512) + next(starts)), rounds)


def composing_rate(config: Config, device: torch.device, rounds: int, batch: int) -> float:
    """Pictures composed and photographed per second, their words at hand."""
    renderer = Renderer(config, device)
    numbers = np.arange(batch)
    words = renderer.writer.write(numbers)
    cells = torch.from_numpy(words.cells).to(device)
    draws = iter(Draws(1, numbers + number * batch) for number in range(10**6))

    @torch.no_grad()
    def work() -> None:
        for _ in range(8):
            drawn = next(draws)
            scene = renderer.scene(
                drawn,
                cells,
                words.ratios,
                lambda rows, _: (cells[torch.from_numpy(rows).to(device)], words.ratios[rows]),
            )
            to_bytes(renderer.photographed(drawn, scene))
        if device.type == "cuda":
            torch.cuda.synchronize()

    work()
    return rate(8 * batch, work, rounds)


def finished_rate(config: Config, device: torch.device, rounds: int) -> float:
    """Finished pictures per second as a training gets them, with nothing else to do; the start is left out."""
    size = config.train.batch_size
    batches = SynthBatches(config, device=device).iterate(0, 10**9)
    with contextlib.closing(batches):
        for _ in range(-(-8192 // size)):  # until the pool is in use
            next(batches)

        def work() -> None:
            for _ in range(-(-4096 // size)):
                next(batches)
            if device.type == "cuda":
                torch.cuda.synchronize()

        return rate(-(-4096 // size) * size, work, rounds)


def plain_rate(rounds: int) -> float:
    """A plain renderer, one core: Pillow's face, colours, rotation, blur, noise, JPEG-free. For scale."""
    rng = random.Random(1)
    fonts = [ImageFont.load_default(size) for size in (28, 36, 44)]

    def work() -> None:
        for _ in range(100):
            font = rng.choice(fonts)
            text = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9)))
            left, top, right, bottom = font.getbbox(text)
            picture = Image.new("L", (int(right - left) + 12, int(bottom - top) + 12), rng.randint(120, 255))
            ImageDraw.Draw(picture).text((6 - left, 6 - top), text, fill=rng.randint(0, 100), font=font)
            picture = picture.rotate(rng.uniform(-5, 5), Image.Resampling.BILINEAR).resize((100, 32))
            picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 1.0)))
            noise = np.random.default_rng(rng.getrandbits(32)).normal(0.0, 6.0, (32, 100))
            (np.asarray(picture) + noise).clip(0, 255).astype(np.uint8)

    return rate(100, work, rounds)


class Step:
    """The training step of a network, without a loop around it."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self._config, self._device = config, device
        classes = config.charset.charset().num_classes
        self._network = build_model(config.model, config.image, classes, seed=1).to(device)
        self._network = self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = build_optimizer(self._network, config.optim)
        self._bf16 = has_fast_bf16(device)

    def __call__(self, batch: Batch) -> None:
        """Forward, loss, backward, clipping, optimiser."""
        batch = batch.to(self._device)
        self._optimizer.zero_grad(set_to_none=True)
        images = network_input(batch.images).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            logits = self._network(images)
        loss = ctc_loss(logits, batch.targets, batch.target_lengths) / len(batch)
        torch.autograd.backward(loss)
        clip_gradients(self._network.parameters(), self._config.optim.clip_norm)
        self._optimizer.step()
        loss.item()

    def all(self, batches: Iterable[Batch]) -> None:
        """A step with each of them."""
        for batch in batches:
            self(batch)


def training_rates(config: Config, device: torch.device, rounds: int, steps: int) -> tuple[float, float]:
    """Pictures per second of training steps with one constant batch, and fed by rendered text, taking turns."""
    step, size = Step(config, device), config.train.batch_size
    batches = SynthBatches(config, device=device).iterate(0, 10**9)
    with contextlib.closing(batches):
        for _ in range(-(-6144 // size)):
            constant = next(batches)
        step(constant)
        fixed, fed = [], []
        for _ in range(rounds):
            fixed.append(rate(size * steps, lambda: step.all([constant] * steps), 1))
            fed.append(rate(size * steps, lambda: step.all(next(batches) for _ in range(steps)), 1))
        return statistics.median(fixed), statistics.median(fed)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--faces", nargs="+", default=["shipped"], help="as faces.folders")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=256, help="of the parts that are timed without a network")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", action="store_true", help="also what rendering costs a training")
    options = parser.parse_args()
    device = torch.device(options.device)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, device {device}")
    config = settings("crnn-small", options.faces, options.batch)
    print(f"plain renderer, one core            {plain_rate(options.rounds):9.0f} pictures/s")
    print(f"words drawn, one process            {drawing_rate(config, options.rounds):9.0f} words/s")
    composed = composing_rate(config, device, options.rounds, 64 if device.type == "cpu" else options.batch)
    print(f"composed and photographed           {composed:9.0f} pictures/s")
    for workers in options.workers:
        finished = finished_rate(settings("crnn-small", options.faces, options.batch, workers), device, options.rounds)
        print(f"finished, {workers} worker processes       {finished:9.0f} pictures/s")
    if options.train:
        for preset in ("crnn-vgg", "crnn-small"):
            fixed, fed = training_rates(settings(preset, options.faces), device, options.rounds, 20)
            print(f"{preset:<11} constant batch {fixed:8.1f} img/s   rendered {fed:8.1f} img/s   {fed / fixed:.3f}")


if __name__ == "__main__":
    main()
