"""What the compared samples of an evaluation have in common: by length, by character, and the worst readings.

Takes the samples of ``crnn.evaluation.results`` and counts; ``crnn.evaluation.report`` shows what comes out.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from crnn.evaluation.results import DatasetResult, SampleResult
from crnn.metrics import TextSums, score_texts

__all__ = ["Confusion", "LengthRow", "accuracy_by_length", "confusions", "worst_errors"]


@dataclass(frozen=True, slots=True)
class LengthRow:
    """The samples whose labels have ``length`` characters (``or_more``: at least that many)."""

    length: int
    or_more: bool
    sums: TextSums


@dataclass(frozen=True, slots=True)
class Confusion:
    """A character that was read as another one.

    Attributes:
        expected: The character of the label; empty where the reading has one too many.
        read: The character of the reading; empty where it is missing.
        count: How often that happened.
        occurrences: How often ``expected`` stands in all labels; 0 where it is empty.
    """

    expected: str
    read: str
    count: int
    occurrences: int


def accuracy_by_length(samples: Iterable[SampleResult], longest: int = 20) -> list[LengthRow]:
    """The counts by number of characters of the label, ascending; lengths without samples have no row.

    Args:
        samples: The compared samples.
        longest: Labels of more characters than this share the last row.
    """
    pairs: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
    for sample in samples:
        pairs[min(len(sample.label), longest + 1)].append((sample.label, sample.prediction))
    return [LengthRow(length, length > longest, score_texts(pairs[length])) for length in sorted(pairs)]


def confusions(samples: Iterable[SampleResult], limit: int | None = None) -> list[Confusion]:
    """Characters that were confused, most frequent first; equally frequent ones in the order of their code points.

    Each wrong reading is aligned with its label by the fewest insertions, deletions and substitutions. Where several
    alignments are as short (``rn`` read as ``m``), one of them is counted.

    Args:
        samples: The compared samples.
        limit: How many to return. Default: all.
    """
    counts: Counter[tuple[str, str]] = Counter()
    occurrences: Counter[str] = Counter()
    for sample in samples:
        label, prediction = sample.label, sample.prediction
        occurrences.update(label)
        for operation in Levenshtein.editops(label, prediction):
            expected = "" if operation.tag == "insert" else label[operation.src_pos]
            read = "" if operation.tag == "delete" else prediction[operation.dest_pos]
            counts[expected, read] += 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [Confusion(expected, read, n, occurrences[expected]) for (expected, read), n in ranked[:limit]]


def worst_errors(datasets: Iterable[DatasetResult], limit: int) -> list[tuple[str, SampleResult]]:
    """The wrong readings of highest score, each with its set's name: what the model is surest of, and wrong about.

    Equal scores keep the order of the sets; a score that is not a number comes last.

    Args:
        datasets: The sets.
        limit: How many to return, at most.
    """
    wrong = ((dataset.name, s) for dataset in datasets for s in dataset.samples if s.prediction != s.label)
    return heapq.nsmallest(limit, wrong, key=lambda error: math.inf if math.isnan(error[1].score) else -error[1].score)
