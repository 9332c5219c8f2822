"""Score that a language adds to texts: ``weight * ln p + bonus * characters``.

``p(word) = 0.8975 * n-grams and marks + 0.10 * numbers + 0.0025 * any string``. Numbers, prices, dates and codes have
n-grams of their own, in which all digits are alike. Other strings are not bent into words: an unknown word costs a
constant, once. A mark that the n-grams know, such as an apostrophe, is a letter of a word (``don't``), or a mark before
or behind it. A space begins a new word; where the one before was unknown, any string has 0.20, so that names and texts
of other languages keep their spaces. A closing mark behind a space costs more. Capitals follow four patterns: lower,
Capitalized, UPPER, other.
Shape letters: N images, B beams, K classes, M texts. Logarithms are natural.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from crnn.charset import Charset
from crnn.decoding.language import Language, load_numbers

_Doubles = npt.NDArray[np.float64]
_Array = npt.NDArray[Any]
_Bools = npt.NDArray[np.bool_]

DEFAULT_WEIGHT = 0.6  # signs gain up to here and beyond, codes and receipts lose more the larger it is
MAX_WEIGHT = 10.0  # from about 1 on the language invents texts

# a dictionary word, a number, any string
_WORD, _NUMBER, _ANYTHING = float(np.log(0.8975)), float(np.log(0.1)), float(np.log(0.0025))
_ANYTHING_AGAIN = float(np.log(0.2))  # any string after another one

# of any string; with the bonus a letter costs almost nothing, so that none is dropped or added
_ANY_LETTER, _ANY_DIGIT, _ANY_MARK, _ANY_RARE_MARK = -2.4, -2.4, -3.2, -5.0

_DIGIT = -float(np.log(10.0))  # each digit of a number, beside the n-grams, to which all are alike
# mark or digit before, in or after a word; space between two
_MARK_AT_WORD, _RARE_MARK_AT_WORD, _DIGIT_AT_WORD, _SPACE = -3.0, -5.0, -4.5, -1.0

_CLOSING_MARK_APART = -1.7  # one behind a space, beyond what it costs anyway
_CLOSING_MARKS = frozenset(".,:;!?)")

_STRAY_SPACE = -12.0  # a space at an end of the text or after another one: labels have none
_NOTHING = -6.0  # the empty text
_COMMON_MARKS = frozenset(".,:;-'\"()!?/&%$#@*+")

_CASE_COSTS = np.log([1.0, 0.5, 0.45, 0.25, 0.35, 0.01])  # nothing yet, one capital, lower, Capitalized, UPPER, other

_CASE_AFTER = np.array([[0, 2, 1], [1, 3, 4], [2, 2, 5], [3, 3, 5], [4, 5, 4], [5, 5, 5]])  # uncased, lower, upper

_WORDLIKE, _A_DIGIT, _A_MARK, _A_SPACE, _INNER_MARK = range(5)


class PriorState(NamedTuple):
    """Log-probabilities of the finished words and of the last word, for each prefix of a beam, ``(N, B)``."""

    done: _Array  # words before the last one, and the case of its finished parts
    word: _Array  # last word as a dictionary word
    quoted: _Array  # last word as a dictionary word and a mark, if it ends in one that the n-grams know
    number: _Array  # last word as a number
    anything: _Array  # last word as any string
    row: _Array  # context of the language's n-grams
    number_row: _Array  # context of the n-grams of numbers
    letters: _Array  # characters since the language's word began
    size: _Array  # characters of the last word
    case: _Array  # pattern of capitals

    def take(self, rows: _Array, columns: _Array) -> PriorState:
        """Return the states of other prefixes."""
        return PriorState._make(values[rows, columns] for values in self)


class LanguagePrior:
    """Score that a language adds to texts of a charset.

    ``weight`` is the factor of the log-probability, 0 to 10. The bonus per character, 7/3 of it, makes up for the
    language's bias against long texts.
    """

    def __init__(self, language: Language, charset: Charset, weight: float = DEFAULT_WEIGHT) -> None:
        self.language, self.charset, self.weight, self.bonus = language, charset, weight, weight * 7.0 / 3.0
        self.numbers = load_numbers()
        self._cased = charset.characters not in (charset.characters.lower(), charset.characters.upper())
        self.space = charset.encode(" ")[0] if " " in charset else -1  # its class id
        characters = [*charset.characters, ""]  # the blank stands for nothing that follows

        def which(holds: Callable[[str], bool]) -> _Bools:
            return np.array([holds(character) for character in characters])

        symbols = np.array([language.symbol(character) for character in characters])
        self._symbols = np.maximum(symbols, 0)
        space, digit = which(" ".__eq__), which(str.isdecimal)  # digits that the n-grams know are digits as well
        inner = (symbols >= 0) & which(lambda c: unicodedata.category(c or " ").startswith("P"))
        values = [_A_SPACE, _INNER_MARK, _WORDLIKE, _A_DIGIT]
        self._kinds = np.select([space, inner, symbols >= 0, digit], values, _A_MARK)
        self._cases = np.select([which(str.islower), which(str.isupper)], [1, 2], 0) * self._cased
        mark, common = ~which(str.isalnum) & ~space, which(_COMMON_MARKS.__contains__)
        self._apart = np.where(which(_CLOSING_MARKS.__contains__), _CLOSING_MARK_APART, 0.0)
        kinds = [digit, mark & common, mark]
        # Superscripts are digits that are not decimal: no part of numbers.
        forms = ["0" if c.isdecimal() else "" if c.isdigit() else c for c in characters]
        in_numbers = np.array([self.numbers.symbol(form) for form in forms])
        self._number_symbols = np.maximum(in_numbers, 0)
        self._number_cost = np.select([digit, in_numbers >= 0], [_DIGIT, 0.0], -np.inf)
        self._any_cost = np.select(kinds, [_ANY_DIGIT, _ANY_MARK, _ANY_RARE_MARK], _ANY_LETTER)
        self._word_mark_cost = np.select(kinds, [_DIGIT_AT_WORD, _MARK_AT_WORD, _RARE_MARK_AT_WORD], -np.inf)
        # Marks with which words of the n-grams begin, such as the Dutch 'n.
        first = language.log_prob(np.zeros(len(characters), dtype=np.int32), self._symbols)
        self._begins = inner & (first > self._word_mark_cost)

    def tables(self) -> dict[str, Any]:
        """Return its numbers as JSON values, for readers in other languages; -inf is ``None``."""
        costs = {
            "number_cost": self._number_cost, "any_cost": self._any_cost, "word_mark_cost": self._word_mark_cost,
            "apart_cost": self._apart,
        }  # fmt: skip
        return {
            "weight": self.weight, "bonus": self.bonus, "space": self.space, "symbols": self._symbols.tolist(),
            "number_symbols": self._number_symbols.tolist(), "kinds": self._kinds.tolist(),
            "begins": self._begins.tolist(), "cases": self._cases.tolist(), "case_costs": _CASE_COSTS.tolist(),
            "case_after": _CASE_AFTER.tolist(),
            **{name: [x if x > -np.inf else None for x in values.tolist()] for name, values in costs.items()},
            "parts": {
                "word": _WORD, "number": _NUMBER, "anything": _ANYTHING, "anything_again": _ANYTHING_AGAIN,
                "space": _SPACE, "stray_space": _STRAY_SPACE, "nothing": _NOTHING,
            },
        }  # fmt: skip

    def start(self, num_samples: int) -> PriorState:
        """Return the state of the empty text of each image."""
        shape = (num_samples, 1)
        scores = (np.full(shape, value) for value in (0.0, _WORD, -np.inf, _NUMBER, _ANYTHING))
        row, zeros = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int64)
        return PriorState._make((*scores, row, row, zeros, zeros, zeros))

    def total(self, state: PriorState, lengths: _Array) -> _Doubles:
        """Return the score added to prefixes, ``(N, B)``, whose last word may go on."""
        token = _sum(state.word, state.quoted, state.number, state.anything)
        return self.weight * (state.done + token + _CASE_COSTS[state.case]) + self.bonus * lengths

    def final(self, state: PriorState, lengths: _Array) -> _Doubles:
        """Return the score added to whole texts, ``(N, B)``."""
        stray = np.where(state.size == 0, np.where(lengths > 0, _STRAY_SPACE, _NOTHING), 0.0)
        return self.weight * (state.done + self._token(state) + stray) + self.bonus * lengths

    def extended(self, state: PriorState, classes: _Array, lengths: _Array) -> _Doubles:
        """Return ``total`` of prefixes with ``classes`` ``(N, K)`` behind them, ``(N, B, K)``, without their states."""
        kinds = self._kinds[classes][:, None, :]
        grams = self.language.log_prob(state.row[:, :, None], self._symbols[classes][:, None, :])
        letter = state.word[:, :, None] + grams
        mark = self._whole_word(state)[:, :, None] + self._word_mark_cost[classes][:, None, :]
        within = (state.letters[:, :, None] > 0) | self._begins[classes][:, None, :]
        either = np.where(within, np.logaddexp(letter, mark), mark)
        word = np.where(kinds == _WORDLIKE, letter, np.where(kinds == _INNER_MARK, either, mark))
        grams = self.numbers.log_prob(state.number_row[:, :, None], self._number_symbols[classes][:, None, :])
        number = state.number[:, :, None] + grams + self._number_cost[classes][:, None, :]
        anything = state.anything[:, :, None] + self._any_cost[classes][:, None, :]
        done = state.done[:, :, None] + np.where(_after_space(state)[:, :, None], self._apart[classes][:, None, :], 0.0)
        if self._cased:
            case = state.case[:, :, None]
            after = _CASE_AFTER[case, self._cases[classes][:, None, :]]
            done = done + _CASE_COSTS[np.where(kinds == _A_MARK, case, after)]
        totals = done + _sum(word, number, anything)
        if self.space >= 0:
            after_space = state.done + self._token(state) + np.where(state.size > 0, _SPACE, _STRAY_SPACE)
            totals = np.where(kinds == _A_SPACE, after_space[:, :, None], totals)
        return self.weight * totals + self.bonus * (lengths[:, :, None] + 1)

    def advanced(self, state: PriorState, added: _Array, is_new: _Bools) -> PriorState:
        """Return the states after the classes ``added`` ``(N, B)``, where ``is_new``."""
        after = self._after(state, added)
        return PriorState._make(np.where(is_new, new, old) for new, old in zip(after, state, strict=True))

    def score(self, ids: _Array, lengths: _Array) -> tuple[_Doubles, _Doubles]:
        """Return the score added to texts ``(M, L)`` of ``padded``, and a bound on what another text gets beyond it.

        The bound, ``(M,)`` like the score, is the gap between each word and the likeliest of about its length.
        """
        state = self.start(len(ids))
        gaps = np.zeros(len(ids))
        spaces = self._kinds[ids] == _A_SPACE
        for place in range(int(lengths.max(initial=0))):
            inside = lengths > place
            ends = inside & spaces[:, place]
            if ends.any():
                gaps[ends] += self._gap(state)[ends, 0]
            state = self.advanced(state, ids[:, place : place + 1], inside[:, None])
        gaps += self._gap(state)[:, 0]
        written = np.arange(1, ids.shape[1]) < lengths[:, None]
        gaps -= self.weight * (self._apart[ids[:, 1:]] * (spaces[:, :-1] & written)).sum(axis=1)
        return self.final(state, lengths[:, None])[:, 0], gaps

    def _gap(self, state: PriorState) -> _Doubles:
        best = np.array([0.0, *self.language.best])
        size = np.minimum(state.size, best.size - 1)
        shorter, longer = best[np.maximum(size - 1, 1)], best[np.minimum(size + 1, best.size - 1)]
        around: _Doubles = np.maximum(np.maximum(shorter, longer), best[size])
        return self.weight * np.maximum(around + _WORD - self._token(state), 0.0)

    def least(self, texts: Sequence[Sequence[int]]) -> tuple[_Doubles, _Doubles]:
        """Return a lower bound of ``score`` and an upper one of its gap, cheaply: every word is at least any string."""
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        flat = np.fromiter(itertools.chain.from_iterable(texts), dtype=np.int64, count=int(lengths.sum()))
        rows = np.repeat(np.arange(len(texts)), lengths)
        spaces = np.bincount(rows, self._kinds[flat] == _A_SPACE, minlength=len(texts))
        strings = np.bincount(rows, self._any_cost[flat], minlength=len(texts)) + (spaces + 1) * _ANYTHING
        apart = self._apart[flat[1:]] * ((self._kinds[flat[:-1]] == _A_SPACE) & (rows[1:] == rows[:-1]))
        strings += np.bincount(rows[1:], apart, minlength=len(texts))
        may_end_case = np.isin(self._kinds[flat], (_A_MARK, _INNER_MARK))  # each such mark ends a pattern of capitals
        marks = np.bincount(rows, may_end_case, minlength=len(texts))
        case = (spaces + marks + 1) * (float(_CASE_COSTS.min()) if self._cased else 0.0)
        least = self.weight * (strings + (spaces + 1) * _STRAY_SPACE * (spaces > 0) + case) + self.bonus * lengths
        likeliest = max(self.language.best) + _WORD
        return least, self.weight * np.maximum((spaces + 1) * likeliest - strings - case - spaces * _STRAY_SPACE, 0.0)

    def _whole_word(self, state: PriorState) -> _Doubles:
        """Return the log-probability of the last word as a dictionary word that ends here, or has not begun."""
        end = np.where(state.letters > 0, self.language.log_prob(state.row, self.language.end), 0.0)
        whole: _Doubles = np.logaddexp(state.word + end, state.quoted)
        return whole

    def _whole_number(self, state: PriorState) -> _Doubles:
        """Return the log-probability of the last word as a number that ends here."""
        return state.number + self.numbers.log_prob(state.number_row, self.numbers.end)

    def _token(self, state: PriorState) -> _Doubles:
        """Return the log-probability of the last word ending here; 0 before it begins."""
        token = _sum(self._whole_word(state), self._whole_number(state), state.anything)
        return np.where(state.size > 0, token + _CASE_COSTS[state.case], 0.0)

    def _unknown(self, state: PriorState) -> _Doubles:
        """Return the log-probability that the next word is any string, by how likely the last one was."""
        known = np.logaddexp(self._whole_word(state), self._whole_number(state))
        share = np.where(state.size > 0, 1.0 / (1.0 + np.exp(np.minimum(known - state.anything, 700.0))), 0.0)
        unknown: _Doubles = np.log(np.exp(_ANYTHING) + share * (np.exp(_ANYTHING_AGAIN) - np.exp(_ANYTHING)))
        return unknown

    def _after(self, state: PriorState, added: _Array) -> PriorState:
        kind, symbol = self._kinds[added], self._symbols[added]
        is_space, inner = kind == _A_SPACE, kind == _INNER_MARK
        is_letter = (kind == _WORDLIKE) | (inner & ((state.letters > 0) | self._begins[added]))
        is_mark = (kind == _A_MARK) | (inner & ~is_letter)
        is_other = ~is_letter & ~is_space  # ends a word of the dictionary, and another may follow
        mark = self._whole_word(state) + self._word_mark_cost[added]
        word = np.where(is_letter, state.word + self.language.log_prob(state.row, symbol), mark)
        quoted = np.where(is_letter & inner, mark, -np.inf)
        row = np.where(is_other | is_space, np.int32(0), state.row)
        if is_letter.any():
            row[is_letter] = self.language.following(state.row[is_letter], symbol[is_letter])
        # A mark ends a part of a word, and the pattern of its capitals.
        done = state.done + np.where(is_mark, _CASE_COSTS[state.case], 0.0)
        done = done + np.where(_after_space(state), self._apart[added], 0.0)
        case = np.where(is_mark, 0, _CASE_AFTER[state.case, self._cases[added]])
        letters = np.where(is_letter, state.letters + 1, np.where(is_other, 0, state.letters))
        grams = self.numbers.log_prob(state.number_row, self._number_symbols[added])
        number, anything = state.number + grams + self._number_cost[added], state.anything + self._any_cost[added]
        number_row = self.numbers.following(state.number_row, self._number_symbols[added])
        size = state.size + 1
        if is_space.any():
            space_cost = np.where(state.size > 0, _SPACE, _STRAY_SPACE)
            done = np.where(is_space, state.done + self._token(state) + space_cost, done)
            unknown = self._unknown(state)
            rest = np.log1p(-np.exp(unknown)) - np.log1p(-np.exp(_ANYTHING))
            word, number = np.where(is_space, _WORD + rest, word), np.where(is_space, _NUMBER + rest, number)
            anything = np.where(is_space, unknown, anything)
            number_row = np.where(is_space, np.int32(0), number_row)
            letters, size, case = (np.where(is_space, 0, value) for value in (letters, size, case))
        return PriorState(done, word, quoted, number, anything, row, number_row, letters, size, case)


def _after_space(state: PriorState) -> _Bools:
    """Return the prefixes that end in a space: no character of their last word, and the cost of others."""
    return np.asarray((state.size == 0) & (state.done < 0.0))


def padded(texts: Sequence[Sequence[int]], longest: int = 1) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return texts as a zero-filled array ``(M, L)``, with L at least ``longest``, and their lengths."""
    lengths = np.fromiter(map(len, texts), dtype=np.intp, count=len(texts))
    ids = np.zeros((len(texts), int(lengths.max(initial=longest))), dtype=np.intp)
    ids[np.arange(ids.shape[1]) < lengths[:, None]] = list(itertools.chain.from_iterable(texts))
    return ids, lengths


def _sum(*parts: _Doubles) -> _Doubles:
    """Return log(sum(exp)) of parts, of which at least one is finite."""
    largest = functools.reduce(np.maximum, parts)
    total = np.exp(parts[0] - largest)
    for part in parts[1:]:
        total += np.exp(part - largest)
    return largest + np.log(total)
