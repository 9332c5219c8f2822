"""From log-probabilities to texts, the probability of each, and where its characters stand.

The network gives log-probabilities ``(N, T, V)``; here they become class ids, which ``Charset.decode`` turns into text.
Numpy only, so that reading needs no torch; the arithmetic loops over time steps, never over samples.

Shape letters: N batch, T time steps, V classes with the blank (the last one, V - 1), S target length, B prefixes that
a beam holds. All logarithms are natural. ``check_log_probs`` is for the border of the package: the other functions look
at the shape and trust the numbers.

One lattice serves every target: ``j`` characters are written, and the last step stands on a blank or on character
``j``. Summing over it gives the probability of the text, the maximum over it the best alignment.

References:
    Graves et al. 2006, "Connectionist Temporal Classification" (best path, forward algorithm).
    Graves and Jaitly 2014, "Towards End-to-End Speech Recognition with Recurrent Neural Networks" (prefix beam search);
    Hannun et al. 2014, arXiv 1408.2873 (the same with blank and non-blank endings kept apart).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crnn.charset import min_time_steps
from crnn.errors import ConfigError, DataError

__all__ = [
    "DecodedText",
    "align",
    "align_batch",
    "beam_search",
    "check_log_probs",
    "decode_greedy",
    "greedy",
    "sequence_log_probs",
]

_Floats = npt.NDArray[np.floating[Any]]
_Doubles = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.intp]
_Mask = npt.NDArray[np.bool_]

_SAFE_PROBABILITY = 1e-280
"""Above it the forward sum over plain probabilities is as good as one over logarithms: underflow loses less than 1e-307
per state and step, and what follows a state cannot make that larger."""


@dataclass(frozen=True, slots=True)
class DecodedText:
    """One text with its probability and the place of its characters.

    Attributes:
        ids: Class ids without blanks.
        score: Log-probability of the text, summed over all its alignments (``sequence_log_probs``), at most 0.
        spans: For each character the time steps ``[start, end)`` in which the best path shows it.
        character_scores: For each character the largest log-probability of its class over the steps of its span: in
            (-inf, 0] and comparable between characters, but not a decomposition of ``score``.
    """

    ids: tuple[int, ...]
    score: float
    spans: tuple[tuple[int, int], ...]
    character_scores: tuple[float, ...]


def check_log_probs(log_probs: _Floats, num_classes: int | None = None) -> None:
    """Refuse an array that cannot be the network's log-probabilities.

    Args:
        log_probs: ``(N, T, V)``, float16, float32 or float64; N and T may be 0, entries may be -inf.
        num_classes: The V to expect, where it is known.

    Raises:
        DataError: The type or the shape is wrong, there is a nan, or the probabilities of a time step do not sum to 1
            within 1e-3 (float16: 4e-3); the message names the first such sample and step.
    """
    if log_probs.dtype not in (np.float16, np.float32, np.float64):
        raise DataError(f"log_probs have type {log_probs.dtype}; expected float16, float32 or float64")
    classes = _shape(log_probs)[2]
    if num_classes is not None and classes != num_classes:
        raise DataError(
            f"log_probs have shape {log_probs.shape}, so {classes} classes; expected {num_classes}: "
            "the characters of the charset and the blank. Use the charset that the model was trained with"
        )
    with np.errstate(over="ignore"):  # logits by mistake: their sum is reported below
        sums = np.exp(log_probs, dtype=np.float64).sum(axis=2)
    # A float16 between -16 and -8 is rounded by up to 0.004, for all classes alike when they are equally likely.
    tolerance = 4e-3 if log_probs.dtype == np.float16 else 1e-3
    bad = np.argwhere(~(np.abs(sums - 1.0) <= tolerance))  # ~(<=) rather than >, so that nan is bad
    if bad.size:
        n, t = bad[0].tolist()
        found = "are not numbers (nan)" if np.isnan(sums[n, t]) else f"sum to {sums[n, t]:.6g}, not to 1"
        raise DataError(
            f"log_probs of shape {log_probs.shape}: at (n, t) = ({n}, {t}) the probabilities {found}; "
            "expected the output of log_softmax over the classes"
        )


def greedy(log_probs: _Floats) -> list[list[int]]:
    """Class ids of the best path: the likeliest class of each step, repeats merged, blanks removed.

    Args:
        log_probs: ``(N, T, V)``. Of equal classes the lowest id wins.

    Returns:
        N lists of ids in [0, V - 1).

    Raises:
        DataError: The shape is wrong.

    Reference:
        Graves et al. 2006, section 3.2 (best path decoding).
    """
    blank = _shape(log_probs)[2] - 1
    best = log_probs.argmax(axis=2)  # (N, T)
    starts = _run_starts(best, blank)
    return _split(best[starts].tolist(), np.count_nonzero(starts, axis=1))


def decode_greedy(log_probs: _Floats) -> list[DecodedText]:
    """The texts of ``greedy`` with their scores, and the spans that the best path itself gives.

    Args:
        log_probs: ``(N, T, V)``.

    Raises:
        DataError: The shape is wrong.
    """
    num_classes = _shape(log_probs)[2]
    best = log_probs.argmax(axis=2)  # (N, T)
    starts = _run_starts(best, num_classes - 1)
    counts = np.count_nonzero(starts, axis=1)
    ids = _split(best[starts].tolist(), counts)
    # From one start to the next (in one row for all samples) there is the run and then only blanks, which are masked.
    peaks = np.take_along_axis(log_probs, best[:, :, None], axis=2)[:, :, 0].astype(np.float64)
    peaks[best == num_classes - 1] = -np.inf
    peaks = np.minimum(np.maximum.reduceat(peaks.ravel(), np.flatnonzero(starts)), 0.0)
    character_scores = _split(peaks.tolist(), counts)
    spans = _split(_spans(best, num_classes - 1), counts)
    scores = sequence_log_probs(log_probs, ids).tolist()
    columns = zip(ids, scores, spans, character_scores, strict=True)
    return [DecodedText(tuple(i), score, tuple(s), tuple(c)) for i, score, s, c in columns]


def sequence_log_probs(log_probs: _Floats, targets: Sequence[Sequence[int]]) -> _Doubles:
    """Log-probability of each target: the sum over all alignments that CTC collapses to it.

    Args:
        log_probs: ``(N, T, V)``.
        targets: N sequences of class ids in [0, V - 1); the empty one stands for blanks only.

    Returns:
        ``(N,)`` float64, minus what ``ctc_loss`` gives. -inf where a target has no alignment in T steps. Never above 0,
        though the rounding of float32 may put the sum there.

    Raises:
        DataError: The shape is wrong, there are not N targets, or an id is not a character's.

    Reference:
        Graves et al. 2006, section 4.1 (forward algorithm).
    """
    num_samples = _shape(log_probs)[0]
    return _score(log_probs, np.arange(num_samples), targets)


def align(log_probs: _Floats, target: Sequence[int]) -> list[tuple[int, int]]:
    """For each character of one target the time steps ``[start, end)`` in which the best alignment shows it.

    Args:
        log_probs: ``(T, V)``.
        target: Class ids in [0, V - 1), shape ``(S,)``.

    Raises:
        DataError: As for ``align_batch``.
    """
    if log_probs.ndim != 2:
        raise DataError(f"log_probs have shape {log_probs.shape}; expected (T, V), or use align_batch")
    return align_batch(log_probs[None], [target])[0]


def align_batch(log_probs: _Floats, targets: Sequence[Sequence[int]]) -> list[list[tuple[int, int]]]:
    """For each character of each target the time steps ``[start, end)`` in which the best alignment shows it.

    Of equally good alignments the same one is always chosen.

    Args:
        log_probs: ``(N, T, V)``.
        targets: N sequences of class ids in [0, V - 1).

    Returns:
        N lists of one pair per character, in order and without overlap.

    Raises:
        DataError: The shape is wrong, there are not N targets, an id is not a character's, a target needs more than T
            steps, or every alignment of it has probability 0.

    Reference:
        Rabiner 1989, "A Tutorial on Hidden Markov Models", section III B (Viterbi).
    """
    num_samples, num_steps, _ = _shape(log_probs)
    rows = np.arange(num_samples)
    lattice = _lattice(log_probs, rows, targets)
    states = list(_forward(lattice, _BEST))
    written = lattice.lengths.copy()  # j of the state at step t, walking back from the end
    on_blank, on_char = (scores[rows, written] for scores in states[-1])
    unreachable = np.flatnonzero((np.maximum(on_blank, on_char) == -np.inf) & (written > 0))
    if unreachable.size:
        raise DataError(_why_unreachable(int(unreachable[0]), targets, num_steps))
    is_char = on_char > on_blank
    path = np.zeros((num_samples, num_steps), dtype=np.intp)  # j where character j is shown, 0 for blank
    for t in range(num_steps - 1, -1, -1):
        path[:, t] = np.where(is_char, written, 0)
        blanks, chars = states[t]
        before = np.maximum(written - 1, 0)
        stay = chars[rows, written]
        from_blank = blanks[rows, before]
        from_char = np.where(lattice.may_skip[rows, before], chars[rows, before], -np.inf)
        entered = is_char & (np.maximum(from_blank, from_char) > stay)
        was_char = np.where(is_char, ~entered | (from_char > from_blank), stay > blanks[rows, written])
        written, is_char = np.where(entered, before, written), was_char
    return _split(_spans(path, 0), lattice.lengths)


def beam_search(log_probs: _Floats, beam_width: int = 10) -> list[list[tuple[tuple[int, ...], float]]]:
    """The likeliest texts, each with its log-probability.

    The search merges the paths of one prefix exactly. It keeps ``beam_width`` prefixes per step, so that a text may be
    missed, but the score of a text that is found is its full one (``sequence_log_probs``).

    Args:
        log_probs: ``(N, T, V)``.
        beam_width: Number of prefixes kept, at least 1.

    Returns:
        For each sample up to ``beam_width`` pairs of ids and score, the best first, equal scores by ids. Texts of
        probability 0 are left out.

    Raises:
        DataError: The shape is wrong.
        ConfigError: ``beam_width`` is below 1.

    Reference:
        Hannun et al. 2014, arXiv 1408.2873, algorithm 1, without the language model.
    """
    num_samples, num_steps, num_classes = _shape(log_probs)
    if beam_width < 1:
        raise ConfigError(f"beam_width is {beam_width}; expected at least 1")
    # Extensions of one prefix rank as their classes do; a class that leads to a prefix already held counts for that
    # one, and only the class that repeats the last character may fall behind. So whatever survives is among the
    # beam_width + 1 likeliest classes of its step, and the result is the same as with all.
    chars = log_probs[:, :, :-1].reshape(num_samples * num_steps, num_classes - 1)
    likely = _top(chars, beam_width + 1)
    likely_scores = np.take_along_axis(chars, likely, axis=1).astype(np.float64)
    shape = (num_samples, num_steps, likely.shape[1])
    likely, likely_scores = likely.reshape(shape), likely_scores.reshape(shape)
    beams = _Beams.start(num_samples, num_steps)
    for t in range(num_steps):
        scores = log_probs[:, t].astype(np.float64)  # (N, V)
        beams = _advance(beams, scores, likely[:, t], likely_scores[:, t], beam_width)
    rows, columns = np.nonzero(beams.totals > -np.inf)
    lengths = beams.lengths[rows, columns].tolist()
    texts = [tuple(ids[:length]) for ids, length in zip(beams.ids[rows, columns].tolist(), lengths, strict=True)]
    found = zip(texts, _score(log_probs, rows, texts).tolist(), strict=True)
    per_sample = _split(list(found), np.bincount(rows, minlength=num_samples))
    return [sorted(pairs, key=lambda pair: (-pair[1], pair[0])) for pairs in per_sample]


# ---------------------------------------------------------------------------------------------------------------------
# The lattice of one target: forward sums, and the maximum in their place


@dataclass(frozen=True, slots=True)
class _Ring:
    """What plays plus and times in the recursion, with their neutral elements, and what a log-probability becomes."""

    plus: np.ufunc
    times: np.ufunc
    zero: float
    one: float
    take_exp: bool


_LINEAR = _Ring(np.add, np.multiply, 0.0, 1.0, take_exp=True)
_LOG = _Ring(np.logaddexp, np.add, -np.inf, 0.0, take_exp=False)
_BEST = _Ring(np.maximum, np.add, -np.inf, 0.0, take_exp=False)


@dataclass(frozen=True, slots=True)
class _Lattice:
    """M targets padded to the longest, each with the sample that it is to be found in."""

    flat: _Floats  # (N * T * V,)
    chars_at: _Indices  # (M, S) where in ``flat`` the class of each character stands at step 0
    blanks_at: _Indices  # (M, 1) the same for the blank
    may_skip: _Mask  # (M, S) no blank is needed before this character
    lengths: _Indices  # (M,)
    num_steps: int
    num_classes: int


def _lattice(log_probs: _Floats, rows: _Indices, targets: Sequence[Sequence[int]]) -> _Lattice:
    if len(targets) != rows.size:
        raise DataError(f"there are {len(targets)} targets for {rows.size} samples of log_probs; expected one for each")
    _, num_steps, num_classes = log_probs.shape
    blank = num_classes - 1
    lengths = np.fromiter(map(len, targets), dtype=np.intp, count=len(targets))
    ids = np.fromiter(itertools.chain.from_iterable(targets), dtype=np.intp, count=int(lengths.sum()))
    if ids.size and (ids.min() < 0 or ids.max() >= blank):
        position = int(np.flatnonzero((ids < 0) | (ids >= blank))[0])
        n = int(np.searchsorted(np.cumsum(lengths), position, side="right"))
        raise DataError(
            f"target {n} has the class id {ids[position]}; expected ids of characters, from 0 to {blank - 1} "
            f"({blank} is the blank)"
        )
    longest = max(1, int(lengths.max(initial=0)))  # at least one column, so that every row can be indexed
    padded = np.full((len(targets), longest), blank, dtype=np.intp)
    padded[np.arange(longest) < lengths[:, None]] = ids
    may_skip = np.ones(padded.shape, dtype=np.bool_)
    may_skip[:, 1:] = padded[:, 1:] != padded[:, :-1]
    base = rows[:, None] * (num_steps * num_classes)
    flat = np.ascontiguousarray(log_probs).reshape(-1)
    return _Lattice(flat, base + padded, base + blank, may_skip, lengths, num_steps, num_classes)


def _forward(lattice: _Lattice, ring: _Ring) -> Iterator[tuple[_Doubles, _Doubles]]:
    """The state before step 0 and after each step: what ends in a blank and what in a character, ``(M, S + 1)`` each.

    Column j: j characters are written. Column 0 of the second is always zero: no character is there to stand on.
    """
    shape = (lattice.chars_at.shape[0], lattice.chars_at.shape[1] + 1)
    blanks, chars = np.full(shape, ring.zero), np.full(shape, ring.zero)
    blanks[:, 0] = ring.one
    yield blanks, chars
    for t in range(lattice.num_steps):
        now = lattice.flat[t * lattice.num_classes :]
        blank_score = now.take(lattice.blanks_at).astype(np.float64)  # (M, 1)
        char_scores = now.take(lattice.chars_at).astype(np.float64)  # (M, S)
        if ring.take_exp:
            blank_score, char_scores = np.exp(blank_score), np.exp(char_scores)
        entering = ring.plus(blanks[:, :-1], np.where(lattice.may_skip, chars[:, :-1], ring.zero))
        next_chars = np.full(shape, ring.zero)
        ring.times(ring.plus(chars[:, 1:], entering), char_scores, out=next_chars[:, 1:])
        blanks, chars = ring.times(ring.plus(blanks, chars), blank_score), next_chars
        yield blanks, chars


def _score(log_probs: _Floats, rows: _Indices, targets: Sequence[Sequence[int]]) -> _Doubles:
    """Log-probability of ``targets[m]`` in sample ``rows[m]``, ``(M,)``."""
    totals = _total(_lattice(log_probs, rows, targets), _LINEAR)
    safe = totals > _SAFE_PROBABILITY
    scores = np.log(totals, where=safe, out=np.full(len(targets), -np.inf))
    # Ten times slower, and needed by texts that are next to impossible only.
    rest = np.flatnonzero(~safe)
    if rest.size:
        scores[rest] = _total(_lattice(log_probs, rows[rest], [targets[m] for m in rest.tolist()]), _LOG)
    return np.minimum(scores, 0.0)


def _total(lattice: _Lattice, ring: _Ring) -> _Doubles:
    blanks, chars = deque(_forward(lattice, ring), maxlen=1).pop()
    every = np.arange(lattice.lengths.size)
    total: _Doubles = ring.plus(blanks[every, lattice.lengths], chars[every, lattice.lengths])
    return total


def _why_unreachable(n: int, targets: Sequence[Sequence[int]], num_steps: int) -> str:
    needed = min_time_steps(list(targets[n]))
    if needed > num_steps:
        return (
            f"target {n} has {len(targets[n])} characters and needs {needed} time steps with the blanks between equal "
            f"neighbours, but log_probs have {num_steps}; use a wider image or a shorter target"
        )
    return f"target {n} cannot be aligned: each of its alignments meets a step where log_probs are -inf"


# ---------------------------------------------------------------------------------------------------------------------
# The beam


@dataclass(frozen=True, slots=True)
class _Beams:
    """The prefixes that a search holds, ``(N, B)``. Those of probability 0 are dead: they only fill places."""

    blanks: _Doubles  # log-probability of the paths that collapse to the prefix and end in a blank
    chars: _Doubles  # the same for those that end in its last character
    totals: _Doubles  # both together
    ids: npt.NDArray[np.int32]  # (N, B, T), -1 after the end
    lengths: _Indices
    last: _Indices  # last character; for the empty prefix any will do, since its ``totals`` are its ``blanks``
    hashes: npt.NDArray[np.uint64]
    parent_hashes: npt.NDArray[np.uint64]  # of the prefix without its last character

    @classmethod
    def start(cls, num_samples: int, num_steps: int) -> _Beams:
        shape = (num_samples, 1)
        index, key = np.zeros(shape, dtype=np.intp), np.zeros(shape, dtype=np.uint64)
        ids = np.full((*shape, num_steps), -1, dtype=np.int32)
        return cls(np.zeros(shape), np.full(shape, -np.inf), np.zeros(shape), ids, index, index, key, key)


def _advance(beams: _Beams, scores: _Doubles, likely: _Indices, likely_scores: _Doubles, width: int) -> _Beams:
    """One time step: every prefix stays or is extended by one of the ``likely`` classes ``(N, K)``; the best stay."""
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
    chosen = _top(candidates, width)
    is_new = chosen >= held
    source, which = np.divmod(chosen - held, num_likely)
    source = np.where(is_new, source, chosen)
    added = likely[every, which]
    totals = candidates[every, chosen]
    ids, lengths, hashes = beams.ids[every, source], beams.lengths[every, source], beams.hashes[every, source]
    rows, columns = np.nonzero(is_new)
    ids[rows, columns, lengths[rows, columns]] = added[rows, columns]
    return _Beams(
        blanks=np.where(is_new, -np.inf, stay_blanks[every, source]),
        chars=np.where(is_new, totals, stay_chars[every, source]),
        totals=totals,
        ids=ids,
        lengths=lengths + is_new,
        last=np.where(is_new, added, beams.last[every, source]),
        hashes=np.where(is_new, hashes * _HASH_FACTOR + added.astype(np.uint64) + np.uint64(1), hashes),
        parent_hashes=np.where(is_new, hashes, beams.parent_hashes[every, source]),
    )


_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, with mixed bits (2 ** 64 over the golden ratio)


def _families(beams: _Beams) -> tuple[_Indices, _Indices, _Indices]:
    """All ``(n, parent, child)`` among living prefixes where the child is the parent and one more character."""
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


def _top(scores: _Floats, count: int) -> _Indices:
    """Columns of the ``count`` largest numbers of each row, in ascending order; of equal numbers the first columns."""
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
    columns: _Indices = np.flatnonzero(taken) % num_columns
    return columns.reshape(num_rows, count)


# ---------------------------------------------------------------------------------------------------------------------
# Runs, lists, checks


def _run_starts(path: _Indices, blank: int) -> _Mask:
    """Where a run of one class that is not the blank begins, ``(N, T)``."""
    starts: _Mask = path != blank
    starts[:, 1:] &= path[:, 1:] != path[:, :-1]
    return starts


def _spans(path: _Indices, blank: int) -> list[tuple[int, int]]:
    """First step and step after the last of each such run, sample after sample."""
    starts = np.nonzero(_run_starts(path, blank))[1]
    ends = np.nonzero(_run_starts(path[:, ::-1], blank)[:, ::-1])[1] + 1
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _split(flat: list[Any], counts: _Indices) -> list[list[Any]]:
    """Consecutive pieces of ``flat`` of the given lengths."""
    ends = np.cumsum(counts).tolist()
    return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _shape(log_probs: _Floats) -> tuple[int, int, int]:
    if log_probs.ndim != 3 or log_probs.shape[2] < 2:
        raise DataError(
            f"log_probs have shape {log_probs.shape}; expected (N, T, V) with at least 2 classes, the last the blank"
        )
    num_samples, num_steps, num_classes = log_probs.shape
    return num_samples, num_steps, num_classes
