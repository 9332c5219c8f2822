"""Label texts and check that they may be drawn.

Labels may leave out marks in the image, as readers of 36 characters are judged without punctuation, but not letters or
digits: that would teach the network to pass over them.
"""

import dataclasses
import unicodedata

from crnn.charset import Charset, LabelRules, LabelSkip, fits_steps
from crnn.errors import CharsetError

_UNDRAWABLE = ("Cc", "Cn", "Co", "Cs", "Zl", "Zp")  # Unicode: control, unassigned, private, surrogates, line breaks


def is_text(character: str) -> bool:
    """Return whether a character is a letter, digit or combining mark."""
    return unicodedata.category(character)[0] in "LNM"


class LabelCheck:
    """Labels of texts for a network with ``max_steps`` time steps, of ``longest`` characters at most.

    Texts are never truncated, despite ``rules.truncate``: the image shows all.
    """

    def __init__(self, charset: Charset, rules: LabelRules, max_steps: int) -> None:
        self.charset = charset
        self.rules = dataclasses.replace(rules, truncate=False)
        self.max_steps = max_steps
        self.longest = max_steps if rules.max_length is None else min(max_steps, rules.max_length)
        self._unlimited = dataclasses.replace(self.rules, max_length=None)
        self._allowed: set[str] = set()

    def kept(self, character: str) -> str:
        """Return the label of one character: itself, its other case, its base letter, several, or nothing."""
        form = self._unlimited.form(character)
        if self.rules.whitespace == "collapse" and character.isspace():
            form = " "
        return "".join(part for part in form if part in self.charset)

    def allows(self, text: str) -> bool:
        """Return whether labels keep all characters of a text, or leave them out as mere marks."""
        if not self._allowed.issuperset(text):
            self._allowed.update(filter(self._judge, set(text) - self._allowed))
        return self._allowed.issuperset(text)

    def _judge(self, character: str) -> bool:
        if unicodedata.category(character) in _UNDRAWABLE:
            return False
        form = self._unlimited.form(character)
        if is_text(character):
            return bool(form) and all(part in self.charset for part in form)
        return self.rules.unknown == "drop_character" or all(part in self.charset for part in form)

    def label(self, drawn: str) -> str:
        """Return the label of a text; ``LabelSkip`` for ``lost_character``, ``too_many_steps`` or by ``LabelRules``."""
        if not self.allows(drawn):
            raise LabelSkip("lost_character")
        try:
            label = self.rules.apply(drawn, self.charset)
        except CharsetError:  # composed from characters that are each in the charset
            raise LabelSkip("unknown_character") from None
        if not drawn.isascii() and any(c not in self.charset and is_text(c) for c in self.rules.form(drawn)):
            # Letters may change with their place, like the sigma at the end of a Greek word.
            raise LabelSkip("lost_character")
        if not fits_steps(label, self.charset, self.max_steps):
            raise LabelSkip("too_many_steps")
        return label
