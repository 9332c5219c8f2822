"""What the machine does at best: large products, copies of several sizes, the small products that LSTMs are made of."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from crnn.config_file import load_config
from roofline_counts import Cost

__all__ = ["PRECISIONS", "Ceiling", "ceiling"]

PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What the machine does at best, in one precision and with some threads.

    Attributes:
        product: Multiply-adds per second of large matrix products and convolutions, the fastest.
        recurrent: The same of the product that one step of an LSTM is, by backbone.
        copies: MiB -> bytes per second, read and written, of a copy of that size.
    """

    product: float
    recurrent: dict[str, float]
    copies: dict[int, float]

    def seconds(self, cost: Cost) -> tuple[float, str]:
        """The least time for a cost, and what sets it: ``product`` or ``bytes``."""
        moving = sum(size / self._copy_speed(size) for size in cost.tensors)
        computing = cost.multiply_adds / self.product
        return (computing, "product") if computing > moving else (moving, "bytes")

    def _copy_speed(self, size: int) -> float:
        return max(rate for mib, rate in self.copies.items() if 4 * (mib << 20) >= size or mib == max(self.copies))


def ceiling(precision: str, products: list[int], copies: list[int], batch: int) -> Ceiling:
    """Measure the machine with as many threads as torch has now."""
    dtype = PRECISIONS[precision]
    hidden = {name: load_config(f"crnn-{name}").model.lstm_size for name in ("vgg", "small")}
    recurrent = {}
    for name, units in hidden.items():
        state, weights = torch.randn(batch, units).to(dtype), torch.randn(units, 4 * units).to(dtype)
        rounds = 100
        seconds = _least_seconds(functools.partial(_repeat, rounds, functools.partial(torch.mm, state, weights)))
        recurrent[name] = rounds * batch * weights.numel() / seconds
    speeds = {}
    for mib in copies:
        source = torch.ones((mib << 20) // dtype.itemsize, dtype=dtype)
        target, rounds = torch.zeros_like(source), max(1, 64 // mib)
        seconds = _least_seconds(functools.partial(_repeat, rounds, functools.partial(target.copy_, source)))
        speeds[mib] = rounds * (2 * mib << 20) / seconds
    return Ceiling(max(_product_speed(size, dtype) for size in products), recurrent, speeds)


def _product_speed(size: int, dtype: torch.dtype) -> float:
    """Multiply-adds per second of the fastest of a square product, a tall one and a convolution: libraries differ."""
    rates = []
    for rows, inner, columns in ((size, size, size), (4 * size, size // 2, size // 4)):
        left, right = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
        rates.append(rows * inner * columns / _least_seconds(functools.partial(torch.mm, left, right)))
    depth, batch = size // 4, max(1, size // 32)
    images = torch.randn(batch, depth, 4, 25).to(dtype).contiguous(memory_format=torch.channels_last)
    weights = torch.randn(depth, depth, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last)
    convolution = functools.partial(torch.nn.functional.conv2d, images, weights, padding=1)
    rates.append(batch * 100 * weights.numel() / _least_seconds(convolution))
    return max(rates)


def _repeat(rounds: int, work: Callable[[], object]) -> None:
    for _ in range(rounds):
        work()


def _least_seconds(work: Callable[[], object], rounds: int = 7) -> float:
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times[1:])
