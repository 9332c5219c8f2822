"""Counts and sums of word accuracy, CER and 1-NED.

A ``TextSums`` holds integers, divided once at the end, so that sums over batches or ranks are exact in any order.
Texts are compared unchanged, after the protocol's rules; lengths and edits count Unicode code points.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from rapidfuzz.distance import Levenshtein

Z_95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


@dataclass(frozen=True, slots=True)
class TextSums:
    """Sums behind accuracy, CER and 1-NED; ``+`` merges, and ``TextSums()`` is the zero.

    ``edits_by_length`` are pairs ``(length, edits)``, ascending, without zeros: the Levenshtein distances summed over
    the samples whose longer text (label or prediction) has that length. 1-NED can be computed from them.
    """

    samples: int = 0
    correct: int = 0
    characters: int = 0  # of the labels
    edits_by_length: tuple[tuple[int, int], ...] = ()

    def __add__(self, other: TextSums) -> TextSums:
        edits = Counter(dict(self.edits_by_length)) + Counter(dict(other.edits_by_length))
        return TextSums(
            self.samples + other.samples,
            self.correct + other.correct,
            self.characters + other.characters,
            tuple(sorted(edits.items())),
        )

    @property
    def edits(self) -> int:
        """Sum of the Levenshtein distances (insertions, deletions, substitutions)."""
        return sum(edits for _, edits in self.edits_by_length)

    @property
    def accuracy(self) -> float:
        """Share of samples read without any error, in [0, 1]; NaN without samples."""
        return self.correct / self.samples if self.samples else math.nan

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95 % interval of ``accuracy``; (0, 1) without samples.

        Unlike the normal approximation it stays in [0, 1], and suits small sets and shares near 0 and 1. Reference:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference"; no continuity correction.
        """
        correct, samples = self.correct, self.samples
        if samples == 0:
            return 0.0, 1.0
        z2 = Z_95 * Z_95
        center = correct + z2 / 2
        spread = Z_95 * math.sqrt(correct * (1 - correct / samples) + z2 / 4)
        # Exact where all or none are correct: rounding would leave some 1e-17 there, below 0 or above 1 at times.
        low = 0.0 if correct == 0 else (center - spread) / (samples + z2)
        high = 1.0 if correct == samples else (center + spread) / (samples + z2)
        return low, high

    @property
    def cer(self) -> float:
        """Character error rate: edits per character of the labels, may exceed 1; NaN without characters."""
        return self.edits / self.characters if self.characters else math.nan

    @property
    def one_minus_ned(self) -> float:
        """Mean over the samples of 1 - edits / length of the longer text, in [0, 1]; NaN without samples.

        Reference: Zhang et al. 2019, "ICDAR 2019 Robust Reading Challenge on Reading Chinese Text on Signboard"
        (ReCTS), task 2; also LSVT of that year. Two empty texts count 1 here and 0 in DTRB.
        """
        if not self.samples:
            return math.nan
        lost = sum((Fraction(edits, length) for length, edits in self.edits_by_length), Fraction(0))
        return float(1 - lost / self.samples)


def score_texts(pairs: Iterable[tuple[str, str]]) -> TextSums:
    """Return the sums of samples, pairs of label and prediction."""
    samples = correct = characters = 0
    edits_by_length: Counter[int] = Counter()
    for label, prediction in pairs:
        samples += 1
        characters += len(label)
        if label == prediction:
            correct += 1
        else:
            length = max(len(label), len(prediction))
            edits_by_length[length] += Levenshtein.distance(label, prediction)
    return TextSums(samples, correct, characters, tuple(sorted(edits_by_length.items())))


def mean_accuracy(sets: Iterable[TextSums]) -> float:
    """Return the unweighted mean of the sets' accuracies (papers' "Avg"); NaN if no set has samples."""
    accuracies = [sums.accuracy for sums in sets if sums.samples]
    return sum(accuracies) / len(accuracies) if accuracies else math.nan
