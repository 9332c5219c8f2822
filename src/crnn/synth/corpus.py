"""Texts to render, with their labels: words, numbers, codes, prices, dates, names, lines and more."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from re import _parser  # type: ignore[attr-defined]  # no public module gives the tree of an expression
from typing import Any

import numpy as np

from crnn.charset import Charset, LabelRules, LabelSkip
from crnn.config.synth import CorpusConfig
from crnn.errors import ConfigError, DataError
from crnn.synth.label_check import LabelCheck
from crnn.synth.rng import Choices, WeightedChoice
from crnn.synth.templates import TEMPLATES, LineWriter, Writer, expand, parse_templates
from crnn.synth.vocabulary import Cases, Marks, Vocabulary
from crnn.synth.word_list import script

_MORE = 8  # Most repeats beyond the least where an expression sets no limit (``*``, ``+``, ``{2,}``)

_MOST = 1000

_KINDS = {"DIGIT": r"\d", "NOT_DIGIT": r"\D", "WORD": r"\w", "NOT_WORD": r"\W", "SPACE": r"\s", "NOT_SPACE": r"\S"}


class PatternText:
    """Draw texts that match a regular expression.

    Alternatives, characters and numbers of repeats are each uniform. Expressions are about drawn text, not labels:
    where labels have small letters only, ``[A-Z]`` draws capitals.

    Raises:
        ConfigError: The expression is invalid, has parts that cannot be drawn, or needs characters that may not be.
    """

    def __init__(self, expression: str, check: LabelCheck) -> None:
        self._expression = expression
        own = check.charset.characters
        others = sorted({form for c in own + string.printable for form in (c, c.lower(), c.upper()) if len(form) == 1})
        self._drawable = own + "".join(c for c in others if c not in check.charset and check.allows(c))
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

    def draw(self, choices: Choices) -> str:
        """Draw a matching text."""
        return "".join(self._drawn(self._tree, choices))

    def _drawn(self, parts: list[Any], choices: Choices) -> list[str]:
        """Draw a sequence of nodes: a string is one of its characters, a list one of several sequences."""
        drawn: list[str] = []
        for part in parts:
            if isinstance(part, str):
                drawn.append(choices.pick(part))
            elif isinstance(part, list):
                drawn += self._drawn(choices.pick(part), choices)
            else:
                least, most, repeated = part
                for _ in range(choices.between(least, most)):
                    drawn += self._drawn(repeated, choices)
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
        """Return the drawable characters of a node."""
        if name == "ANY":  # only characters of labels: of all, most would be marks
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
    """Return whether an item of a set has the character."""
    if str(kind) == "RANGE":
        return bool(value[0] <= ord(character) <= value[1])
    if str(kind) == "CATEGORY":
        return re.match(_KINDS[str(value).removeprefix("CATEGORY_")], character) is not None
    return bool(ord(character) == value)


_TRIES = 200  # Refused texts in a row that count as an error in the settings

_TRIES_OF_A_KIND = 8  # Refused texts before another kind is drawn; enough to keep the shares

_FIRST_LONGEST = 3  # Longest label of the first words under ``corpus.short_first``
_SHORT_TRIES = 32  # Too long texts before the shortest of them is taken: lists may have nothing shorter

_LARGE_SIGNS = "&@#%$+?!€£*"  # Signs that can be told when they stand alone

_FORM_SIGNS = ":;=/()[]"  # Signs that stand alone on forms, between printed text
_ALIKE = "IOlo"  # Letters that cannot be told from digits without others beside them

_ENDINGS = (  # Of names of companies and products
    *("co", "ex", "ix", "ly", "fy", "max", "net", "lab", "pro", "one", "air", "bay", "box", "top", "way", "fit", "pay"),
    *("tech", "soft", "mart", "plus", "land", "star", "shop", "line", "care", "wear", "cell", "bank", "book", "tube"),
)

_SIZED_TRIES = 400  # Draws for a text of a wanted length
_SHORTEST_LINE, _LONGEST_LINE = 4, 64  # Characters of lines

_FIGURES_IN_PHRASES = ("number", "number", "quantity", "price")

_FIGURE_CASE = WeightedChoice({"as_is": 55.0, "upper": 40.0, "lower": 5.0})  # Of letters in figures: 9am, 9AM


@dataclass(frozen=True, slots=True)
class Text:
    """Text and label."""

    drawn: str  # May hold spaces and marks that the label leaves out
    label: str  # The network's expected reading
    # ``word``, ``joined``, ``made_up``, ``brand``, ``number``, ``code``, ``price``, ``date``, ``time``, ``telephone``,
    # ``quantity``, ``single``, ``web``, ``phrase``, ``line``, ``listed`` (with ``corpus.only_words``) or ``pattern``
    kind: str


class Corpus:
    """Endless texts with labels in a network's charset. May be pickled.

    Args:
        config: Kinds of texts and their weights.
        charset: Of the network.
        rules: Normalization of labels; they are never truncated.
        max_steps: Time steps of the network: no label needs more.
        lines: Write lines, too, if the charset has the space.

    Attributes:
        characters: Every character that may be drawn, sorted.
        notes: Remarks for the user on unused words and on letters missing from the lists.
        refused: Counts of texts drawn anew, by reason, in this process.
    """

    def __init__(
        self, config: CorpusConfig, charset: Charset, rules: LabelRules, max_steps: int, lines: bool = False
    ) -> None:
        self._check = LabelCheck(charset, rules, max_steps)
        self._short_first = config.short_first
        self.refused: Counter[str] = Counter()
        self._pattern: PatternText | None = None
        if config.pattern:
            self._pattern = PatternText(config.pattern, self._check)
            self._kinds = WeightedChoice({"pattern": 1.0})
            self.characters = "".join(sorted(self._pattern.characters))
            self.notes: tuple[str, ...] = ()
            return
        self._vocabulary = Vocabulary(config, self._check)
        self.notes = self._vocabulary.notes
        if config.only_words:
            if not self._vocabulary.has_words:
                raise ConfigError(
                    f"corpus.only_words: no list has a word for the charset {charset!r}; expected lists in "
                    "corpus.words whose words labels can have"
                )
            self._kinds = WeightedChoice({"listed": 1.0})
            self.characters = "".join(sorted(self._vocabulary.characters))
            return
        self._punctuation, self._phrase_words = config.punctuation, config.phrase_words
        self._uniform_longest = min(config.uniform_longest, self._check.longest)
        letters = self._vocabulary.letters
        self._cases = Cases(config, letters, self._check)
        self._marks = Marks((*charset.characters, *sorted(self._vocabulary.characters)), self._check)
        digits = [c for c in charset.characters if c.isdecimal()]
        self._writers = tuple(Writer(system, self._code_letters(letters)) for system in _digit_systems(digits))
        self._templates = {kind: parse_templates(kind, self._writers[0], self._check.allows) for kind in TEMPLATES}
        self._lines = LineWriter(self._check, self._any_word, self._figure_of) if lines else None
        self._singles = self._single_characters(letters, digits)
        self._kinds = self._possible_kinds(config)
        self.characters = self._all_characters()

    def longest(self, number: int) -> int | None:
        """Return the longest label of word ``number`` of a run under ``corpus.short_first``, or ``None``."""
        return None if number >= self._short_first else _FIRST_LONGEST + 10 * number // self._short_first

    def draw(
        self,
        rng: np.random.Generator,
        writable: frozenset[str] | Callable[[str], bool] | None = None,
        longest: int | None = None,
    ) -> Text:
        """Draw a text: a function of the settings, the generator's state, ``writable`` and ``longest``.

        Args:
            rng: Used in blocks, so that its state afterwards says nothing.
            writable: Characters that the fonts can write, or a test of whole texts. Default: everything.
            longest: Longest label; the shortest of several texts where none is that short.

        Raises:
            DataError: All of many texts are refused; the message has the reasons.
        """
        choices = Choices(rng)
        reasons: Counter[str] = Counter()
        shortest: Text | None = None
        for _ in range(_TRIES // _TRIES_OF_A_KIND):
            kind = self._kinds.draw(choices)
            for _ in range(_TRIES_OF_A_KIND):
                drawn = self._make(kind, choices)
                try:
                    label = self._check.label(drawn)
                except LabelSkip as skip:
                    reasons[skip.reason] += 1
                    continue
                if writable is None or (
                    writable(drawn) if callable(writable) else writable.issuperset(drawn.replace(" ", ""))
                ):
                    text = Text(drawn, label, kind)
                    if longest is not None and len(label) > longest:
                        reasons["not_short"] += 1
                        shortest = text if shortest is None or len(label) < len(shortest.label) else shortest
                        if reasons["not_short"] < _SHORT_TRIES:
                            continue
                        text = shortest
                    if reasons:
                        self.refused.update(reasons)
                    return text
                reasons["not_writable"] += 1
        if shortest is not None:
            return shortest
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        raise DataError(
            f"{reasons.total()} texts in a row were refused: {counts}. Check that the fonts can write the charset "
            f"(not_writable), that labels of {self._check.longest} characters are long enough (too_long, "
            "too_many_steps) and that charset.unknown drops characters (unknown_character)"
        )

    def draw_sized(
        self,
        rng: np.random.Generator,
        writable: Callable[[str], bool] | frozenset[str],
        longest: int | None,
        letters: tuple[float, float],
    ) -> Text | None:
        """Draw a text of ``letters[0]`` to ``letters[1]`` characters, or ``None``; quicker than repeated ``draw``."""
        choices = Choices(rng)
        for _ in range(_SIZED_TRIES):
            kind = self._kinds.draw(choices)
            if kind == "line" and self._lines is not None:
                length = self._line_length(choices)
                if not letters[0] <= length <= letters[1]:
                    continue
                drawn = self._lines.draw(choices, length)
            else:
                drawn = self._make(kind, choices)
            if not letters[0] <= len(drawn) <= letters[1]:
                continue
            try:
                label = self._check.label(drawn)
            except LabelSkip:
                continue
            if longest is not None and len(label) > longest:
                continue
            if writable(drawn) if callable(writable) else writable.issuperset(drawn.replace(" ", "")):
                return Text(drawn, label, kind)
        return None

    def _make(self, kind: str, choices: Choices) -> str:
        if kind == "pattern":
            assert self._pattern is not None
            return self._pattern.draw(choices)
        if kind == "listed":
            return self._vocabulary.listed(choices)
        if kind in self._templates:
            return self._figure(kind, choices)
        if kind == "word":
            return self._dressed(choices, self._vocabulary.length(choices), self._vocabulary.word)
        if kind == "made_up":
            return self._dressed(choices, max(self._vocabulary.any_length(choices), 3), self._vocabulary.pseudoword)
        if kind == "joined":
            return self._joined(choices)
        if kind == "brand":
            return self._brand(choices)
        if kind == "phrase":
            return self._phrase(choices)
        if kind == "line":
            assert self._lines is not None
            return self._lines.draw(choices, self._line_length(choices))
        return choices.pick(self._singles.draw(choices))

    def _line_length(self, choices: Choices) -> int:
        """Draw the number of characters of a line, uniform in the logarithm."""
        longest = min(self._check.longest, _LONGEST_LINE)
        length: float = _SHORTEST_LINE * (longest / _SHORTEST_LINE) ** choices.unit()
        return round(length)

    def _dressed(self, choices: Choices, length: int, word: Callable[[Choices, int], str]) -> str:
        """Draw a word in some case, with marks for a share of them."""
        form = self._cases.form(choices)
        if not choices.chance(self._punctuation):
            return self._cases.apply(choices, word(choices, length), form)
        return self._marks.add(
            choices,
            length,
            lambda size: self._cases.apply(choices, word(choices, size), form),
            lambda size: self._cases.apply(choices, self._vocabulary.plain(choices, size), form),
        )

    def _joined(self, choices: Choices) -> str:
        """Draw one word, or several without a space, of uniform length."""
        length = choices.between(1, self._uniform_longest)
        form = self._cases.form(choices)
        if self._vocabulary.has(length) and (length < 4 or choices.chance(0.6)):
            return self._cases.apply(choices, self._vocabulary.word(choices, length), form)
        string = ""
        while length:
            part = length if length < 8 else choices.between(3, length - 3)
            string += self._cases.apply(choices, self._vocabulary.plain(choices, part), form)
            length -= part
        return string

    def _brand(self, choices: Choices) -> str:
        style = choices.below(10)
        if style < 2 and len(self._writers[0].letters):
            letters = choices.pick(self._writers[0].letters)
            return choices.pick(letters) + (choices.pick(letters) if style else "") + "&" + choices.pick(letters)
        first = (
            self._vocabulary.plain(choices, choices.between(3, 6))
            if style < 7
            else self._vocabulary.plain_pseudoword(choices, 4)
        )
        second = choices.pick(_ENDINGS)
        if style < 5 or not self._check.allows(second):
            second = self._vocabulary.plain(choices, choices.between(3, 5))
        if choices.chance(0.5):
            return first[:1].title() + first[1:].lower() + second[:1].title() + second[1:].lower()
        return self._cases.apply(choices, first.lower() + second.lower(), self._cases.form(choices))

    def _phrase(self, choices: Choices) -> str:
        """Draw words with spaces, as many as wanted, if they fit."""
        form = self._cases.form(choices)
        room = self._check.longest
        parts: list[str] = []
        for place in range(choices.between(2, self._phrase_words)):
            # The first leaves room for a space and one character more.
            length = min(self._vocabulary.length(choices), room if place else room - 2)
            if length < 1:
                break
            kind = choices.pick(_FIGURES_IN_PHRASES)
            if place and choices.chance(0.1) and len(self._templates[kind]):
                part = self._figure(kind, choices)
            else:
                part = self._cases.apply(choices, self._vocabulary.word(choices, length), form)
            parts.append(part)
            room -= len(part) + 1
        return " ".join(parts) + (self._marks.trailing(choices) if choices.chance(self._punctuation) else "")

    def _figure(self, kind: str, choices: Choices) -> str:
        writer = choices.pick(self._writers)
        text = expand(self._templates[kind].draw(choices), choices, writer, self._short_word)
        if kind == "web":
            return text.upper() if choices.chance(0.1) else text
        case = _FIGURE_CASE.draw(choices)
        return text if case == "as_is" else self._cases.apply(choices, text, case)

    def _figure_of(self, kind: str, choices: Choices) -> str | None:
        return self._figure(kind, choices) if len(self._templates[kind]) else None

    def _any_word(self, choices: Choices) -> str:
        return self._vocabulary.word(choices, self._vocabulary.length(choices))

    def _short_word(self, choices: Choices) -> str:
        word = self._vocabulary.plain(choices, choices.between(3, 8))
        return word[:1].title() + word[1:] if choices.chance(0.2) else word.lower()

    # computed once

    def _code_letters(self, letters: tuple[str, ...]) -> tuple[str, ...]:
        """Return letters of codes by script, without those that look like digits (as ISO 3779 omits I, O, Q)."""
        groups: dict[str, dict[str, None]] = {}
        for letter in letters:
            upper = letter.upper()
            shown = upper if len(upper) == 1 and self._check.allows(upper) else letter
            if letter.isalpha() and shown not in _ALIKE:
                groups.setdefault(script(letter), {})[shown] = None
        return tuple("".join(group) for group in groups.values())

    def _single_characters(self, letters: tuple[str, ...], digits: list[str]) -> WeightedChoice[str]:
        shown = dict.fromkeys(form for c in letters if c.isalpha() for form in (c, c.upper()) if len(form) == 1)
        singles = "".join(c for c in shown if c not in _ALIKE and self._check.allows(c))
        signs = "".join(c for c in _LARGE_SIGNS + _FORM_SIGNS * (self._lines is not None) if c in self._check.charset)
        return WeightedChoice(
            (group, weight) for group, weight in ((singles, 55.0), ("".join(digits), 37.0), (signs, 8.0)) if group
        )

    def _possible_kinds(self, config: CorpusConfig) -> WeightedChoice[str]:
        names = [name.removesuffix("_weight") for name in type(config).model_fields if name.endswith("_weight")]
        weights = {name: float(getattr(config, f"{name}_weight")) for name in names}
        possible = {name: name not in self._templates or len(self._templates[name]) > 0 for name in names}
        possible["single"] = len(self._singles) > 0
        possible["phrase"] = " " in self._check.charset and self._check.rules.whitespace != "remove"
        possible["line"] = possible["phrase"] and self._lines is not None and len(self._lines) > 0
        if not any(letter.isalpha() for letter in self._vocabulary.letters):
            # Digits alone, for meters and dates: strings of digits are words enough, where no figures are wanted.
            figures = any(weights[name] for name in self._templates if possible[name] and name != "web")
            words = self._vocabulary.has_words or not figures
            possible.update(brand=False, made_up=False, web=False, word=words, joined=not figures)
        kinds = WeightedChoice((name, weights[name]) for name in names if possible[name])
        if not len(kinds):
            asked = ", ".join(f"corpus.{name}_weight" for name in names if weights[name])
            raise ConfigError(
                f"nothing can be drawn with the charset {self._check.charset!r}: only {asked} above 0, for which it "
                "has no characters. Give corpus.word_weight a value above 0"
            )
        return kinds

    def _all_characters(self) -> str:
        found = set(self._check.charset.characters) | self._vocabulary.characters | self._marks.characters
        for writer, templates in ((w, t) for w in self._writers for t in self._templates.values()):
            found.update(writer.digits, *(literal for template in templates.items for literal in template.literals))
        found.update("$£€₹¥", "".join(_ENDINGS))
        forms = {form for c in found for form in (*c, *c.lower(), *c.upper(), *c.title())}
        return "".join(sorted(c for c in forms if self._check.allows(c)))


def _digit_systems(digits: list[str]) -> list[str]:
    """Return digits by script in the order of their values, preferring scripts with all ten."""
    systems: dict[int, list[str]] = {}
    for digit in digits:
        systems.setdefault(ord(digit) - unicodedata.decimal(digit), []).append(digit)
    found = ["".join(sorted(system)) for system in systems.values()]
    return [system for system in found if len(system) == 10] or found[:1] or [""]
