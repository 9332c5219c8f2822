"""The doctor: what is in a set, what is wrong with it, and what it has in common with another.

::

    store --ranges--> worker processes (crnn.data.examine) --in order--> flags and hashes --> Inspection
                                                                              |
    other stores ------------------------------------------------> hashes --> overlap

A *fault* is what makes training leave a sample out, or what makes it contradict another one; a *remark* is worth
knowing and no more. Of a sample some 30 bytes are kept, whatever its size, so that millions fit in memory.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crnn.cores import usable_cores
from crnn.data.examine import (
    FAULTS,
    FLAGS,
    LABEL_FAULTS,
    PICTURE_FAULTS,
    RATIO_PARTS,
    REMARKS,
    Examine,
    Examined,
    InspectionSettings,
)
from crnn.data.prepare_workers import prepare_in_order
from crnn.data.source import SampleStore
from crnn.errors import ConfigError, DataError

__all__ = [
    "MAX_BINS",
    "Finding",
    "Groups",
    "Histogram",
    "Inspection",
    "Member",
    "Overlap",
    "equal_groups",
    "in_common",
    "inspect_store",
]

MAX_BINS = 12

_JOB_SAMPLES = 256
_FEW_SAMPLES = 2000  # looked at before worker processes would have started
_MAX_EXAMPLES = 5
_MAX_MEMBERS = 4  # of a group that is an example

_Hashes = npt.NDArray[np.uint64]
_Indices = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Numbers of samples in bins of one width, of which the last may be wider.

    Attributes:
        minimum: Smallest number; all three are 0 where there is none.
        median: The number in the middle, the smaller of the two where there are two.
        maximum: Largest number.
        edges: Bin i has the numbers in [``edges[i]``, ``edges[i + 1]``).
        unit: What two numbers that follow each other differ by: 1, or 0.1 where tenths were counted.
        counts: Numbers in each bin; at most ``MAX_BINS``, none where there are no numbers.
    """

    minimum: float
    median: float
    maximum: float
    edges: tuple[float, ...]
    unit: float
    counts: tuple[int, ...]

    @classmethod
    def of(cls, counts: Mapping[int, int], *, parts: int = 1) -> Histogram:
        """The histogram of whole numbers of 0 or more.

        Args:
            counts: How often each number was met.
            parts: What the numbers are divided by: 10 where tenths were counted.

        Example:
            >>> Histogram.of({1: 5, 2: 1}).counts
            (5, 1)
        """
        numbers = np.array(sorted(number for number, count in counts.items() if count > 0), np.int64)
        if not len(numbers):
            return cls(minimum=0, median=0, maximum=0, edges=(), unit=1 / parts, counts=())
        weights = np.array([counts[number] for number in numbers.tolist()])
        sums = weights.cumsum()
        # The 1 % of the largest share the last bin; they would leave one bin for all others.
        median, common = numbers[np.searchsorted(sums, sums[-1] * np.array([0.5, 0.99]))].tolist()
        low, high = int(numbers[0]), int(numbers[-1])
        steps = (digit * 10**power for power in range(19) for digit in (1, 2, 5))
        step = next(step for step in steps if common // step - low // step < MAX_BINS - 1)
        first, last = low // step * step, min(high, common + step) // step * step
        edges = [*range(first, last + 1, step), max(last + step, high + 1)]
        return cls(
            minimum=low if parts == 1 else low / parts,
            median=median if parts == 1 else median / parts,
            maximum=high if parts == 1 else high / parts,
            edges=tuple(edge if parts == 1 else edge / parts for edge in edges),
            unit=1 / parts,
            counts=tuple(np.histogram(numbers, edges, weights=weights)[0].tolist()),
        )


def equal_groups(hashes: _Hashes, among: _Mask) -> list[_Indices]:
    """Groups of two or more samples with equal hashes, in the order of their first samples.

    Hashes have 64 bits: of 16 million different images two are taken for equal with a probability of 7 in a million.

    Args:
        hashes: ``(n,)``, one for each sample.
        among: ``(n,)``: the samples that have one.

    Returns:
        Indices of the samples, ascending in each group.
    """
    indices = np.flatnonzero(among)
    _, group_of, sizes = np.unique(hashes[indices], return_inverse=True, return_counts=True)
    repeated = sizes[group_of] > 1
    indices, group_of = indices[repeated], group_of[repeated]
    if not len(indices):
        return []
    order = np.argsort(group_of, kind="stable")
    groups = np.split(indices[order], np.flatnonzero(np.diff(group_of[order])) + 1)
    return sorted(groups, key=lambda group: int(group[0]))


def in_common(hashes: _Hashes, among: _Mask, others: _Hashes, among_others: _Mask) -> _Indices:
    """For each sample of a set the first one of another set with an equal hash, -1 where there is none.

    Args:
        hashes: ``(n,)``.
        among: ``(n,)``: the samples that have one.
        others: ``(k,)``, of the other set.
        among_others: ``(k,)``: the samples that have one there.
    """
    partners = np.full(len(hashes), -1, np.int64)
    theirs = np.flatnonzero(among_others)
    values, firsts = np.unique(others[theirs], return_index=True)
    if len(values):
        places = np.searchsorted(values, hashes).clip(max=len(values) - 1)
        found = among & (values[places] == hashes)
        partners[found] = theirs[firsts[places[found]]]
    return partners


@dataclass(frozen=True, slots=True)
class Finding:
    """Samples that one finding was made in.

    Attributes:
        count: How many.
        examples: Keys of the first ones.
    """

    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """One sample of a group of equal pictures.

    Attributes:
        key: What names it.
        label: As it is stored; empty where it cannot be read.
    """

    key: str
    label: str


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of samples with equal pictures.

    Attributes:
        groups: How many.
        samples: Samples in them, two or more in each.
        examples: The first members of the first ones.
    """

    groups: int
    samples: int
    examples: tuple[tuple[Member, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What a set has in common with another one.

    Attributes:
        path: The other set, as it was typed.
        samples: Samples of the other set.
        unreadable: Those of them whose pictures cannot be read and were not compared.
        same_bytes: Samples of this set whose picture is in the other one, byte by byte.
        same_pixels: Samples of this set whose picture is in the other one, those of ``same_bytes`` included.
        examples: The first ones: the sample here and the first equal one there.
    """

    path: str
    samples: int
    unreadable: int
    same_bytes: int
    same_pixels: int
    examples: tuple[tuple[Member, Member], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inspection:
    """What was found in a set.

    Attributes:
        path: As it was typed.
        settings: What it was measured by.
        samples: Samples in it.
        faulty: Samples with at least one fault.
        faults: Samples by fault (``crnn.data.examine.FAULTS``), only those that were found. A sample may have several.
        remarks: The same by remark (``REMARKS``).
        label_lengths: Characters of the labels as they are stored.
        widths: Pixels, of the pictures that can be read.
        heights: Pixels.
        ratios: Width by height.
        characters: How often each character is in the labels as they are stored, the most frequent first.
        outside_charset: The same of characters that the charset cannot write.
        unseen: Characters of the charset that no label has as it would be trained on.
        same_bytes: Groups of samples whose picture files are equal.
        same_pixels: Groups of samples whose pixels are equal and whose files are not all.
        contradictions: Groups of samples whose pixels are equal and whose labels, as they would be trained on, are not.
        overlaps: What it has in common with each other set.
        flags: ``(samples,)`` uint32: the bits of ``FLAGS`` of each sample.
    """

    path: str
    settings: InspectionSettings
    samples: int
    faulty: int
    faults: dict[str, Finding]
    remarks: dict[str, Finding]
    label_lengths: Histogram
    widths: Histogram
    heights: Histogram
    ratios: Histogram
    characters: dict[str, int]
    outside_charset: dict[str, int]
    unseen: str
    same_bytes: Groups
    same_pixels: Groups
    contradictions: Groups
    overlaps: tuple[Overlap, ...]
    flags: npt.NDArray[np.uint32] = field(repr=False)

    @property
    def fault_share(self) -> float:
        """Share of the samples that are faulty, in [0, 1]."""
        return self.faulty / self.samples

    def fault(self, index: int) -> str:
        """The fault of a sample, the first in the order of ``FAULTS`` where it has several, or an empty text."""
        flags = int(self.flags[index])
        return next((name for name in FAULTS if flags & FLAGS[name]), "")

    def as_dict(self) -> dict[str, Any]:
        """For JSON; ``docs/data.md`` explains the keys."""
        plain = ("path", "samples", "faulty", "fault_share")
        nested = (
            "faults", "remarks", "label_lengths", "widths", "heights", "ratios", "characters", "outside_charset",
            "unseen", "same_bytes", "same_pixels", "contradictions", "overlaps",
        )  # fmt: skip
        image, charset = self.settings.image, self.settings.charset
        settings = {
            "characters": charset.charset().characters,
            "max_text_length": charset.max_text_length,
            "resize": image.resize,
            "image_width": image.image_width,
            "tiny_below": self.settings.tiny_below,
            "huge_above": self.settings.huge_above,
        }
        values = {name: getattr(self, name) for name in plain}
        return {**values, "settings": settings, **{name: _plain(getattr(self, name)) for name in nested}}


def inspect_store(
    store: SampleStore,
    settings: InspectionSettings | None = None,
    *,
    against: Sequence[SampleStore] = (),
    workers: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Inspection:
    """Look at every sample of a set: its label as training would, its picture decoded to the last pixel.

    Worker processes are started afresh: in a program of one's own, call this under ``if __name__ == "__main__"``.

    Args:
        store: The set.
        settings: What it is measured by.
        against: Other sets; a sample whose picture is in one of them, too, is a fault.
        workers: Processes; 0: all in this one. Default: one per core, 0 for few samples. The result is the same.
        progress: Called with the number of samples looked at since it was called before, those of other sets included.

    Raises:
        ConfigError: ``workers`` is negative.
        DataError: A worker process died.
    """
    settings = settings or InspectionSettings()
    if workers is not None and workers < 0:
        raise ConfigError(f"workers is {workers}; expected 0 or more processes")
    seen = _look_at(store, settings, workers, progress)
    readable = _readable(seen)
    equal = equal_groups(seen.pixels, readable)
    usable = (seen.flags & _bits(LABEL_FAULTS)) == 0
    contradicting = [group for group in equal if _differ(seen.labels[group[usable[group]]])]
    for group in contradicting:
        seen.flags[group[usable[group]]] |= FLAGS["contradiction"]
    overlaps = []
    for other in against:
        theirs = _look_at(other, settings, workers, progress)
        overlaps.append(_overlap(store, seen, other, theirs))
    return Inspection(
        path=store.path,
        settings=settings,
        samples=len(store),
        faulty=int(np.count_nonzero(seen.flags & _bits(FAULTS))),
        faults=_findings(store, seen.flags, FAULTS),
        remarks=_findings(store, seen.flags, REMARKS),
        label_lengths=Histogram.of(seen.label_lengths),
        widths=Histogram.of(seen.widths),
        heights=Histogram.of(seen.heights),
        ratios=Histogram.of(seen.ratios, parts=RATIO_PARTS),
        characters=_by_frequency(seen.characters),
        outside_charset=_by_frequency(seen.outside),
        unseen="".join(c for c in settings.charset.charset().characters if c not in seen.written),
        same_bytes=_groups(store, equal_groups(seen.files, readable)),
        same_pixels=_groups(store, [group for group in equal if _differ(seen.files[group])]),
        contradictions=_groups(store, contradicting),
        overlaps=tuple(overlaps),
        flags=seen.flags,
    )


def _look_at(
    store: SampleStore, settings: InspectionSettings, workers: int | None, progress: Callable[[int], None]
) -> Examined:
    """All samples of a store as one result."""
    count = len(store)
    if workers is None:
        workers = 0 if count < _FEW_SAMPLES else usable_cores()
    whole = Examined.nothing(0, count)
    jobs = (range(start, min(start + _JOB_SAMPLES, count)) for start in range(0, count, _JOB_SAMPLES))
    results = prepare_in_order(Examine(store, settings), jobs, workers)
    with contextlib.closing(results):
        for results_of_job in results:
            for part in results_of_job:
                whole.take(part)
                progress(len(part.flags))
    return whole


def _bits(names: Sequence[str]) -> np.uint32:
    return np.uint32(sum(FLAGS[name] for name in names))


def _readable(seen: Examined) -> _Mask:
    readable: _Mask = (seen.flags & _bits(PICTURE_FAULTS)) == 0
    return readable


def _overlap(store: SampleStore, seen: Examined, other: SampleStore, theirs: Examined) -> Overlap:
    """Compare with another set; the samples that are in it, too, are flagged."""
    ours_readable, theirs_readable = _readable(seen), _readable(theirs)
    partners = in_common(seen.pixels, ours_readable, theirs.pixels, theirs_readable)
    common = np.flatnonzero(partners >= 0)
    same_files = in_common(seen.files, ours_readable, theirs.files, theirs_readable) >= 0
    seen.flags[common] |= FLAGS["overlap"]
    return Overlap(
        path=other.path,
        samples=len(other),
        unreadable=int(np.count_nonzero(~theirs_readable)),
        same_bytes=int(np.count_nonzero(same_files)),
        same_pixels=len(common),
        examples=tuple(
            (_member(store, int(index)), _member(other, int(partners[index]))) for index in common[:_MAX_EXAMPLES]
        ),
    )


def _findings(store: SampleStore, flags: npt.NDArray[np.uint32], names: Sequence[str]) -> dict[str, Finding]:
    found = {}
    for name in names:
        having = np.flatnonzero(flags & FLAGS[name])
        if len(having):
            found[name] = Finding(len(having), tuple(store.key(int(index)) for index in having[:_MAX_EXAMPLES]))
    return found


def _differ(hashes: _Hashes) -> bool:
    return len(hashes) > 0 and bool((hashes != hashes[0]).any())


def _groups(store: SampleStore, equal: Sequence[_Indices]) -> Groups:
    shown = (group[:_MAX_MEMBERS].tolist() for group in equal[:_MAX_EXAMPLES])
    examples = tuple(tuple(_member(store, index) for index in group) for group in shown)
    return Groups(len(equal), sum(map(len, equal)), examples)


def _member(store: SampleStore, index: int) -> Member:
    try:
        return Member(store.key(index), store.label(index))
    except DataError:
        return Member(store.key(index), "")


def _by_frequency(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return value
