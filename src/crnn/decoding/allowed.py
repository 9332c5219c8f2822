"""Readings in some of a network's characters only: allow-lists and block-lists.

Who knows that a meter shows digits need not read letters. The characters that are not wanted get the probability 0 in
every step, and whatever decodes afterwards (best path, beam, lexicon, pattern) finds the best of the texts that remain.
Nothing is renormalised: the score of a reading stays the probability that the network gives the text, and may be small
where the picture shows something else.

Shape letters: N batch, T time steps, V classes with the blank (the last one, V - 1). Numpy only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from crnn.charset import Charset, LabelRules
from crnn.decoding.log_probs import log_probs_shape
from crnn.errors import CharsetError, DataError
from crnn.reader_config import CharsetConfig

__all__ = ["allowed_classes", "restrict", "written_as"]

_Mask = npt.NDArray[np.bool_]


def allowed_classes(
    charset: Charset, allow: str | None = None, block: str = "", rules: LabelRules | None = None
) -> _Mask:
    """The classes that a reading may have.

    Characters mean what labels mean by them: where the charset has small letters only, ``A`` allows, or blocks, ``a``.

    Args:
        charset: What the network writes.
        allow: The characters that readings may have. Default: all of them.
        block: The characters that they may not have; those that the network does not know are blocked anyhow.

        rules: The label rules that say what a character means. Default: those that follow from the charset
            (``CharsetConfig.rules``).

    Returns:
        ``(V,)``, true for what is allowed; the blank always is.

    Raises:
        CharsetError: A character of ``allow`` is not in the charset, or nothing is left.

    Example:
        >>> int(allowed_classes(Charset("36"), allow="0123456789").sum())
        11
    """
    rules = rules or CharsetConfig(characters=charset.characters).rules()
    mask = np.full(charset.num_classes, allow is None)
    mask[charset.blank] = True
    for character in allow or "":
        written = written_as(character, charset, rules)
        if not written:
            raise CharsetError(
                f"allowed is {character!r}, which is not in the charset {charset.characters!r}; expected characters "
                "that the network can write"
            )
        mask[charset.encode(written)] = True
    for character in block:
        mask[charset.encode(written_as(character, charset, rules))] = False
    if not mask[: charset.blank].any():
        raise CharsetError(
            f"allow {allow!r} and block {block!r} leave no character of the charset {charset.characters!r}; expected "
            "at least one"
        )
    return mask


def restrict(log_probs: npt.NDArray[np.floating[Any]], allowed: _Mask) -> npt.NDArray[np.floating[Any]]:
    """Log-probabilities with -inf for every class that is not allowed; the others stay as they are.

    A sample in which some step has nothing left (no blank, no character) has no possible text; decoders give the score
    -inf for it.

    Args:
        log_probs: ``(N, T, V)``; not changed.
        allowed: ``(V,)`` from ``allowed_classes``.

    Raises:
        DataError: The shapes do not fit.
    """
    if allowed.shape != (log_probs_shape(log_probs)[2],):
        raise DataError(f"log_probs have shape {log_probs.shape}, allowed classes {allowed.shape}; expected (V,)")
    if allowed.all():
        return log_probs
    return np.where(allowed, log_probs, log_probs.dtype.type(-np.inf))


def written_as(character: str, charset: Charset, rules: LabelRules) -> str:
    """What labels have in the place of a character; empty where the charset cannot write it."""
    if character.isspace():
        character = " "  # rules for white space are about runs of it
    elif character not in charset:
        character = rules.form(character)
    return character if all(c in charset for c in character) else ""
