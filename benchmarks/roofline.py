"""How far each layer of a training step is from what the machine can do.

    python benchmarks/roofline.py [--backbone vgg small] [--batch 64 128] [--precision bf16 fp32] [--threads 1 2]

Prints, in Markdown: the machine's ceilings (large products, copies of several sizes); for each backbone, batch,
precision and number of threads the step as a whole; and with ``--layers`` what each layer has to do, its limit and its
own speed. One process, the network alone, one constant batch; ceilings are the best of several, all else medians.

A layer cannot be faster than its multiply-adds at the speed of large products, nor than its tensors at the speed of
copies: a tensor moves as fast as the fastest copy of at least a quarter of its size. The limit is the slower of both,
for forward and backward apart. ``merged`` is the limit if normalisation, ReLU and pooling were one operation.
``roofline_counts.py`` says what is counted. Layers are measured each by itself, on the tensors of a real pass.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from crnn.config import Config
from crnn.config_file import load_config
from crnn.loss import ctc_loss
from crnn.model import CRNN, build_model
from crnn.training.optim import WeightAverage, build_optimizer, clip_gradients
from roofline_ceilings import PRECISIONS, Ceiling, ceiling
from roofline_counts import Cost, Layer, layers_of, loss_cost, update_cost

_COPIES = (1, 4, 16, 64, 256)  # MiB
_PRODUCTS = (1024, 2048)
_TARGET_LENGTH = 7

# ---- a layer ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One layer, both directions: what it has to do and how long it takes, for the whole batch.

    Attributes:
        name: The modules.
        multiply_adds: Forward, backward.
        moved: Bytes, forward and backward.
        limit: Least seconds, forward and backward.
        merged: The same where normalisation, ReLU and pooling are one operation.
        by: What sets the larger of the limits.
        measured: Seconds, forward and backward.
    """

    name: str
    multiply_adds: tuple[int, int]
    moved: tuple[int, int]
    limit: tuple[float, float]
    merged: tuple[float, float]
    by: str
    measured: tuple[float, float]


def row(name: str, costs: tuple[Cost, Cost], merged: tuple[Cost, Cost], top: Ceiling, measured: list[float]) -> Row:
    """The figures of a layer together."""
    (forward, by_forward), (backward, by_backward) = top.seconds(costs[0]), top.seconds(costs[1])
    return Row(
        name,
        (costs[0].multiply_adds, costs[1].multiply_adds),
        (sum(costs[0].tensors), sum(costs[1].tensors)),
        (forward, backward),
        (top.seconds(merged[0])[0], top.seconds(merged[1])[0]),
        by_backward if backward > forward else by_forward,
        (measured[0], measured[1]),
    )


def layer_seconds(layer: Layer, bf16: bool, first: bool, rounds: int) -> list[float]:
    """Medians of forward and backward of a layer by itself, its gradients thrown away each time."""

    def once() -> tuple[float, float]:
        given = layer.input.detach().requires_grad_(not first)
        layer.modules.zero_grad(set_to_none=True)
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = layer.modules(given)
        output = output if isinstance(output, Tensor) else output[0]
        middle = time.perf_counter()
        gradient = torch.ones_like(output)
        before = time.perf_counter()
        torch.autograd.backward(output, gradient)
        return middle - start, time.perf_counter() - before

    return _medians(once, rounds)


def loss_seconds(logits: Tensor, targets: Tensor, lengths: Tensor, rounds: int) -> list[float]:
    """The same of the loss."""

    def once() -> tuple[float, float]:
        given = logits.detach().requires_grad_()
        start = time.perf_counter()
        loss = ctc_loss(given, targets, lengths)
        middle = time.perf_counter()
        torch.autograd.backward(loss)
        return middle - start, time.perf_counter() - middle

    return _medians(once, rounds)


def _medians(once: Callable[[], tuple[float, float]], rounds: int) -> list[float]:
    times = [once() for _ in range(rounds + 1)][1:]
    return [statistics.median(each) for each in zip(*times, strict=True)]


# ---- a step ----------------------------------------------------------------------------------------------------------


class Step:
    """Forward, loss, backward, clipping, optimiser and running average on one constant batch."""

    def __init__(self, config: Config, batch: int, bf16: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        classes = config.charset.charset().num_classes
        network = build_model(config.model, config.image, classes, seed=1)
        self.network: CRNN = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        shape = (batch, config.image.image_channels, config.image.image_height, config.image.image_width)
        self.images = torch.rand(shape, generator=generator).mul(2).sub(1).contiguous(memory_format=torch.channels_last)
        self.targets = torch.randint(0, classes - 1, (batch, _TARGET_LENGTH), generator=generator)
        self.lengths = torch.full((batch,), _TARGET_LENGTH)
        self._optimizer = build_optimizer(self.network, config.optim)
        self._average = WeightAverage(self.network, config.optim.ema_decay)
        self._config, self._bf16 = config, bf16

    def logits(self) -> Tensor:
        """Of the batch, as the loss gets them."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            return self.network(self.images)  # type: ignore[no-any-return]

    def __call__(self) -> tuple[float, float]:
        """Do it all; seconds of all of it, and of what comes after backward."""
        start = time.perf_counter()
        self._optimizer.zero_grad(set_to_none=True)
        loss = ctc_loss(self.logits(), self.targets, self.lengths) / len(self.images)
        torch.autograd.backward(loss)
        middle = time.perf_counter()
        clip_gradients(self.network.parameters(), self._config.optim.clip_norm)
        self._optimizer.step()
        self._average.update()
        loss.item()
        end = time.perf_counter()
        return end - start, end - middle


@dataclass(frozen=True, slots=True)
class Figures:
    """What was found of one backbone, batch, precision and number of threads.

    Attributes:
        backbone, batch, precision, threads: Of what.
        parameters: Weights of the network.
        step: Measured seconds of the whole step.
        rows: Its parts, in order; the last two are the loss and the update.
    """

    backbone: str
    batch: int
    precision: str
    threads: int
    parameters: int
    step: float
    rows: list[Row]

    def rate(self, kind: str) -> float:
        """Pictures per second: ``limit`` and ``merged`` of all rows together, ``measured`` ones added up."""
        return self.batch / sum(sum(getattr(each, kind)) for each in self.rows)


def figures_of(backbone: str, batch: int, precision: str, top: Ceiling, rounds: int) -> Figures:
    """Measure a step and its parts with as many threads as torch has now."""
    torch.manual_seed(0)
    bf16 = precision == "bf16"
    step = Step(load_config(f"crnn-{backbone}"), batch, bf16)
    whole, after = _medians(step, rounds)
    rows: list[Row] = []
    for layer in layers_of(step.network, step.images, bf16):
        seconds = layer_seconds(layer, bf16, first=not rows, rounds=rounds)
        rows.append(row(layer.name, layer.costs, layer.merged, top, seconds))
    logits = step.logits().detach()
    loss = loss_cost(logits, _TARGET_LENGTH)
    rows.append(row("softmax, CTC", loss, loss, top, loss_seconds(logits, step.targets, step.lengths, rounds)))
    update = Cost(), update_cost(step.network)
    rows.append(row("clipping, AdamW, average", update, update, top, [0.0, after]))
    parameters = sum(p.numel() for p in step.network.parameters())
    return Figures(backbone, batch, precision, torch.get_num_threads(), parameters, whole, rows)


# ---- for people ------------------------------------------------------------------------------------------------------


def ceilings_table(found: dict[tuple[str, int], Ceiling]) -> str:
    """Precisions and threads below each other."""
    sizes = list(next(iter(found.values())).copies)
    heads = ["G multiply-adds/s: large products", "LSTM step vgg", "LSTM step small"]
    heads += [f"GB/s: copy of {size} MiB" for size in sizes]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for (precision, threads), top in found.items():
        speeds = " | ".join(f"{top.copies[size] / 1e9:.1f}" for size in sizes)
        steps = " | ".join(f"{top.recurrent[name] / 1e9:.0f}" for name in ("vgg", "small"))
        lines.append(f"| {precision}, {threads} thread(s) | {top.product / 1e9:.0f} | {steps} | {speeds} |")
    return "\n".join(lines)


def steps_table(found: list[Figures]) -> str:
    """A row for each step."""
    lines = [
        "| backbone, batch, precision, threads | limit, img/s | merged | measured | measured / limit | layers alone |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for each in found:
        name = f"{each.backbone}, {each.batch}, {each.precision}, {each.threads}"
        measured = each.batch / each.step
        limit, merged, alone = each.rate("limit"), each.rate("merged"), each.rate("measured")
        lines.append(
            f"| {name} | {limit:,.0f} | {merged:,.0f} | {measured:,.0f} | {measured / limit:.2f} | {alone:,.0f} |"
        )
    return "\n".join(lines)


def layers_table(each: Figures) -> str:
    """What every layer of a step has to do for one picture, its limit and its speed."""
    title = f"{each.backbone}, {each.parameters / 1e6:.2f} M parameters, batch {each.batch}, {each.precision}, "
    title += f"{each.threads} thread(s); forward + backward, per picture:"
    heads = "layer | M multiply-adds | kB moved | limit, µs | by | measured, µs | limit, img/s | measured, img/s"
    heads += " | measured / limit | share of time"
    lines = [title, "", f"| {heads} |", "|---|---:|---:|---:|---|---:|---:|---:|---:|---:|"]
    alone = sum(sum(one.measured) for one in each.rows)
    for one in each.rows:
        sums = " + ".join(f"{value / each.batch / 1e6:.2f}" for value in one.multiply_adds)
        moved = " + ".join(f"{value / each.batch / 1e3:.0f}" for value in one.moved)
        limit = " + ".join(f"{value / each.batch * 1e6:.1f}" for value in one.limit)
        measured = " + ".join(f"{value / each.batch * 1e6:.1f}" for value in one.measured)
        least, spent = sum(one.limit), sum(one.measured)
        lines.append(
            f"| {one.name} | {sums} | {moved} | {limit} | {one.by} | {measured} | {each.batch / least:,.0f} "
            f"| {each.batch / spent:,.0f} | {least / spent:.2f} | {100 * spent / alone:.0f} % |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", nargs="+", choices=["vgg", "small"], default=["vgg", "small"])
    parser.add_argument("--batch", nargs="+", type=int, default=[64, 128])
    parser.add_argument("--precision", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--product", nargs="+", type=int, default=list(_PRODUCTS), help="sizes of the matrix products")
    parser.add_argument("--copy", nargs="+", type=int, default=list(_COPIES), help="sizes of the copies, MiB")
    parser.add_argument("--layers", action="store_true", help="a table of the layers of each step")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ceilings: dict[tuple[str, int], Ceiling] = {}
    found: list[Figures] = []
    for threads, precision in itertools.product(options.threads, options.precision):
        torch.set_num_threads(threads)
        top = ceiling(precision, options.product, options.copy, options.batch[0])
        ceilings[precision, threads] = top
        kinds = itertools.product(options.backbone, options.batch)
        found.extend(figures_of(backbone, batch, precision, top, options.rounds) for backbone, batch in kinds)
    allocator = {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")}
    machine = f"torch {torch.__version__}, {os.cpu_count()} cores, {platform.machine()}, "
    machine += f"allocator: {allocator or 'as it is'}"
    if options.json:
        tops = [{"precision": p, "threads": t, **asdict(top)} for (p, t), top in ceilings.items()]
        print(json.dumps({"machine": machine, "ceilings": tops, "steps": [asdict(each) for each in found]}))
        return
    tables = [machine, ceilings_table(ceilings), steps_table(found)]
    print("\n\n".join([*tables, *(layers_table(each) for each in found if options.layers)]))


if __name__ == "__main__":
    main()
