"""What a network in training reads of the validation sets, and a sheet of it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from crnn.charset import NAMED_CHARSETS
from crnn.checkpoint import load_weights, save_calibration
from crnn.config import Config
from crnn.contact_sheet import contact_sheet
from crnn.data.source import open_source
from crnn.distributed import Ranks
from crnn.engines.torch_engine import TorchEngine
from crnn.errors import DataError, ImageError
from crnn.evaluate import calibrate, check_sets, evaluate
from crnn.evaluation.protocol import CharsetName
from crnn.evaluation.results import Evaluation
from crnn.image import load_image
from crnn.model import build_model
from crnn.recognizer import Recognizer

__all__ = ["Validator", "pictured"]

_PICTURED = 8
"""Samples of each set on a sheet."""


class Validator:
    """Evaluates weights on ``data.validation``, every rank a part of it.

    It has a network of its own, so that the one in training is never switched between its modes.

    Args:
        config: Model, image, charset, validation sets, protocol, batch size.
        num_classes: Outputs of the network, the blank included.
        ranks: Those that share the work.
        bf16: Read in bf16 instead of fp32, as the training computes.

    Raises:
        DataError, ConfigError: As for ``crnn.evaluate.check_sets``: before the training, not at its first validation.
    """

    def __init__(self, config: Config, num_classes: int, ranks: Ranks, bf16: bool) -> None:
        self._config, self._ranks = config, ranks
        self._network = build_model(config.model, config.image, num_classes, seed=0).eval()
        engine = TorchEngine(self._network, str(ranks.device), "bf16" if bf16 else "fp32", config.train.channels_last)
        self._recognizer = Recognizer(engine, config, batch_size=config.eval.batch_size)
        self._charset = _named_charset(config)
        if config.data.validation:
            sets = config.data.validation
            check_sets(self._recognizer, sets, protocol=config.eval.protocol, charset=self._charset)

    def validate(self, weights: Mapping[str, Tensor], model: str) -> Evaluation:
        """What these weights read; the same on all ranks.

        Args:
            weights: State of the network, by name.
            model: What the results name as their model.

        Raises:
            DataError: A set cannot be read any more.
        """
        self._network.load_state_dict(weights)
        return evaluate(
            self._recognizer,
            self._config.data.validation,
            protocol=self._config.eval.protocol,
            charset=self._charset,
            model=model,
            ranks=self._ranks,
        )

    def calibrate(self, path: Path) -> str:
        """Fit the confidences of a weights file on the validation sets and keep them in it.

        Returns:
            A line for the user: what was fitted, or why nothing was.
        """
        self._network.load_state_dict(load_weights(path).state)
        try:
            found = calibrate(
                self._recognizer,
                self._config.data.validation,
                protocol=self._config.eval.protocol,
                charset=self._charset,
            )
        except DataError as error:
            return f"{path}: confidences stay as the network gives them: {error}"
        save_calibration(path, found)
        curve = found.language or found.greedy
        return (
            f"{path}: confidences fitted on the validation sets, calibration error {100 * curve.error_before:.1f} % "
            f"before, {100 * curve.error_after:.1f} % after"
        )


def pictured(result: Evaluation) -> npt.NDArray[np.uint8] | None:
    """The first readings of each set, right and wrong ones, as a sheet ``(H, W, 3)``; ``None`` where none is left."""
    pictures, captions = [], []
    for dataset in result.datasets:
        store = open_source(dataset.path)
        for sample in dataset.samples[:_PICTURED]:
            with contextlib.suppress(ImageError):
                pictures.append(load_image(store.image_bytes(sample.index), 3))
                sign = "=" if sample.prediction == sample.label else f"| {sample.label}"
                captions.append(f"{sample.prediction} {sign}")
    return contact_sheet(pictures, captions) if pictures else None


def _named_charset(config: Config) -> CharsetName | Any:
    """36, 62 or 94 where the charset is one of them: a model that tells cases apart is validated on that."""
    own = set(config.charset.charset().characters)
    return next((name for name, characters in NAMED_CHARSETS.items() if set(characters) == own), "auto")
