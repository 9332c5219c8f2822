"""Read with a language: cut where spaces are certain, search where a language could change the text, join the rest.

Most words of a clear image have nearly all the probability of their piece, and no language could turn them into another
text; they cost one comparison. The others are searched together, whatever image they come from, by a beam
(``crnn.decoding.beam``) whose prefixes are ranked with the language.

Shape letters: N images, T time steps, V classes with the blank (the last one), P pieces. All logarithms are natural.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crnn.decoding.beam import Hypothesis, beam_search
from crnn.decoding.ctc import DecodedText, decode_greedy, sequence_log_probs
from crnn.decoding.language_prior import LanguagePrior

__all__ = ["LanguageReading", "search_with_language"]

_Floats = npt.NDArray[np.floating[Any]]
_Indices = npt.NDArray[np.intp]

_SURE_SPACE = float(np.log(0.9))
"""Log-probability from which on a space cuts a line into pieces that are searched apart."""

_SURE_STEP = float(np.log(0.999))
"""Steps that are as sure, and show what the one before shows, are left out of the search."""

_LEAST_REST = 1e-9
"""What rounding leaves of a probability of 1."""

_TOGETHER = 96
"""Pieces that are searched at a time: the more, the less numpy's calls cost, until arrays leave the cache."""


@dataclass(frozen=True, slots=True)
class LanguageReading:
    """What was found in an image.

    Attributes:
        texts: The texts, the best first.
        probability: Share of the best text in all that were met.
        greedy: The best text with its places where it is that of the best path.
    """

    texts: tuple[Hypothesis, ...]
    probability: float
    greedy: DecodedText | None


def search_with_language(
    groups: Sequence[_Floats], prior: LanguagePrior, beam_width: int = 10, n_best: int = 1
) -> list[list[LanguageReading]]:
    """Return the texts that rank highest by CTC log-probability and language.

    Args:
        groups: Log-probabilities ``(N, T, V)``, each of images of one width; readings do not depend on the others.
        prior: What the language adds.
        beam_width: Prefixes that are held where it searches.
        n_best: Texts to find; above 1 every piece is searched.
    """
    cut = [_Group.of(log_probs, prior, n_best > 1) for log_probs in groups]
    packed = [piece for group in cut for piece in group.packed()]
    # Pieces of about one length together: they are padded to the longest.
    order = sorted(range(len(packed)), key=lambda p: len(packed[p]))
    found: list[list[Hypothesis]] = [[] for _ in packed]
    for first in range(0, len(order), _TOGETHER):
        some = order[first : first + _TOGETHER]
        for p, hypotheses in zip(
            some, beam_search(_stacked([packed[p] for p in some]), beam_width, prior), strict=True
        ):
            found[p] = hypotheses
    waiting = iter(found)
    return [group.readings(waiting, n_best) for group in cut]


@dataclass(slots=True)
class _Group:
    """Images of one width, cut into pieces.

    Attributes:
        log_probs: ``(N, T, V)``.
        greedy: Of the images.
        pieces: ``(P, T', V)``, padded with certain blanks; the images themselves where nothing is cut.
        steps: ``(P,)`` steps of each piece.
        images: ``(P,)`` the image of each piece, ascending.
        known: Of each piece the text of its best path.
        unsure: Pieces that a language could change, ascending.
        space: Class id of the space; -1 where there is none.
    """

    log_probs: _Floats
    greedy: list[DecodedText]
    pieces: _Floats
    steps: _Indices
    images: _Indices
    known: list[Hypothesis]
    unsure: _Indices
    space: int

    @classmethod
    def of(cls, log_probs: _Floats, prior: LanguagePrior, search_all: bool) -> _Group:
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
        if unsure.size:
            added[unsure], gaps[unsure] = prior.score([ids[p] for p in unsure.tolist()])
            unsure = unsure[(rest + gaps + prior.bonus >= scores)[unsure] | search_all]
        ranks = (scores + added).tolist()
        known = [Hypothesis(*one) for one in zip(ids, scores.tolist(), ranks, strict=True)]
        return cls(log_probs, greedy, pieces, steps, images, known, unsure, prior.space)

    def packed(self) -> list[_Floats]:
        """Log-probabilities ``(T'', V)`` of the unsure pieces, without the steps that say nothing new."""
        log_probs = self.pieces[self.unsure]
        best = log_probs.argmax(axis=2)
        sure = log_probs.max(axis=2) > _SURE_STEP
        kept = np.arange(best.shape[1]) < self.steps[self.unsure][:, None]
        kept[:, 1:] &= ~(sure[:, 1:] & sure[:, :-1] & (best[:, 1:] == best[:, :-1]))
        return [one[steps] for one, steps in zip(log_probs, kept, strict=True)]

    def readings(self, waiting: Any, n_best: int) -> list[LanguageReading]:
        """What is found in each image, where ``waiting`` gives what the search found in each unsure piece."""
        found = [[known] for known in self.known]
        shares = [math.exp(known.score) for known in self.known]
        for p in self.unsure.tolist():
            hypotheses: list[Hypothesis] = next(waiting)
            # The best path is in the running even where the beam lost it.
            if all(h.ids != self.known[p].ids for h in hypotheses):
                hypotheses = sorted([*hypotheses, self.known[p]], key=_by_rank)
            found[p] = hypotheses
            shares[p] = 1.0 / sum(math.exp(h.rank - hypotheses[0].rank) for h in hypotheses)
        texts: list[list[tuple[tuple[int, ...], float]]] = [[((), 0.0)] for _ in self.log_probs]
        probabilities = [1.0] * len(self.log_probs)
        for p, image in enumerate(self.images.tolist()):
            made = [
                # A piece may be empty, at the ends and between two spaces.
                (ids + (self.space,) * bool(ids and one.ids) + one.ids, rank + one.rank)
                for ids, rank in texts[image]
                for one in found[p][:n_best]
            ]
            texts[image] = made if len(made) == 1 else sorted(made, key=lambda pair: (-pair[1], pair[0]))[:n_best]
            probabilities[image] *= shares[p]
        return self._scored(texts, probabilities)

    def _scored(
        self, texts: list[list[tuple[tuple[int, ...], float]]], probabilities: list[float]
    ) -> list[LanguageReading]:
        """The readings with the CTC log-probability of whole texts, which is known of those of the best path."""
        places = [(image, ids) for image, row in enumerate(texts) for ids, _ in row if ids != self.greedy[image].ids]
        rows = np.array([image for image, _ in places], dtype=np.intp)
        computed = (
            iter(sequence_log_probs(self.log_probs, [ids for _, ids in places], rows).tolist()) if places else None
        )
        readings = []
        for image, row in enumerate(texts):
            known = self.greedy[image]
            found = tuple(
                Hypothesis(ids, known.score if ids == known.ids or computed is None else next(computed), rank)
                for ids, rank in row
            )
            same = known if found[0].ids == known.ids else None
            readings.append(LanguageReading(found, probabilities[image], same))
        return readings


def _by_rank(hypothesis: Hypothesis) -> tuple[float, tuple[int, ...]]:
    return -hypothesis.rank, hypothesis.ids


def _sure_spaces(log_probs: _Floats, space: int) -> npt.NDArray[np.bool_]:
    """Steps ``(N, T)`` that show a space: whole runs, where one step of the run is sure."""
    runs = log_probs.argmax(axis=2) == space
    sure = runs & (log_probs[:, :, space] > _SURE_SPACE)
    for ahead in (1, -1):
        # Along each run, from its sure steps on.
        order = slice(None) if ahead == 1 else slice(None, None, -1)
        for before, step in itertools.pairwise(range(log_probs.shape[1])[order]):
            sure[:, step] |= sure[:, before] & runs[:, step]
    result: npt.NDArray[np.bool_] = sure
    return result


def _cut(log_probs: _Floats, cuts: npt.NDArray[np.bool_]) -> tuple[_Floats, _Indices, _Indices]:
    """Pieces between certain spaces, ``(P, T', V)``; their steps and their images, ``(P,)``."""
    num_steps, num_classes = log_probs.shape[1:]
    images, starts, ends = [], [], []
    for image in range(len(log_probs)):
        start = 0
        for place in [*np.flatnonzero(cuts[image]).tolist(), num_steps]:
            if place > start:  # several steps show one space
                images.append(image)
                starts.append(start)
                ends.append(place)
            start = place + 1
    steps = np.array(ends, dtype=np.intp) - np.array(starts, dtype=np.intp)
    pieces = _stacked([log_probs[image, start:end] for image, start, end in zip(images, starts, ends, strict=True)])
    if not images:
        pieces = log_probs[:0]
    assert pieces.shape[2] == num_classes
    return pieces, steps, np.array(images, dtype=np.intp)


def _stacked(pieces: Sequence[_Floats]) -> _Floats:
    """Pieces ``(T', V)`` in one array, padded with certain blanks."""
    longest = max((len(piece) for piece in pieces), default=1)
    num_classes = pieces[0].shape[1] if pieces else 1
    stacked = np.full((len(pieces), max(longest, 1), num_classes), -np.inf, dtype=np.float32)
    stacked[:, :, -1] = 0.0
    for row, piece in enumerate(pieces):
        stacked[row, : len(piece)] = piece
    return stacked
