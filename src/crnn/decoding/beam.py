"""Prefix beam search: sums the CTC paths of each prefix and keeps the likeliest prefixes (numpy, all samples at once).

Shape letters: N batch, T time steps, V classes, the blank last, B prefixes held, K classes that may extend them.
Logarithms are natural. References: Graves and Jaitly 2014, "Towards End-to-End Speech Recognition with Recurrent Neural
Networks"; Hannun et al. 2014, arXiv 1408.2873 (blank and non-blank endings apart, and a language model).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from crnn.decoding.constraints import Pattern
from crnn.decoding.ctc import Doubles, Floats, Indices, Mask, log_probs_shape, sequence_log_probs
from crnn.decoding.language_prior import LanguagePrior, PriorState

_CLASSES_BESIDE_A_PRIOR = 12  # classes by which a language extends a prefix: six letters, each in two cases

_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, with mixed bits (2 ** 64 over the golden ratio)


class Hypothesis(NamedTuple):
    """A text that a search found: class ids without blanks, CTC log-probability, and rank (score plus language)."""

    ids: tuple[int, ...]
    score: float
    rank: float


def beam_search(
    log_probs: Floats, beam_width: int = 10, prior: LanguagePrior | None = None, pattern: Pattern | None = None
) -> list[list[Hypothesis]]:
    """Return up to ``beam_width`` texts of each image of ``(N, T, V)``, best first by rank, then by ids.

    A text may be missed, but the score of a found one is exact (``sequence_log_probs``), and above -inf. Texts rank by
    ``score + weight * (log-probability under the language) + bonus * characters``. With a language, prefixes are
    extended by the 12 likeliest characters of a step only; with a pattern, by all that it allows.
    """
    num_samples, num_steps, num_classes = log_probs_shape(log_probs)
    if prior is not None and prior.weight == 0.0:
        prior = None
    # Extensions of a prefix rank as their classes do; a class that leads to a prefix already held counts for that one,
    # and only the class that repeats the last character may fall behind. So all survivors are among the beam_width + 1
    # likeliest classes of a step, and the result is that of all classes. Not so with a language, or with a pattern,
    # which may refuse all of them.
    chars = log_probs[:, :, :-1].reshape(num_samples * num_steps, num_classes - 1)
    count = beam_width + 1 if prior is None else _CLASSES_BESIDE_A_PRIOR
    likely = _top(chars, num_classes if pattern is not None else count)
    likely_scores = np.take_along_axis(chars, likely, axis=1).astype(np.float64)
    shape = (num_samples, num_steps, likely.shape[1])
    likely, likely_scores = likely.reshape(shape), likely_scores.reshape(shape)
    beams = _Beams.start(num_samples, num_steps, prior, pattern)
    for t in range(num_steps):
        scores = log_probs[:, t].astype(np.float64)  # (N, V)
        beams = _advance(beams, scores, likely[:, t], likely_scores[:, t], beam_width, prior, pattern)
    whole = beams.totals > -np.inf
    if pattern is not None and beams.texts is not None:
        whole &= _each(pattern.matches, beams.texts)
    rows, columns = np.nonzero(whole)
    lengths = beams.lengths[rows, columns].tolist()
    texts = [tuple(ids[:length]) for ids, length in zip(beams.ids[rows, columns].tolist(), lengths, strict=True)]
    scores = sequence_log_probs(log_probs, texts, rows)
    ranks = scores
    if prior is not None and beams.state is not None:
        ranks = scores + prior.final(beams.state, beams.lengths)[rows, columns]
    found: list[list[Hypothesis]] = [[] for _ in range(num_samples)]
    for n, *hypothesis in zip(rows.tolist(), texts, scores.tolist(), ranks.tolist(), strict=True):
        found[n].append(Hypothesis(*hypothesis))
    return [sorted(one, key=lambda h: (-h.rank, h.ids)) for one in found]


@dataclass(frozen=True, slots=True)
class _Beams:
    """Prefixes that a search holds, ``(N, B)``; those of probability 0 only fill places."""

    blanks: Doubles  # log-probability of the paths that collapse to the prefix and end in a blank
    chars: Doubles  # the same for those that end in its last character
    totals: Doubles  # both together
    ids: npt.NDArray[np.int32]  # (N, B, T), -1 after the end
    lengths: Indices
    last: Indices  # last character; for the empty prefix any will do, since its ``totals`` are its ``blanks``
    hashes: npt.NDArray[np.uint64]
    parent_hashes: npt.NDArray[np.uint64]  # of the prefix without its last character
    state: PriorState | None
    texts: npt.NDArray[np.object_] | None  # as strings, for a pattern

    @classmethod
    def start(cls, num_samples: int, num_steps: int, prior: LanguagePrior | None, pattern: Pattern | None) -> _Beams:
        shape = (num_samples, 1)
        zeros, index, key = np.zeros(shape), np.zeros(shape, dtype=np.intp), np.zeros(shape, dtype=np.uint64)
        ids = np.full((*shape, num_steps), -1, dtype=np.int32)
        state = None if prior is None else prior.start(num_samples)
        texts = None if pattern is None else np.full(shape, "", dtype=object)
        return cls(zeros, np.full(shape, -np.inf), zeros, ids, index, index, key, key, state, texts)


def _advance(
    beams: _Beams,
    scores: Doubles,
    likely: Indices,
    likely_scores: Doubles,
    width: int,
    prior: LanguagePrior | None,
    pattern: Pattern | None,
) -> _Beams:
    """Advance by one step: each prefix stays or is extended by one of the ``likely`` classes ``(N, K)``."""
    (num_samples, held), num_likely = beams.totals.shape, likely.shape[1]
    every = np.arange(num_samples)[:, None]
    last_scores = scores[every, beams.last]
    stay_blanks = beams.totals + scores[:, -1:]
    stay_chars = beams.chars + last_scores
    # The character that a prefix ends in is written again only after a blank.
    repeats = likely[:, None, :] == beams.last[:, :, None]
    extended = np.where(repeats, beams.blanks[:, :, None], beams.totals[:, :, None]) + likely_scores[:, None, :]

    n, parent, child = _families(beams)
    again = beams.last[n, parent] == beams.last[n, child]
    passed = np.where(again, beams.blanks[n, parent], beams.totals[n, parent]) + last_scores[n, child]
    stay_chars[n, child] = np.logaddexp(stay_chars[n, child], passed)
    pair, k = np.nonzero(likely[n] == beams.last[n, child][:, None])
    extended[n[pair], parent[pair], k] = -np.inf  # now a part of the child

    stay_totals = np.logaddexp(stay_blanks, stay_chars)
    candidates = np.concatenate([stay_totals, extended.reshape(num_samples, held * num_likely)], axis=1)
    ranks = candidates
    if prior is not None and beams.state is not None:
        more = prior.extended(beams.state, likely, beams.lengths).reshape(num_samples, held * num_likely)
        ranks = candidates + np.concatenate([prior.total(beams.state, beams.lengths), more], axis=1)
    chosen = _top(ranks, width) if pattern is None else _top_of_pattern(ranks, width, beams, likely, pattern)
    is_new = chosen >= held
    source, which = np.divmod(chosen - held, num_likely)
    source = np.where(is_new, source, chosen)
    added = likely[every, which]
    totals = candidates[every, chosen]
    ids, lengths, hashes = beams.ids[every, source], beams.lengths[every, source], beams.hashes[every, source]
    state = beams.state
    if prior is not None and state is not None:
        state = prior.advanced(state.take(every, source), added, is_new)
    rows, columns = np.nonzero(is_new)
    ids[rows, columns, lengths[rows, columns]] = added[rows, columns]
    texts = None if beams.texts is None else beams.texts[every, source]
    if pattern is not None and texts is not None:
        texts[rows, columns] += pattern.characters[added[rows, columns]]
    return _Beams(
        blanks=np.where(is_new, -np.inf, stay_blanks[every, source]),
        chars=np.where(is_new, totals, stay_chars[every, source]),
        totals=totals,
        ids=ids,
        lengths=lengths + is_new,
        last=np.where(is_new, added, beams.last[every, source]),
        hashes=np.where(is_new, hashes * _HASH_FACTOR + added.astype(np.uint64) + np.uint64(1), hashes),
        parent_hashes=np.where(is_new, hashes, beams.parent_hashes[every, source]),
        state=state,
        texts=texts,
    )


def _top_of_pattern(ranks: Doubles, width: int, beams: _Beams, likely: Indices, pattern: Pattern) -> Indices:
    """Return ``_top`` of the candidates with which texts of the pattern begin."""
    assert beams.texts is not None
    held = beams.totals.shape[1]
    ranks = ranks.copy()
    chosen = _top(ranks, width).copy()
    unsure = np.arange(len(ranks))  # samples whose choice may still hold others
    while unsure.size:
        places = chosen[unsure]
        i, j = np.nonzero((places >= held) & (ranks[unsure[:, None], places] > -np.inf))
        rows, extensions = unsure[i], places[i, j]
        source, which = np.divmod(extensions - held, likely.shape[1])
        texts = beams.texts[rows, source] + pattern.characters[likely[rows, which]]
        refused = ~_each(pattern.begins, texts)
        ranks[rows[refused], extensions[refused]] = -np.inf
        unsure = np.unique(rows[refused])
        chosen[unsure] = _top(ranks[unsure], width)
    return chosen


def _each(holds: Callable[[str], bool], texts: npt.NDArray[np.object_]) -> Mask:
    answers = np.fromiter(map(holds, texts.ravel().tolist()), dtype=np.bool_, count=texts.size)
    return answers.reshape(texts.shape)


def _families(beams: _Beams) -> tuple[Indices, Indices, Indices]:
    """Return all ``(n, parent, child)`` among living prefixes in which the child is the parent plus one character."""
    alive = beams.totals > -np.inf
    found = beams.hashes[:, :, None] == beams.parent_hashes[:, None, :]
    found &= alive[:, :, None]
    found &= alive[:, None, :]
    n, parent, child = np.nonzero(found)
    # The hashes only make it quick; prefixes are the same when their ids are.
    without_last = beams.ids[n, child]
    ends = beams.lengths[n, child] - 1
    without_last[np.arange(n.size), ends] = -1
    same = (without_last == beams.ids[n, parent]).all(axis=1) & (ends == beams.lengths[n, parent])
    return n[same], parent[same], child[same]


def _top(scores: Floats, count: int) -> Indices:
    """Return the columns of the ``count`` largest numbers of each row, ascending; ties go to the first."""
    num_rows, num_columns = scores.shape
    if num_columns <= count:
        return np.broadcast_to(np.arange(num_columns), scores.shape)
    # Not argpartition: which of several equal numbers it takes depends on the processor.
    smallest = np.partition(scores, num_columns - count, axis=1)[:, num_columns - count, None]
    taken = scores >= smallest
    if np.count_nonzero(taken) > num_rows * count:
        above = scores > smallest
        room = count - np.count_nonzero(above, axis=1)[:, None]
        taken = above | (taken & (np.cumsum(taken & ~above, axis=1) <= room))
    columns: Indices = np.flatnonzero(taken) % num_columns
    return columns.reshape(num_rows, count)
