"""Average the weights of one training, or of several that began with the same weights.

    python tools/average_weights.py runs/a runs/b mean.safetensors

The mean can read better than each of them; measure it. A source counts as often as it is named; least and largest width
are those of the last. Weights of trainings that began differently have no mean.
Confidences are fitted anew: ``crnn calibrate mean.safetensors DATA``.

Reference:
    Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization" (arXiv 1803.05407);
    Wortsman et al. 2022, "Model soups" (arXiv 2203.05482).
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crnn.errors import CheckpointError, ConfigError, CrnnError
from crnn.model.checkpoint import build_network, load_weights, save_weights
from crnn.model.weights import Weights

_LEAST_COSINE = 0.3
"""Between stretches of one training of ours it is 0.63 to 0.95, between new networks of different seeds near 0."""


def average_weights(sources: Sequence[str | Path], out: str | Path) -> Path:
    """Write the mean of weights, each counting the same, batch statistics included, without a calibration.

    Args:
        sources: Two or more names of weights that ship, weights files, or run folders.
        out: The weights file to write; what it tells of a run is that of the last source.

    Returns:
        ``out``.

    Raises:
        ConfigError: There are fewer than two, or ``out`` is no name for a weights file.
        CheckpointError: One cannot be read, they are not of one network or not of one training, or ``out`` cannot be
            written.
    """
    if len(sources) < 2:
        raise ConfigError(f"{len(sources)} weights are given; expected two or more to make the mean of")
    path = Path(out)
    if path.suffix != ".safetensors":
        raise ConfigError(f"{out}: what is written is a weights file; expected a name that ends in .safetensors")
    weights = [load_weights(source) for source in sources]
    for one in weights:
        build_network(one)  # that its tensors are those of its settings
    for one, other in itertools.combinations(weights, 2):
        _check_pair(one, other)
    last = weights[-1]
    state = {name: _mean([one.tensors[name] for one in weights]) for name in last.tensors}
    parts = [{"step": one.info.get("step"), "samples": one.info.get("samples")} for one in weights]
    save_weights(path, state, last.config, {**last.info, "validation": None, "averaged": parts})
    return path


def _check_pair(one: Weights[Tensor], other: Weights[Tensor]) -> None:
    for section in ("model", "image", "charset"):
        if _settings(one, section) != _settings(other, section):
            raise CheckpointError(
                f"{one.path} and {other.path} have other settings of {section}; expected weights of one network"
            )
    alike = _cosine(one.tensors, other.tensors)
    if not alike >= _LEAST_COSINE:
        raise CheckpointError(
            f"{one.path} and {other.path} are of different trainings (cosine {alike:.2f}, at least {_LEAST_COSINE:g} "
            "is expected): between them is nothing that reads. Expected weights of one training, or of several that "
            "began with the same weights (train.warm_start)"
        )


def _settings(weights: Weights[Tensor], section: str) -> dict[str, Any]:
    """Return settings but for the widths, which may be others in training than in reading."""
    found = getattr(weights.config, section).model_dump()
    return {name: value for name, value in found.items() if name not in ("min_width", "max_width")}


def _cosine(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Of the angle between all matrices and filters, as one vector."""
    first, second = (
        torch.cat([tensor.reshape(-1).double() for tensor in state.values() if tensor.ndim > 1])
        for state in (one, {name: other[name] for name in one})  # in one order
    )
    return float(torch.nn.functional.cosine_similarity(first, second, dim=0))


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    if not tensors[0].is_floating_point():
        return tensors[-1]  # a count of batches
    return torch.stack([tensor.double() for tensor in tensors]).mean(dim=0).float()


def main(arguments: Sequence[str] | None = None) -> int:
    """Average the weights named on the command line."""
    parser = argparse.ArgumentParser(description="Average the weights of one training.")
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="names of weights that ship, weights files, run folders"
    )
    parser.add_argument("out", metavar="OUT.safetensors", help="the weights file to write")
    given = parser.parse_args(arguments)
    try:
        print(f"{average_weights(given.models, given.out)}: the mean of {len(given.models)} weights")
    except CrnnError as error:
        print(f"average_weights: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
