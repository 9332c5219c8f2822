"""Character n-grams: how likely a text is before one has looked at the picture.

``CharacterModel`` learns from words which characters follow which, and gives for any beginnings of texts at once the
log-probabilities of what comes next, so that the beam (``crnn.decoding.beam``) can weigh them with what the network
sees.

The model is a trie of n-grams. A *state* is a context: the longest end of what was written, at most ``order - 1``
symbols, that was seen with something behind it. A word begins with a mark of its own and ends with one, which the model
predicts as well; the end has the class id of the blank, so that a row of V numbers is the characters and the end.

Smoothing is Witten and Bell's, interpolated: in a context h, seen ``c(h)`` times with ``t(h)`` different symbols,

    p(k | h) = (c(hk) + t(h) p(k | h')) / (c(h) + t(h)),        h' = h without its first symbol,

and below the empty context all V symbols are equally likely, so that no text is impossible. Counts may be fractions,
which is why it is not Kneser and Ney's, whose discounts come from counts of counts; on a tenth of the shipped words,
kept apart, the difference is 0.3 % of the bits per character at order 5.

Shape letters: M states or texts, V classes with the blank (the last one, V - 1). All logarithms are natural; numpy
only.

References:
    Witten and Bell 1991, "The zero-frequency problem", IEEE Transactions on Information Theory 37(4), method C;
    Chen and Goodman 1999, "An empirical study of smoothing techniques for language modeling" (among
    others its interpolated form).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crnn.charset import Charset, LabelRules
from crnn.decoding.ngram_counts import DEFAULT_ORDER, NgramCounts, count_ngrams
from crnn.errors import DataError

__all__ = ["CharacterModel"]

_Floats = npt.NDArray[np.float32]
_Doubles = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.intp]

_DENSE_BYTES = 256 << 20
"""Up to this size the rows of all states are computed once; those of a larger model when they are asked for."""


class CharacterModel:
    """What character comes next: log-probabilities for any number of contexts at once.

    Args:
        counts: From ``count_ngrams``, or from a file (``crnn.decoding.language_model_file``).

    Raises:
        DataError: The counts contradict themselves.

    Attributes:
        charset: What its texts are written in.
        order: Longest n-gram that it knows.
        num_words: Words that it learned from.
        num_states: Contexts that it tells apart.
        start: The state before the first character.
        counts: What it is made of.
    """

    def __init__(self, counts: NgramCounts) -> None:
        self.charset = Charset(counts.characters)
        self.order = counts.order
        self.num_words = counts.num_words
        self.counts = counts
        self._trie = _Trie.of(counts, self.charset.num_classes)
        self.num_states = self._trie.suffix.size
        self.start = self._trie.start
        self._rows: tuple[_Floats, npt.NDArray[np.int32]] | None = None
        if self.num_states * self.charset.num_classes * 8 <= _DENSE_BYTES:
            self._rows = self._trie.all_rows()

    @classmethod
    def train(
        cls,
        words: Iterable[str | tuple[str, float]],
        charset: Charset,
        order: int = DEFAULT_ORDER,
        rules: LabelRules | None = None,
    ) -> CharacterModel:
        """A model of these words; for the arguments and what is raised see ``count_ngrams``."""
        return cls(count_ngrams(words, charset, order, rules)[0])

    def next_log_probs(self, states: _Indices) -> tuple[_Floats, npt.NDArray[np.int32]]:
        """What may come next in each of some contexts.

        Args:
            states: Any shape ``(...)``, each in [0, num_states).

        Returns:
            ``(..., V)`` float32, all finite: log-probabilities of the characters and, in the last column, of the end;
            and ``(..., V - 1)``, the state that each character leads to.
        """
        if self._rows is not None:
            log_probs, following = self._rows
            return log_probs[states], following[states]
        once, places = np.unique(states, return_inverse=True)
        log_probs, following = self._trie.rows(once)
        places = places.reshape(states.shape)
        return log_probs[places], following[places]

    def log_probs(self, targets: Sequence[Sequence[int]]) -> _Doubles:
        """Log-probability of each text, its end included.

        Args:
            targets: M sequences of class ids in [0, V - 1).

        Returns:
            ``(M,)`` float64, below 0. Those of all texts sum to 1.

        Raises:
            DataError: An id is not a character's.
        """
        end = self.charset.blank
        lengths = np.fromiter(map(len, targets), dtype=np.intp, count=len(targets))
        ids = np.full((len(targets), int(lengths.max(initial=0)) + 1), end, dtype=np.intp)
        flat = np.fromiter(itertools.chain.from_iterable(targets), dtype=np.intp, count=int(lengths.sum()))
        if flat.size and not 0 <= flat.min() <= flat.max() < end:
            raise DataError(f"targets have class ids from {flat.min()} to {flat.max()}; expected 0 to {end - 1}")
        ids[np.arange(ids.shape[1]) < lengths[:, None]] = flat
        totals = np.zeros(len(targets))
        states = np.full(len(targets), self.start, dtype=np.intp)
        for place in range(ids.shape[1]):
            every = np.flatnonzero(lengths >= place)
            symbols = ids[every, place]
            log_probs, following = self.next_log_probs(states[every])
            rows = np.arange(every.size)
            totals[every] += log_probs[rows, symbols]
            states[every] = following[rows, np.minimum(symbols, end - 1)]
        return totals


# ---------------------------------------------------------------------------------------------------------------------
# The trie of a model


@dataclass(frozen=True, slots=True)
class _Trie:
    """States and what was seen in them. An arc is a symbol that was seen in a state."""

    suffix: _Indices  # (states,) the state without its first symbol; -1 for the empty one
    shared: _Doubles  # (states,) t(h) / (c(h) + t(h)): what is left to the suffix
    first: _Indices  # (states + 1,) where the arcs of a state begin
    symbols: _Indices  # (arcs,)
    own: _Doubles  # (arcs,) c(hk) / (c(h) + t(h))
    target: _Indices  # (arcs,) the state that it leads to
    levels: _Indices  # (order,) the first state of each length; their order is by length
    start: int
    num_classes: int

    @classmethod
    def of(cls, counts: NgramCounts, num_classes: int) -> _Trie:
        """From counts that may come from anywhere.

        Raises:
            DataError: They contradict themselves.
        """
        begin, children = num_classes, counts.children.astype(np.intp)
        symbols, number = counts.symbols.astype(np.intp), counts.counts.astype(np.float64)
        ok = symbols.size > 0 and children.size == symbols.size + 1 == children.sum() + 1
        ok = ok and symbols.max() <= begin and bool(np.isfinite(number).all()) and number.min() >= 0.0
        ok = ok and bool((np.repeat(np.arange(children.size), children) <= np.arange(symbols.size)).all())
        if not ok:
            raise DataError("the n-grams contradict themselves; expected counts of count_ngrams")
        parent = np.repeat(np.arange(children.size), children)  # of node 1, 2, ...
        suffix, level = _suffixes(parent, symbols, begin + 1)
        is_state = (children > 0) | (np.arange(children.size) == 0)
        if level.max() > counts.order:
            raise DataError(f"the n-grams are up to {level.max()} symbols long; expected order {counts.order} at most")
        # The longest end of each n-gram that is a state, from short ones to long ones.
        longest = np.where(is_state, np.arange(children.size), 0)
        for length in range(1, counts.order + 1):
            nodes = np.flatnonzero((level == length) & ~is_state)
            longest[nodes] = longest[suffix[nodes]]
        states = np.flatnonzero(is_state)
        state_of = np.cumsum(is_state) - 1
        seen = np.bincount(parent, number, minlength=children.size)[states]
        kinds = np.bincount(parent, number > 0, minlength=children.size)[states]
        total = np.maximum(seen + kinds, 1e-300)  # a context with nothing behind it but marks leaves all to its suffix
        shared = np.where(seen > 0, kinds / total, 1.0)
        opening = np.flatnonzero((parent == 0) & (symbols == begin)) + 1
        return cls(
            suffix=np.where(states > 0, state_of[longest[suffix[states]]], -1),
            shared=shared,
            first=np.concatenate([[0], np.cumsum(children[states])]),
            symbols=symbols,
            own=number / total[state_of[parent]],
            target=state_of[longest[1:]],
            levels=np.searchsorted(level[states], np.arange(counts.order)),
            start=int(state_of[longest[opening[0]]]) if opening.size else 0,
            num_classes=num_classes,
        )

    def rows(self, states: _Indices) -> tuple[_Floats, npt.NDArray[np.int32]]:
        """As ``CharacterModel.next_log_probs``, for ``(M,)``: from the empty context to the longest one."""
        probabilities = np.full((states.size, self.num_classes), 1.0 / self.num_classes)
        following = np.zeros((states.size, self.num_classes), dtype=np.int32)
        chain = [states]
        while (chain[-1] >= 0).any():
            chain.append(np.where(chain[-1] >= 0, self.suffix[chain[-1]], -1))
        for contexts in reversed(chain):
            known = np.flatnonzero(contexts >= 0)
            probabilities[known] *= self.shared[contexts[known]][:, None]
            self._add(contexts[known], known, probabilities, following)
        return np.log(probabilities).astype(np.float32), following[:, :-1]

    def all_rows(self) -> tuple[_Floats, npt.NDArray[np.int32]]:
        """The same, number for number, for every state: each takes one step from its suffix."""
        probabilities = np.full((self.suffix.size, self.num_classes), 1.0 / self.num_classes)
        following = np.zeros(probabilities.shape, dtype=np.int32)
        for first, end in itertools.pairwise([*self.levels.tolist(), self.suffix.size]):
            states = np.arange(first, end)
            if first:
                probabilities[first:end] = probabilities[self.suffix[states]]
                following[first:end] = following[self.suffix[states]]
            probabilities[first:end] *= self.shared[states][:, None]
            self._add(states, states, probabilities, following)
        np.log(probabilities, out=probabilities)
        return probabilities.astype(np.float32), np.ascontiguousarray(following[:, :-1])

    def _add(self, states: _Indices, rows: _Indices, probabilities: _Doubles, following: npt.NDArray[np.int32]) -> None:
        """Put what was seen in some states into their rows."""
        lengths = self.first[states + 1] - self.first[states]
        arcs = np.arange(lengths.sum()) + np.repeat(self.first[states] - (np.cumsum(lengths) - lengths), lengths)
        places, symbols = np.repeat(rows, lengths), self.symbols[arcs]
        predicted = symbols < self.num_classes
        places, symbols, arcs = places[predicted], symbols[predicted], arcs[predicted]
        probabilities[places, symbols] += self.own[arcs]
        following[places, symbols] = self.target[arcs]


def _suffixes(parent: _Indices, symbols: _Indices, base: int) -> tuple[_Indices, _Indices]:
    """For each node the one without its first symbol, and its length.

    Raises:
        DataError: One of them is not there.
    """
    keys = parent * base + symbols  # ascending, as nodes are in order
    level = np.zeros(parent.size + 1, dtype=np.intp)
    suffix = np.zeros(parent.size + 1, dtype=np.intp)
    ok = bool((np.diff(keys) > 0).all())
    nodes = np.flatnonzero(parent == 0) + 1
    level[nodes] = 1
    while ok and nodes.size:
        nodes = np.flatnonzero(np.isin(parent, nodes)) + 1
        level[nodes] = level[parent[nodes - 1]] + 1
        wanted = suffix[parent[nodes - 1]] * base + symbols[nodes - 1]
        places = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
        ok = bool((keys[places] == wanted).all())
        suffix[nodes] = places + 1
    if not ok:
        raise DataError("the n-grams contradict themselves: an end of one is not among them")
    return suffix, level
