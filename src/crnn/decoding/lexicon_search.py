"""Exact search for the likeliest words of a lexicon, by CTC probability (``ctc.sequence_log_probs``).

Shape letters: N batch, T time steps, V classes with the blank. Logarithms are natural.
Reference: Shi, Bai and Yao 2015, arXiv 1507.05717, section 2.3.2 (lexicon-based transcription).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crnn.decoding.ctc import LINEAR, LOG, SAFE_PROBABILITY, Semiring, decode_greedy, sequence_log_probs
from crnn.decoding.lexicon import Lexicon, WordTrie
from crnn.errors import ConfigError, DataError

_Floats = npt.NDArray[np.floating[Any]]
_Doubles = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.intp]
_Mask = npt.NDArray[np.bool_]

_MARGIN = 1e-9  # words and nodes less likely by at most this share are kept: two ways to sum round differently

_DIVE = 4  # nodes of each image that go ahead, at each depth; 2 to 8 take about the same time
_MOST_PAIRS = 1 << 15  # expanded at a time: 13 MB of numbers at 24 time steps
_FEW_WORDS = 64  # so many are scored one by one in less time than a search takes
_BATCH = 128  # images that are searched together
_TOTAL_ERROR = 0.01  # of the sum over all words, for posteriors


def search_tries(
    log_probs: _Floats, tries: Sequence[WordTrie], trie_of: _Indices, count: int, tolerance: float | None = None
) -> tuple[_Indices, _Indices, _Doubles]:
    """Return the likeliest words of each image of ``(N, T, V)``; ``trie_of`` ``(N,)`` is the trie of each.

    First ``(M,)`` images, ascending, and ``(M,)`` words: the ``count`` likeliest of each image and those equal to the
    last but for rounding, without words of probability 0. Then ``(N,)`` log-probability of all words together, too
    large by a share of at most ``tolerance``; NaN for ``None``, which is faster.
    """
    search = _Search(log_probs, tries, trie_of, count, tolerance, LINEAR)
    rows, words, log_total = search.run()
    unsafe = np.flatnonzero(search.threshold < SAFE_PROBABILITY)
    if unsafe.size:  # the likeliest word is next to impossible: search again, some ten times slower
        again, more, log_total[unsafe] = _Search(log_probs[unsafe], tries, trie_of[unsafe], count, tolerance, LOG).run()
        safe = search.threshold[rows] >= SAFE_PROBABILITY
        rows, words = np.concatenate([rows[safe], unsafe[again]]), np.concatenate([words[safe], more])
        order = np.argsort(rows, kind="stable")
        rows, words = rows[order], words[order]
    return rows, words, log_total


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Nodes of images that may be worth a look, not yet computed."""

    rows: _Indices  # (P,)
    nodes: _Indices  # (P,)
    bounds: _Doubles  # (P,) probability of all texts with this prefix
    entering: _Doubles  # (T, P) of exactly the prefix without its last character, so that this may be shown next

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: _Mask | _Indices) -> _Pairs:
        at = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
        return _Pairs(self.rows[at], self.nodes[at], self.bounds[at], self.entering.take(at, axis=1))


class _Search:
    """Search for some images; ``threshold`` ``(N,)`` is the probability of the ``count``-th best word so far."""

    def __init__(
        self,
        log_probs: _Floats,
        tries: Sequence[WordTrie],
        trie_of: _Indices,
        count: int,
        tolerance: float | None,
        ring: Semiring,
    ) -> None:
        self._num_rows, self._num_steps, self._num_classes = log_probs.shape
        self._ring, self._tolerance = ring, tolerance
        offsets = np.cumsum([0, *map(len, tries)])
        self._roots = offsets[trie_of]
        # All tries in the same arrays; a single one is not copied.
        children = [trie.children + at if at else trie.children for trie, at in zip(tries, offsets, strict=False)]
        self._characters = _joined([trie.characters for trie in tries])
        self._words = _joined([trie.words for trie in tries])
        self._first = _joined([some[:-1] for some in children])
        self._last = _joined([some[1:] for some in children])
        steps = log_probs.transpose(1, 0, 2).astype(np.float64)  # (T, N, V)
        if ring.take_exp:
            np.exp(steps, out=steps)
        flat = (self._num_steps, self._num_rows * self._num_classes)
        self._emissions = steps.reshape(flat)
        self._blanks = np.ascontiguousarray(steps[:, :, -1])
        # Whatever is shown after a step has the probability 1, but for the rounding of what came in, which must not
        # make bounds too small.
        sums = ring.plus.reduce(steps, axis=2)  # (T, N)
        after = np.full_like(sums, ring.one)
        after[:-1] = ring.times.accumulate(sums[:0:-1], axis=0)[::-1]
        self._bounding = ring.times(steps, after[:, :, None]).reshape(flat)
        self._best = np.full((self._num_rows, count), ring.zero)
        self.threshold = self._best[:, -1]
        nothing = np.empty(0, dtype=np.intp)
        self._found: list[tuple[_Indices, _Indices, _Doubles]] = [(nothing, nothing, np.empty(0))]
        self._sum = np.full(self._num_rows, ring.zero)  # of all words found
        self._left_out = np.full(self._num_rows, ring.zero)  # of all nodes left out

    def run(self) -> tuple[_Indices, _Indices, _Doubles]:
        """Return images, words and ``log_total`` of ``search_tries``."""
        ring, waiting = self._ring, []
        blanks = np.full((self._num_steps + 1, self._num_rows), ring.one)
        ring.times.accumulate(self._blanks, axis=0, out=blanks[1:])
        ahead = self._promising(self._children(np.arange(self._num_rows), self._roots, blanks, None))
        while len(ahead):
            order = np.lexsort((-ahead.bounds, ahead.rows))
            rank = _rank_in_row(ahead.rows[order])
            waiting.append(ahead[order[rank >= _DIVE]])
            ahead = self._promising(self._expand(ahead[order[rank < _DIVE]]))
        # Last in, first out, so that no more is held than some parts of each depth.
        parts = [self._promising(pairs) for pairs in waiting]
        columns = ([getattr(part, name) for part in parts] for name in _Pairs.__slots__)
        stack = [_Pairs(*(np.concatenate(column, axis=-1) for column in columns))] if parts else []
        while stack:
            pairs = self._promising(stack.pop())
            if len(pairs) > _MOST_PAIRS:
                order = np.argsort(-pairs.bounds)
                stack.append(pairs[order[_MOST_PAIRS:]])
                pairs = pairs[order[:_MOST_PAIRS]]
            if len(pairs):
                stack.append(self._expand(pairs))
        rows, words, scores = (np.concatenate(column) for column in zip(*self._found, strict=True))
        kept = scores >= self._lowest()[rows]
        rows, words = rows[kept], words[kept]
        order = np.lexsort((words, rows))
        log_total = np.full(self._num_rows, np.nan)
        if self._tolerance is not None:
            log_total = ring.plus(self._sum, self._left_out)
            with np.errstate(divide="ignore"):
                log_total = np.log(log_total) if ring.take_exp else log_total
        return rows[order], words[order], log_total

    def _expand(self, pairs: _Pairs) -> _Pairs:
        """Compute nodes, note their words, and return their children."""
        ring, rows = self._ring, pairs.rows
        emissions = self._emissions.take(rows * self._num_classes + self._characters[pairs.nodes], axis=1)  # (T, P)
        blank = self._blanks.take(rows, axis=1)  # (T, P)
        blanks = np.empty((self._num_steps + 1, len(pairs)))  # of exactly the prefix, with a blank at the end
        totals = np.empty_like(blanks)  # of exactly the prefix
        blanks[0] = totals[0] = ring.zero
        char = np.full(len(pairs), ring.zero)
        for t in range(self._num_steps):
            ring.times(ring.plus(char, pairs.entering[t], out=char), emissions[t], out=char)
            ring.times(totals[t], blank[t], out=blanks[t + 1])
            ring.plus(char, blanks[t + 1], out=totals[t + 1])
        self._note(rows, pairs.nodes, totals[-1])
        return self._children(rows, pairs.nodes, totals, blanks)

    def _children(self, rows: _Indices, nodes: _Indices, totals: _Doubles, blanks: _Doubles | None) -> _Pairs:
        """Return the children of nodes with their bounds; ``blanks`` is ``None`` for roots."""
        first = self._first[nodes].astype(np.intp)
        counts = self._last[nodes] - first
        parents = np.repeat(np.arange(len(nodes)), counts)
        children = np.arange(len(parents)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
        entering = totals[:-1].take(parents, axis=1)
        if blanks is not None:  # a character is shown again only after a blank
            again = np.flatnonzero(self._characters[children] == self._characters[nodes[parents]])
            entering[:, again] = blanks[:-1].take(parents[again], axis=1)
        bounding = self._bounding.take(rows[parents] * self._num_classes + self._characters[children], axis=1)
        bounds = self._ring.plus.reduce(self._ring.times(entering, bounding, out=bounding), axis=0)
        return _Pairs(rows[parents], children, bounds, entering)

    def _note(self, rows: _Indices, nodes: _Indices, scores: _Doubles) -> None:
        """Keep the words of nodes that may be among the likeliest, and raise the threshold."""
        words = self._words[nodes]
        possible = np.flatnonzero((words >= 0) & (scores > self._ring.zero))
        rows, words, scores = rows[possible], words[possible], scores[possible]
        if not rows.size:
            return
        self._ring.plus.at(self._sum, rows, scores)
        likely = np.flatnonzero(scores >= self._lowest()[rows])
        rows, words, scores = rows[likely], words[likely], scores[likely]
        self._found.append((rows, words.astype(np.intp), scores))
        if self._best.shape[1] == 1:
            np.maximum.at(self.threshold, rows, scores)
            return
        count = self._best.shape[1]
        all_rows = np.concatenate([np.repeat(np.arange(self._num_rows), count), rows])
        all_scores = np.concatenate([self._best.ravel(), scores])
        order = np.lexsort((-all_scores, all_rows))
        kept = order[_rank_in_row(all_rows[order]) < count]
        self._best[...] = all_scores[kept].reshape(self._best.shape)

    def _lowest(self) -> _Doubles:
        """Return the threshold with its margin, ``(N,)``."""
        return self.threshold * (1.0 - _MARGIN) if self._ring.take_exp else self.threshold - _MARGIN

    def _promising(self, pairs: _Pairs) -> _Pairs:
        """Drop nodes that are impossible, or less likely than the threshold."""
        out = pairs.bounds <= self._ring.zero
        out |= pairs.bounds < self._lowest()[pairs.rows]
        if self._tolerance is not None and out.any():
            out[out] = self._may_be_left_out(pairs[out], self._tolerance)
        return pairs[~out]

    def _may_be_left_out(self, pairs: _Pairs, tolerance: float) -> _Mask:
        """Mark the smallest bounds, as far as the tolerance of the total allows."""
        rows = pairs.rows
        share = np.minimum(self._share(pairs.bounds, rows), 2.0)  # finite: sums of one image do not reach others
        order = np.lexsort((share, rows))
        sums = np.cumsum(share[order])
        starts = np.searchsorted(rows[order], np.arange(self._num_rows))
        before = np.concatenate([np.zeros(1), sums])[starts]
        held = self._share(self._left_out, np.arange(self._num_rows))
        small = np.empty(len(pairs), dtype=np.bool_)
        small[order] = sums - before[rows[order]] + held[rows[order]] <= tolerance
        self._ring.plus.at(self._left_out, rows[small], pairs.bounds[small])
        return small

    def _share(self, amounts: _Doubles, rows: _Indices) -> _Doubles:
        """Return amounts as shares of the words found: infinite if there are none."""
        found = self._sum[rows]
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = amounts / found if self._ring.take_exp else np.exp(amounts - found)
        nothing = amounts <= self._ring.zero
        return np.where(nothing, 0.0, np.where(found > self._ring.zero, shares, np.inf))


def _rank_in_row(rows: _Indices) -> _Indices:
    """Return 0, 1, ... for the entries of each row; ``rows`` ascend."""
    return np.arange(len(rows)) - np.searchsorted(rows, rows)


def _joined(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


@dataclass(frozen=True, slots=True)
class LexiconMatch:
    """A word that an image may show, or the free reading."""

    index: int | None  # in the lexicon; None for the free reading
    ids: tuple[int, ...]
    score: float  # CTC log-probability
    posterior: float | None  # probability if the image shows one of the words; None for the free reading, or unasked


def decode_lexicon(
    log_probs: _Floats,
    lexicon: Lexicon | Sequence[Lexicon],
    n_best: int = 1,
    margin: float | None = None,
    *,
    posterior: bool = False,
) -> list[list[LexiconMatch]]:
    """Return the ``n_best`` likeliest words of a lexicon for each image, exactly; ties in the order of the lexicon.

    ``log_probs`` are ``(N, T, V)``, normalised; lexicons one for all, or N. Words of probability 0 are left out: those
    that need more than T steps or meet -inf. The free reading comes first if its score exceeds that of the best word by
    more than ``margin`` nats, and if no word is possible. Posteriors take ten times as long; with a large lexicon they
    are up to 1 % (relative) too small, as the sum over all words is bounded, not computed.
    """
    if margin is not None and not margin >= 0.0:
        raise ConfigError(f"margin is {margin}; expected nats, 0 or more")
    lexicons = [lexicon] * len(log_probs) if isinstance(lexicon, Lexicon) else lexicon
    if len(lexicons) != len(log_probs):
        raise DataError(f"there are {len(lexicons)} lexicons for {len(log_probs)} samples of log_probs")
    results: list[list[LexiconMatch]] = []
    for start in range(0, len(log_probs), _BATCH):
        some = slice(start, start + _BATCH)
        results += _search(log_probs[some], lexicons[some], n_best, posterior)
    if margin is None:
        return results
    free = [LexiconMatch(None, text.ids, text.score, None) for text in decode_greedy(log_probs)]
    return [
        [text, *matches][:n_best] if not matches or text.score > matches[0].score + margin else matches
        for text, matches in zip(free, results, strict=True)
    ]


def _search(log_probs: _Floats, given: Sequence[Lexicon], n_best: int, posterior: bool) -> list[list[LexiconMatch]]:
    number: dict[int, int] = {}
    which = np.array([number.setdefault(id(one), len(number)) for one in given], dtype=np.intp)
    lexicons = list({id(one): one for one in given}.values())
    if any(one.charset.num_classes != log_probs.shape[2] for one in lexicons):
        raise DataError(f"log_probs have shape {log_probs.shape}; expected lexicons made with the network's charset")
    few = max(map(len, lexicons)) <= _FEW_WORDS
    if few:
        sizes = np.array([len(one) for one in given], dtype=np.intp)
        rows = np.repeat(np.arange(len(given)), sizes)
        indices = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        log_total = np.full(len(given), -np.inf if posterior else np.nan)
    else:
        tolerance = _TOTAL_ERROR if posterior else None
        rows, indices, log_total = search_tries(log_probs, [one.trie for one in lexicons], which, n_best, tolerance)
    texts = [given[row].ids(index) for row, index in zip(rows.tolist(), indices.tolist(), strict=True)]
    scores = sequence_log_probs(log_probs, texts, rows)
    if few and posterior:
        np.logaddexp.at(log_total, rows, scores)
    order = np.lexsort((indices, -scores, rows))
    kept = order[_rank_in_row(rows[order]) < n_best]
    kept = kept[scores[kept] > -np.inf]
    found: list[list[LexiconMatch]] = [[] for _ in given]
    shares = np.exp(np.minimum(scores[kept] - log_total[rows[kept]], 0.0)).tolist()
    for at, share in zip(kept.tolist(), shares, strict=True):
        match = LexiconMatch(int(indices[at]), texts[at], float(scores[at]), None if math.isnan(share) else share)
        found[rows[at]].append(match)
    return found
