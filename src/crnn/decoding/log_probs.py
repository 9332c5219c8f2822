"""What an array of log-probabilities must be, for whatever decodes it.

``check_log_probs`` reads every number and is for the border of the package, where arrays come from outside. The
decoders only look at the shape (``log_probs_shape``) and trust the numbers. Numpy only, so that reading needs no torch.

Shape letters: N batch, T time steps, V classes with the blank (the last one, V - 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crnn.errors import DataError

__all__ = ["BEST", "LINEAR", "LOG", "Ring", "check_log_probs", "log_probs_shape"]

_Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Ring:
    """What plays plus and times in the recursions of CTC, with their neutral elements.

    Attributes:
        plus: Of several ways to the same state.
        times: Of a way and its next step.
        zero: What is impossible.
        one: What is certain.
        take_exp: Numbers are probabilities and not their logarithms.
    """

    plus: np.ufunc
    times: np.ufunc
    zero: float
    one: float
    take_exp: bool


LINEAR = Ring(np.add, np.multiply, 0.0, 1.0, take_exp=True)
"""Sums over all alignments, as fast as it gets; what is below 1e-308 is lost."""

LOG = Ring(np.logaddexp, np.add, -np.inf, 0.0, take_exp=False)
"""The same with logarithms, some ten times slower; nothing is lost."""

BEST = Ring(np.maximum, np.add, -np.inf, 0.0, take_exp=False)
"""The best alignment."""


def check_log_probs(log_probs: _Floats, num_classes: int | None = None) -> None:
    """Refuse an array that cannot be the network's log-probabilities.

    Args:
        log_probs: ``(N, T, V)``, float16, float32 or float64; N and T may be 0, entries may be -inf.
        num_classes: The V to expect, where it is known.

    Raises:
        DataError: The type or the shape is wrong, there is a nan, or the probabilities of a time step do not sum to 1
            within 1e-3 (float16: 4e-3); the message names the first such sample and step.
    """
    if log_probs.dtype not in (np.float16, np.float32, np.float64):
        raise DataError(f"log_probs have type {log_probs.dtype}; expected float16, float32 or float64")
    classes = log_probs_shape(log_probs)[2]
    if num_classes is not None and classes != num_classes:
        raise DataError(
            f"log_probs have shape {log_probs.shape}, so {classes} classes; expected {num_classes}: "
            "the characters of the charset and the blank. Use the charset that the model was trained with"
        )
    with np.errstate(over="ignore"):  # logits by mistake: their sum is reported below
        sums = np.exp(log_probs, dtype=np.float64).sum(axis=2)
    # A float16 between -16 and -8 is rounded by up to 0.004, for all classes alike when they are equally likely.
    tolerance = 4e-3 if log_probs.dtype == np.float16 else 1e-3
    bad = np.argwhere(~(np.abs(sums - 1.0) <= tolerance))  # ~(<=) rather than >, so that nan is bad
    if bad.size:
        n, t = bad[0].tolist()
        found = "are not numbers (nan)" if np.isnan(sums[n, t]) else f"sum to {sums[n, t]:.6g}, not to 1"
        raise DataError(
            f"log_probs of shape {log_probs.shape}: at (n, t) = ({n}, {t}) the probabilities {found}; "
            "expected the output of log_softmax over the classes"
        )


def log_probs_shape(log_probs: _Floats) -> tuple[int, int, int]:
    """N, T and V of log-probabilities.

    Raises:
        DataError: There are not three dimensions, or fewer than 2 classes.
    """
    if log_probs.ndim != 3 or log_probs.shape[2] < 2:
        raise DataError(
            f"log_probs have shape {log_probs.shape}; expected (N, T, V) with at least 2 classes, the last the blank"
        )
    num_samples, num_steps, num_classes = log_probs.shape
    return num_samples, num_steps, num_classes
