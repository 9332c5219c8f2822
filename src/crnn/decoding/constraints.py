"""Regular expressions that a whole text must match, and allowed characters.

The beam drops prefixes with which no matching text begins (partial matches of the package ``regex``). Letters follow
the label rules: where labels are lower case, ``[A-Z]{2}`` matches any two letters.
"""

import contextlib
import functools
import re
import time
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import regex

from crnn.charset import Charset, LabelRules
from crnn.errors import CharsetError, ConfigError
from crnn.reading_order import has_right_to_left

_Mask = npt.NDArray[np.bool_]

# Of one text; of all, beside a mean of so much for each. Only patterns that try every division of a text into parts
# come near it; usual ones take some microseconds.
_TIMEOUT_S, _MEAN_S = 1.0, 2e-3
_TRIED, _TRIED_LENGTH = 5_000, 100  # texts, and their characters, among which one that matches is looked for
_REMEMBERED = 200_000  # prefixes whose answers are cached
# Parts with repeats written out, of which ``regex`` may unroll some, and parts in a row: its first partial
# match takes the cube of the length of a string, 0.3 s at 1000, without looking at the clock.
_MAX_PARTS, _MAX_ROW = 10_000, 1000

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

    ``ConfigError`` if it is no regular expression, is too large, takes too long to match, or allowed letters run from
    right to left; ``CharsetError`` if no text was found to match. ``characters`` ``(V - 1,)`` are those of the charset.
    """

    def __init__(
        self, expression: str | re.Pattern[str], charset: Charset, rules: LabelRules, allowed: _Mask | None = None
    ) -> None:
        self.expression = expression = expression if isinstance(expression, str) else _with_flags(expression)
        self.characters = np.array(list(charset.characters), dtype=object)
        own = "".join(self.characters if allowed is None else self.characters[allowed[: charset.blank]])
        if has_right_to_left(own):  # the beam goes from left to right
            raise ConfigError(
                f"pattern {expression!r}: cannot be matched with letters written from right to left; expected 'allow' "
                "without them, or no pattern"
            )
        self._made_of = (expression, charset, rules, allowed)
        self._texts, self._seconds = 0, 0.0
        size, row, found = len(expression), 0, f"{len(expression):,} characters"
        if size <= _MAX_PARTS:
            size, row = _num_parts(expression)
            found = f"{size:,} parts, repeats of repeats written out, {row:,} in a row"
        if size > _MAX_PARTS or row > _MAX_ROW:
            raise ConfigError(
                f"pattern {expression!r:.100}: has {found}; expected at most {_MAX_PARTS:,}, and {_MAX_ROW:,} parts "
                "in a row. Shorten it, or give words as a lexicon"
            )
        folded = regex.IGNORECASE if rules.case in ("lower", "upper") else 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of sets that another version of the syntax would read otherwise
                self._regex = regex.compile(_written(expression, charset, rules), folded)
        except (regex.error, RecursionError, OverflowError) as error:
            raise ConfigError(f"pattern {expression!r} is no regular expression: {error}") from None
        if self._regex.flags & regex.REVERSE:
            raise ConfigError(
                f"pattern {expression!r}: (?r), matching from the end, does not go with a beam; leave it out"
            )
        # true if a matching text begins with the given one
        self.begins = functools.lru_cache(_REMEMBERED)(lambda text: self._match(text, partial=True))
        if not self._may_match(list(own)):
            raise CharsetError(f"pattern {expression!r}: no text of the characters {own!r} matches it")

    def __reduce__(self) -> tuple[Any, ...]:  # the cache cannot be pickled
        return Pattern, self._made_of

    def restart(self) -> None:
        """Forget the time that matching has taken: the limit is one of each call."""
        self._texts, self._seconds = 0, 0.0

    def matches(self, text: str) -> bool:
        """Return true if the whole text matches."""
        return self._match(text, partial=False)

    def _match(self, text: str, *, partial: bool) -> bool:
        begun, found = time.thread_time(), None  # of this thread alone: other work on the machine does not count
        with contextlib.suppress(TimeoutError):
            found = self._regex.fullmatch(text, partial=partial, timeout=_TIMEOUT_S) is not None
        self._texts, self._seconds = self._texts + 1, self._seconds + time.thread_time() - begun
        if found is None or self._seconds > _TIMEOUT_S + self._texts * _MEAN_S:
            raise ConfigError(
                f"pattern {self.expression!r:.100}: takes too long: {self._texts:,} texts in {self._seconds:.1f} s; "
                "expected no repeats of repeats: (a+)+"
            )
        return found

    def _may_match(self, characters: list[str]) -> bool:
        """Return true if some text matches, or too many prefixes do, or too slowly, to try them all."""
        waiting, tried = [""], 0
        while waiting:
            text = waiting.pop()
            if self.matches(text):
                return True
            tried += len(characters)
            if tried > _TRIED or len(text) > _TRIED_LENGTH or self._seconds > _TIMEOUT_S:
                return True
            waiting += [text + character for character in characters if self.begins(text + character)]
        return False


def _with_flags(compiled: re.Pattern[str]) -> str:
    """Return the text of a compiled expression with its flags in front."""
    flags = {letter: re.RegexFlag[letter] for letter in "AIMSX"}
    if not isinstance(compiled.pattern, str) or compiled.flags & ~sum(flags.values(), re.UNICODE):
        raise ConfigError(
            f"pattern is {compiled!r:.100}; expected an expression for texts, with no flags but A, I, M, S and X"
        )
    letters = "".join(letter.lower() for letter, flag in flags.items() if compiled.flags & flag)
    return f"(?{letters}){compiled.pattern}" if letters else compiled.pattern


def _num_parts(expression: str) -> tuple[int, int]:
    """Return the number of parts, each repeat written out, and the largest number written between two ``|``."""
    groups, last = [0], 0  # parts of each open group, and those of the item before the token
    row = longest = 0
    for token in _TOKENS.finditer(expression):
        row = 0 if token[0] == "|" else row + 1
        longest = max(longest, row)
        if token[0] == "(":
            groups.append(0)
            continue
        if token[1]:
            more = last * (max(int(token[1][:9]), 1) - 1)
            last += more
        elif token[0] in "?+*":  # a repeat, or how one is done; the part may be repeated again
            continue
        else:
            more = last = (groups.pop() or 1) if token[0] == ")" and len(groups) > 1 else 1
        groups[-1] = min(groups[-1] + more, 10**9)
    return max(groups), longest


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
