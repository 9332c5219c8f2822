"""Word lists, tables to draw words of a given length from, and generators of pseudowords.

The shipped list is SCOWL's (``words.LICENSE.txt``), built by ``tools/word_list.py``.
"""

from __future__ import annotations

import bisect
import functools
import gzip
import importlib.resources
import itertools
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from crnn.errors import DataError, MissingExtraError
from crnn.synth.label_check import LabelCheck, is_text
from crnn.synth.rng import Choices, WeightedChoice

S = TypeVar("S", bound=np.generic)

SHIPPED = "shipped"  # Name of the list that comes with the package

_WORDFREQ = "wordfreq:"  # Before a language of the package wordfreq, whose data (CC BY-SA) are never part of this one

_CANDIDATES = 4  # Words from which the one with the rarest letter is chosen under ``corpus.balance``


@dataclass(frozen=True, slots=True)
class WordList:
    """Words as read."""

    name: str  # As given by the user
    text: str  # The words, each followed by a line feed
    frequencies: npt.NDArray[np.float64]  # ``(n,)`` float64, above 0


def read_word_list(name: str) -> WordList:
    """Return the shipped list, one of the package wordfreq, or a UTF-8 file.

    Args:
        name: ``shipped``; ``wordfreq:LANG`` with a language code such as ``de``; or a file with a word per line, or
            word, tab and frequency; empty lines are skipped.

    Raises:
        DataError: The file cannot be read, is not UTF-8 text, has no word or a frequency that is not a number above 0;
            or wordfreq has no such language.
        MissingExtraError: The package wordfreq is not installed.
    """
    if name == SHIPPED:
        return _shipped()
    if name.startswith(_WORDFREQ):
        return _from_wordfreq(name)
    try:
        content = Path(name).read_bytes()
    except OSError as error:
        raise DataError(
            f"word list {name}: {error.strerror or error}. Expected a text file with one word per line, or {SHIPPED!r}"
        ) from None
    return _parse(name, content)


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
    return WordList(name, "\n".join([*found, ""]), np.array(list(found.values())))


@functools.cache
def _shipped() -> WordList:
    content = importlib.resources.files("crnn.synth").joinpath("words.txt.gz").read_bytes()
    return _parse(SHIPPED, gzip.decompress(content))


def _parse(name: str, content: bytes) -> WordList:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_text(name, f"byte {error.start} is none") from None
    if "\0" in text:
        raise _not_text(name, "it has zero bytes")
    words, frequencies = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        word, tab, given = line.partition("\t")
        word = word.strip()
        if not word:
            continue
        frequency = 1.0
        if tab:
            try:
                frequency = float(given)
            except ValueError:
                frequency = 0.0
            if not 0.0 < frequency < float("inf"):
                raise DataError(
                    f"word list {name}, line {number}: frequency {given.strip()!r}; expected a number above 0 behind "
                    "the tab. Correct it, or leave the tab and the frequency out"
                )
        words.append(word)
        frequencies.append(frequency)
    if not words:
        raise DataError(f"word list {name} has no words; expected one word per line")
    return WordList(name, "\n".join([*words, ""]), np.array(frequencies))


def _not_text(name: str, what: str) -> DataError:
    return DataError(f"word list {name} is not UTF-8 text: {what}. Expected one word per line; save it as UTF-8")


class WordTable:
    """Words of some lists that can be labels, drawn by length.

    Args:
        lists: Word lists.
        ratios: Shares of the lists, above 0, in the words of each length.
        power: Exponent of the frequency by which words of one list and length are drawn.
        check: Test for possible labels.
        as_listed: Words keep their case, and ``ratios`` are shares in all words.

    Attributes:
        lengths: Lengths of labels, rising, for which there are words.
        characters: Characters of the words.
        usable, outside, too_long: Counts of words per list: used, with characters that labels would lose, too long.
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
        self.usable: dict[str, int] = {}
        self.outside: dict[str, int] = {}
        self.too_long: dict[str, int] = {}
        parts = [self._measure(words, power, check, as_listed) for words in lists]
        self._text = "".join(part.text for part in parts)
        shifts = np.cumsum([0, *(len(part.text) for part in parts)])
        starts = _joined([part.starts + shift for part, shift in zip(parts, shifts[:-1], strict=True)], np.int64)
        ends = _joined([part.ends + shift for part, shift in zip(parts, shifts[:-1], strict=True)], np.int64)
        lengths = _joined([part.lengths for part in parts], np.int64)
        shares = np.array(ratios, dtype=np.float64) / max(sum(ratios), 1e-9)
        self._by_list = [
            (words.name, share * part.by_length) for words, share, part in zip(lists, shares, parts, strict=True)
        ]
        self._longest = check.longest
        own = sum((found for _, found in self._by_list), np.zeros(check.longest + 1))
        weights = _joined(
            [
                # As listed, lists have their shares among all words; otherwise among the words of each length.
                part.scaled(share * (part.by_length if as_listed else own))
                for share, part in zip(shares, parts, strict=True)
            ],
            np.float64,
        )
        order = np.argsort(lengths, kind="stable")
        self._starts, self._ends = _packed("i", starts[order]), _packed("i", ends[order])
        self._sums = _packed("d", np.cumsum(weights[order]))
        places = np.searchsorted(lengths[order], np.arange(check.longest + 2))
        self._bounds = [(low, high) for low, high in itertools.pairwise(places.tolist())]
        self.lengths = tuple(length for length, (low, high) in enumerate(self._bounds) if high > low)
        self.characters, rarity = self._rarity(starts[order], ends[order])
        self._rarity_of = _packed("f", rarity)

    def __len__(self) -> int:
        return len(self._sums)

    def __getitem__(self, place: int) -> str:
        return self._text[self._starts[place] : self._ends[place]]

    def draw(self, choices: Choices, length: int, balance: float = 0.0) -> str:
        """Draw a word of a length in ``lengths``; a share ``balance`` is chosen from four by the rarest letter."""
        place = self._place(choices, length)
        if balance and choices.chance(balance):
            others = [self._place(choices, length) for _ in range(_CANDIDATES - 1)]
            place = max([place, *others], key=self._rarity_of.__getitem__)
        return self[place]

    def draw_any(self, choices: Choices) -> str:
        """Draw a word of any length by frequency; there must be one."""
        return self[self._found(choices, 0, len(self._sums))]

    def length_weights(self, leave_out: str = "") -> tuple[float, ...]:
        """Return weights of the label lengths 1, 2, 3, ... in the lists, except the list ``leave_out``."""
        found = sum((part for name, part in self._by_list if name != leave_out), np.zeros(self._longest + 1))
        return tuple(found[1:].tolist())

    def most_frequent(self, count: int) -> list[str]:
        """Return up to ``count`` words, the most frequent first."""
        weights = np.diff(np.asarray(self._sums), prepend=0.0)
        return [self[place] for place in np.argsort(-weights, kind="stable")[:count].tolist()]

    def _place(self, choices: Choices, length: int) -> int:
        return self._found(choices, *self._bounds[length])

    def _found(self, choices: Choices, low: int, high: int) -> int:
        before = self._sums[low - 1] if low else 0.0
        wanted = before + choices.unit() * (self._sums[high - 1] - before)
        return bisect.bisect_right(self._sums, wanted, low, high - 1)

    def _measure(self, words: WordList, power: float, check: LabelCheck, as_listed: bool) -> _Measured:
        """Find the usable words of a list and the lengths of their labels, vectorised for speed."""
        text = words.text if check.rules.unicode == "keep" else unicodedata.normalize("NFC", words.text)
        codes = _code_points(text)
        ends = np.flatnonzero(codes == ord("\n"))
        starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1] + 1])
        allowed = np.zeros(int(codes.max()) + 1, dtype=bool)
        sizes = np.zeros(len(allowed), dtype=np.int64)
        allowed[ord("\n")] = True
        for code in np.flatnonzero(np.bincount(codes)).tolist():
            character = chr(code)
            # The case of a drawn word is mostly decided later, and one that fits is enough here.
            forms = (character,) if as_listed else (character, character.lower(), character.upper())
            for form in forms:
                if character != "\n" and check.allows(form):
                    allowed[code], sizes[code] = True, sum(len(check.kept(part)) for part in form)
                    break
        inside = np.logical_and.reduceat(allowed[codes], starts)
        lengths = np.add.reduceat(sizes[codes], starts)
        chosen = inside & (lengths > 0) & (lengths <= check.longest)
        self.usable[words.name] = int(chosen.sum())
        self.too_long[words.name] = int((inside & (lengths > check.longest)).sum())
        self.outside[words.name] = len(starts) - self.usable[words.name] - self.too_long[words.name]
        # Relative to the largest, so that no power overflows; none so small that a length has no weight at all.
        weights = np.maximum((words.frequencies[chosen] / words.frequencies.max()) ** power, 1e-30)
        by_length = np.bincount(lengths[chosen], weights, minlength=check.longest + 1)
        return _Measured(
            text, starts[chosen], ends[chosen], lengths[chosen], weights, by_length / max(weights.sum(), 1e-30)
        )

    def _rarity(
        self, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
    ) -> tuple[frozenset[str], npt.NDArray[np.float32]]:
        """Return all characters, and for each word the negative log share of its rarest letter."""
        if not len(starts):
            return frozenset(), np.empty(0, dtype=np.float32)
        codes = _code_points(self._text)
        # Only characters of chosen words count: +1 at the start of one, -1 at its end.
        steps = np.zeros(len(codes) + 1, dtype=np.int8)
        steps[starts] += 1
        steps[ends] -= 1
        counts = np.bincount(codes[np.cumsum(steps[:-1]) > 0]).astype(np.float64)
        found = [chr(code) for code in np.flatnonzero(counts).tolist()]
        folded = {character: ord(character.lower()[0]) for character in found}
        both = np.zeros(max(len(counts), max(folded.values()) + 1))
        for character, fold in folded.items():
            both[fold] += counts[ord(character)]
        rare = np.zeros(int(codes.max()) + 1, dtype=np.float32)
        for character in filter(is_text, found):
            rare[ord(character)] = -np.log(both[folded[character]] / both.sum())
        order = np.argsort(starts)
        rarity = np.empty(len(starts), dtype=np.float32)
        # Segments reach to the next word; left-out words in between must not count.
        bounds = np.stack([starts[order], ends[order]], axis=1).ravel()
        rarity[order] = np.maximum.reduceat(rare[codes], bounds)[::2]
        return frozenset(found), rarity


@dataclass(frozen=True, slots=True)
class _Measured:
    """Usable words of one list."""

    text: str  # Of the whole list
    starts: npt.NDArray[np.int64]  # Where the words start in it
    ends: npt.NDArray[np.int64]  # Where they end
    lengths: npt.NDArray[np.int64]  # Of their labels
    weights: npt.NDArray[np.float64]  # Of the words, above 0
    by_length: npt.NDArray[np.float64]  # Share of each length in the list

    def scaled(self, sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Scale the weights so that those of each length add up to ``sums`` there."""
        found = np.bincount(self.lengths, self.weights, minlength=len(sums))
        return self.weights * (sums / np.maximum(found, 1e-30))[self.lengths]


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def _joined(parts: list[npt.NDArray[S]], dtype: type[S]) -> npt.NDArray[S]:
    return np.concatenate([np.empty(0, dtype=dtype), *parts]).astype(dtype)


def _packed(code: str, values: npt.NDArray[np.generic]) -> array[Any]:
    """Pack numbers to be read one by one, four times as fast from Python's arrays as from numpy's."""
    return array(code, values.astype(code).tobytes())


_CONTEXT = 3  # Letters that decide on the next one; four would repeat the list, two are hard to pronounce
_ATTEMPTS = 8  # Chains tried before one with an unusual end is taken

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
            word = self._chain(choices, length)
            if len(word) == length and (length < _CONTEXT or word[-_CONTEXT:] in self._ends):
                break
        return word

    def _chain(self, choices: Choices, length: int) -> str:
        padded = " " * _CONTEXT
        while len(padded) < _CONTEXT + length:
            letters = self._next.get(padded[-_CONTEXT:])
            if letters is None:
                break
            padded += letters.draw(choices)
        return padded[_CONTEXT:]


class LetterStrings:
    """Random strings of letters of one script each, for scripts and letters missing from the lists.

    Combining marks follow letters only, and vowel signs consonants, so that every string can be shaped. Each string
    has at least one of ``wanted`` (default: all).
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

    def draw(self, choices: Choices, length: int) -> str:
        """Draw a string of ``length`` code points, or two where one is a mark that needs a letter."""
        needed = choices.pick(self._wanted)
        name = script(needed) if is_text(needed) else ""
        bases = self._bases.get(name) or choices.pick(list(self._bases.values()))
        marks = self._marks.get(name) or self._shared
        if unicodedata.category(needed)[0] == "M":
            bearers = [base for base in bases if _may_carry(base, needed)] or bases
            needed = choices.pick(bearers) + needed
        place = choices.below(max(length - len(needed), 0) + 1)
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


def _without_alike(letters: list[str]) -> list[str]:
    """Drop letters that look like digits, which random strings cannot tell apart, if enough others remain."""
    others = [letter for letter in letters if letter not in "IOlo"]
    return others if len(others) >= len(letters) // 2 and others else letters
