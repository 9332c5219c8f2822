"""Word lists, labels of texts, tables to draw words of a given length from, and generators of pseudowords.

The shipped list is SCOWL's (``words.LICENSE.txt``), built by ``tools/word_list.py``.
"""

import bisect
import dataclasses
import functools
import gzip
import importlib.resources
import itertools
import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crnn.charset import Charset, LabelRules, LabelSkip, fits_steps
from crnn.errors import CharsetError, DataError, MissingExtraError
from crnn.files import MAX_WORDS, not_utf8, text_lines
from crnn.synth.rng import Choices, WeightedChoice

SHIPPED = "shipped"  # Name of the list that comes with the package
_WORDFREQ = "wordfreq:"  # Before a language of the package wordfreq, whose data (CC BY-SA) are never part of this one
_CANDIDATES = 4  # Words from which the one with the rarest letter is chosen under ``corpus.balance``


_UNDRAWABLE = ("Cc", "Cn", "Co", "Cs", "Zl", "Zp")  # Unicode: control, unassigned, private, surrogates, line breaks


def is_text(character: str) -> bool:
    """Return whether a character is a letter, digit or combining mark."""
    return unicodedata.category(character)[0] in "LNM"


class LabelCheck:
    """Labels of texts for a network with ``max_steps`` time steps, of ``longest`` characters at most.

    Texts are never truncated, despite ``rules.truncate``: the image shows all. Labels may lack marks of the image, as
    readers of 36 characters are judged without, but no letters or digits: the network would learn to pass over them.
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


@dataclass(frozen=True, slots=True)
class WordList:
    """Words as read, with frequencies above 0."""

    name: str  # As given by the user
    words: list[str]
    frequencies: npt.NDArray[np.float64]  # (n,)


def read_word_list(name: str) -> WordList:
    """Return the list ``shipped``, ``wordfreq:LANG`` of the package wordfreq, or a UTF-8 file.

    Files have a word on each line, or word, tab and frequency.
    """
    if name == SHIPPED:
        return _shipped()
    if name.startswith(_WORDFREQ):
        return _from_wordfreq(name)
    return _parse(name, text_lines(Path(name), f"word list {name}", MAX_WORDS))


@functools.cache
def _shipped() -> WordList:
    content = importlib.resources.files("crnn.synth").joinpath("words.txt.gz").read_bytes()
    return _parse(SHIPPED, gzip.decompress(content).decode().splitlines())


def _from_wordfreq(name: str) -> WordList:
    try:
        import wordfreq
    except ImportError:
        raise MissingExtraError("wordfreq", "words", f"the word list {name}") from None
    language = name.removeprefix(_WORDFREQ)
    if language not in wordfreq.available_languages():
        known = ", ".join(sorted(wordfreq.available_languages()))
        raise DataError(f"word list {name}: wordfreq has no language {language!r}; expected one of {known}")
    found = {
        word: frequency
        for word, frequency in wordfreq.get_frequency_dict(language).items()
        if any(map(is_text, word)) and not any(map(str.isspace, word))
    }
    return WordList(name, list(found), np.array(list(found.values())))


def _parse(name: str, lines: Iterable[str]) -> WordList:
    words, frequencies = [], []
    for number, line in enumerate(lines, start=1):
        if not_utf8(line):
            raise DataError(f"word list {name}, line {number}: is not text in UTF-8; save the file as UTF-8")
        word, tab, given = line.partition("\t")
        try:
            frequency = float(given) if tab and word.strip() else 1.0
        except ValueError:
            frequency = 0.0
        if not 0.0 < frequency < float("inf"):
            raise DataError(
                f"word list {name}, line {number}: frequency {given.strip()!r}; expected a number above 0, or no tab"
            )
        if word.strip():
            words.append(word.strip())
            frequencies.append(frequency)
    if not words:
        raise DataError(f"word list {name} has no words; expected one word per line")
    return WordList(name, words, np.array(frequencies))


class WordTable:
    """Words of some lists that can be labels, drawn by length, and by frequency to ``power`` within a length.

    ``ratios`` are shares of the lists in the words of each length. ``as_listed``: shares in all words, which keep
    their case.
    """

    def __init__(
        self,
        lists: Sequence[WordList],
        ratios: Sequence[float],
        power: float,
        check: LabelCheck,
        *,
        as_listed: bool = False,
    ) -> None:
        self.notes: list[str] = []  # For the user, on unused words
        # Shares of each length in all words, and in those of the user's lists
        every, own = np.zeros(check.longest + 1), np.zeros(check.longest + 1)
        words: list[str] = []
        all_lengths, all_weights = [np.empty(0, np.int64)], [np.empty(0)]
        for found, ratio in zip(lists, ratios, strict=True):
            usable, lengths, weights = self._usable(found, power, check, as_listed)
            share = ratio / sum(ratios)
            weights *= share / max(weights.sum(), 1e-30)
            sums = np.bincount(lengths, weights, minlength=check.longest + 1)
            every += sums
            own += sums * (found.name != SHIPPED)
            words += usable
            all_lengths.append(lengths)
            # As listed, lists have their shares among all words; otherwise among the words of each length.
            all_weights.append(weights if as_listed else weights * (share / sums[lengths]))
        lengths, weights = np.concatenate(all_lengths), np.concatenate(all_weights)
        if not as_listed:
            weights *= every[lengths]
        self.length_weights: list[float] = every[1:].tolist()  # Of the label lengths 1, 2, 3, ... in the lists
        self.own_length_weights: list[float] = own[1:].tolist()  # The same without the shipped list
        order = np.argsort(lengths, kind="stable")
        self._words: list[str] = [words[place] for place in order.tolist()]
        self._sums: list[float] = np.cumsum(weights[order]).tolist()
        places = np.searchsorted(lengths[order], np.arange(check.longest + 2)).tolist()
        self._bounds = list(itertools.pairwise(places))
        self.lengths = tuple(length for length, (low, high) in enumerate(self._bounds) if high > low)
        counts = Counter("".join(self._words))
        self.characters = frozenset(counts)
        both_cases: Counter[str] = Counter()
        for character, count in counts.items():
            both_cases[character.lower()[0]] += count
        self._letter_counts = {c: both_cases[c.lower()[0]] for c in counts if is_text(c)}

    def __len__(self) -> int:
        return len(self._words)

    def draw(self, choices: Choices, length: int, balance: float = 0.0) -> str:
        """Draw a word of a length in ``lengths``; a share ``balance`` is chosen from four by the rarest letter."""
        word = self._draw(choices, *self._bounds[length])
        if balance and choices.chance(balance):
            others = [self._draw(choices, *self._bounds[length]) for _ in range(_CANDIDATES - 1)]
            word = min([word, *others], key=self._rarest)
        return word

    def draw_any(self, choices: Choices) -> str:
        """Draw a word of any length by frequency; there must be one."""
        return self._draw(choices, 0, len(self._sums))

    def most_frequent(self, count: int) -> list[str]:
        """Return up to ``count`` words, the most frequent first."""
        weights = np.diff(np.asarray(self._sums), prepend=0.0)
        return [self._words[place] for place in np.argsort(-weights, kind="stable")[:count].tolist()]

    def _draw(self, choices: Choices, low: int, high: int) -> str:
        before = self._sums[low - 1] if low else 0.0
        wanted = before + choices.unit() * (self._sums[high - 1] - before)
        return self._words[bisect.bisect_right(self._sums, wanted, low, high - 1)]

    def _rarest(self, word: str) -> float:
        """Return the count of the word's rarest letter in all words, either case."""
        return min((self._letter_counts[c] for c in word if c in self._letter_counts), default=math.inf)

    def _usable(
        self, found: WordList, power: float, check: LabelCheck, as_listed: bool
    ) -> tuple[list[str], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return the usable words of a list, the lengths of their labels and their weights."""
        words = found.words
        if check.rules.unicode != "keep":
            words = [unicodedata.normalize("NFC", word) for word in words]
        signs: dict[int, str] = {}  # As many as a character has in labels, or one that is in no word
        for character in set("".join(words)):
            # The case of a drawn word is mostly decided later, and one that fits is enough here.
            forms = (character,) if as_listed else (character, character.lower(), character.upper())
            form = next(filter(check.allows, forms), None)
            signs[ord(character)] = "\0" if form is None else "x" * sum(len(check.kept(part)) for part in form)
        labels = "\n".join(words).translate(signs).split("\n")
        lengths = np.array([-1 if "\0" in label else len(label) for label in labels])
        chosen = (lengths > 0) & (lengths <= check.longest)
        usable, long = int(chosen.sum()), int((lengths > check.longest).sum())
        lost = f"{len(words) - usable - long:,} have characters that labels would lose"
        why = f"{lost}, {long:,} are longer than {check.longest}"
        if not usable and found.name != SHIPPED:
            raise DataError(f"word list {found.name}: none of its {len(words):,} words can be a label: {why}")
        if usable < len(words):
            self.notes.append(f"word list {found.name}: {usable:,} of {len(words):,} words are used; {why}")
        # Relative to the largest, so that no power overflows; none so small that a length has no weight at all.
        weights = np.maximum((found.frequencies[chosen] / found.frequencies.max()) ** power, 1e-30)
        return [words[place] for place in np.flatnonzero(chosen).tolist()], lengths[chosen], weights


_CONTEXT = 3  # Letters that decide on the next one; four would repeat the list, two are hard to pronounce
_ATTEMPTS = 8  # Chains tried before one with an unusual end is taken

ALIKE = "IOlo"  # Letters that look like digits where no others stand beside them
_MARK_SHARE = 0.35  # Share of letters with a combining mark, in scripts with such marks; about that of Hindi


def script(character: str) -> str:
    """Return the script in a letter's Unicode name: ``LATIN``, ``GREEK``, ``CYRILLIC``, ``ARABIC``, ``CJK``, ..."""
    return unicodedata.name(character, "UNKNOWN").split(" ")[0].split("-")[0]


class LetterChain:
    """Pseudowords by a chain of letters, each after the three before it.

    Reference: Shannon 1948, "A Mathematical Theory of Communication", section 3 (approximations to English).
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
        self._next = {context: WeightedChoice(letters) for context, letters in counts.items()}

    def __len__(self) -> int:
        return len(self._next)

    def draw(self, choices: Choices, length: int) -> str:
        """Draw a lower-case word of ``length`` code points, fewer where chains end earlier."""
        word = ""
        for _ in range(_ATTEMPTS):
            padded = " " * _CONTEXT
            while len(padded) < _CONTEXT + length and padded[-_CONTEXT:] in self._next:
                padded += self._next[padded[-_CONTEXT:]].draw(choices)
            word = padded[_CONTEXT:]
            if len(word) == length and (length < _CONTEXT or word[-_CONTEXT:] in self._ends):
                break
        return word


class LetterStrings:
    """Random strings of letters of one script each, for scripts and letters missing from the lists.

    Combining marks follow letters only, and vowel signs consonants, so that every string can be shaped. Each string
    has at least one of ``wanted`` (default: all).
    """

    def __init__(self, characters: Sequence[str], wanted: Sequence[str] = ()) -> None:
        all_bases: defaultdict[str, list[str]] = defaultdict(list)
        self._marks: defaultdict[str, list[str]] = defaultdict(list)
        for character in characters:
            group = self._marks if unicodedata.category(character)[0] == "M" else all_bases
            group[script(character) if is_text(character) else ""].append(character)
        self._bases: dict[str, list[str]] = {}
        for name, bases in all_bases.items():
            # Random strings cannot tell letters like digits apart; they are dropped if enough others remain.
            others = [letter for letter in bases if letter not in ALIKE]
            self._bases[name] = others if others and len(others) >= len(bases) // 2 else bases
        # Marks of their own block (COMBINING ACUTE ACCENT) go with any script.
        self._shared = self._marks.get("COMBINING", [])
        usable = set(itertools.chain.from_iterable(self._bases.values()))
        for name, marks in self._marks.items():
            usable.update(marks if name in self._bases or marks is self._shared else ())
        self.characters = frozenset(usable)
        self._wanted = [c for c in (wanted or characters) if c in usable] or sorted(usable)

    def draw(self, choices: Choices, length: int) -> str:
        """Draw a string of ``length`` code points, or two where one is a mark that needs a letter."""
        needed = choices.pick(self._wanted)
        name = script(needed) if is_text(needed) else ""
        bases = self._bases.get(name) or choices.pick(list(self._bases.values()))
        marks = self._marks.get(name) or self._shared
        if unicodedata.category(needed)[0] == "M":
            bearers = [base for base in bases if _may_carry(base, needed)] or bases
            needed = choices.pick(bearers) + needed
        place = choices.between(0, max(length - len(needed), 0))
        string = self._fill(choices, place, bases, marks) + needed
        return string + self._fill(choices, length - len(string), bases, marks)

    @staticmethod
    def _fill(choices: Choices, length: int, bases: list[str], marks: list[str]) -> str:
        string = ""
        while len(string) < length:
            string += choices.pick(bases)
            if marks and len(string) < length and choices.chance(_MARK_SHARE):
                mark = choices.pick(marks)
                if _may_carry(string[-1], mark):
                    string += mark
        return string


def _may_carry(letter: str, mark: str) -> bool:
    """Return whether a shaper joins the two instead of drawing a dotted circle."""
    if unicodedata.category(letter)[0] != "L":
        return False
    is_sign = unicodedata.category(mark) == "Mc" or "SIGN" in unicodedata.name(mark, "")
    name = unicodedata.name(letter, " ").split(" ")
    # Independent vowels are named by the bare vowel, consonants with one behind them: LETTER AI, VOCALIC R; LETTER KA.
    return not is_sign or not (name[-1][:1] in ("A", "E", "I", "O", "U") or "VOCALIC" in name)
