"""Random texts that match a regular expression, in the syntax of ``crnn.decoding.pattern_syntax``."""

from __future__ import annotations

import string

from crnn.charset import Charset, LabelRules
from crnn.decoding.pattern_syntax import Choice, Node, OneOf, Repeat, Sequence, parse_pattern
from crnn.errors import CharsetError, ConfigError
from crnn.synth.dice import Dice
from crnn.synth.label_fit import LabelFit

__all__ = ["PatternText"]

_MORE = 8
"""Most repeats beyond the least where an expression sets no limit (``*``, ``+``, ``{2,}``)."""


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
        ConfigError: It is no expression of the syntax, or wants characters that may not be drawn.
    """

    def __init__(self, expression: str, fit: LabelFit) -> None:
        own = fit.charset.characters
        others = sorted({form for c in own + string.printable for form in (c, c.lower(), c.upper()) if len(form) == 1})
        drawable = Charset(own + "".join(c for c in others if c not in fit.charset and fit.allows(c)))
        try:
            self._tree = parse_pattern(expression, drawable, LabelRules())
        except CharsetError as error:
            what = str(error).partition("; expected")[0].partition(" the charset ")[0]
            raise ConfigError(
                f"corpus.{what} the charset {own!r}; expected characters that labels have, or leave out as mere marks. "
                "Change the pattern, or charset.characters"
            ) from None
        except ConfigError as error:
            raise ConfigError(f"corpus.{error}") from None
        self._drawable = drawable.characters
        # A dot is any of these; without the limit it would mostly be a mark that labels leave out.
        self._any, self._own = frozenset(range(drawable.blank)), tuple(range(len(own)))
        self._ids: dict[frozenset[int], tuple[int, ...]] = {}
        self._collect(self._tree)
        self.characters = frozenset(self._drawable[k] for ids in self._ids.values() for k in ids)

    def draw(self, dice: Dice) -> str:
        """Return a text that matches."""
        return "".join(self._drawn(self._tree, dice))

    def _drawn(self, node: Node, dice: Dice) -> list[str]:
        if isinstance(node, OneOf):
            return [self._drawable[dice.pick(self._ids[node.ids])]]
        if isinstance(node, Choice):
            return self._drawn(dice.pick(node.parts), dice)
        if isinstance(node, Repeat):
            most = node.least + _MORE if node.most is None else node.most
            parts: tuple[Node, ...] = (node.part,) * dice.between(node.least, most)
        else:
            parts = node.parts
        return [character for part in parts for character in self._drawn(part, dice)]

    def _collect(self, node: Node) -> None:
        if isinstance(node, OneOf):
            self._ids[node.ids] = self._own if node.ids == self._any else tuple(sorted(node.ids))
        elif isinstance(node, Repeat):
            self._collect(node.part)
        else:
            assert isinstance(node, Choice | Sequence)
            for part in node.parts:
                self._collect(part)
