r"""Numbers, codes, prices, dates, times, telephone numbers, quantities and addresses, by templates.

A template is text in which a backslash and a letter stand for something random::

    \d  a digit             \p  a digit from 1 to 9      \n  a number of usual length    \c  cents
    \H  an hour, 0 to 23    \h  an hour, 1 to 12         \M  a minute                    \L  a letter
    \D  a day               \O  a month                  \B  a month's name              \w  a short word
    \Y  a year              \y  its last two digits      \S  a currency sign
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from crnn.synth.dice import Dice, Weighted

__all__ = ["TEMPLATES", "Template", "Writer", "expand", "parse_templates"]

_LENGTHS = Weighted({1: 34.0, 2: 81.0, 3: 51.0, 4: 27.0, 5: 12.0, 6: 9.0, 7: 4.0, 8: 1.5, 9: 1.0, 10: 1.5})
"""Digits of numbers: those of 221 labels of digits alone in the training part of IIIT5K-Words; 8 to 10 smoothed."""

_CENTS = Weighted({"99": 30.0, "00": 18.0, "95": 14.0, "50": 14.0, "49": 5.0, "25": 5.0, "75": 4.0})

_CURRENCIES = Weighted({"$": 50.0, "£": 15.0, "€": 15.0, "Rs.": 5.0, "₹": 4.0, "¥": 4.0, "US$": 2.0, "kr": 1.0})

_MONTHS = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "January", "February"),
    *("March", "April", "June", "July", "August", "September", "October", "November", "December"),
)

TEMPLATES = {
    "number": r"""
        80   \n
        3    \p\d,\d\d\d  \p,\d\d\d
        2    \d.\d  \p\d.\d
        1    \p\d\d,\d\d\d  \p,\d\d\d,\d\d\d  \d,\d\d  0.\d\d  \p.\d\d\d  \p\d\d.\d\d
        1    \p/\p  \p-\p  \p\d-\p\d  (\n)
        0.5  1/\p\d  +\p\d  -\p\d
    """,
    "code": r"""
        8    \L\d\d
        6    \L\d  \L\L\d\d\L\L\L
        5    \L\d\d\d  \d\L
        4    \L-\d\d  \L\L\d\d  \L\L\d\d\d  \L\L\L\d\d\d\d  \d\d\L
        3    \L\L\d  \L\L-\d\d\d  \L\L\d\d\d\L\L  \d\L\L\L\d\d\d  \L\L\L
        2    \L\L\L-\d\d\d  \d\L\d  \L\d\L  \d\d\d\L\L  \L\L-\d\d-\L\L  \L\L\d\d\L\L\d\d\d\d
        2    \L\L-\L\L\d\d\d\d  \d\d\d/\d\d  \d\d-\d\d\d\d  \w\d\d\d  \w\d\d  \w\p
        1    \d\d\d-\L\L\L\L  \d\d\d-\d\d-\d\d\d\d  \L.\L.  \w-\d  \d\d\d-\w  \L\L\L\d\L\L\d\L
        1    \d\d\d\d\d\L\d\d
    """,
    "price": r"""
        22   \S\p.\c
        14   \S\p\d.\c
        8    \S\p  \S\p\d  \p.\c
        5    \S\p\d\d  \p,\c€  \p\d.\c
        4    \S\p\d\d.\c  \S\p,\d\d\d  \p\d,\c€
        2    \S\p\d,\d\d\d  \p\d€  \p\d¢  \p\dp  \p\d\d/-
        1    \S\pm  \p/\S\p  @\S\p.\c
    """,
    "date": r"""
        40   \Y
        6    \D/\O/\Y  \D.\O.\Y
        5    \D/\O/\y  \D.\O.\y
        3    \O/\D/\Y  \Y-\O-\D  \D-\O-\Y  \D-\B-\y  \D\B  '\y  \Y-\y  \O/\y
        2    \D\B\Y  \B'\y  \Y/\y
        1    \B-\D  \B\y  \Ys
    """,
    "time": r"""
        20   \h:\M
        15   \H:\M
        8    \h:\Mam  \h:\Mpm  \ham  \hpm
        4    \h.\M  \h-\h  \ham-\hpm  \H:00-\H:00  24/7
        2    24h  24hrs  \Hh\M  \H:\M:\M
    """,
    "telephone": r"""
        20   \p\d\d-\p\d\d-\d\d\d\d
        12   \p\d\d-\d\d\d\d
        8    (\p\d\d)\p\d\d-\d\d\d\d  1-800-\p\d\d-\d\d\d\d
        6    1-800-\w  \p\d\d.\p\d\d.\d\d\d\d  0\p\d\d\d\d\d\d\d\d\d
        5    0\p\d\d-\d\d\d\d\d\d  \p\d\d\d\d\d\d
        3    +\p\d-\d\d-\d\d\d\d\d\d\d  +\p\d\d\d\d\d\d\d\d\d  (0\p\d\d)
        2    x\d\d\d
    """,
    "quantity": r"""
        6    \p0%
        5    #\n
        4    \p\d%  1\dth  No.\n
        3    \p%  100%  1st  2nd  3rd  \p\dkm  \p\dkg  \p\d0g  \p\d0ml  \nA
        2    \pth  \p\d\dkm  \pL  \p\dcm  \p\dmm  \p.\dm  \p\dft  \p\doz  \p0mph  \p0min  \p\dGB  \p\dK  \pD
        2    \p\d°C  x\p  \px  \px\p  \nB  \p:\p
        1    2\dth  21st  22nd  \p.\dkg  \p.\doz  \p\d"  \p'\p"  \p\dlb  \p\dW  \p\dV  \p\d°  \p\d0+  \pF  pp.\d\d
        1    Apt.\p\d  Rm.\p\d\d  Unit\p  Rte.\p\d  Hwy\p\d  Exit\p\d  Gate\p\d  Vol.\p
    """,
    "web": r"""
        20   www.\w.com
        16   \w.com
        6    www.\w\w.com  @\w  #\w
        5    \w\w.com  info@\w.com
        4    www.\w.org  .com
        3    www.\w.net  www.\w.co.uk  \w.org  \w.net  @\w.com  #\w\w  \w@\w.com  /\w
        2    sales@\w.com  \w/\w
        1    www.\w.de  www.\w.in  http://\w.com  \w.html  \w_\w
    """,
}
"""Kinds of figures; in each line a weight, and templates that each have it (own, after what the labels of the training
parts of IIIT5K-Words and Street View Text show, and what is printed on products, in streets and in shops)."""

_TEN_DIGITS = frozenset("dpcHhMDOYyS")
"""Fields that take any of the ten digits; ``n`` makes do with those that there are."""

_FIELD = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Writer:
    """What fields are filled with.

    Attributes:
        digits: The digits that labels keep, in the form in which they are drawn.
        letters: Strings of letters of one script each.
    """

    digits: str
    letters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Template:
    """One template, taken apart.

    Attributes:
        literals: The text before, between and behind the fields; one more than ``fields``.
        fields: Their letters.
    """

    literals: tuple[str, ...]
    fields: str

    @classmethod
    def parse(cls, text: str) -> Template:
        """From its written form."""
        parts = _FIELD.split(text)
        return cls(tuple(parts[::2]), "".join(parts[1::2]))


def parse_templates(kind: str, writer: Writer, allows: Callable[[str], bool]) -> Weighted[Template]:
    """The templates of a kind that can be filled and whose own text may be drawn.

    Args:
        kind: Name in ``TEMPLATES``.
        writer: What there is to fill fields with.
        allows: Whether a text may be drawn.
    """
    return Weighted(_usable(kind, writer, allows))


def _usable(kind: str, writer: Writer, allows: Callable[[str], bool]) -> Iterable[tuple[Template, float]]:
    ten = len(writer.digits) == 10
    for text, weight in _entries(TEMPLATES[kind]):
        template = Template.parse(text)
        fields = set(template.fields)
        literal = "".join(template.literals)
        if not ten and (fields & _TEN_DIGITS or any(c.isdigit() for c in literal)):
            continue
        if ("n" in fields and not writer.digits) or ("L" in fields and not writer.letters):
            continue
        if "B" in fields and not allows("".join(_MONTHS)):
            continue
        if allows("".join(c for c in literal if not c.isdigit())):
            yield template, weight


def _entries(table: str) -> Iterable[tuple[str, float]]:
    for line in table.strip().splitlines():
        weight, *templates = line.split()
        for text in templates:
            yield text, float(weight)


def expand(template: Template, dice: Dice, writer: Writer, word: Callable[[Dice], str]) -> str:
    """A template's text.

    Args:
        template: What to fill.
        dice: Random decisions.
        writer: What to fill it with; digits take its form.
        word: Makes a short word.
    """
    letters = dice.pick(writer.letters) if "L" in template.fields else ""
    text = template.literals[0]
    for field, literal in zip(template.fields, template.literals[1:], strict=True):
        if field == "L":
            text += dice.pick(letters)
        elif field == "w":
            text += word(dice)
        elif field == "n":
            text += _number(dice, "0123456789" if len(writer.digits) == 10 else writer.digits)
        else:
            text += _FIELDS[field](dice)
        text += literal
    if len(writer.digits) == 10 and writer.digits[0] != "0":
        text = text.translate({ord("0") + value: digit for value, digit in enumerate(writer.digits)})
    return text


def _number(dice: Dice, digits: str) -> str:
    length = _LENGTHS.draw(dice)
    number = "".join([dice.pick(digits) for _ in range(length)])
    # Counted things do not start with a zero; one number in ten is a code that may.
    if length > 1 and number[0] == "0" and dice.chance(0.9):
        number = dice.pick(digits[1:] or digits) + number[1:]
    return number


def _minute(dice: Dice) -> str:
    return f"{5 * dice.below(12):02d}" if dice.chance(0.75) else f"{dice.below(60):02d}"


def _day_or_month(dice: Dice, last: int) -> str:
    value = dice.between(1, last)
    return f"{value:02d}" if dice.chance(0.7) else str(value)


def _year(dice: Dice) -> int:
    return dice.between(1985, 2030) if dice.chance(0.7) else dice.between(1800, 2035)


_FIELDS: dict[str, Callable[[Dice], str]] = {
    "d": lambda dice: dice.pick("0123456789"),
    "p": lambda dice: dice.pick("123456789"),
    "c": _CENTS.draw,
    "S": _CURRENCIES.draw,
    "H": lambda dice: f"{dice.below(24):02d}",
    "h": lambda dice: str(dice.between(1, 12)),
    "M": _minute,
    "D": lambda dice: _day_or_month(dice, 31),
    "O": lambda dice: _day_or_month(dice, 12),
    "B": lambda dice: dice.pick(_MONTHS),
    "Y": lambda dice: str(_year(dice)),
    "y": lambda dice: f"{dice.between(1985, 2035) % 100:02d}",
}
