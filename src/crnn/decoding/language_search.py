"""Search with a language: cut lines at certain spaces, search the pieces that the language could change, join all.

Most pieces of a clear image hold nearly all probability in one text, which costs one comparison. The others are
searched together, across images, by ``crnn.decoding.beam``.
Shape letters: N images, T time steps, V classes, the blank last, P pieces. Logarithms are natural.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from crnn.decoding.beam import Hypothesis, beam_search
from crnn.decoding.ctc import DecodedText, Doubles, Floats, Indices, Mask, decode_greedy, sequence_log_probs
from crnn.decoding.language_prior import LanguagePrior, padded

_SURE_SPACE = float(np.log(0.9))  # from here on a space cuts a line
_SURE_STEP = float(np.log(0.999))  # steps as sure that repeat the one before are skipped
_LEAST_REST = 1e-9  # rounding error of a probability of 1
_SEARCHED_TOGETHER, _CHANGED_TOGETHER = 96, 256  # pieces; more save calls of numpy, until arrays leave the cache

# of the best path, tried in all combinations; each run of steps may change to its 2 next characters
_CHANGES, _CHANGES_OF_A_RUN = 5, 2

# log-probability of the best path, and per character, below which beams hold more prefixes, and how many
_DOUBTFUL, _DOUBTFUL_CHARACTER, _WIDE_BEAM = -3.0, -0.3, 60

_SUBSETS = np.arange(2**_CHANGES)[:, None] >> np.arange(_CHANGES) & 1 == 1

# distance in rank from the best path within which a changed text calls for a search, or is counted
_NEAR, _COUNTED = 2.0, 3.0


@dataclass(frozen=True, slots=True)
class LanguageReading:
    """Texts of an image, best first."""

    texts: tuple[Hypothesis, ...]
    probability: float  # share of the best text among all that were met
    greedy: DecodedText | None  # the best text with its spans, if it is the one of the best path


def search_with_language(
    groups: Sequence[Floats], prior: LanguagePrior, beam_width: int = 10, n_best: int = 1
) -> list[list[LanguageReading]]:
    """Return the ``n_best`` texts that rank highest by CTC log-probability and language; above 1 takes longer.

    Each group has the log-probabilities ``(N, T, V)`` of images of one width; readings are independent. Pieces that
    the network hardly reads get a beam of 60 at least.
    """
    cut = [_Group.of(log_probs, prior, n_best > 1) for log_probs in groups]
    unsure = [(group, p) for group in cut for p in group.unsure.tolist()]
    packed = [steps for group in cut for steps in group.packed()]
    added, gaps = prior.score(*padded([group.known[p].ids for group, p in unsure]))
    # Pieces of about one length together: they are padded to the longest.
    order = np.argsort([len(steps) for steps in packed], kind="stable")
    if n_best == 1:
        searched = np.zeros(len(packed), dtype=np.bool_)
        for some in _parts(order, _CHANGED_TOGETHER):
            texts = [unsure[i][0].known[unsure[i][1]].ids for i in some]
            gains, shares = _rivals([packed[i] for i in some], texts, added[some], gaps[some], prior)
            searched[some] = gains > -_NEAR
            for i, share in zip(some, shares.tolist(), strict=True):
                unsure[i][0].shares[unsure[i][1]] = share
        order = order[searched[order]]
    doubtful = np.array([_is_doubtful(group.known[p]) for group, p in unsure], dtype=np.bool_)[order]
    for those, width in ((order[~doubtful], beam_width), (order[doubtful], max(beam_width, _WIDE_BEAM))):
        for some in _parts(those, _SEARCHED_TOGETHER):
            found = beam_search(_stacked([packed[i] for i in some]), width, prior)
            for i, hypotheses in zip(some, found, strict=True):
                unsure[i][0].add(unsure[i][1], hypotheses, float(added[i]))
    return [group.readings(n_best) for group in cut]


def _is_doubtful(known: Hypothesis) -> bool:
    """Return if the network hardly reads a piece."""
    return known.score < min(_DOUBTFUL, _DOUBTFUL_CHARACTER * len(known.ids))


def _parts(order: Indices, size: int) -> Iterator[Indices]:
    return (order[first : first + size] for first in range(0, len(order), size))


def _rivals(
    packed: Sequence[Floats], texts: Sequence[tuple[int, ...]], added: Doubles, gaps: Doubles, prior: LanguagePrior
) -> tuple[Doubles, Doubles]:
    """Return the gain in rank of each text's best rival a few changes away, and the share of the text."""
    owners, costs, ids, lengths = _changed(_stacked(packed), gaps + prior.bonus + _COUNTED)
    known, known_lengths = padded(texts, ids.shape[1])
    other = (lengths != known_lengths[owners]) | (ids != known[owners, : ids.shape[1]]).any(axis=1)
    owners, costs, ids, lengths = owners[other], costs[other], ids[other], lengths[other]
    gain = prior.score(ids, lengths)[0] - costs - added[owners]
    gains = np.full(len(texts), -np.inf)
    np.maximum.at(gains, owners, gain)
    shares: Doubles = np.divide(1.0, 1.0 + np.bincount(owners, np.exp(gain), minlength=len(texts)), dtype=np.float64)
    return gains, shares


def _changed(log_probs: Floats, limits: Doubles) -> tuple[Indices, Doubles, Indices, Indices]:
    """Return texts of best paths with changes that cost at most ``limits``: owners, costs, ids, lengths."""
    num_pieces, num_steps, num_classes = log_probs.shape
    blank = num_classes - 1
    best = log_probs.argmax(axis=2)
    begins = np.ones(best.shape, dtype=np.bool_)
    begins[:, 1:] = (best[:, 1:] != best[:, :-1]) | (best[:, 1:] == blank)
    # A character changes in all of its steps, a blank in one.
    place = np.arange(best.size)
    run_of = np.maximum.accumulate(np.where(begins.ravel(), place, 0)).reshape(best.shape)
    # No other class has more than the best one leaves.
    peaks = np.take_along_axis(log_probs, best[:, :, None], axis=2)[:, :, 0].astype(np.float64)
    least = peaks - np.log(np.maximum(-np.expm1(peaks), _LEAST_REST))
    starts = np.flatnonzero(begins & (least <= limits[:, None]))
    steps = log_probs.reshape(-1, num_classes)
    totals = steps[starts].astype(np.float64)
    further = np.arange(starts.size)
    for ahead in range(1, num_steps):
        further = further[starts[further] + ahead < best.size]
        further = further[run_of.ravel()[starts[further] + ahead] == starts[further]]
        if not further.size:
            break
        totals[further] += steps[starts[further] + ahead]
    rows, own = np.arange(starts.size), best.ravel()[starts]
    best_totals = totals[rows, own]
    totals[rows, own] = -np.inf
    costs, characters = [], []
    for _ in range(_CHANGES_OF_A_RUN):
        characters.append(totals.argmax(axis=1))
        costs.append(best_totals - totals[rows, characters[-1]])
        totals[rows, characters[-1]] = -np.inf
    cost, character, run = np.concatenate(costs), np.concatenate(characters), np.tile(starts, _CHANGES_OF_A_RUN)
    cheap = np.flatnonzero(cost <= limits[run // num_steps])
    cheap = cheap[np.lexsort((cost[cheap], run[cheap] // num_steps))]
    owners = run[cheap] // num_steps
    place = np.arange(cheap.size) - np.searchsorted(owners, owners)  # among those of its piece
    cheap, owners, place = cheap[place < _CHANGES], owners[place < _CHANGES], place[place < _CHANGES]

    one_cost = np.full((num_pieces, _CHANGES), np.inf)
    one_run, one_character = np.full(one_cost.shape, -1), np.full(one_cost.shape, blank)
    one_cost[owners, place], one_run[owners, place] = cost[cheap], run[cheap]
    one_character[owners, place] = character[cheap]
    total = np.where(_SUBSETS, one_cost[:, None], 0.0).sum(axis=2)  # (P, 2 ** changes)
    for i, j in itertools.combinations(range(_CHANGES), 2):
        total[np.ix_(one_run[:, i] == one_run[:, j], _SUBSETS[:, i] & _SUBSETS[:, j])] = np.inf
    pieces, subsets = np.nonzero(total <= limits[:, None])
    paths, runs = best[pieces], run_of[pieces]
    for change in range(_CHANGES):
        rows = np.flatnonzero(_SUBSETS[subsets, change])
        where = runs[rows] == one_run[pieces[rows], change][:, None]
        paths[rows] = np.where(where, one_character[pieces[rows], change][:, None], paths[rows])
    shown = paths != blank
    shown[:, 1:] &= paths[:, 1:] != paths[:, :-1]
    lengths = np.count_nonzero(shown, axis=1)
    ids = np.zeros((len(paths), max(int(lengths.max(initial=0)), 1)), dtype=np.intp)
    ids[np.arange(ids.shape[1]) < lengths[:, None]] = paths[shown]
    return pieces, total[pieces, subsets], ids, lengths


@dataclass(slots=True)
class _Group:
    """Images of one width, cut into P pieces."""

    log_probs: Floats  # (N, T, V)
    greedy: list[DecodedText]  # of the images
    pieces: Floats  # (P, T', V), padded with certain blanks; the images themselves where nothing is cut
    steps: Indices  # (P,)
    images: Indices  # (P,) image of each piece, ascending
    known: list[Hypothesis]  # best path of each piece; the ranks of sure ones are only bounds
    unsure: Indices  # pieces that a language could change, ascending
    found: list[list[Hypothesis]]  # texts of each piece, best first
    shares: list[float]  # share of each piece's best text among all that were met
    space: int  # class id; -1 if there is none

    @classmethod
    def of(cls, log_probs: Floats, prior: LanguagePrior, search_all: bool) -> _Group:
        greedy = decode_greedy(log_probs)
        pieces, steps, images = log_probs, np.full(len(log_probs), log_probs.shape[1]), np.arange(len(log_probs))
        texts = greedy
        if prior.space >= 0:
            cuts = _sure_spaces(log_probs, prior.space)
            if cuts.any():
                pieces, steps, images = _cut(log_probs, cuts)
                texts = decode_greedy(pieces)
        ids, scores = [text.ids for text in texts], np.array([text.score for text in texts])
        rest = np.log(np.maximum(-np.expm1(scores), _LEAST_REST))
        # Another text has at most the rest of the probability, and the language adds at most the gap more to it.
        added, gaps = prior.least(ids)
        unsure = np.flatnonzero((rest + gaps + prior.bonus >= scores) | search_all)
        known = [Hypothesis(*one) for one in zip(ids, scores.tolist(), (scores + added).tolist(), strict=True)]
        found, shares = [[one] for one in known], np.exp(scores).tolist()
        return cls(log_probs, greedy, pieces, steps, images, known, unsure, found, shares, prior.space)

    def packed(self) -> list[Floats]:
        """Return log-probabilities ``(T'', V)`` of the unsure pieces, without repeated sure steps."""
        log_probs = self.pieces[self.unsure]
        best = log_probs.argmax(axis=2)
        sure = log_probs.max(axis=2) > _SURE_STEP
        kept = np.arange(best.shape[1]) < self.steps[self.unsure][:, None]
        kept[:, 1:] &= ~(sure[:, 1:] & sure[:, :-1] & (best[:, 1:] == best[:, :-1]))
        return [one[steps] for one, steps in zip(log_probs, kept, strict=True)]

    def add(self, p: int, hypotheses: list[Hypothesis], added: float) -> None:
        """Store the texts found in a piece; the language adds ``added`` to its known text."""
        known = self.known[p]._replace(rank=self.known[p].score + added)
        # The best path is in the running even where the beam lost it.
        if all(h.ids != known.ids for h in hypotheses):
            hypotheses = sorted([*hypotheses, known], key=lambda h: (-h.rank, h.ids))
        self.found[p] = hypotheses
        self.shares[p] = 1.0 / sum(math.exp(h.rank - hypotheses[0].rank) for h in hypotheses)

    def readings(self, n_best: int) -> list[LanguageReading]:
        texts: list[list[tuple[tuple[int, ...], float]]] = [[((), 0.0)] for _ in self.log_probs]
        probabilities = [1.0] * len(self.log_probs)
        for p, image in enumerate(self.images.tolist()):
            made = [
                # A piece may be empty, at the ends and between two spaces.
                (ids + (self.space,) * bool(ids and one.ids) + one.ids, rank + one.rank)
                for ids, rank in texts[image]
                for one in self.found[p][:n_best]
            ]
            texts[image] = made if len(made) == 1 else sorted(made, key=lambda pair: (-pair[1], pair[0]))[:n_best]
            probabilities[image] *= self.shares[p]
        # CTC scores of whole texts; those of best paths are known.
        places = [(image, ids) for image, row in enumerate(texts) for ids, _ in row if ids != self.greedy[image].ids]
        rows = np.array([image for image, _ in places], dtype=np.intp)
        computed = sequence_log_probs(self.log_probs, [ids for _, ids in places], rows).tolist() if places else []
        scores = dict(zip(places, computed, strict=True))
        readings = []
        for image, (row, greedy) in enumerate(zip(texts, self.greedy, strict=True)):
            found = tuple(Hypothesis(ids, scores.get((image, ids), greedy.score), rank) for ids, rank in row)
            same = greedy if found[0].ids == greedy.ids else None
            readings.append(LanguageReading(found, probabilities[image], same))
        return readings


def _sure_spaces(log_probs: Floats, space: int) -> Mask:
    """Return the steps ``(N, T)`` of spaces: whole runs with one sure step."""
    runs = log_probs.argmax(axis=2) == space
    sure: Mask = runs & (log_probs[:, :, space] > _SURE_SPACE)
    steps = range(log_probs.shape[1])
    for order in (steps, reversed(steps)):  # along each run, from its sure steps on
        for before, step in itertools.pairwise(order):
            sure[:, step] |= sure[:, before] & runs[:, step]
    return sure


def _cut(log_probs: Floats, cuts: Mask) -> tuple[Floats, Indices, Indices]:
    """Return pieces between certain spaces, ``(P, T', V)``, with their steps and images, ``(P,)``."""
    images, pieces = [], []
    for image, (sample, at) in enumerate(zip(log_probs, cuts, strict=True)):
        start = 0
        for place in [*np.flatnonzero(at).tolist(), len(sample)]:
            if place > start:  # several steps show one space
                images.append(image)
                pieces.append(sample[start:place])
            start = place + 1
    stacked = _stacked(pieces) if pieces else log_probs[:0]
    return stacked, np.array([len(piece) for piece in pieces], dtype=np.intp), np.array(images, dtype=np.intp)


def _stacked(pieces: Sequence[Floats]) -> Floats:
    """Stack pieces ``(T', V)``, padded with certain blanks."""
    longest = max(1, *map(len, pieces))
    stacked = np.full((len(pieces), longest, pieces[0].shape[1]), -np.inf, dtype=np.float32)
    stacked[:, :, -1] = 0.0
    for row, piece in enumerate(pieces):
        stacked[row, : len(piece)] = piece
    return stacked
