"""CTC decoding in numpy: best paths, probabilities of texts, and alignments; logarithms are natural.

One lattice serves all targets: ``j`` characters are written, and the last step is on a blank or on character ``j``.
Reference: Graves et al. 2006, "Connectionist Temporal Classification" (best path, forward algorithm).
"""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crnn.errors import DataError

Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

SAFE_PROBABILITY = 1e-280
"""Least probability for which the linear forward sum is exact: underflow loses below 1e-307 per state and step."""


@dataclass(frozen=True, slots=True)
class Semiring:
    """Operations of the CTC recursions: sum-product or max-product; ``take_exp`` if values are not logarithms."""

    plus: np.ufunc
    times: np.ufunc
    zero: float
    one: float
    take_exp: bool


LINEAR = Semiring(np.add, np.multiply, 0.0, 1.0, take_exp=True)  # sums over all alignments
LOG = Semiring(np.logaddexp, np.add, -np.inf, 0.0, take_exp=False)  # the same ten times slower; nothing underflows
BEST = Semiring(np.maximum, np.add, -np.inf, 0.0, take_exp=False)  # best alignment


def log_probs_shape(log_probs: Floats) -> tuple[int, int, int]:
    """Return N, T and V, or raise ``DataError`` unless there are three dimensions and V is at least 2."""
    if log_probs.ndim != 3 or log_probs.shape[2] < 2:
        raise DataError(
            f"log_probs have shape {log_probs.shape}; expected (N, T, V) with at least 2 classes, the last the blank"
        )
    num_samples, num_steps, num_classes = log_probs.shape
    return num_samples, num_steps, num_classes


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another text that an image may show, with score and confidence as of a ``Reading``."""

    text: str
    score: float
    confidence: float


@dataclass(frozen=True, slots=True)
class DecodedText:
    """A text with its probability and the spans of its characters; ``Decoder`` adds confidence and other texts.

    Spans are those of the best path for ``greedy``, else of the best alignment. Scores of characters compare with each
    other, but are no decomposition of ``score``.
    """

    ids: tuple[int, ...]  # classes without blanks
    score: float  # log-probability summed over all alignments, at most 0
    spans: tuple[tuple[int, int], ...]  # time steps [start, end) of each character
    character_scores: tuple[float, ...]  # largest log-probability of each character in its span, in (-inf, 0]
    confidence: float = 0.0  # in [0, 1]
    others: tuple[Alternative, ...] = ()  # best first


def decode_greedy(log_probs: Floats) -> list[DecodedText]:
    """Return the best path of each image of ``(N, T, V)``, repeats merged, blanks removed; ties to the lowest id."""
    blank = log_probs_shape(log_probs)[2] - 1
    best = log_probs.argmax(axis=2)  # (N, T)
    starts = _run_starts(best, blank)
    counts = np.count_nonzero(starts, axis=1)
    ids = _split(best[starts].tolist(), counts)
    # From one start to the next are one run, and blanks, which are -inf: the maximum is the run's peak.
    peaks = np.take_along_axis(log_probs, best[:, :, None], axis=2)[:, :, 0].astype(np.float64)
    peaks[best == blank] = -np.inf
    peaks = np.minimum(np.maximum.reduceat(peaks.ravel(), np.flatnonzero(starts)), 0.0)
    character_scores = _split(peaks.tolist(), counts)
    spans = _split(_spans(best, blank), counts)
    scores = sequence_log_probs(log_probs, ids).tolist()
    columns = zip(ids, scores, spans, character_scores, strict=True)
    return [DecodedText(tuple(i), score, tuple(s), tuple(c)) for i, score, s, c in columns]


def sequence_log_probs(log_probs: Floats, targets: Sequence[Sequence[int]], rows: Indices | None = None) -> Doubles:
    """Return the log-probability ``(M,)`` of each target, summed over its CTC alignments: minus ``ctc_loss``.

    Targets are M sequences of class ids in [0, V - 1), of the samples ``rows`` ``(M,)`` of ``log_probs`` ``(N, T, V)``;
    by default one for each, in order. -inf where a target has no alignment in T steps; else at most 0 (clipped, as
    rounding may exceed it).
    """
    rows = np.arange(log_probs_shape(log_probs)[0]) if rows is None else rows
    totals = _total(_lattice(log_probs, rows, targets), LINEAR)
    safe = totals > SAFE_PROBABILITY
    scores = np.log(totals, where=safe, out=np.full(len(targets), -np.inf))
    # Ten times slower, and only needed by nearly impossible texts.
    rest = np.flatnonzero(~safe)
    if rest.size:
        scores[rest] = _total(_lattice(log_probs, rows[rest], [targets[m] for m in rest.tolist()]), LOG)
    return np.minimum(scores, 0.0)


def align(log_probs: Floats, targets: Sequence[Sequence[int]]) -> list[list[tuple[int, int]]]:
    """Return the time steps ``[start, end)`` of each character of N targets in their best alignments (Viterbi).

    ``DataError`` if a target has no alignment with a probability above 0.
    """
    num_samples, num_steps, _ = log_probs_shape(log_probs)
    rows = np.arange(num_samples)
    lattice = _lattice(log_probs, rows, targets)
    states = list(_forward(lattice, BEST))  # states[t] is before step t
    written = lattice.lengths.copy()  # j of the state at step t, walking back from the end
    on_blank, on_char = (scores[rows, written] for scores in states[-1])
    unreachable = np.flatnonzero((np.maximum(on_blank, on_char) == -np.inf) & (written > 0))
    if unreachable.size:
        raise DataError(f"target {unreachable[0]} has no possible alignment with the {num_steps} steps of log_probs")
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


def describe_texts(log_probs: Floats, texts: Sequence[tuple[tuple[int, ...], float]]) -> list[DecodedText]:
    """Return N pairs of ids and score with the spans of their best alignments; the text of the score -inf is empty."""
    described = []
    spans_of_texts = align(log_probs, [ids for ids, _ in texts])
    for sample, (ids, score), spans in zip(log_probs, texts, spans_of_texts, strict=True):
        peaks = (min(float(sample[start:end, k].max()), 0.0) for k, (start, end) in zip(ids, spans, strict=True))
        described.append(DecodedText(ids, score, tuple(spans), tuple(peaks)))
    return described


@dataclass(frozen=True, slots=True)
class _Lattice:
    """M targets padded to the longest, each with its sample."""

    flat: Floats  # (N * T * V,)
    chars_at: Indices  # (M, S) places in ``flat`` of each character's class at step 0
    blanks_at: Indices  # (M, 1) the same for the blank
    may_skip: Mask  # (M, S) no blank is needed before this character
    lengths: Indices  # (M,)
    num_steps: int
    num_classes: int


def _lattice(log_probs: Floats, rows: Indices, targets: Sequence[Sequence[int]]) -> _Lattice:
    if len(targets) != rows.size:
        raise DataError(f"there are {len(targets)} targets for {rows.size} samples of log_probs")
    _, num_steps, num_classes = log_probs.shape
    blank = num_classes - 1
    lengths = np.fromiter(map(len, targets), dtype=np.intp, count=len(targets))
    ids = np.fromiter(itertools.chain.from_iterable(targets), dtype=np.intp, count=int(lengths.sum()))
    if ids.size and (ids.min() < 0 or ids.max() >= blank):
        raise DataError(f"targets have class ids from {ids.min()} to {ids.max()}; expected 0 to {blank - 1}")
    longest = max(1, int(lengths.max(initial=0)))  # at least one column, so that every row can be indexed
    padded = np.full((len(targets), longest), blank, dtype=np.intp)
    padded[np.arange(longest) < lengths[:, None]] = ids
    may_skip = np.ones(padded.shape, dtype=np.bool_)
    may_skip[:, 1:] = padded[:, 1:] != padded[:, :-1]
    base = rows[:, None] * (num_steps * num_classes)
    flat = np.ascontiguousarray(log_probs).reshape(-1)
    return _Lattice(flat, base + padded, base + blank, may_skip, lengths, num_steps, num_classes)


def _forward(lattice: _Lattice, ring: Semiring) -> Iterator[tuple[Doubles, Doubles]]:
    """Yield totals ending in a blank and in character j, ``(M, S + 1)`` each, before step 0 and after each step."""
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


def _total(lattice: _Lattice, ring: Semiring) -> Doubles:
    blanks, chars = deque(_forward(lattice, ring), maxlen=1).pop()
    every = np.arange(lattice.lengths.size)
    total: Doubles = ring.plus(blanks[every, lattice.lengths], chars[every, lattice.lengths])
    return total


def _run_starts(path: Indices, blank: int) -> Mask:
    """Return true where a run of one class but the blank begins, ``(N, T)``."""
    starts: Mask = path != blank
    starts[:, 1:] &= path[:, 1:] != path[:, :-1]
    return starts


def _spans(path: Indices, blank: int) -> list[tuple[int, int]]:
    """Return first step and end of each run, sample by sample."""
    starts = np.nonzero(_run_starts(path, blank))[1]
    ends = np.nonzero(_run_starts(path[:, ::-1], blank)[:, ::-1])[1] + 1
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _split(flat: list[Any], counts: Indices) -> list[list[Any]]:
    ends = np.cumsum(counts).tolist()
    return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]
