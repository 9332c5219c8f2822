"""Inspection of a set: contents, faults, and overlap with other sets.

Worker processes examine ranges of samples; their flags and hashes are merged in order. A *fault* makes training leave a
sample out, or contradicts another sample; a *remark* is only worth knowing. Some 30 bytes per sample are kept, so that
millions fit in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crnn.charset import LabelSkip, characters_outside, min_time_steps
from crnn.config.model import CharsetConfig, ImageConfig, time_steps
from crnn.data.convert import Conversion, convert
from crnn.data.formats.records import Reader, Record, Skipped
from crnn.data.list_file import ListWriter
from crnn.data.source import SampleStore
from crnn.data.store import LmdbWriter
from crnn.errors import CharsetError, ConfigError, DataError, ImageError
from crnn.files import PartialFolder
from crnn.image import load_image, target_width
from crnn.parallel import ordered_map, usable_cores

IMAGE_FAULTS = ("missing", "empty", "not_an_image", "truncated", "too_large", "outside_root", "unreadable_image")
"""Reasons of ``ImageError``, and damaged records."""

LABEL_FAULTS = ("unreadable_label", "empty_label", "too_long", "unknown_character", "too_long_for_width")
"""Reasons why a label cannot be trained on."""

FAULTS = (*IMAGE_FAULTS, *LABEL_FAULTS, "contradiction", "overlap")
"""All faults, in the order in which one is chosen where a sample has several."""

REMARKS = ("changed_label", "tiny", "huge", "wrong_stored_size")
"""Findings that are no faults."""

FLAGS = {name: 1 << bit for bit, name in enumerate((*FAULTS, *REMARKS))}
"""Bit of each finding in a sample's flags."""

RATIO_PARTS = 10
"""Ratios of width to height are counted in tenths."""

_MAX_RATIO = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectionSettings:
    """Settings of an inspection.

    Attributes:
        tiny_below: Images with a side of fewer pixels are tiny.
        huge_above: Images with a side of more pixels are huge.
    """

    image: ImageConfig = field(default_factory=ImageConfig)
    charset: CharsetConfig = field(default_factory=CharsetConfig)
    tiny_below: int = 8
    huge_above: int = 2000

    def __post_init__(self) -> None:
        if self.tiny_below < 0 or self.huge_above < max(self.tiny_below, 1):
            raise ConfigError(
                f"images are tiny below {self.tiny_below} and huge above {self.huge_above} pixels; expected a bound "
                "for tiny of 0 or more, and one for huge that is not below it"
            )


@dataclass(slots=True, eq=False)
class Examined:
    """Findings in n consecutive samples. Hashes are 0 where there is no image or label to hash.

    Attributes:
        start: Index of the first one.
        flags: ``(n,)`` uint32, the bits of ``FLAGS``.
        files: ``(n,)`` uint64 hashes of the image bytes.
        pixels: ``(n,)`` uint64 hashes of the pixels in red, green and blue.
        labels: ``(n,)`` uint64 hashes of the labels as trained on.
        label_lengths: Counts of stored labels by number of characters; the next three count images.
        ratios: Counts by ratio of width to height, in ``RATIO_PARTS``.
        characters: Counts of characters in stored labels.
        outside: The same of characters outside of the charset.
        written: Characters of the labels as trained on.
    """

    start: int
    flags: npt.NDArray[np.uint32]
    files: npt.NDArray[np.uint64]
    pixels: npt.NDArray[np.uint64]
    labels: npt.NDArray[np.uint64]
    label_lengths: Counter[int] = field(default_factory=Counter)
    widths: Counter[int] = field(default_factory=Counter)
    heights: Counter[int] = field(default_factory=Counter)
    ratios: Counter[int] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    written: set[str] = field(default_factory=set)

    @classmethod
    def nothing(cls, start: int, count: int) -> Examined:
        """Return an empty result for ``count`` samples."""
        files, pixels, labels = (np.zeros(count, np.uint64) for _ in range(3))
        return cls(start, np.zeros(count, np.uint32), files, pixels, labels)

    def take(self, part: Examined) -> None:
        """Merge the result of some of these samples."""
        place = slice(part.start - self.start, part.start - self.start + len(part.flags))
        for name in ("flags", "files", "pixels", "labels"):
            getattr(self, name)[place] = getattr(part, name)
        for name in ("label_lengths", "widths", "heights", "ratios", "characters", "outside", "written"):
            getattr(self, name).update(getattr(part, name))


class Examine:
    """Examines samples of one store; it can be pickled."""

    def __init__(self, store: SampleStore, settings: InspectionSettings) -> None:
        self._store = store
        self._settings = settings
        self._charset = settings.charset.charset()
        self._rules = settings.charset.rules()

    def __call__(self, indices: range) -> Examined:
        """Return one result for all samples of a range."""
        found = Examined.nothing(indices.start, len(indices))
        for place, index in enumerate(indices):
            flags: set[str] = set()
            target = self._label(index, place, found, flags)
            size = self._trained_size(index, self._image(index, place, found, flags), flags)
            if target is not None:
                self._check_time_steps(target, size, flags)
            if not flags.isdisjoint(LABEL_FAULTS):
                found.labels[place] = 0
            found.flags[place] = sum(FLAGS[name] for name in flags)
        return found

    def _label(self, index: int, place: int, found: Examined, flags: set[str]) -> list[int] | None:
        """Return class ids of the label, or ``None`` where it cannot be trained on."""
        try:
            raw = self._store.label(index)
        except DataError:
            flags.add("unreadable_label")
            return None
        found.label_lengths[len(raw)] += 1
        found.characters.update(raw)
        outside = characters_outside(raw, self._charset, self._rules)
        found.outside.update(outside)
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
        found.written.update(label)
        found.labels[place] = _hash(label.encode("utf-8", "surrogatepass"))
        return self._charset.encode(label)

    def _image(self, index: int, place: int, found: Examined, flags: set[str]) -> tuple[int, int] | None:
        """Return width and height of the image, or ``None`` where it cannot be read."""
        try:
            data = self._store.image_bytes(index)
            pixels = load_image(data, 3)
        except ImageError as error:
            flags.add(error.reason if error.reason in IMAGE_FAULTS else "unreadable_image")
            return None
        except DataError:
            flags.add("unreadable_image")
            return None
        height, width = pixels.shape[:2]
        found.files[place] = _hash(data)
        found.pixels[place] = _hash(b"%d %d" % (width, height), pixels.data)
        found.widths[width] += 1
        found.heights[height] += 1
        found.ratios[min(RATIO_PARTS * width // height, RATIO_PARTS * _MAX_RATIO)] += 1
        if min(width, height) < self._settings.tiny_below:
            flags.add("tiny")
        if max(width, height) > self._settings.huge_above:
            flags.add("huge")
        return width, height

    def _trained_size(self, index: int, size: tuple[int, int] | None, flags: set[str]) -> tuple[int, int] | None:
        """Return the size that training uses: the stored one, if any."""
        try:
            stored = self._store.stored_size(index)
        except DataError:
            flags.add("wrong_stored_size")
            if self._settings.image.resize == "keep_ratio":
                flags.add("unreadable_image")
            return size
        if stored is not None and size is not None and stored != size:
            flags.add("wrong_stored_size")
        return stored or size

    def _check_time_steps(self, target: list[int], size: tuple[int, int] | None, flags: set[str]) -> None:
        image = self._settings.image
        if image.resize == "squash":
            width = image.image_width
        elif size is not None:
            width = target_width(size, image)
        else:
            return
        if min_time_steps(target) > time_steps(width):
            flags.add("too_long_for_width")


def _hash(*parts: bytes | memoryview) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest(), "big")


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
    """Counts of numbers in bins of equal width; the last may be wider.

    Attributes:
        minimum: Smallest number; without numbers it is 0, as are median and maximum.
        median: Middle number, the smaller of two.
        edges: Bin i holds [``edges[i]``, ``edges[i + 1]``).
        unit: Step of the numbers: 1, or 0.1 for tenths.
        counts: Counts per bin; at most ``MAX_BINS``, empty without numbers.
    """

    minimum: float
    median: float
    maximum: float
    edges: tuple[float, ...]
    unit: float
    counts: tuple[int, ...]

    @classmethod
    def of(cls, counts: Mapping[int, int], *, parts: int = 1) -> Histogram:
        """Return the histogram of non-negative whole numbers, divided by ``parts``.

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
    """Return index groups of samples with equal hashes, ascending, in the order of their first samples.

    ``hashes`` and ``among``, which marks the samples that have one, are ``(n,)``. With 64 bits, two of 16 million
    different images collide with a probability of 7 in a million.
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
    """Return for each sample the first one of another set with an equal hash, or -1.

    ``hashes`` and ``among`` are ``(n,)``, ``others`` and ``among_others`` ``(k,)``; ``among`` marks the samples that
    have a hash.
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
    """Count of samples with one finding, and keys of the first ones."""

    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """One sample of a group of equal images; an unreadable label is empty."""

    key: str
    label: str


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of samples with equal images: their number, their samples, and the first members of the first ones."""

    groups: int
    samples: int
    examples: tuple[tuple[Member, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Images in common with another set.

    Attributes:
        path: The other set, as typed.
        samples: Samples of the other set.
        unreadable: Those with unreadable images, not compared.
        same_bytes: Samples of this set whose image bytes are in the other one.
        same_pixels: Samples of this set whose pixels are, ``same_bytes`` included.
        examples: The first pairs: sample here, first equal one there.
    """

    path: str
    samples: int
    unreadable: int
    same_bytes: int
    same_pixels: int
    examples: tuple[tuple[Member, Member], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inspection:
    """Result of an inspection. Stored labels are counted, unless said otherwise.

    Attributes:
        faulty: Samples with at least one fault.
        faults: Samples by fault (``FAULTS``); a sample may have several.
        remarks: Samples by remark (``REMARKS``).
        label_lengths: Characters per label.
        widths: Pixels, of readable images; ``heights`` likewise.
        ratios: Width by height.
        characters: Counts of characters, the most frequent first.
        outside_charset: The same of characters outside of the charset.
        unseen: Characters of the charset in no label as trained on.
        same_bytes: Groups with equal image files.
        same_pixels: Groups with equal pixels and different files.
        contradictions: Groups with equal pixels and different labels as trained on.
        overlaps: Overlap with each other set.
        flags: ``(samples,)`` uint32: the bits of ``FLAGS``.
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
        """Share of faulty samples, in [0, 1]."""
        return self.faulty / self.samples

    def fault(self, index: int) -> str:
        """Return the first fault of a sample in the order of ``FAULTS``, or an empty text."""
        flags = int(self.flags[index])
        return next((name for name in FAULTS if flags & FLAGS[name]), "")

    def as_dict(self) -> dict[str, Any]:
        """Return the result for JSON; ``docs/datasets.md`` explains the keys."""
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
    """Check every sample of a set: its label as in training, its image fully decoded.

    Worker processes are spawned: in a script, call this under ``if __name__ == "__main__"``.

    Args:
        store: The set.
        settings: Settings of the inspection.
        against: Other sets; an image that is in one of them is a fault.
        workers: Processes; 0: none. Default: one per core, 0 for few samples. The result is the same.
        progress: Called with the number of samples done since the last call, those of other sets included.
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
    """Return one result for all samples of a store."""
    count = len(store)
    if workers is None:
        workers = 0 if count < _FEW_SAMPLES else usable_cores()
    whole = Examined.nothing(0, count)
    jobs = (range(start, min(start + _JOB_SAMPLES, count)) for start in range(0, count, _JOB_SAMPLES))
    results = ordered_map(Examine(store, settings), jobs, workers=workers, ahead=4 * workers, kind="processes")
    with contextlib.closing(results):
        for part in results:
            whole.take(part)
            progress(len(part.flags))
    return whole


def _bits(names: Sequence[str]) -> np.uint32:
    return np.uint32(sum(FLAGS[name] for name in names))


def _readable(seen: Examined) -> _Mask:
    readable: _Mask = (seen.flags & _bits(IMAGE_FAULTS)) == 0
    return readable


def _overlap(store: SampleStore, seen: Examined, other: SampleStore, theirs: Examined) -> Overlap:
    """Compare with another set, and flag the samples in common."""
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


def check_destination(path: str | os.PathLike[str]) -> None:
    """Refuse early, with a ``DataError``, a folder that ``write_clean`` would refuse after a long inspection."""
    folder = PartialFolder(path, ())
    folder.check_free()
    if folder.partial.exists():
        raise DataError(
            f"{folder.partial}: exists already; expected nothing there. It was left by a conversion that was stopped: "
            "go on with that, remove it, or choose another folder"
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
    """Write the samples without faults; all contradicting and overlapping ones are left out.

    Image bytes are unchanged, and lexicons kept where the form has a place for them. A partial result is removed. The
    conversion's ``skipped`` counts each sample under its first fault. Arguments and errors are those of
    ``crnn.data.convert.convert``.
    """
    check_destination(path)
    try:
        return convert(
            _FaultlessReader(store, inspection),
            path,
            to=to,
            origin={"inspected": store.path},
            workers=workers,
            max_bad_share=1.0,
            progress=progress,
        )
    except BaseException:
        with contextlib.suppress(DataError):
            (ListWriter(path) if to == "list" else LmdbWriter(path, keep_partial=True)).discard_earlier()
        raise


class _FaultlessReader(Reader):
    """The samples of any store as records, faulty ones as skipped."""

    def __init__(self, store: SampleStore, inspection: Inspection) -> None:
        self.root = Path(store.path)
        self._store = store
        self._inspection = inspection

    def __len__(self) -> int:
        return len(self._store)

    def __iter__(self) -> Iterator[Record | Skipped]:
        large_lexicon = getattr(self._store, "large_lexicon", lambda _: None)
        for index in range(len(self)):
            key = self._store.key(index)
            fault = self._inspection.fault(index)
            if fault:
                yield Skipped(key, fault)
                continue
            label = self._store.label(index)
            try:
                lexicon, large = self._store.lexicon(index) or (), large_lexicon(index) or ()
            except DataError:
                yield Skipped(key, "bad_record")
            else:
                yield Record(key=key, label=label, path=str(index), lexicon=lexicon, large_lexicon=large)

    def image_source(self) -> Callable[[str], bytes]:
        return _StoredImages(self._store)  # workers should not get the flags of all samples with it


class _StoredImages:
    def __init__(self, store: SampleStore) -> None:
        self._store = store

    def __call__(self, path: str) -> bytes:
        return self._store.image_bytes(int(path))
