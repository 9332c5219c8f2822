"""Filtered variants of test sets (``IC13_857``, ...), by a rule or a reference store; shares of sets.

``IC15_1811`` also lacks images chosen by eye, and ``IC03_860`` seven words for no known reason: both need ``like``.
References: Baek et al. 2019, arXiv:1904.01906, section 3 (counts, rules); mindspore-ai/models, aster's ports and mmocr
(rules); baudm/parseq issue 121 (no label rule gives 1811).
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from crnn.data.formats.records import Reader, Record, Skipped
from crnn.data.store import LmdbStore
from crnn.errors import ConfigError, DataError, ImageError, printable
from crnn.image import open_image

_Place = TypeVar("_Place", int, str)


@dataclass(frozen=True, slots=True)
class Variant:
    """A filtered variant of the test words of a published set."""

    name: str
    num_samples: int
    min_length: int = 0  # characters
    alphanumeric: bool = True  # words with anything but 0-9, A-Z and a-z are left out
    beyond_rule: str = ""  # left out by no rule

    def keeps(self, label: str) -> bool:
        """Return whether the rule keeps a sample with this label."""
        return len(label) >= self.min_length and (not self.alphanumeric or (label.isascii() and label.isalnum()))


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("IC03_867", 867, 3),
        Variant("IC03_860", 860, 3, beyond_rule="7 words, for no known reason"),
        Variant("IC13_1095", 1095, alphanumeric=False),
        Variant("IC13_1015", 1015),
        Variant("IC13_857", 857, 3),
        Variant("IC15_2077", 2077, alphanumeric=False),
        Variant("IC15_1811", 1811, beyond_rule="images chosen by eye as too rotated, slanted or curved"),
    )
}
"""The known variants, by name."""


def find_variant(name: str) -> Variant:
    """Return the variant of a name, or raise ``DataError``; case, ``-``, ``_`` and spaces do not matter."""
    wanted = re.sub(r"[-_\s]", "", name).upper()
    for variant in VARIANTS.values():
        if variant.name.replace("_", "") == wanted:
            return variant
    raise DataError(f"{name!r}: is no variant that is known; expected one of {', '.join(VARIANTS)}")


class Subset(Reader):
    """A reader of which ``keeps`` tells by position and record what stays; the rest is counted under ``reason``."""

    def __init__(
        self, reader: Reader, keeps: Callable[[int, Record], bool], reason: str = "not_in_variant", *notes: str
    ) -> None:
        self.root = reader.root
        self.notes = reader.notes + notes
        self._reader, self._keeps, self._reason = reader, keeps, reason

    def __len__(self) -> int:
        return len(self._reader)

    def __iter__(self) -> Iterator[Record | Skipped]:
        for position, item in enumerate(self._reader):
            if isinstance(item, Record) and not self._keeps(position, item):
                yield Skipped(item.key, self._reason)
            else:
                yield item

    def image_source(self) -> Callable[[str], bytes]:
        """Return that of the whole set."""
        return self._reader.image_source()


def variant_of(reader: Reader, name: str, *, like: str | os.PathLike[str] | None = None) -> Subset:
    """Return the samples of a set that are in one of its variants; the others count as ``not_in_variant``.

    ``like`` is an LMDB folder with exactly the variant's samples, without which one beyond rules is a ``DataError``.
    """
    variant = find_variant(name)
    if like is not None:
        return samples_like(reader, like, candidate=variant.keeps, expected=variant)
    if variant.beyond_rule:
        raise DataError(
            f"{variant.name}: no rule gives it ({variant.beyond_rule}); name an LMDB that has it with --like LMDB"
        )
    return Subset(reader, lambda _, record: variant.keeps(record.label))


def samples_like(
    reader: Reader,
    reference: str | os.PathLike[str],
    *,
    candidate: Callable[[str], bool] = lambda _: True,
    expected: Variant | None = None,
) -> Subset:
    """Return the samples of a set that a reference store has; the others count as ``not_in_variant``.

    They are found by the first method that is unambiguous: (1) image bytes, in any order; (2) labels and image sizes,
    in the same order, for re-encoded crops; (3) labels alone, in the same order, for words that are boxes. Case is
    ignored in labels, as stores differ in it. Labels, images and order remain those of the set. The set is read once,
    images included, with some 200 bytes held per sample: made for test sets. An ambiguous match is a ``DataError``.

    ``candidate`` tells whether a label may be in the reference, so that other samples need not be told apart;
    ``expected`` is the variant whose number of samples the reference has.
    """
    with LmdbStore(reference) as store:
        if expected is not None and len(store) != expected.num_samples:
            raise DataError(
                f"{reference}: has {len(store)} samples; {expected.name} has {expected.num_samples}. Name its LMDB"
            )
        wanted = [_trace(store.label(index), store.image_bytes, index) for index in range(len(store))]
    read = reader.image_source()
    positions, traces = [], []
    for position, item in enumerate(reader):
        if isinstance(item, Record) and candidate(item.label):
            positions.append(position)
            traces.append(_trace(item.label, read, item.path) if item.region is None else _Trace(item.label.casefold()))
    matched_by, found = _match(traces, wanted, os.fspath(reference))
    kept = {positions[index] for index in found}
    note = f"the {len(found)} samples of {os.fspath(reference)} were found by their {matched_by}"
    return Subset(reader, lambda position, _: position in kept, "not_in_variant", note)


def share_of(reader: Reader, share: str) -> Subset:
    """Return the samples whose pseudorandom number lies in a share START:STOP; the others count as ``other_share``.

    The number, in [0, 1), is a hash of the image's path: independent of the order, the same for all words of a scene.
    """
    try:
        start, stop = (float(text or end) for text, end in zip(share.split(":"), (0, 1), strict=True))
    except ValueError:
        start = stop = 0.0
    if not 0 <= start < stop <= 1:
        raise ConfigError(f"--share is {share!r}; expected START:STOP with 0 <= START < STOP <= 1, such as 0:0.9")
    return Subset(reader, lambda _, record: start <= _chance(record.path) < stop, "other_share")


def _chance(path: str) -> float:
    digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / (1 << 48)


class _Trace(NamedTuple):
    label: str
    digest: bytes | None = None
    size: tuple[int, int] | None = None


def _match(traces: Sequence[_Trace], wanted: Sequence[_Trace], reference: str) -> tuple[str, list[int]]:
    """Return the method of matching, and the indices found."""
    found = _by_digest(traces, wanted)
    if len(found) == len(wanted):
        return "images", found
    places: list[tuple[int, int]] = []
    if all(trace.size for trace in (*traces, *wanted)):
        places = _in_order([trace[::2] for trace in traces], [trace[::2] for trace in wanted])
        if places and all(first == last for first, last in places):
            return "labels and sizes", [first for first, _ in places]
    places = _in_order([trace.label for trace in traces], [trace.label for trace in wanted]) or places
    doubtful = [wanted[i].label for i, (first, last) in enumerate(places) if first != last]
    if places and not doubtful:
        return "labels", [first for first, _ in places]
    if places:
        why = f"{len(doubtful)} of its labels fit at several places ({printable(', '.join(doubtful[:3]), 60)})"
    else:
        why = "its labels are not among those of the set, in the same order"
    raise DataError(
        f"{reference}: {len(found)} of its {len(wanted)} images are in the set byte by byte, and {why}; expected one "
        "way to find its samples. Use it instead of the set, or another store of this variant"
    )


def _by_digest(traces: Sequence[_Trace], wanted: Sequence[_Trace]) -> list[int]:
    """Return the indices of the wanted images; of equal images the first."""
    rest = Counter(trace.digest for trace in wanted)
    found = []
    for index, trace in enumerate(traces):
        if trace.digest is not None and rest[trace.digest] > 0:
            rest[trace.digest] -= 1
            found.append(index)
    return found


def _in_order(traces: Sequence[Hashable], wanted: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Return the first and last possible index of each wanted sample, in order; empty if not all are found.

    The match is unique exactly if both agree everywhere.
    """
    first = _places(traces, wanted)
    last = [len(traces) - 1 - place for place in _places(traces[::-1], wanted[::-1])][::-1]
    return list(zip(first, last, strict=True))


def _places(traces: Sequence[Hashable], wanted: Sequence[Hashable]) -> list[int]:
    places: list[int] = []
    for place, trace in enumerate(traces):
        if len(places) < len(wanted) and trace == wanted[len(places)]:
            places.append(place)
    return places if len(places) == len(wanted) else []


def _trace(label: str, read: Callable[[_Place], bytes], place: _Place) -> _Trace:
    """Return what is compared; an image that cannot be read is no evidence."""
    try:
        data = read(place)
        size = open_image(data, str(place)).size
    except ImageError:
        return _Trace(label.casefold())
    return _Trace(label.casefold(), hashlib.blake2b(data, digest_size=16).digest(), size)
