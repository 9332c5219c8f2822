"""Regular expressions that a whole text must match, and allowed characters.

The beam drops prefixes with which no matching text begins (partial matches of the package ``regex``). Letters follow
the label rules: where labels are lower case, ``[A-Z]{2}`` matches any two letters.
"""

import functools
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import regex

from crnn.charset import Charset, LabelRules
from crnn.errors import CharsetError, ConfigError
from crnn.reading_order import has_right_to_left

_Mask = npt.NDArray[np.bool_]

_TIMEOUT_S = 1.0  # for one text; only patterns that try every division of a text into parts come near it
_TRIED, _TRIED_LENGTH = 5_000, 100  # texts, and their characters, among which one that matches is looked for
_REMEMBERED = 200_000  # prefixes whose answers are cached
_MAX_REPEATS = 10_000  # of one part, through all groups around it: ``regex`` unrolls the least number of each

# an escape, a set, a repeat with its least number as a group, or a character
_TOKENS = regex.compile(r"\\.|\[\^?\]?(?:\\.|[^]\\])*\]|\{(\d+)(?:,\d*)?\}|.", regex.DOTALL)


def allowed_classes(charset: Charset, rules: LabelRules, allow: str | None = None, block: str = "") -> _Mask:
    """Return the classes that a reading may have, ``(V,)``: those of ``allow`` (default: all) but ``block``, the blank.

    The rules give the form of a character: a lower-case charset takes ``A`` as ``a``. Only in ``block`` characters may
    be unknown.
    """
    mask = np.full(charset.num_classes, allow is None)
    mask[charset.blank] = True
    for character in allow or "":
        written = written_as(character, charset, rules)
        if not written:
            raise CharsetError(f"allowed is {character!r}, which is not in the charset {charset.characters!r}")
        mask[charset.encode(written)] = True
    for character in block:
        mask[charset.encode(written_as(character, charset, rules))] = False
    if not mask[: charset.blank].any():
        raise CharsetError(
            f"allow {allow!r} and block {block!r} leave no character of the charset {charset.characters!r}"
        )
    return mask


def restrict(log_probs: npt.NDArray[np.floating[Any]], allowed: _Mask) -> npt.NDArray[np.floating[Any]]:
    """Return log-probabilities ``(N, T, V)`` with -inf for classes not allowed ``(V,)``, not renormalised."""
    return log_probs if allowed.all() else np.where(allowed, log_probs, log_probs.dtype.type(-np.inf))


def written_as(character: str, charset: Charset, rules: LabelRules) -> str:
    """Return the form of a character in labels; empty where the charset cannot write it."""
    if character.isspace():
        character = " "  # rules for white space are about runs of it
    elif character not in charset:
        character = rules.form(character)
    return character if all(c in charset for c in character) else ""


class Pattern:
    """Pattern, in the syntax of ``regex``, that texts of the ``allowed`` classes ``(V,)`` must match as a whole.

    ``ConfigError`` if it is no regular expression, takes too long to match, or allowed letters run from right to left;
    ``CharsetError`` if no text was found to match. ``characters`` ``(V - 1,)`` are those of the charset.
    """

    def __init__(self, expression: str, charset: Charset, rules: LabelRules, allowed: _Mask | None = None) -> None:
        self.expression = expression
        self.characters = np.array(list(charset.characters), dtype=object)
        own = "".join(self.characters if allowed is None else self.characters[allowed[: charset.blank]])
        if has_right_to_left(own):  # the beam goes from left to right
            raise ConfigError(
                f"pattern {expression!r}: cannot be matched with letters written from right to left; expected 'allow' "
                "without them, or no pattern"
            )
        if _most_repeats(expression) > _MAX_REPEATS:
            raise ConfigError(f"pattern {expression!r}: repeats of repeats make more than {_MAX_REPEATS:,} of a part")
        folded = regex.IGNORECASE if rules.case in ("lower", "upper") else 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of sets that another version of the syntax would read otherwise
                self._regex = regex.compile(_written(expression, charset, rules), folded)
        except (regex.error, RecursionError, OverflowError) as error:
            raise ConfigError(f"pattern {expression!r} is no regular expression: {error}") from None
        # true if a matching text begins with the given one
        self.begins = functools.lru_cache(_REMEMBERED)(lambda text: self._match(text, partial=True))
        if not self._may_match(list(own)):
            raise CharsetError(f"pattern {expression!r}: no text of the characters {own!r} matches it")

    def matches(self, text: str) -> bool:
        """Return true if the whole text matches."""
        return self._match(text, partial=False)

    def _match(self, text: str, *, partial: bool) -> bool:
        try:
            return self._regex.fullmatch(text, partial=partial, timeout=_TIMEOUT_S) is not None
        except TimeoutError:
            raise ConfigError(
                f"pattern {self.expression!r}: takes more than {_TIMEOUT_S:g} s; expected no repeats of repeats: (a+)+"
            ) from None

    def _may_match(self, characters: list[str]) -> bool:
        """Return true if some text matches, or too many prefixes do to try them all."""
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
    """Return the largest product of least repeats around one part."""
    groups, last = [1], 1  # largest product in each open group, and of the part before the token
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
    """Return the expression in the characters of labels, such as ``e`` for ``é``."""

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
