"""Labels of texts, and whether a text may be drawn.

An image may show marks that its label leaves out: readers of 36 characters are judged without punctuation. It must not
show letters or digits that its label leaves out: that would teach the network to pass over them.
"""

from __future__ import annotations

import dataclasses
import unicodedata

from crnn.charset import Charset, LabelRules, LabelSkip, min_time_steps
from crnn.errors import CharsetError

_UNDRAWABLE = ("Cc", "Cn", "Co", "Cs", "Zl", "Zp")
"""Unicode categories without an image: control characters, unassigned and private ones, surrogates, line breaks."""


def is_text(character: str) -> bool:
    """True for letters, digits and combining marks."""
    return unicodedata.category(character)[0] in "LNM"


class LabelCheck:
    """Labels that a network can write, of texts.

    Texts are never truncated, whatever ``rules.truncate`` says: the image shows all. ``max_steps`` are the network's
    time steps, ``longest`` is the most characters of a label.
    """

    def __init__(self, charset: Charset, rules: LabelRules, max_steps: int) -> None:
        self.charset = charset
        self.rules = dataclasses.replace(rules, truncate=False)
        self.max_steps = max_steps
        self.longest = max_steps if rules.max_length is None else min(max_steps, rules.max_length)
        self._unlimited = dataclasses.replace(self.rules, max_length=None)
        self._allowed: set[str] = set()
        self._refused: set[str] = set()

    def kept(self, character: str) -> str:
        """Return the label of one character: itself, its other case, its base letter, several, or nothing."""
        form = self._unlimited.form(character)
        if self.rules.whitespace == "collapse" and character.isspace():
            form = " "
        return "".join(part for part in form if part in self.charset)

    def allows(self, text: str) -> bool:
        """True where labels keep all characters of a text, or leave them out as mere marks."""
        if self._allowed.issuperset(text):
            return True
        for character in text:
            if character in self._allowed:
                continue
            if character in self._refused or not self._judge(character):
                self._refused.add(character)
                return False
            self._allowed.add(character)
        return True

    def _judge(self, character: str) -> bool:
        if unicodedata.category(character) in _UNDRAWABLE:
            return False
        form = self._unlimited.form(character)
        if is_text(character):
            return bool(form) and all(part in self.charset for part in form)
        return self.rules.unknown == "drop_character" or all(part in self.charset for part in form)

    def label(self, drawn: str) -> str:
        """Return the label of a text.

        Raises:
            LabelSkip: It has none; ``reason`` is ``lost_character``, ``too_many_steps``, or one of ``LabelRules``.
        """
        if not self.allows(drawn):
            raise LabelSkip("lost_character")
        try:
            label = self.rules.apply(drawn, self.charset)
        except CharsetError:  # composed from characters that each for itself are in the charset
            raise LabelSkip("unknown_character") from None
        if not drawn.isascii() and any(c not in self.charset and is_text(c) for c in self.rules.form(drawn)):
            # Letters may change with their place, like the sigma at the end of a Greek word.
            raise LabelSkip("lost_character")
        if 2 * len(label) - 1 > self.max_steps and min_time_steps(self.charset.encode(label)) > self.max_steps:
            raise LabelSkip("too_many_steps")
        return label
