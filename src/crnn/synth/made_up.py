"""Words that are in no list: pronounceable ones after the words of a list, and strings of a charset's own letters."""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from crnn.synth.dice import Dice, Weighted
from crnn.synth.label_fit import is_text

__all__ = ["LetterChain", "LetterStrings", "script"]

_CONTEXT = 3
"""Letters that decide on the next one; four would repeat the list, two are hard to pronounce."""

_ATTEMPTS = 8
"""Chains that are tried before one is taken that ends as no word does."""

_MARK_SHARE = 0.35
"""Share of letters that carry a combining mark, in strings of a script that has some; about that of Hindi."""


def script(character: str) -> str:
    """The script of a letter by its Unicode name: ``LATIN``, ``GREEK``, ``CYRILLIC``, ``ARABIC``, ``CJK``, ..."""
    return unicodedata.name(character, "UNKNOWN").split(" ")[0].split("-")[0]


class LetterChain:
    """Pronounceable words by a chain of letters, each after the three before it.

    Args:
        words: What they are made after; only words of letters count, in lower case or with a capital in front.

    Reference:
        Shannon 1948, "A Mathematical Theory of Communication", section 3 (the series of approximations to English).
    """

    def __init__(self, words: Iterable[str]) -> None:
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._ends: set[str] = set()
        for word in words:
            lower = word.lower()
            if word[1:] != lower[1:] or len(lower) < _CONTEXT or not all(map(is_text, lower)):
                continue
            padded = " " * _CONTEXT + lower
            for place in range(_CONTEXT, len(padded)):
                counts[padded[place - _CONTEXT : place]][padded[place]] += 1
            self._ends.add(padded[-_CONTEXT:])
        self._next = {context: Weighted(letters) for context, letters in counts.items()}

    def __len__(self) -> int:
        return len(self._next)

    def draw(self, dice: Dice, length: int) -> str:
        """A lower-case word of ``length`` code points; fewer where no chain goes on that far. There must be words."""
        word = ""
        for _ in range(_ATTEMPTS):
            word = self._chain(dice, length)
            if len(word) == length and (length < _CONTEXT or word[-_CONTEXT:] in self._ends):
                break
        return word

    def _chain(self, dice: Dice, length: int) -> str:
        padded = " " * _CONTEXT
        while len(padded) < _CONTEXT + length:
            letters = self._next.get(padded[-_CONTEXT:])
            if letters is None:
                break
            padded += letters.draw(dice)
        return padded[_CONTEXT:]


class LetterStrings:
    """Strings of letters in no order, each of one script: what is left where no list has a script or a letter.

    Combining marks stand behind letters only, and vowel signs behind consonants, so that every string can be shaped.

    Args:
        characters: What strings are made of: letters, marks, digits, or anything else that can be drawn.
        wanted: Those that each string shows at least one of; default: all.

    Attributes:
        characters: Those that can occur.
    """

    def __init__(self, characters: Sequence[str], wanted: Sequence[str] = ()) -> None:
        self._bases: dict[str, list[str]] = {}
        self._marks: dict[str, list[str]] = {}
        for character in characters:
            group = self._marks if unicodedata.category(character)[0] == "M" else self._bases
            group.setdefault(script(character) if is_text(character) else "", []).append(character)
        self._bases = {name: _without_alike(bases) for name, bases in self._bases.items()}
        # Marks of their own block (COMBINING ACUTE ACCENT) go with any script.
        self._shared = self._marks.get("COMBINING", [])
        usable = set(itertools.chain.from_iterable(self._bases.values()))
        for name, marks in self._marks.items():
            usable.update(marks if name in self._bases or marks is self._shared else ())
        self.characters = frozenset(usable)
        self._wanted = [c for c in (wanted or characters) if c in usable] or sorted(usable)

    def __len__(self) -> int:
        return len(self._wanted)

    def draw(self, dice: Dice, length: int) -> str:
        """A string of ``length`` code points, or two where one is a mark that needs a letter; there must be some."""
        needed = dice.pick(self._wanted)
        name = script(needed) if is_text(needed) else ""
        bases = self._bases.get(name) or dice.pick(list(self._bases.values()))
        marks = self._marks.get(name) or self._shared
        if unicodedata.category(needed)[0] == "M":
            bearers = [base for base in bases if _may_carry(base, needed)] or bases
            needed = dice.pick(bearers) + needed
        place = dice.below(max(length - len(needed), 0) + 1)
        string = self._fill(dice, place, bases, marks) + needed
        return string + self._fill(dice, length - len(string), bases, marks)

    @staticmethod
    def _fill(dice: Dice, length: int, bases: list[str], marks: list[str]) -> str:
        string = ""
        while len(string) < length:
            string += dice.pick(bases)
            if marks and len(string) < length and dice.chance(_MARK_SHARE):
                mark = dice.pick(marks)
                if _may_carry(string[-1], mark):
                    string += mark
        return string


def _may_carry(letter: str, mark: str) -> bool:
    """Whether a shaper joins the two instead of drawing a dotted circle."""
    if unicodedata.category(letter)[0] != "L":
        return False
    is_sign = unicodedata.category(mark) == "Mc" or "SIGN" in unicodedata.name(mark, "")
    name = unicodedata.name(letter, " ").split(" ")
    # Independent vowels are named by the bare vowel, consonants with one behind them: LETTER AI, VOCALIC R; LETTER KA.
    return not is_sign or not (name[-1][:1] in ("A", "E", "I", "O", "U") or "VOCALIC" in name)


def _without_alike(letters: list[str]) -> list[str]:
    """Without letters that look like digits, where there are enough others: in no order nobody can tell them apart."""
    others = [letter for letter in letters if letter not in "IOlo"]
    return others if len(others) >= len(letters) // 2 and others else letters
