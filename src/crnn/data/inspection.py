"""Inspection of a set: contents, faults, and overlap with other sets.

A *fault* makes training leave a sample out, or contradicts another sample; a *remark* is only worth knowing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from crnn.charset import LabelSkip, characters_outside, fits_steps
from crnn.config.model import CharsetConfig, ImageConfig, Pooling, time_steps
from crnn.data.convert import Conversion, convert
from crnn.data.formats.lmdb import StoreReader
from crnn.data.list_file import ListWriter
from crnn.data.store import LmdbWriter, SampleStore
from crnn.errors import CharsetError, ConfigError, DataError
from crnn.files import check_free, partial_folder
from crnn.image import load_image, target_width
from crnn.parallel import ordered_map, usable_cores

# Reasons of ``ImageError``, and damaged records.
_IMAGE_FAULTS = ("missing", "empty", "not_an_image", "truncated", "too_large", "outside_root", "unreadable_image")
_LABEL_FAULTS = ("unreadable_label", "empty_label", "too_long", "unknown_character", "too_long_for_width")

# In the order in which one is chosen where a sample has several.
FAULTS = (*_IMAGE_FAULTS, *_LABEL_FAULTS, "contradiction", "overlap")
REMARKS = ("changed_label", "tiny", "huge", "wrong_stored_size")
FLAGS = {name: 1 << bit for bit, name in enumerate((*FAULTS, *REMARKS))}  # of a sample

MAX_BINS = 12  # of a histogram
_RATIO_PARTS = 10  # ratios of width to height are counted in tenths
_JOB_SAMPLES = 256
_FEW_SAMPLES = 2000  # looked at before worker processes would have started
_MAX_EXAMPLES = 5
_MAX_MEMBERS = 4  # of a group that is an example

_Hashes: TypeAlias = npt.NDArray[np.uint64]
_Indices: TypeAlias = npt.NDArray[np.int64]
_Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectionSettings:
    """Settings that a training would have, and bounds of sizes."""

    image: ImageConfig = field(default_factory=ImageConfig)
    charset: CharsetConfig = field(default_factory=CharsetConfig)
    pooling: Pooling = "modelzoo"  # of the network
    tiny_below: int = 8  # images with a side of fewer pixels are tiny
    huge_above: int = 2000  # images with a side of more pixels are huge

    def __post_init__(self) -> None:
        if self.tiny_below < 0 or self.huge_above < max(self.tiny_below, 1):
            raise ConfigError(
                f"images are tiny below {self.tiny_below} and huge above {self.huge_above}; expected 0 <= tiny <= huge"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts of numbers in bins of equal width; the last may be wider. Without numbers all is 0 or empty."""

    minimum: float = 0
    median: float = 0  # the smaller of two
    maximum: float = 0
    edges: tuple[float, ...] = ()  # bin i holds [edges[i], edges[i + 1])
    unit: float  # step of the numbers: 1, or 0.1 for tenths
    counts: tuple[int, ...] = ()  # per bin; at most MAX_BINS

    @classmethod
    def of(cls, counts: Mapping[int, int], *, parts: int = 1) -> Histogram:
        """Return the histogram of non-negative whole numbers, divided by ``parts``."""
        numbers = np.array(sorted(number for number, count in counts.items() if count > 0), np.int64)
        if not len(numbers):
            return cls(unit=1 / parts)
        weights = np.array([counts[number] for number in numbers.tolist()])
        sums = weights.cumsum()
        # The 1 % of the largest share the last bin; they would leave one bin for all others.
        median, common = numbers[np.searchsorted(sums, sums[-1] * np.array([0.5, 0.99]))].tolist()
        low, high = int(numbers[0]), int(numbers[-1])
        steps = (digit * 10**power for power in range(19) for digit in (1, 2, 5))
        step = next(step for step in steps if common // step - low // step < MAX_BINS - 1)
        first, last = low // step * step, min(high, common + step) // step * step
        edges = [*range(first, last + 1, step), max(last + step, high + 1)]
        low, median, high, *scaled = (n if parts == 1 else n / parts for n in (low, median, high, *edges))
        found = np.histogram(numbers, edges, weights=weights)[0].tolist()
        return cls(minimum=low, median=median, maximum=high, edges=tuple(scaled), unit=1 / parts, counts=tuple(found))


@dataclass(frozen=True, slots=True)
class Finding:
    """Count of samples with one finding, and keys of the first ones."""

    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """One sample of a group of equal images."""

    key: str
    label: str  # empty where it cannot be read

    @classmethod
    def of(cls, store: SampleStore, index: int) -> Member:
        """Return the sample of a store."""
        label = ""
        with contextlib.suppress(DataError):
            label = store.label(index)
        return cls(store.key(index), label)


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of samples with equal images: their number, their samples, and the first members of the first ones."""

    groups: int
    samples: int
    examples: tuple[tuple[Member, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Images in common with another set."""

    path: str  # of the other set, as typed
    samples: int  # of the other set
    unreadable: int  # of them, with images that were not compared
    same_bytes: int  # samples of this set whose image bytes are in the other one
    same_pixels: int  # samples of this set whose pixels are
    examples: tuple[tuple[Member, Member], ...]  # the first pairs: sample here, first equal one there


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inspection:
    """Result of an inspection. Stored labels are counted, unless said otherwise."""

    path: str
    samples: int
    faulty: int  # samples with at least one fault
    settings: InspectionSettings
    faults: dict[str, Finding]  # by name; a sample may have several
    remarks: dict[str, Finding]
    label_lengths: Histogram  # characters
    widths: Histogram  # pixels, of readable images
    heights: Histogram
    ratios: Histogram  # width by height
    characters: dict[str, int]  # the most frequent first
    outside_charset: dict[str, int]
    unseen: str  # characters of the charset in no label as trained on
    same_bytes: Groups  # of equal image files
    same_pixels: Groups  # of equal pixels in different files
    contradictions: Groups  # of equal pixels with different labels as trained on
    overlaps: tuple[Overlap, ...]  # with each other set
    flags: npt.NDArray[np.uint32] = field(repr=False)  # (samples,): the bits of FLAGS

    @property
    def fault_share(self) -> float:
        """Share of faulty samples, in [0, 1]."""
        return self.faulty / self.samples

    def fault(self, index: int) -> str:
        """Return the first fault of a sample in the order of ``FAULTS``, or an empty text."""
        flags = int(self.flags[index])
        return next((name for name in FAULTS if flags & FLAGS[name]), "")

    def as_dict(self) -> dict[str, Any]:
        """Return the result for JSON; ``docs/datasets.md`` explains the keys."""
        first = {"path": self.path, "samples": self.samples, "faulty": self.faulty, "fault_share": self.fault_share}
        values = {**first, **asdict(self)}
        del values["flags"]
        values["settings"] = {
            "characters": self.settings.charset.charset().characters,
            "max_text_length": self.settings.charset.max_text_length,
            "resize": self.settings.image.resize,
            "image_width": self.settings.image.image_width,
            "tiny_below": self.settings.tiny_below,
            "huge_above": self.settings.huge_above,
        }
        return values


def inspect_store(
    store: SampleStore,
    settings: InspectionSettings | None = None,
    *,
    against: Sequence[SampleStore] = (),
    workers: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Inspection:
    """Check every sample of a set: its label as in training, its image fully decoded.

    An image that is in one of the sets ``against`` is a fault. ``progress`` is called with the number of samples done
    since the last call, those of other sets included. Worker processes, by default one per core, and 0 for few samples,
    are spawned: in a script, call this under ``if __name__ == "__main__"``.
    """
    settings = settings or InspectionSettings()
    if workers is not None and workers < 0:
        raise ConfigError(f"workers is {workers}; expected 0 or more processes")
    seen = _examine_all(store, settings, workers, progress)
    flags, files, labels = (seen.samples[name] for name in ("flags", "files", "labels"))
    equal = equal_groups(seen.samples["pixels"], seen.readable())
    usable = (flags & _bits(_LABEL_FAULTS)) == 0
    contradicting = [group for group in equal if _differ(labels[group[usable[group]]])]
    for group in contradicting:
        flags[group[usable[group]]] |= FLAGS["contradiction"]
    overlaps = [_overlap(store, seen, other, _examine_all(other, settings, workers, progress)) for other in against]
    counts, remarks = seen.counts, _findings(store, flags, REMARKS)
    if store.num_unread:
        remarks["beyond_num_samples"] = Finding(store.num_unread, (f"number {len(store) + 1}",))
    return Inspection(
        path=store.path,
        samples=len(store),
        faulty=int(np.count_nonzero(flags & _bits(FAULTS))),
        settings=settings,
        faults=_findings(store, flags, FAULTS),
        remarks=remarks,
        **{name: Histogram.of(counts[name]) for name in ("label_lengths", "widths", "heights")},
        ratios=Histogram.of(counts["ratios"], parts=_RATIO_PARTS),
        characters=_by_frequency(counts["characters"]),
        outside_charset=_by_frequency(counts["outside"]),
        unseen="".join(c for c in settings.charset.charset().characters if c not in counts["written"]),
        same_bytes=_groups(store, equal_groups(files, seen.readable())),
        same_pixels=_groups(store, [group for group in equal if _differ(files[group])]),
        contradictions=_groups(store, contradicting),
        overlaps=tuple(overlaps),
        flags=np.ascontiguousarray(flags),
    )


# Of each sample, of which there may be millions: flags, and hashes of the image bytes, of the pixels in red, green and
# blue, and of the label as trained on; 0 where there is none.
_SAMPLE = np.dtype([("flags", np.uint32), ("files", np.uint64), ("pixels", np.uint64), ("labels", np.uint64)])


class _Examined(NamedTuple):
    """Findings in n samples: ``(n,)`` of ``_SAMPLE``, and counts by what is counted."""

    samples: npt.NDArray[np.void]
    counts: defaultdict[str, Counter[Any]]

    def readable(self) -> _Mask:
        readable: _Mask = (self.samples["flags"] & _bits(_IMAGE_FAULTS)) == 0
        return readable


def _examine_all(
    store: SampleStore, settings: InspectionSettings, workers: int | None, progress: Callable[[int], None]
) -> _Examined:
    num_samples = len(store)
    if workers is None:
        workers = 0 if num_samples < _FEW_SAMPLES else usable_cores()
    whole = _Examined(np.zeros(num_samples, _SAMPLE), defaultdict(Counter))
    jobs = [range(start, min(start + _JOB_SAMPLES, num_samples)) for start in range(0, num_samples, _JOB_SAMPLES)]
    results = ordered_map(_Examine(store, settings), jobs, workers=workers, ahead=4 * workers, kind="processes")
    with contextlib.closing(results):
        for job, part in zip(jobs, results, strict=True):
            whole.samples[job.start : job.stop] = part.samples
            for name, counter in part.counts.items():
                whole.counts[name].update(counter)
            progress(len(job))
    return whole


class _Examine:
    """Examines samples of one store; it can be pickled."""

    def __init__(self, store: SampleStore, settings: InspectionSettings) -> None:
        self._store = store
        self._settings = settings
        self._charset = settings.charset.charset()
        self._rules = settings.charset.rules()

    def __call__(self, indices: range) -> _Examined:
        """Return one result for all samples of a range."""
        found = _Examined(np.zeros(len(indices), _SAMPLE), defaultdict(Counter))
        image = self._settings.image
        for place, index in enumerate(indices):
            flags: set[str] = set()
            label = self._label(index, found.counts, flags)
            size = self._image(index, place, found, flags)
            try:
                stored = self._store.stored_size(index)
            except DataError:
                stored = None
                flags |= {"wrong_stored_size"} | ({"unreadable_image"} if image.resize == "keep_ratio" else set())
            if stored is not None and size is not None and stored != size:
                flags.add("wrong_stored_size")
            size = stored or size  # the one that training uses
            if label is not None:
                width = image.image_width if image.resize == "squash" else size and target_width(size, image)
                if width and not fits_steps(label, self._charset, time_steps(width, self._settings.pooling)):
                    flags.add("too_long_for_width")
                else:
                    found.samples[place]["labels"] = _hash(label.encode("utf-8", "surrogatepass"))
            found.samples[place]["flags"] = _bits(flags)
        return found

    def _label(self, index: int, counts: dict[str, Counter[Any]], flags: set[str]) -> str | None:
        """Return the label as trained on, or ``None`` where it cannot be."""
        try:
            raw = self._store.label(index)
        except DataError:
            flags.add("unreadable_label")
            return None
        counts["label_lengths"][len(raw)] += 1
        counts["characters"].update(raw)
        outside = characters_outside(raw, self._charset, self._rules)
        counts["outside"].update(outside)
        try:
            label = self._rules.apply(raw, self._charset)
        except LabelSkip as left_out:
            flags.add(left_out.reason)
            return None
        except CharsetError:  # the rules say "error", with which training would not begin
            flags.add("unknown_character")
            return None
        if outside:
            flags.add("changed_label")
        counts["written"].update(label)
        return label

    def _image(self, index: int, place: int, found: _Examined, flags: set[str]) -> tuple[int, int] | None:
        """Return width and height of the image, or ``None`` where it cannot be read."""
        try:
            data = self._store.image_bytes(index)
            pixels = load_image(data, 3)
        except DataError as error:
            reason = getattr(error, "reason", "")
            flags.add(reason if reason in _IMAGE_FAULTS else "unreadable_image")
            return None
        height, width = pixels.shape[:2]
        found.samples[place]["files"] = _hash(data)
        found.samples[place]["pixels"] = _hash(b"%d %d" % (width, height), pixels.data)
        found.counts["widths"][width] += 1
        found.counts["heights"][height] += 1
        found.counts["ratios"][min(_RATIO_PARTS * width // height, 1000 * _RATIO_PARTS)] += 1
        if min(width, height) < self._settings.tiny_below:
            flags.add("tiny")
        if max(width, height) > self._settings.huge_above:
            flags.add("huge")
        return width, height


def _hash(*parts: bytes | memoryview) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest(), "big")


def _bits(names: Sequence[str] | set[str]) -> np.uint32:
    return np.uint32(sum(FLAGS[name] for name in names))


def equal_groups(hashes: _Hashes, among: _Mask) -> list[_Indices]:
    """Return index groups of samples with equal hashes, ascending, in the order of their first samples.

    ``among`` marks the samples that have one. With 64 bits, two of 16 million different images collide with a
    probability of 7 in a million.
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
    """Return for each sample the first one of another set with an equal hash, or -1; arguments as above."""
    partners = np.full(len(hashes), -1, np.int64)
    theirs = np.flatnonzero(among_others)
    values, firsts = np.unique(others[theirs], return_index=True)
    if len(values):
        places = np.searchsorted(values, hashes).clip(max=len(values) - 1)
        found = among & (values[places] == hashes)
        partners[found] = theirs[firsts[places[found]]]
    return partners


def _overlap(store: SampleStore, seen: _Examined, other: SampleStore, theirs: _Examined) -> Overlap:
    """Compare with another set, and flag the samples in common."""
    same_files, partners = (
        in_common(seen.samples[name], seen.readable(), theirs.samples[name], theirs.readable())
        for name in ("files", "pixels")
    )
    common = np.flatnonzero(partners >= 0)
    seen.samples["flags"][common] |= FLAGS["overlap"]
    return Overlap(
        path=other.path,
        samples=len(other),
        unreadable=int(np.count_nonzero(~theirs.readable())),
        same_bytes=int(np.count_nonzero(same_files >= 0)),
        same_pixels=len(common),
        examples=tuple(
            (Member.of(store, index), Member.of(other, int(partners[index])))
            for index in common[:_MAX_EXAMPLES].tolist()
        ),
    )


def _findings(store: SampleStore, flags: npt.NDArray[np.uint32], names: Sequence[str]) -> dict[str, Finding]:
    found = {}
    for name in names:
        having = np.flatnonzero(flags & FLAGS[name])
        if len(having):
            found[name] = Finding(len(having), tuple(map(store.key, having[:_MAX_EXAMPLES].tolist())))
    return found


def _differ(hashes: _Hashes) -> bool:
    return len(hashes) > 0 and bool((hashes != hashes[0]).any())


def _groups(store: SampleStore, equal: Sequence[_Indices]) -> Groups:
    shown = (group[:_MAX_MEMBERS].tolist() for group in equal[:_MAX_EXAMPLES])
    examples = tuple(tuple(Member.of(store, index) for index in group) for group in shown)
    return Groups(len(equal), sum(map(len, equal)), examples)


def _by_frequency(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def check_destination(path: str | os.PathLike[str]) -> None:
    """Refuse early, with a ``DataError``, a folder that ``write_clean`` would refuse after a long inspection."""
    check_free(path)
    partial = partial_folder(path)
    if partial.exists():
        raise DataError(
            f"{partial}: exists already, left by a conversion. Go on with that, remove it, or choose another folder"
        )


def write_clean(
    store: SampleStore,
    inspection: Inspection,
    path: str,
    *,
    to: Literal["lmdb", "list"] = "lmdb",
    workers: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Conversion:
    """Write the samples without faults, as ``crnn.data.convert.convert`` does; a partial result is removed.

    All contradicting and overlapping samples are left out; each is counted under its first fault.
    """
    check_destination(path)
    reader = StoreReader(store, inspection.fault)
    origin = {"inspected": store.path}
    try:
        return convert(reader, path, to=to, origin=origin, workers=workers, max_bad_share=1.0, progress=progress)
    except BaseException:
        with contextlib.suppress(DataError):
            (ListWriter(path) if to == "list" else LmdbWriter(path)).discard_earlier()
        raise
