"""The likeliest texts, exactly: of all texts, or of those that match a pattern.

Best-first search over prefixes. A prefix is opened when nothing promises more: its extensions get upper bounds, and
so does, with its own probability, the text that ends there. A text whose probability is above every bound is the
likeliest one; going on gives the next ones. What the search does not open it need not know, so that a clear picture
takes about as many steps as its text has characters.

Graves' bound is the probability of all texts that begin with a prefix. Ours is tighter, and knows the pattern: for
every step and state of the automaton, the most that the steps behind can give *one* text that is accepted. It is
computed backwards, as a sum over what one text may do (stay, pause) and a maximum over how texts go on:

    blank_t(q) = y_t(blank) blank_t+1(q) + max_k y_t(k) char_t+1(q k, k)
    char_t(q, c) = y_t(blank) blank_t+1(q) + y_t(c) char_t+1(q, c) + max_{k != c} y_t(k) char_t+1(q k, k)

A maximum of sums is never above this sum of maxima; so it is a bound, and what is found is exact.

Shape letters: N batch, T time steps, V classes with the blank (the last one, V - 1), A arcs of the automaton. All
logarithms are natural. Numpy only.

References:
    Graves et al. 2006, "Connectionist Temporal Classification", section 3.2 (prefix search decoding);
    Hart, Nilsson and Raphael 1968, "A formal basis for the heuristic determination of minimum cost paths".
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crnn.decoding.beam import describe_texts
from crnn.decoding.ctc import DecodedText, sequence_log_probs
from crnn.decoding.log_probs import log_probs_shape
from crnn.decoding.pattern import Pattern
from crnn.errors import ConfigError, DataError

__all__ = ["MAX_EXPANSIONS", "ExactTexts", "decode_exact", "search_exact"]

_Floats = npt.NDArray[np.floating[Any]]
_Doubles = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.intp]
_Text = tuple[int, ...]

MAX_EXPANSIONS = 5_000
"""Prefixes that are opened in one sample, where nothing else is said; some tenths of a second."""

_SAME = 1e-9
"""Texts whose scores differ by less are found together, so that their order does not hang on rounding."""

_MAX_NUMBERS = 1 << 22  # of bounds that are held at once


@dataclass(frozen=True, slots=True)
class ExactTexts:
    """The likeliest texts of one sample.

    Attributes:
        texts: Pairs of ids and log-probability (``sequence_log_probs``), the best first, equal scores by ids. Fewer
            than were asked for, or none, where no more texts match and have a probability above 0.
        proven: Whether these are the likeliest ones for certain. If not, the search was ended by its limit, and these
            are the best that it met.
        expansions: Prefixes that were opened.
    """

    texts: tuple[tuple[_Text, float], ...]
    proven: bool
    expansions: int


def search_exact(
    log_probs: _Floats, pattern: Pattern | None = None, n_best: int = 1, max_expansions: int = MAX_EXPANSIONS
) -> list[ExactTexts]:
    """The likeliest texts that match a pattern.

    Args:
        log_probs: ``(N, T, V)``.
        pattern: What a text must match. Default: any text.
        n_best: How many texts to find, at least 1.
        max_expansions: Prefixes that may be opened in one sample, at least 1. Flat log-probabilities, of a picture that
            shows nothing, may need more than anybody can wait for.

    Returns:
        One result for each sample.

    Raises:
        DataError: The shape is wrong, or the pattern is for another number of classes.
        ConfigError: ``n_best`` or ``max_expansions`` is below 1.

    Reference:
        Graves et al. 2006, section 3.2, with the bound of this module.
    """
    num_samples, num_steps, num_classes = log_probs_shape(log_probs)
    if n_best < 1 or max_expansions < 1:
        raise ConfigError(f"n_best is {n_best} and max_expansions is {max_expansions}; expected at least 1")
    pattern = Pattern.everything(num_classes) if pattern is None else pattern
    if pattern.num_classes != num_classes:
        raise DataError(
            f"log_probs have shape {log_probs.shape}, so {num_classes} classes, the pattern is for "
            f"{pattern.num_classes}; expected the charset that the pattern was compiled for"
        )
    arcs = _Arcs.of(pattern)
    chunk = max(1, _MAX_NUMBERS // max(1, num_steps * arcs.symbols.size))
    searches: list[_Search] = []
    for first in range(0, num_samples, chunk):
        scores = log_probs[first : first + chunk].astype(np.float64)
        for sample, promises in zip(scores, arcs.promises(scores), strict=True):
            search = _Search(sample, promises, arcs)
            search.find(n_best, max_expansions)
            searches.append(search)
    rows = np.repeat(np.arange(num_samples), [len(search.found) for search in searches])
    texts = [text for search in searches for text in search.found]
    pairs = iter(zip(texts, sequence_log_probs(log_probs, texts, rows).tolist(), strict=True))
    results = []
    for search in searches:
        own = [next(pairs) for _ in search.found]
        ranked = sorted((pair for pair in own if pair[1] > -np.inf), key=lambda pair: (-pair[1], pair[0]))
        results.append(ExactTexts(tuple(ranked[:n_best]), search.proven, search.expansions))
    return results


def decode_exact(
    log_probs: _Floats, pattern: Pattern | None = None, max_expansions: int = MAX_EXPANSIONS
) -> list[DecodedText]:
    """The likeliest text of each sample that matches a pattern, with the spans of its best alignment.

    Where no text of T steps matches, or those that do have the probability 0, the reading is the empty text, with the
    score -inf. Where the search meets its limit, the reading is the best text that it met (``search_exact`` tells).

    Args:
        log_probs: ``(N, T, V)``.
        pattern: What the text must match. Default: any text.
        max_expansions: As for ``search_exact``.

    Raises:
        DataError: As for ``search_exact``.
        ConfigError: As for ``search_exact``.
    """
    nothing: tuple[_Text, float] = ((), -np.inf)
    found = search_exact(log_probs, pattern, 1, max_expansions)
    return describe_texts(log_probs, [result.texts[0] if result.texts else nothing for result in found])


# ---------------------------------------------------------------------------------------------------------------------
# What the steps behind can give


@dataclass(frozen=True, slots=True)
class _Arcs:
    """The steps of an automaton in order of the state that they leave; each state has one more, of no use, at its end.

    An arc stands also for the state that it leads to together with the character that was written last.
    """

    first: _Indices  # (S + 1,) where those of each state begin
    symbols: _Indices  # (A,) 0 for those of no use
    target: _Indices  # (A,) 0 for those of no use
    useless: npt.NDArray[np.bool_]  # (A,)
    again: _Indices  # (A,) the arc from the target with the same character; if there is none, the useless one there
    accepting: npt.NDArray[np.bool_]  # (S,)

    @classmethod
    def of(cls, pattern: Pattern) -> _Arcs:
        num_states, num_characters = pattern.following.shape
        following = np.concatenate([pattern.following, np.zeros((num_states, 1), np.int32)], axis=1)
        states, symbols = np.nonzero(following >= 0)
        number = np.cumsum(following >= 0).reshape(following.shape) - 1  # of each arc
        target = following[states, symbols].astype(np.intp)
        goes_on = following[target, symbols] >= 0
        useless = symbols == num_characters
        return cls(
            first=np.searchsorted(states, np.arange(num_states + 1)),
            symbols=np.where(useless, 0, symbols),
            target=target,
            useless=useless,
            again=number[target, np.where(goes_on, symbols, num_characters)],
            accepting=pattern.accepting,
        )

    def promises(self, scores: _Doubles) -> _Doubles:
        """The most that one text can have from each step on which it takes an arc, ``(N, T, A)``.

        Args:
            scores: ``(N, T, V)``.
        """
        num_samples, num_steps, _ = scores.shape
        found = np.empty((num_samples, num_steps, self.symbols.size))
        starts = self.first[:-1]
        leaves = np.repeat(np.arange(starts.size), np.diff(self.first))
        on_blank = np.broadcast_to(np.where(self.accepting, 0.0, -np.inf), (num_samples, starts.size))
        on_char = on_blank[:, self.target]
        for t in range(num_steps - 1, -1, -1):
            stay = scores[:, t, self.symbols] + on_char
            taken = np.where(self.useless, -np.inf, stay)
            found[:, t] = taken
            best = np.maximum.reduceat(taken, starts, axis=1)  # (N, S)
            is_best = taken == best[:, leaves]
            is_only = np.add.reduceat(is_best, starts, axis=1, dtype=np.intp) == 1
            other = np.maximum.reduceat(np.where(is_best, -np.inf, taken), starts, axis=1)
            pause = scores[:, t, -1:] + on_blank
            on_blank = _log_sum(pause, best)
            # The same character again is no step of the automaton; it is one after a blank only.
            excluded = is_best[:, self.again] & is_only[:, self.target]
            moves = np.where(excluded, other[:, self.target], best[:, self.target])
            on_char = _log_sum(_log_sum(pause[:, self.target], stay), moves)
        return found


def _log_sum(a: _Doubles, b: _Doubles) -> _Doubles:
    """``logaddexp``, in a quarter of its time."""
    high = np.maximum(a, b)
    # Where both are -inf their difference is not a number, and the maximum the right answer.
    gap = np.minimum(a, b) - np.maximum(high, -1e300)
    total: _Doubles = high + np.log1p(np.exp(gap))
    return total


# ---------------------------------------------------------------------------------------------------------------------
# The search in one sample


@dataclass(frozen=True, slots=True)
class _Prefix:
    """An opened prefix.

    ``blanks[t]`` and ``totals[t]`` are log-probabilities of the paths of the first t steps that collapse to it: those
    that end in a blank, and all.
    """

    text: _Text
    state: int
    blanks: _Doubles  # (T + 1,)
    totals: _Doubles  # (T + 1,)


@dataclass(frozen=True, slots=True)
class _Extensions:
    """The extensions of a prefix, the most promising first."""

    prefix: _Prefix
    arcs: list[int]
    bounds: list[float]


class _Search:
    """Opens prefixes of one sample until the likeliest texts are known.

    Args:
        scores: ``(T, V)``.
        promises: ``(T, A)``.
        arcs: Of the pattern.
    """

    def __init__(self, scores: _Doubles, promises: _Doubles, arcs: _Arcs) -> None:
        self._scores = scores
        self._promises = promises
        self._arcs = arcs
        self._sums = np.zeros((scores.shape[0] + 1, scores.shape[1]))
        np.cumsum(scores, axis=0, out=self._sums[1:])
        self._finite = np.isfinite(self._sums[-1]).tolist()
        self._heap: list[tuple[float, int, _Text | _Extensions, int]] = []
        self._pushed = 0
        self.expansions = 0
        self.found: list[_Text] = []
        self.proven = True

    def find(self, n_best: int, max_expansions: int) -> None:
        """Find texts; they may be more than ``n_best``, in no order, when some are as likely as the last of them."""
        self._open(self._root())
        bar = -np.inf
        while self._heap and -self._heap[0][0] >= bar:
            cost, _, item, place = heapq.heappop(self._heap)
            if isinstance(item, tuple):
                self.found.append(item)
                if len(self.found) == n_best:
                    bar = -cost - _SAME
            elif self.expansions >= max_expansions:
                if len(self.found) < n_best:
                    self.proven = False
                    self._settle(item, place)
                return
            else:
                if place + 1 < len(item.arcs):
                    self._push(item.bounds[place + 1], item, place + 1)
                self._open(self._extend(item.prefix, item.arcs[place]))

    def _push(self, bound: float, item: _Text | _Extensions, place: int = 0) -> None:
        self._pushed += 1  # so that entries of equal bounds need no comparison of what they hold
        heapq.heappush(self._heap, (-bound, self._pushed, item, place))

    def _open(self, prefix: _Prefix) -> _Extensions:
        """Put what a prefix leads to on the heap: the text that ends there, and its extensions."""
        self.expansions += 1
        score = float(prefix.totals[-1])
        if self._arcs.accepting[prefix.state] and score > -np.inf:
            self._push(score, prefix.text)
        start, end = self._arcs.first[prefix.state : prefix.state + 2].tolist()
        symbols = self._arcs.symbols[start:end]
        values = self._promises[:, start:end] + prefix.totals[:-1, None]
        if prefix.text:
            last = int(np.searchsorted(symbols[:-1], prefix.text[-1]))
            if last < end - start - 1 and symbols[last] == prefix.text[-1]:
                values[:, last] = self._promises[:, start + last] + prefix.blanks[:-1]
        bounds = np.logaddexp.reduce(values, axis=0)
        order = np.argsort(-bounds, kind="stable")
        order = order[: np.count_nonzero(bounds > -np.inf)]
        extensions = _Extensions(prefix, (order + start).tolist(), bounds[order].tolist())
        if extensions.arcs:
            self._push(extensions.bounds[0], extensions)
        return extensions

    def _root(self) -> _Prefix:
        blanks = self._sums[:, -1]
        return _Prefix((), 0, blanks, blanks)

    def _extend(self, prefix: _Prefix, arc: int) -> _Prefix:
        k = int(self._arcs.symbols[arc])
        entering = prefix.blanks if prefix.text and prefix.text[-1] == k else prefix.totals
        chars = self._run(entering[:-1], k)
        blanks = self._run(chars[:-1], self._scores.shape[1] - 1)
        return _Prefix((*prefix.text, k), int(self._arcs.target[arc]), blanks, np.logaddexp(blanks, chars))

    def _run(self, entering: _Doubles, k: int) -> _Doubles:
        """``run[t + 1] = (run[t] + entering[t]) y_t(k)`` with ``run[0] = 0``, of probabilities, in logarithms."""
        result = np.full(entering.size + 1, -np.inf)
        if self._finite[k]:
            sums = self._sums[:, k]
            np.logaddexp.accumulate(entering - sums[:-1], out=result[1:])
            result[1:] += sums[1:]
            return result
        for t, score in enumerate(self._scores[:, k].tolist()):
            result[t + 1] = np.logaddexp(result[t], entering[t]) + score
        return result

    def _settle(self, extensions: _Extensions, place: int) -> None:
        """At the limit: take the texts that were met, and those that the best promise leads to."""
        met = [item for _, _, item, _ in self._heap if isinstance(item, tuple)]
        best = -np.inf
        while place < len(extensions.arcs) and extensions.bounds[place] > best:
            prefix = self._extend(extensions.prefix, extensions.arcs[place])
            score = float(prefix.totals[-1])
            if self._arcs.accepting[prefix.state] and score > -np.inf:
                met.append(prefix.text)
                best = max(best, score)
            extensions, place = self._open(prefix), 0
        self.found = list(dict.fromkeys([*self.found, *met]))
