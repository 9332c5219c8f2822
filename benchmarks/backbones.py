"""Candidates for the small backbone, and vgg: pictures per second in training and reading, on this machine.

    python benchmarks/backbones.py [--rounds 3]

Each candidate has two BiLSTMs of 128 behind it, like ``small``. All take turns within a round, so that a drift of the
machine meets all of them; the figures are medians over the rounds. docs/experiments.md says what was chosen and why.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

from crnn.backbones import BACKBONES, ConvLayer
from crnn.loss import ctc_loss
from crnn.model import CRNN, build_backbone, build_model
from crnn.reader_config import ImageConfig, ModelConfig

BATCH_SIZE = 64


def plain(*depths: int) -> tuple[ConvLayer, ...]:
    """The paper's layout with other depths: 3x3 convolutions, the first two pooled 2x2, the fourth and sixth 2x1."""
    pools = [(2, 2), (2, 2), None, (2, 1), None, (2, 1)]
    layers = [ConvLayer(depth, pool=pool) for depth, pool in zip(depths[:6], pools, strict=True)]
    return (*layers, ConvLayer(depths[6], kernel=2, padding=0))


def strided(*depths: int) -> tuple[ConvLayer, ...]:
    """The same with a 4x4 convolution of stride 2 in the place of the first one and its pooling."""
    return (ConvLayer(depths[0], kernel=4, stride=2), *plain(*depths)[1:])


CANDIDATES = {
    "plain 16-256": plain(16, 32, 64, 64, 128, 128, 256),
    "plain 24-256": plain(24, 48, 96, 96, 128, 128, 256),
    "plain 32-256": plain(32, 64, 96, 96, 192, 192, 256),
    "strided 32-48-96-160-256 (small)": BACKBONES["small"],
    "strided 32-64-128-128-256": strided(32, 64, 128, 128, 128, 128, 256),
    "strided 32-48-96-192-256": strided(32, 48, 96, 96, 192, 192, 256),
}


def network_of(layers: tuple[ConvLayer, ...] | None) -> CRNN:
    """A CRNN on these layers, or the vgg one."""
    network = build_model(ModelConfig(backbone="vgg" if layers is None else "small"), ImageConfig(), 37, seed=0)
    if layers is not None:
        network.backbone = build_backbone(layers, 1, "all")
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def train_rate(network: CRNN, images: Tensor, bf16: bool, steps: int) -> float:
    """Pictures per second of forward, CTC, backward and AdamW."""
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    targets = torch.randint(0, 36, (len(images), 6), generator=torch.Generator().manual_seed(0))
    lengths = torch.full((len(images),), 6)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network(images)
        torch.autograd.backward(ctc_loss(logits, targets, lengths) / len(images))
        optimizer.step()

    return len(images) / _median_seconds(step, steps)


def read_rate(network: CRNN, images: Tensor, bf16: bool, steps: int) -> float:
    """Pictures per second of the forward pass."""
    network.eval()

    def step() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            network(images)

    return len(images) / _median_seconds(step, steps)


def _median_seconds(step: object, steps: int) -> float:
    assert callable(step)
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    images = torch.randn(BATCH_SIZE, 1, 32, 100).contiguous(memory_format=torch.channels_last)
    networks = {"vgg": network_of(None)} | {name: network_of(layers) for name, layers in CANDIDATES.items()}
    kinds = {"train bf16": (train_rate, True), "train fp32": (train_rate, False)}
    kinds |= {"read bf16": (read_rate, True), "read fp32": (read_rate, False)}
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.rounds):
        for name, network in networks.items():
            for kind, (measure, bf16) in kinds.items():
                rates.setdefault((name, kind), []).append(measure(network, images, bf16, options.steps))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {BATCH_SIZE}, img/s")
    print(f"{'':<34}{'parameters':>11}" + "".join(f"{kind:>12}" for kind in kinds))
    for name, network in networks.items():
        parameters = sum(p.numel() for p in network.parameters())
        figures = "".join(f"{statistics.median(rates[name, kind]):12.0f}" for kind in kinds)
        print(f"{name:<34}{parameters / 1e6:10.2f}M{figures}")


if __name__ == "__main__":
    main()
