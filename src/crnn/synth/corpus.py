"""Texts to render, with their labels: words, numbers, codes, prices, dates, names, lines and more."""

import re
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from re import _compiler, _parser  # type: ignore[attr-defined]  # no public module gives the tree of an expression
from typing import Any

import numpy as np

from crnn.charset import Charset, LabelRules, LabelSkip
from crnn.config.synth import CorpusConfig
from crnn.errors import ConfigError, DataError
from crnn.synth.rng import Choices, WeightedChoice
from crnn.synth.templates import TEMPLATES, FigureWriter, LineWriter, literals
from crnn.synth.vocabulary import Marks, Vocabulary, case_choice, in_case
from crnn.synth.word_list import ALIKE, LabelCheck

_MORE = 8  # Most repeats beyond the least where an expression sets no limit (``*``, ``+``, ``{2,}``)
_MOST = 1000


class PatternText:
    """Draw texts that match a regular expression.

    Alternatives, characters and numbers of repeats are each uniform. Expressions are about drawn text, not labels:
    where labels have small letters only, ``[A-Z]`` draws capitals. Parts that cannot be drawn are a ``ConfigError``.
    """

    def __init__(self, expression: str, check: LabelCheck) -> None:
        self._expression = expression
        self._own = own = check.charset.characters
        others = sorted({form for c in own + string.printable for form in (c, c.lower(), c.upper()) if len(form) == 1})
        self._drawable = own + "".join(c for c in others if c not in check.charset and check.allows(c))
        try:
            parts = list(_parser.parse(expression))
        except (re.error, RecursionError, OverflowError) as error:
            raise ConfigError(f"corpus.pattern {expression!r} is no regular expression: {error}") from None
        if parts and str(parts[0][1]) == "AT_BEGINNING":  # texts match as a whole anyhow
            del parts[0]
        if parts and str(parts[-1][1]) == "AT_END":
            del parts[-1]
        self.characters: set[str] = set()
        self._tree = self._nodes(parts)

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

    def _nodes(self, parts: Any) -> list[Any]:
        return [self._node(kind, value) for kind, value in parts]

    def _node(self, kind: Any, value: Any) -> Any:
        name = str(kind)
        if name in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            return self._characters(kind, value)
        if name == "BRANCH":
            return [self._nodes(branch) for branch in value[1]]
        if name == "SUBPATTERN":
            return [self._nodes(value[3])]
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, repeated = value
            most = least + _MORE if most == _parser.MAXREPEAT else int(most)
            if most > _MOST:
                raise ConfigError(f"corpus.pattern {self._expression!r} repeats {most} times; expected at most {_MOST}")
            return int(least), most, self._nodes(repeated)
        raise ConfigError(
            f"corpus.pattern {self._expression!r}: cannot draw {name.lower()}; expected sets, groups, counts"
        )

    def _characters(self, kind: Any, value: Any) -> str:
        """Return the drawable characters of a node."""
        if str(kind) == "ANY":  # only characters of labels: of all, most would be marks
            found = self._own
        else:
            node = _parser.SubPattern(_parser.State(), [(kind, value)])
            found = "".join(filter(_compiler.compile(node, re.UNICODE).fullmatch, self._drawable))
        if not found:
            what = repr(chr(value)) if str(kind) == "LITERAL" else "one of its sets"
            raise ConfigError(
                f"corpus.pattern {self._expression!r}: {what} is not in the charset {self._own!r}; change one of them"
            )
        self.characters |= set(found)
        return found


_TRIES = 200  # Refused texts in a row that count as an error in the settings
_TRIES_OF_A_KIND = 8  # Refused texts before another kind is drawn; enough to keep the shares
_SIZED_TRIES = 400  # Draws for a text of a wanted length
_SHORTEST_LINE, _LONGEST_LINE = 4, 64  # Characters of lines
_LONGEST_JOINED = 18  # Characters of words joined without a space; more are not readable at 4 pixels a letter

_LARGE_SIGNS = "&@#%$+?!€£*"  # Signs that can be told when they stand alone
_FORM_SIGNS = ":;=/()[]"  # Signs that stand alone on forms, between printed text
_FIGURES_IN_PHRASES = ("number", "number", "quantity", "price")

_ENDINGS = (  # Of names of companies and products
    *("co", "ex", "ix", "ly", "fy", "max", "net", "lab", "pro", "one", "air", "bay", "box", "top", "way", "fit", "pay"),
    *("tech", "soft", "mart", "plus", "land", "star", "shop", "line", "care", "wear", "cell", "bank", "book", "tube"),
)


@dataclass(frozen=True, slots=True)
class Text:
    """Text and label."""

    drawn: str  # May hold spaces and marks that the label leaves out
    label: str  # The network's expected reading
    kind: str  # As in the settings ``corpus.KIND_weight``; ``listed`` under ``corpus.only_words``, or ``pattern``


class Corpus:
    """Endless texts with labels in a network's charset, for at most ``max_steps`` time steps. May be pickled.

    Attributes:
        characters: Every character that may be drawn, sorted.
        notes: Remarks for the user on unused words and on letters missing from the lists.
    """

    def __init__(
        self, config: CorpusConfig, charset: Charset, rules: LabelRules, max_steps: int, lines: bool = False
    ) -> None:
        self._check = LabelCheck(charset, rules, max_steps)
        self._config = config
        self.notes: list[str] = []
        if config.pattern:
            self._pattern = PatternText(config.pattern, self._check)
            self._kinds = WeightedChoice({"pattern": 1.0})
            self.characters = "".join(sorted(self._pattern.characters))
            return
        self._vocabulary = Vocabulary(config, self._check)
        self.notes = self._vocabulary.notes
        if config.only_words:
            if not len(self._vocabulary.table):
                raise ConfigError(f"corpus.only_words: no list has a word for {charset!r}; give one in corpus.words")
            self._kinds = WeightedChoice({"listed": 1.0})
            self.characters = "".join(sorted(self._vocabulary.characters))
            return
        letters = self._vocabulary.letters
        self._cases = case_choice(config, letters, self._check)
        self._marks = Marks((*charset.characters, *sorted(self._vocabulary.characters)), self._check)
        self._figures = FigureWriter(self._check, letters, self._short_word)
        self._lines = LineWriter(self._check, self._any_word, self._figures) if lines else None
        self._singles = self._single_characters()
        self._kinds = self._possible_kinds()
        self.characters = self._all_characters()

    def draw(self, rng: np.random.Generator, writable: frozenset[str] | None = None) -> Text:
        """Draw a text of characters that the fonts can write, or raise ``DataError`` if all of many are refused."""
        choices = Choices(rng)
        refused: Counter[str] = Counter()
        kind = ""
        for attempt in range(_TRIES):
            if attempt % _TRIES_OF_A_KIND == 0:
                kind = self._kinds.draw(choices)
            text = self._labelled(kind, self._make(kind, choices), writable, refused)
            if text is not None:
                return text
        counts = ", ".join(f"{reason} {count}" for reason, count in refused.most_common())
        raise DataError(
            f"{refused.total()} texts in a row were refused: {counts}. Give fonts for the charset (not_writable), "
            "allow longer labels (too_long, too_many_steps), or let charset.unknown drop characters (unknown_character)"
        )

    def draw_sized(
        self, rng: np.random.Generator, writable: frozenset[str], letters: tuple[float, float]
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
            if letters[0] <= len(drawn) <= letters[1]:
                text = self._labelled(kind, drawn, writable, Counter())
                if text is not None:
                    return text
        return None

    def _labelled(self, kind: str, drawn: str, writable: frozenset[str] | None, refused: Counter[str]) -> Text | None:
        """Return a text with its label, or count the reason to refuse it."""
        try:
            label = self._check.label(drawn)
        except LabelSkip as skip:
            refused[skip.reason] += 1
            return None
        if writable is not None and not writable.issuperset(drawn.replace(" ", "")):
            refused["not_writable"] += 1
            return None
        return Text(drawn, label, kind)

    def _make(self, kind: str, choices: Choices) -> str:
        if kind == "pattern":
            return self._pattern.draw(choices)
        if kind == "listed":
            return self._vocabulary.table.draw_any(choices)
        if kind in TEMPLATES:
            return self._figures.draw(kind, choices)
        if kind == "word":
            return self._dressed(choices, self._vocabulary.length(choices), self._vocabulary.word)
        if kind == "made_up":
            length = max(self._vocabulary.lengths.draw(choices), 3)
            return self._dressed(choices, length, self._vocabulary.pseudoword)
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
        case = self._cases.draw(choices)
        if not choices.chance(self._config.punctuation):
            return in_case(choices, word(choices, length), case)
        return self._marks.add(
            choices,
            length,
            lambda size: in_case(choices, word(choices, size), case),
            lambda size: in_case(choices, self._vocabulary.plain(choices, size), case),
        )

    def _joined(self, choices: Choices) -> str:
        """Draw one word, or several without a space, of uniform length."""
        length = choices.between(1, min(_LONGEST_JOINED, self._check.longest))
        case = self._cases.draw(choices)
        if length in self._vocabulary.table.lengths and (length < 4 or choices.chance(0.6)):
            return in_case(choices, self._vocabulary.word(choices, length), case)
        string = ""
        while length:
            part = length if length < 8 else choices.between(3, length - 3)
            string += in_case(choices, self._vocabulary.plain(choices, part), case)
            length -= part
        return string

    def _brand(self, choices: Choices) -> str:
        style = choices.between(0, 9)
        if style < 2 and self._figures.letters:
            letters = choices.pick(self._figures.letters)
            return choices.pick(letters) + (choices.pick(letters) if style else "") + "&" + choices.pick(letters)
        if style < 7:
            first = self._vocabulary.plain(choices, choices.between(3, 6))
        else:
            first = self._vocabulary.plain_pseudoword(choices, 4)
        second = choices.pick(_ENDINGS)
        if style < 5 or not self._check.allows(second):
            second = self._vocabulary.plain(choices, choices.between(3, 5))
        if choices.chance(0.5):
            return first[:1].title() + first[1:].lower() + second[:1].title() + second[1:].lower()
        return in_case(choices, first.lower() + second.lower(), self._cases.draw(choices))

    def _phrase(self, choices: Choices) -> str:
        """Draw words with spaces, as many as wanted, if they fit."""
        case = self._cases.draw(choices)
        room = self._check.longest
        parts: list[str] = []
        for place in range(choices.between(2, self._config.phrase_words)):
            # The first leaves room for a space and one character more.
            length = min(self._vocabulary.length(choices), room if place else room - 2)
            if length < 1:
                break
            kind = choices.pick(_FIGURES_IN_PHRASES)
            if place and choices.chance(0.1) and len(self._figures.templates[kind]):
                part = self._figures.draw(kind, choices)
            else:
                part = in_case(choices, self._vocabulary.word(choices, length), case)
            parts.append(part)
            room -= len(part) + 1
        return " ".join(parts) + (self._marks.trailing(choices) if choices.chance(self._config.punctuation) else "")

    def _any_word(self, choices: Choices) -> str:
        return self._vocabulary.word(choices, self._vocabulary.length(choices))

    def _short_word(self, choices: Choices) -> str:
        word = self._vocabulary.plain(choices, choices.between(3, 8))
        return word[:1].title() + word[1:] if choices.chance(0.2) else word.lower()

    def _single_characters(self) -> WeightedChoice[str]:
        letters = filter(str.isalpha, self._vocabulary.letters)
        shown = dict.fromkeys(form for c in letters for form in (c, c.upper()) if len(form) == 1)
        singles = "".join(c for c in shown if c not in ALIKE and self._check.allows(c))
        own = self._check.charset.characters
        digits = "".join(filter(str.isdecimal, own))
        signs = "".join(c for c in _LARGE_SIGNS + _FORM_SIGNS * (self._lines is not None) if c in own)
        groups = ((singles, 55.0), (digits, 37.0), (signs, 8.0))
        return WeightedChoice((group, weight * bool(group)) for group, weight in groups)

    def _possible_kinds(self) -> WeightedChoice[str]:
        weights = {name.removesuffix("_weight"): value for name, value in self._config if name.endswith("_weight")}
        possible = dict.fromkeys(weights, True)
        possible |= {kind: len(found) > 0 for kind, found in self._figures.templates.items()}
        possible["single"] = len(self._singles) > 0
        possible["phrase"] = " " in self._check.charset and self._check.rules.whitespace != "remove"
        possible["line"] = possible["phrase"] and self._lines is not None and len(self._lines) > 0
        if not any(map(str.isalpha, self._vocabulary.letters)):
            # Digits alone, for meters and dates: strings of digits are words enough, where no figures are wanted.
            figures = any(weights[kind] for kind in TEMPLATES if possible[kind] and kind != "web")
            words = len(self._vocabulary.table) > 0 or not figures
            possible.update(brand=False, made_up=False, web=False, word=words, joined=not figures)
        kinds = WeightedChoice((kind, weight) for kind, weight in weights.items() if possible[kind])
        if not len(kinds):
            asked = ", ".join(f"corpus.{kind}_weight" for kind, weight in weights.items() if weight)
            raise ConfigError(
                f"nothing can be drawn with {self._check.charset!r}: only {asked} above 0. Raise corpus.word_weight"
            )
        return kinds

    def _all_characters(self) -> str:
        found = set(self._check.charset.characters) | self._vocabulary.characters | self._marks.characters
        for templates in self._figures.templates.values():
            found.update(*map(literals, templates.items))
        found.update("$£€₹¥", *_ENDINGS, *self._figures.digit_systems)
        forms = {form for c in found for form in (*c, *c.lower(), *c.upper(), *c.title())}
        return "".join(sorted(filter(self._check.allows, forms)))
