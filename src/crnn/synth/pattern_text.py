"""Random texts that match a regular expression: characters, sets, groups, alternatives and counts."""

from __future__ import annotations

import re
import string
from re import _parser  # type: ignore[attr-defined]  # Python's own reading of an expression, as a tree
from typing import Any

from crnn.errors import ConfigError
from crnn.synth.dice import Dice
from crnn.synth.label_fit import LabelFit

__all__ = ["PatternText"]

_MORE = 8
"""Most repeats beyond the least where an expression sets no limit (``*``, ``+``, ``{2,}``)."""

_MOST = 1000

_KINDS = {"DIGIT": r"\d", "NOT_DIGIT": r"\D", "WORD": r"\w", "NOT_WORD": r"\W", "SPACE": r"\s", "NOT_SPACE": r"\S"}


class PatternText:
    """Draws texts that match an expression.

    Alternatives, characters and numbers of repeats are each as likely as the others. An expression is about what is
    drawn, not about labels: where labels have small letters only, ``[A-Z]`` draws capitals, and a hyphen that labels
    leave out is drawn.

    Args:
        expression: The setting ``corpus.pattern``.
        fit: What labels keep.

    Attributes:
        characters: All that texts can have.

    Raises:
        ConfigError: It is no expression, has more than can be drawn, or wants characters that may not be drawn.
    """

    def __init__(self, expression: str, fit: LabelFit) -> None:
        self._expression = expression
        own = fit.charset.characters
        others = sorted({form for c in own + string.printable for form in (c, c.lower(), c.upper()) if len(form) == 1})
        self._drawable = own + "".join(c for c in others if c not in fit.charset and fit.allows(c))
        self._own = own
        try:
            parts = list(_parser.parse(expression))
        except (re.error, RecursionError, OverflowError) as error:
            raise ConfigError(f"corpus.pattern {expression!r} is no regular expression: {error}") from None
        if parts and str(parts[0][1]) == "AT_BEGINNING":  # texts match as a whole anyhow
            del parts[0]
        if parts and str(parts[-1][1]) == "AT_END":
            del parts[-1]
        self._found: set[str] = set()
        self._tree = [self._node(*part) for part in parts]
        self.characters = frozenset(self._found)

    def draw(self, dice: Dice) -> str:
        """Return a text that matches."""
        return "".join(self._drawn(self._tree, dice))

    def _drawn(self, parts: list[Any], dice: Dice) -> list[str]:
        """Characters of a sequence of nodes: a string is one of its characters, a list one of several sequences."""
        drawn: list[str] = []
        for part in parts:
            if isinstance(part, str):
                drawn.append(dice.pick(part))
            elif isinstance(part, list):
                drawn += self._drawn(dice.pick(part), dice)
            else:
                least, most, repeated = part
                for _ in range(dice.between(least, most)):
                    drawn += self._drawn(repeated, dice)
        return drawn

    def _node(self, kind: Any, value: Any) -> Any:
        name = str(kind)
        if name in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            return self._characters(name, value)
        if name == "BRANCH":
            return [[self._node(*part) for part in branch] for branch in value[1]]
        if name == "SUBPATTERN":
            return [[self._node(*part) for part in value[3]]]
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, repeated = value
            most = least + _MORE if most == _parser.MAXREPEAT else int(most)
            if most > _MOST:
                raise ConfigError(f"corpus.pattern {self._expression!r} repeats {most} times; expected at most {_MOST}")
            return int(least), most, [self._node(*part) for part in repeated]
        raise ConfigError(
            f"corpus.pattern {self._expression!r} has what cannot be drawn ({name.lower()}); expected characters, "
            "sets, groups, alternatives and counts"
        )

    def _characters(self, name: str, value: Any) -> str:
        """The characters that a node may be, which can be drawn."""
        if name == "ANY":  # only what labels can have: of the others it would mostly be a mark
            found = self._own
        elif name == "IN":
            negated = str(value[0][0]) == "NEGATE"
            items = value[1:] if negated else value
            found = "".join(c for c in self._drawable if any(_is_of(c, *item) for item in items) is not negated)
        else:
            found = "".join(c for c in self._drawable if (ord(c) == value) is (name == "LITERAL"))
        if not found:
            what = repr(chr(value)) if name == "LITERAL" else "one of its sets"
            raise ConfigError(
                f"corpus.pattern {self._expression!r}: {what} is not in the charset {self._own!r}; expected characters "
                "that labels have, or leave out as mere marks. Change the pattern, or charset.characters"
            )
        self._found |= set(found)
        return found


def _is_of(character: str, kind: Any, value: Any) -> bool:
    """Whether an item of a set has the character."""
    if str(kind) == "RANGE":
        return bool(value[0] <= ord(character) <= value[1])
    if str(kind) == "CATEGORY":
        return re.match(_KINDS[str(value).removeprefix("CATEGORY_")], character) is not None
    return bool(ord(character) == value)
