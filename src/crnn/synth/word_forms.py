"""How words are dressed: their case, and the marks before, behind and inside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from crnn.synth.dice import Dice, Weighted
from crnn.synth.label_fit import LabelFit, is_text
from crnn.synth.made_up import script
from crnn.synth.settings import CorpusConfig

__all__ = ["Cases", "Marks"]


def _table(text: str) -> dict[str, float]:
    """Marks and their weights from ``weight mark weight mark ...``."""
    parts = text.split()
    return {mark: float(weight) for weight, mark in zip(parts[::2], parts[1::2], strict=True)}


_TRAILING = _table(
    """60 . 22 , 18 ! 12 ? 6 : 5 " 3 ' 2 ; 2 ... 1.5 - 1.5 ) 1 * 1 ® 1 % 0.5 / 0.5 + 0.5 & 1 !! 0.5 ?! 1 ." 1 !" 0.5 ?"
    0.5 … 0.5 ’ 1.5 ”"""
)
"""Marks behind a word; the first eight as often as behind labels of the training parts of IIIT5K-Words and SVT."""

_LEADING = _table("""14 " 4 ' 4 ( 3 # 3 @ 3 - 2 . 2 & 2 $ 1.5 * 1 + 2 • 1 / 2 “ 0.5 ‘ 0.5 ...""")
"""Marks before a word."""

_AROUND = _table("""30 "" 10 “” 10 '' 20 () 4 [] 6 -- 4 ** 1 <> 2 «» 1 {} 2 ~~ 1 // 0.5 __ 0.5 || 0.5 ¿? 0.5 ¡! 1 ••""")
"""Marks on both sides: the one before and the one behind."""

_INNER = _table("55 - 12 & 8 / 10 . 6 ' 3 + 2 _ 1 : 1 @ 1 · 1 ,")
"""Marks between two words that are written as one."""

_LOOK_ALIKE = ('"“”«»״', "'‘’`", ".…·•。", ":։", "?¿؟", "!¡", ",،、", ";؛")
"""Marks that differ little in a picture. One that labels leave out is not drawn where they keep another of its row:
nobody could learn which is which."""

_PLACES = Weighted({"trailing": 55.0, "leading": 11.0, "around": 13.0, "inner": 21.0})
"""Where the marks of a word are (the same labels: behind 149, before 31, inside 60)."""

_OF_SCRIPT = {
    "ARABIC": "؟،؛",
    "DEVANAGARI": "।",
    "BENGALI": "।",
    "GREEK": "·",
    "ARMENIAN": "։",
    "HEBREW": "״",
    "CJK": "。、",
    "HIRAGANA": "。、",
}
"""Marks behind the words of some scripts, beside those of all."""

_OTHERS = 1.5
"""Weight of each mark of the charset that the tables lack behind a word or before it, so that all are learnt."""


class Cases:
    """The case of words: lower, upper, capitalised or mixed, as far as labels keep the letters.

    Args:
        config: How often each is drawn.
        letters: Letters of the charset.
        fit: What labels keep.
    """

    def __init__(self, config: CorpusConfig, letters: Iterable[str], fit: LabelFit) -> None:
        cased = [letter for letter in letters if letter.lower() != letter.upper()]
        lower = all(fit.allows(letter.lower()) for letter in cased)
        upper = all(fit.allows(letter.upper()) for letter in cased)
        weights = {
            "lower": config.case_lower * lower,
            "upper": config.case_upper * upper,
            "capitalised": config.case_capitalised * (lower and upper),
            "mixed": config.case_mixed * (lower and upper),
        }
        if not any(weights.values()):
            # The settings ask for a case that the charset lacks, or it lacks some letters in both.
            weights.update(lower=float(lower or not upper), upper=float(upper or not lower))
        self._forms = Weighted(weights)

    def form(self, dice: Dice) -> str:
        """A form: ``lower``, ``upper``, ``capitalised`` or ``mixed``."""
        return self._forms.draw(dice)

    @staticmethod
    def apply(dice: Dice, word: str, form: str) -> str:
        """A word in a form; scripts without case stay as they are."""
        if form == "upper":
            return word.upper()
        if form == "lower":
            return word.lower()
        if form == "capitalised":
            return word[:1].title() + word[1:]
        if len(word) > 2 and dice.chance(0.5):
            # One capital inside, as in eBay and McKay.
            place = dice.between(1, min(3, len(word) - 1))
            head = word[:place].lower() if dice.chance(0.5) else word[:1].title() + word[1:place].lower()
            return head + word[place].title() + word[place + 1 :].lower()
        return "".join([letter.upper() if dice.chance(0.5) else letter.lower() for letter in word])


class Marks:
    """The marks that may be drawn beside words: those that labels keep, and those that they leave out.

    Args:
        characters: Of the charset and the words; their scripts and marks are added.
        fit: What labels keep.
    """

    def __init__(self, characters: Iterable[str], fit: LabelFit) -> None:
        trailing, leading = dict(_TRAILING), dict(_LEADING)
        distinct = dict.fromkeys(characters)
        for name in dict.fromkeys(script(character) for character in distinct if is_text(character)):
            trailing.update(dict.fromkeys(_OF_SCRIPT.get(name, ""), 12.0))
        for character in distinct:
            if character in fit.charset and not is_text(character) and character != " ":
                trailing.setdefault(character, _OTHERS)
                leading.setdefault(character, _OTHERS)
        self._trailing, self._leading, self._around, self._inner = (
            Weighted((mark, weight) for mark, weight in table.items() if _may_be_drawn(mark, fit))
            for table in (trailing, leading, _AROUND, _INNER)
        )
        self._counted = {mark: len(fit.kept(mark)) for mark in self._inner.items}
        tables = (self._trailing, self._leading, self._around, self._inner)
        self.characters = frozenset("".join([mark for table in tables for mark in table.items]))

    def add(self, dice: Dice, length: int, word: Callable[[int], str], part: Callable[[int], str] | None) -> str:
        """A word with marks.

        Args:
            dice: Random decisions.
            length: Characters of the label; marks that labels keep come on top of them, but for those inside.
            word: Makes a word with a label of so many characters.
            part: Makes a word that stands beside another with a mark between them; ``None``: no marks inside.
        """
        place = _PLACES.draw(dice)
        if place == "inner" and length > 4 and len(self._inner) and part:
            mark = self._inner.draw(dice)
            rest = length - self._counted[mark]
            first = dice.between(2, rest - 2)
            return part(first) + mark + part(rest - first)
        if place == "around" and len(self._around):
            pair = self._around.draw(dice)
            return pair[0] + word(length) + pair[1]
        if place == "leading" and len(self._leading):
            return self._leading.draw(dice) + word(length)
        return word(length) + self.trailing(dice)

    def trailing(self, dice: Dice) -> str:
        """A mark behind a word, or nothing where none may be drawn."""
        return self._trailing.draw(dice) if len(self._trailing) else ""


def _may_be_drawn(mark: str, fit: LabelFit) -> bool:
    """Whether labels keep a mark, or leave it out where nothing like it is kept."""
    if not fit.allows(mark):
        return False
    lost = [character for character in mark if not fit.kept(character)]
    return not any(fit.kept(other) for row in _LOOK_ALIKE if any(c in row for c in lost) for other in row)
