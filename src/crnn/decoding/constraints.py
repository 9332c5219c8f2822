"""Patterns that a text must match as a whole: regular expressions, by the package ``regex``.

A number plate, a meter or a serial number has a form that is known before. ``crnn.decoding.beam`` drops the prefixes
that no text of the pattern begins with (``regex`` tells by a partial match) and keeps the texts that match in the end.

Letters mean what labels mean by them: where labels are folded to small letters, ``[A-Z]{2}`` are any two letters.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import regex

from crnn.charset import Charset, LabelRules
from crnn.config.model import CharsetConfig
from crnn.decoding.ctc import log_probs_shape
from crnn.errors import CharsetError, ConfigError, DataError

_Mask = npt.NDArray[np.bool_]


_TIMEOUT_S = 1.0
"""For one text; a match takes microseconds, but for patterns that try every division of a text into parts."""

_TRIED = 5_000
"""Texts that are tried when a pattern is given, to find one that matches."""

_TRIED_LENGTH = 100
_REMEMBERED = 200_000
"""Prefixes whose answers are kept."""

_TOKENS = regex.compile(r"\\.|\[\^?\]?(?:\\.|[^]\\])*\]|\{(\d+)(?:,\d*)?\}|.", regex.DOTALL)
"""An escape, a set, a number of repeats with the least of it as a group, or a character."""

_MAX_REPEATS = 10_000
"""Of one part of a pattern, through all groups around it: ``regex`` unrolls the least of each."""


def allowed_classes(
    charset: Charset, allow: str | None = None, block: str = "", rules: LabelRules | None = None
) -> _Mask:
    """Return the classes that a reading may have.

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
    """Return log-probabilities with -inf for every class that is not allowed; the others stay as they are.

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
    """Return the form of a character in labels; empty where the charset cannot write it."""
    if character.isspace():
        character = " "  # rules for white space are about runs of it
    elif character not in charset:
        character = rules.form(character)
    return character if all(c in charset for c in character) else ""


class Pattern:
    """What texts must match.

    Args:
        expression: A regular expression, in the syntax of ``regex``.
        charset: Of the network.
        rules: Its label rules, which say what letters mean.
        allowed: ``(V,)``, the classes that texts may have (``allowed_classes``). Default: all.

    Attributes:
        expression: As given.
        characters: ``(V - 1,)``, the charset as an array of strings.

    Raises:
        ConfigError: It is no regular expression, or takes too long to match.
        CharsetError: No text of these characters matches, as far as trying tells.
    """

    def __init__(
        self, expression: str, charset: Charset, rules: LabelRules, allowed: npt.NDArray[np.bool_] | None = None
    ) -> None:
        self.expression = expression
        self.characters = np.array(list(charset.characters), dtype=object)
        if _most_repeats(expression) > _MAX_REPEATS:
            raise ConfigError(
                f"pattern {expression!r}: repeats of repeats make more than {_MAX_REPEATS:,} of a part; expected fewer"
            )
        folded = regex.IGNORECASE if rules.case in ("lower", "upper") else 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of sets that another version of the syntax would read otherwise
                self._regex = regex.compile(_written(expression, charset, rules), folded)
        except (regex.error, RecursionError, OverflowError) as error:
            raise ConfigError(f"pattern {expression!r} is no regular expression: {error}") from None
        self._begins: dict[str, bool] = {}
        own = self.characters if allowed is None else self.characters[allowed[: charset.blank]]
        if not self._may_match(own.tolist()):
            raise CharsetError(
                f"pattern {expression!r}: no text of the characters {''.join(own)!r} matches it; expected a form of "
                "texts that the network can write"
            )

    def matches(self, text: str) -> bool:
        """Return true if the whole text matches."""
        return self._match(text, partial=False)

    def begins(self, text: str) -> bool:
        """Return true if a text that matches begins with this one."""
        known = self._begins.get(text)
        if known is None:
            if len(self._begins) >= _REMEMBERED:
                self._begins.clear()
            known = self._begins[text] = self._match(text, partial=True)
        return known

    def _match(self, text: str, *, partial: bool) -> bool:
        try:
            return self._regex.fullmatch(text, partial=partial, timeout=_TIMEOUT_S) is not None
        except TimeoutError:
            raise ConfigError(
                f"pattern {self.expression!r}: takes more than {_TIMEOUT_S:g} s for the text {text!r}; expected one "
                "without repeats of repeats, such as (a+)+"
            ) from None

    def _may_match(self, characters: list[str]) -> bool:
        """Return true if some text matches, or too many begin well to try them all."""
        waiting, tried = [""], 0
        while waiting:
            text = waiting.pop()
            if self.matches(text):
                return True
            tried += len(characters)
            if tried > _TRIED or len(text) > _TRIED_LENGTH:
                return True
            waiting += [text + character for character in characters if self.begins(text + character)]
        return False


def _most_repeats(expression: str) -> int:
    """Return the largest product of least numbers of repeats around one part."""
    groups, last = [1], 1  # the largest product in each open group, and that of what a number would repeat
    for token in _TOKENS.finditer(expression):
        if token[0] == "(":
            groups.append(1)
        elif token[0] == ")" and len(groups) > 1:
            last = groups.pop()
        elif token[1]:
            last *= min(max(int(token[1][:9]), 1), _MAX_REPEATS + 1)
        elif token[0] not in "?+":  # behind a number these say how, and it may be repeated again
            last = 1
        groups[-1] = max(groups[-1], last)
    return max(groups)


def _written(expression: str, charset: Charset, rules: LabelRules) -> str:
    """Return the expression with the characters that labels have in the place of others, as ``e`` for ``é``."""

    def written(character: str) -> str:
        return character if character.isascii() else written_as(character, charset, rules) or character

    def replaced(token: Any) -> str:
        text: str = token[0]
        if text.isascii():
            return text
        if text.startswith("["):
            return "".join(new if len(new := written(c)) == 1 else c for c in text)
        return new if len(new := written(text)) == 1 or text.startswith("\\") else f"(?:{new})"

    new_expression: str = _TOKENS.sub(replaced, expression)
    return new_expression
