r"""Numbers, codes, prices, dates, times, telephone numbers, quantities and addresses, by templates.

A template is text in which a backslash and a letter stand for something random::

    \d  a digit             \p  a digit from 1 to 9      \n  a number of usual length    \c  cents
    \H  an hour, 0 to 23    \h  an hour, 1 to 12         \M  a minute                    \L  a letter
    \D  a day               \O  a month                  \B  a month's name              \w  a short word
    \Y  a year              \y  its last two digits      \S  a currency sign
"""

import re
import string
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from crnn.synth.rng import Choices, WeightedChoice
from crnn.synth.word_list import ALIKE, LabelCheck, script

# Digits of numbers: of 221 labels of digits alone in the training part of IIIT5K-Words; 8 to 10 smoothed
_LENGTHS = WeightedChoice({1: 34.0, 2: 81.0, 3: 51.0, 4: 27.0, 5: 12.0, 6: 9.0, 7: 4.0, 8: 1.5, 9: 1.0, 10: 1.5})
_CENTS = WeightedChoice({"99": 30.0, "00": 18.0, "95": 14.0, "50": 14.0, "49": 5.0, "25": 5.0, "75": 4.0})
_CURRENCIES = WeightedChoice({"$": 50.0, "£": 15.0, "€": 15.0, "Rs.": 5.0, "₹": 4.0, "¥": 4.0, "US$": 2.0, "kr": 1.0})
_CASE = WeightedChoice[Callable[[str], str]]([(str, 55.0), (str.upper, 40.0), (str.lower, 5.0)])  # 9am, 9AM

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
        2    \p,\d\d\d.\c  \S\p,\d\d\d.\c  \S\p\d,\d\d\d  \p\d€  \p\d¢  \p\dp  \p\d\d/-
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
"""Kinds of figures; in each line a weight, and templates that each have it (own, after the labels of the training parts
of IIIT5K-Words and Street View Text, and after print on products, in streets and in shops)."""

_TEN_DIGITS = frozenset("dpcHhMDOYyS")  # Fields that need all ten digits; ``n`` makes do with fewer

_FIELD = re.compile(r"\\(.)")


def fill(template: str, value: Callable[[str], str]) -> str:
    """Replace each field of a template by its value."""
    return _FIELD.sub(lambda field: value(field[1]), template)


def literals(template: str) -> str:
    """Return the text around the fields of a template."""
    return _FIELD.sub("", template)


class FigureWriter:
    """Texts of the kinds of ``TEMPLATES`` in the characters of a charset; ``word`` draws a short word."""

    def __init__(self, check: LabelCheck, letters: Iterable[str], word: Callable[[Choices], str]) -> None:
        self._check, self._word = check, word
        groups: dict[str, dict[str, None]] = {}
        for letter in letters:
            upper = letter.upper()
            shown = upper if len(upper) == 1 and check.allows(upper) else letter
            if letter.isalpha() and shown not in ALIKE:  # as ISO 3779 omits I, O, Q in codes
                groups.setdefault(script(letter), {})[shown] = None
        self.letters = tuple("".join(group) for group in groups.values())  # Of one script each
        systems: defaultdict[int, list[str]] = defaultdict(list)
        for digit in filter(str.isdecimal, check.charset.characters):
            systems[ord(digit) - unicodedata.decimal(digit)].append(digit)
        found = ["".join(sorted(system)) for system in systems.values()]
        self.digit_systems = [system for system in found if len(system) == 10] or found[:1] or [""]
        self.templates = {
            kind: WeightedChoice(
                (template, float(weight))
                for weight, *texts in map(str.split, table.strip().splitlines())
                for template in texts
                if self._is_usable(template)
            )
            for kind, table in TEMPLATES.items()
        }

    def draw(self, kind: str, choices: Choices) -> str:
        """Draw a text of a kind that has templates."""
        digits = choices.pick(self.digit_systems)
        template = self.templates[kind].draw(choices)
        letters = choices.pick(self.letters) if r"\L" in template else ""

        def value(field: str) -> str:
            if field == "L":
                return choices.pick(letters)
            if field == "w":
                return self._word(choices)
            if field == "n":
                return _number(choices, string.digits if len(digits) == 10 else digits)
            return _FIELDS[field](choices)

        text = fill(template, value)
        if len(digits) == 10:
            text = text.translate(str.maketrans(string.digits, digits))
        if kind == "web":
            return text.upper() if choices.chance(0.1) else text
        return _CASE.draw(choices)(text)

    def _is_usable(self, template: str) -> bool:
        fields, literal, digits = set(_FIELD.findall(template)), literals(template), self.digit_systems[0]
        if len(digits) < 10 and (fields & _TEN_DIGITS or any(map(str.isdigit, literal))):
            return False
        if ("n" in fields and not digits) or ("L" in fields and not self.letters):
            return False
        months = "".join(_MONTHS) if "B" in fields else ""
        return self._check.allows(months + "".join(c for c in literal if not c.isdigit()))


def _number(choices: Choices, digits: str) -> str:
    length = _LENGTHS.draw(choices)
    number = "".join([choices.pick(digits) for _ in range(length)])
    # Counted things do not start with a zero; one number in ten is a code that may.
    if length > 1 and number[0] == "0" and choices.chance(0.9):
        number = choices.pick(digits[1:] or digits) + number[1:]
    return number


def _day_or_month(choices: Choices, last: int) -> str:
    value = choices.between(1, last)
    return f"{value:02d}" if choices.chance(0.7) else str(value)


_FIELDS: dict[str, Callable[[Choices], str]] = {
    "d": lambda choices: choices.pick(string.digits),
    "p": lambda choices: choices.pick("123456789"),
    "c": _CENTS.draw,
    "S": _CURRENCIES.draw,
    "H": lambda choices: f"{choices.between(0, 23):02d}",
    "h": lambda choices: str(choices.between(1, 12)),
    "M": lambda choices: f"{5 * choices.between(0, 11) if choices.chance(0.75) else choices.between(0, 59):02d}",
    "D": lambda choices: _day_or_month(choices, 31),
    "O": lambda choices: _day_or_month(choices, 12),
    "B": lambda choices: choices.pick(_MONTHS),
    "Y": lambda choices: str(choices.between(1985, 2030) if choices.chance(0.7) else choices.between(1800, 2035)),
    "y": lambda choices: f"{choices.between(1985, 2035) % 100:02d}",
}


# Kinds of lines with their weights (own: half running text and names, half text of forms and labels; random strings
# after UnionST, arXiv 2602.06450, which found the diversity of texts to matter most)
_LINES = {
    "sentence": (22.0, r"""
        6 \W \w \w \w \w   4 \w \w \w \w \w   3 \w \w, \w \w   2 \W \w \w \w.   2 \w \w \w. \W \w   1 \w "\w \w" \w
        1 \w (\w \w) \w   1 \w \n \w \w   1 \w-\w \w \w   1 \W, \w \w!   1 \w \w; \w \w?   1 \W's \w \w   1 \w & \w
    """),
    "title": (16.0, r"""
        8 \W \W   6 \W \W \W   2 \W & \W   2 \W of \W   2 \W \n   1 \W: \W \W   1 \W - \W   1 \W/\W   1 "\W \W"
        1 The \W \W   1 \W + \W   1 \W | \W   1 (\W \W)   1 \W (\A)
    """),
    "name": (8.0, r"""
        5 \N \N   2 \N \i \N   2 Mr. \N   1 Ms \N \N   1 Dr. \N \N   2 \N, \N   1 \i\i \N   1 \N \N-\N   2 \N & \N
        3 \N \W Ltd.   2 \N \W Co.   1 \N \N Inc.   2 \N \N Sdn Bhd   1 \N GmbH & Co. KG   1 \N @ \N   1 \N'\N
    """),
    "address": (8.0, r"""
        4 \n \N Street   3 \n, \N Road   2 No. \n, \N \N   2 No.\n-\n, Jalan \N \n/\n,   2 Lot \n, \N \N
        2 \N, \A \1\1\1\1\1   2 \1\1\1\1\1 \N, \N   1 P.O. Box \n   1 \n \N Ave., \N   1 Unit \n, Level \n, \N \N
        1 \n/\n, \N \N,   1 \1\1\1\1\1 \N \N.   1 Ground Floor, \N \N   1 \N Centre, \N   1 \i. \N \n, \1\1\1\1 \N
    """),
    "field": (16.0, r"""
        6 \t: \k   5 \t : \n   4 \t \m   4 \t: \m   4 \t : \d   4 \t: \d \c   3 \t \d   3 \t: \N   2 \t.: \k
        2 \t # \n   2 \t #\n   2 \t :\m   2 \t : \W \W   2 \t \p   2 \t: \p   1 \t = \n   2 \t (\1%) \m
        2 \t \1%   1 \t (\1%):   2 \t @ \1% \m   1 \t @\1%   1 \t (RM)   1 \t : \k-\n   2 \t   2 \t:
        1 \t \t \t   1 : \n   1 : \k   1 : \N
        1 \t: \n \t: \n   1 \t \n/\n   1 *\t*   1 [\t]
    """),
    "item": (16.0, r"""
        5 \n \W \W \m   4 \W \W \m   4 \n x \m \m   3 \n X \m   3 \m \A   2 \n \u \W \W   2 \W \W \n\u   2 \n\u x \n
        2 \1\1\1\1\1\1\1\1\1\1\1\1\1 \W   2 \W \n\u \m \i   2 \k \W \W   2 \m SR   2 \m S   2 \n @ \m
        2 \n PCS \m \m   1 \n% \m   1 -\m   1 \m-   1 (\m)   1 \W (\W) \m   1 \n. \W \W   1 \n) \W \W   1 \W/\W \n\u
        1 \W-\W \q   1 #\n \W   1 $\m   1 RM \m   1 RM\m   1 \n"x\n"   1 * \W \W   1 - \W \W   1 \W .. \m
        1 \W \g \m
    """),
    "date": (4.0, r"""
        5 \d \c   4 \d   2 \c \d   2 \W, \d   1 \d - \d   1 \c - \c   1 \W \c-\c   1 \d \c \k   1 (\d)
    """),
    "contact": (5.0, r"""
        4 Tel: \f   3 Tel : \f   2 Tel. \f   2 Fax: \f   2 Tel:\f Fax:\f   2 Phone \f   3 \f   3 \e   2 Email: \e
        1 E-mail : \e   2 Visit \e   1 \f / \f   1 Call \f   1 Mobile: \f   1 \e \f
    """),
    "code": (6.0, r"""
        5 \k   4 \k \k   3 \n \n \n   3 \1\1\1\1\1\1\1\1   2 \1\1\1\1\1\1\1\1\1\1\1\1   2 (\1\1\1\1\1\1-\i)   1 (\k)
        2 \1\1\1\1 \1\1\1\1 \1\1\1\1 \1\1\1\1   1 XXXX-XXXX-XXXX-\1\1\1\1   1 ************\1\1\1\1   1 \k/\n/\n
        1 #\k   1 \k_\k   1 \n-\n-\n   1 \n.\n.\n.\n   1 ID:\k   1 [\k]   1 {\n}   1 <\k>   1 \n + \n = \n   1 ~\n
        1 ^\n   1 \k;\k   1 $\n|\n   1 `\k`   1 \k\\\k
    """),
    "random": (5.0, r"""
        5 \s   4 \s \s   2 \s \w   1 \w \s
    """),
    "rule": (1.0, r"""
        3 \g \W \W \g   3 \g\A \A\g   1 \g   1 \g\t\g   1 \g \p \g
    """),
}  # fmt: skip

FORM_TERMS = (
    *("Invoice No", "Invoice", "Receipt", "Receipt #", "Bill No", "Order No", "Ref No", "Doc No", "Date", "Time"),
    *("Total", "TOTAL", "Sub Total", "SubTotal", "Sub-Total", "Grand Total", "Net Total", "Total Amount", "Amount"),
    *("Amt", "Qty", "Quantity", "Price", "U.Price", "Unit Price", "Discount", "Disc", "Tax", "GST", "VAT", "SST"),
    *("GST 6%", "Service Charge", "Rounding", "Rounding Adj", "Cash", "CASH", "Change", "CHANGE", "Card", "Visa"),
    *("Balance", "Paid", "Due", "Deposit", "Cashier", "Table", "Member", "Customer", "Name", "Address", "Tel", "Fax"),
    *("Page", "Item", "Items", "Description", "Code", "Model", "Serial No", "S/N", "Part No", "Lot", "Batch", "Exp"),
    *("Best Before", "Use By", "Net Wt", "Weight", "Size", "Colour", "Volume", "Account No", "A/C", "IBAN", "VIN"),
    *("GST ID", "GST Reg No", "Co. Reg No", "Reg", "ID", "Staff", "Salesperson", "Terminal", "Store", "Branch", "POS"),
    *("Trans No", "Approval", "Auth Code", "Points", "Subject", "From", "To", "Ship To", "Attn", "Remarks", "Note"),
    *("Flight", "Gate", "Seat", "Room", "Floor", "Exit", "Open", "Closed", "Mon-Fri", "Sat", "Sun", "Min", "Max"),
    *("Tax Invoice", "TAX INVOICE", "Simplified Tax Invoice", "Cash Bill", "Thank You", "Please come again"),
    *("Total Qty", "Total Item", "Total (Incl. GST)", "Total Excl. Tax", "Payment", "Payment Mode", "No", "Nett"),
)

_FIGURES = {  # Fields that are kinds of ``TEMPLATES``
    "n": "number", "p": "price", "d": "date", "c": "time", "f": "telephone", "q": "quantity", "k": "code", "e": "web",
}  # fmt: skip

_UNITS = ["kg", "KG", "g", "G", "ml", "ML", "L", "l", "cm", "mm", "m", "PCS", "pcs", "PKT", "oz", "lb", "W", "V", "GB"]
_GLUE = (
    *("-", "--", "---", "----", "*", "**", "***", "=", "==", "===", "."),
    *("..", "....", "~", "_", "+", "#", "##", "/", "//", ">", ">>"),
)

_LINE_CASE = WeightedChoice[Callable[[str], str]](
    [(str, 55.0), (str.upper, 38.0), (str.lower, 4.0), (str.swapcase, 1.0)]
)
_CUT = 0.12  # Share of lines that begin or end within a word, like crops of long lines
_WIDE_SPACES = 0.15  # Share of lines with runs of spaces between their parts; labels have one


class LineWriter:
    """Lines in the characters of a charset; ``word`` draws a word of the lists."""

    def __init__(self, check: LabelCheck, word: Callable[[Choices], str], figures: FigureWriter) -> None:
        self._check, self._word, self._figures = check, word, figures
        self._pools: dict[str, Sequence[str]] = {
            "t": tuple(filter(check.allows, FORM_TERMS)),
            "u": tuple(filter(check.allows, _UNITS)),
            "g": tuple(glue for glue in _GLUE if check.allows(glue) and check.kept(glue[0])),
            "1": string.digits if check.allows(string.digits) else "",
        }
        self._characters = [c for c in check.charset.characters if not c.isspace()]
        self._alphanumeric = [c for c in self._characters if c.isalnum()] or self._characters
        self._templates = {kind: self._usable(table) for kind, (_, table) in _LINES.items()}
        self._kinds = WeightedChoice((kind, _LINES[kind][0]) for kind, found in self._templates.items() if len(found))

    def __len__(self) -> int:
        return len(self._kinds)

    def draw(self, choices: Choices, length: int) -> str:
        """Draw a line of about ``length`` characters, at most a word longer or a few characters shorter."""
        kind = self._kinds.draw(choices)
        wide = choices.chance(_WIDE_SPACES)
        parts: list[str] = []
        size = -1
        while size < length - 1:
            template = self._templates[kind].draw(choices)
            part = " ".join(fill(template, lambda field: self._field(field, choices)).split())
            if not part:
                break
            parts.append(part)
            size += len(part) + 1
            if kind not in ("sentence", "code", "random") and choices.chance(0.3):
                kind = self._kinds.draw(choices)
        line = " ".join(parts)
        if len(line) > length:
            line = self._shortened(line, length, choices)
        line = _LINE_CASE.draw(choices)(line)
        if wide:
            first, *words = line.split(" ")
            runs = [choices.between(2, 6) if choices.chance(0.4) else 1 for _ in words]
            line = first + "".join(" " * run + word for run, word in zip(runs, words, strict=True))
        return line

    def _shortened(self, line: str, length: int, choices: Choices) -> str:
        if choices.chance(_CUT):
            start = choices.between(0, len(line) - length)
            return line[start : start + length].strip()
        words = line.split(" ")
        first = choices.between(0, len(words) - 1) if choices.chance(0.3) else 0
        kept: list[str] = []
        size = -1
        for word in words[first:] + words[:first]:
            # With or without the word, whichever is nearer to the wanted length.
            if kept and abs(size + 1 + len(word) - length) > abs(size - length):
                break
            kept.append(word)
            size += 1 + len(word)
        return " ".join(kept)

    def _usable(self, table: str) -> WeightedChoice[str]:
        entries = (entry.partition(" ") for entry in re.split(r"\s{2,}", table.strip()))
        return WeightedChoice(
            (template, float(weight))
            for weight, _, template in entries
            if self._check.allows(literals(template).replace(" ", "")) and all(map(self._can, _FIELD.findall(template)))
        )

    def _can(self, field: str) -> bool:
        if field in _FIGURES:
            return len(self._figures.templates[_FIGURES[field]]) > 0
        if field in self._pools:
            return bool(self._pools[field])
        characters = {"m": f"{string.digits}.", "i": f"{string.ascii_uppercase}.", "\\": "\\"}
        return self._check.allows(characters.get(field, ""))

    def _field(self, field: str, choices: Choices) -> str:
        if field in _FIGURES:
            return self._figures.draw(_FIGURES[field], choices)
        if field in self._pools:
            return choices.pick(self._pools[field])
        if field == "m":
            whole = choices.between(0, 10 ** choices.between(1, 4) - 1)
            return f"{whole}.{choices.between(0, 99):02d}"
        if field == "i":
            return choices.pick(string.ascii_uppercase) + ("." if choices.chance(0.7) else "")
        if field == "s":
            characters = self._characters if choices.chance(0.4) else self._alphanumeric
            return "".join(choices.pick(characters) for _ in range(choices.between(2, 12)))
        if field == "\\":
            return field
        word = self._word(choices)
        if field == "A":
            return word.upper()
        return word[:1].title() + word[1:] if field in "WN" else word
