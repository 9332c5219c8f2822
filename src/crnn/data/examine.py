"""A close look at stored samples, one after the other: what the worker processes of an inspection do.

Labels are looked at as training would (``crnn.data.dataset``), pictures are decoded to the last pixel, and of each only
some hashes and a word of flags are kept.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from crnn.charset import LabelSkip, characters_outside, min_time_steps
from crnn.data.source import SampleStore
from crnn.errors import CharsetError, ConfigError, DataError, ImageError
from crnn.image import load_image, target_width
from crnn.reader_config import CharsetConfig, ImageConfig, time_steps

__all__ = [
    "FAULTS",
    "FLAGS",
    "LABEL_FAULTS",
    "PICTURE_FAULTS",
    "RATIO_PARTS",
    "REMARKS",
    "Examine",
    "Examined",
    "InspectionSettings",
]

PICTURE_FAULTS = ("missing", "empty", "not_an_image", "truncated", "too_large", "outside_root", "unreadable_picture")
"""Why a picture cannot be read: the reasons of ``ImageError``, and a record that is damaged."""

LABEL_FAULTS = ("unreadable_label", "empty_label", "too_long", "unknown_character", "too_long_for_width")
"""Why a label cannot be trained on."""

FAULTS = (*PICTURE_FAULTS, *LABEL_FAULTS, "contradiction", "overlap")
"""What makes a sample faulty, in the order in which one reason is chosen where a sample has several."""

REMARKS = ("changed_label", "tiny", "huge", "wrong_stored_size")
"""What is worth knowing of a sample that is not faulty by it."""

FLAGS = {name: 1 << bit for bit, name in enumerate((*FAULTS, *REMARKS))}
"""The bit of each finding in a sample's flags."""

RATIO_PARTS = 10
"""Ratios of width to height are counted in tenths."""

_MAX_RATIO = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectionSettings:
    """What samples are measured by.

    Attributes:
        image: Gives the time steps.
        charset: The characters, and how labels are made to fit them.
        tiny_below: A picture with a side of fewer pixels is tiny.
        huge_above: A picture with a side of more pixels is huge.

    Raises:
        ConfigError: The bounds exclude every size.
    """

    image: ImageConfig = field(default_factory=ImageConfig)
    charset: CharsetConfig = field(default_factory=CharsetConfig)
    tiny_below: int = 8
    huge_above: int = 2000

    def __post_init__(self) -> None:
        if self.tiny_below < 0 or self.huge_above < max(self.tiny_below, 1):
            raise ConfigError(
                f"pictures are tiny below {self.tiny_below} and huge above {self.huge_above} pixels; expected a bound "
                "for tiny of 0 or more, and one for huge that is not below it"
            )


@dataclass(slots=True, eq=False)
class Examined:
    """What was found in n samples that follow each other.

    Attributes:
        start: Index of the first one.
        flags: ``(n,)`` uint32, the bits of ``FLAGS``.
        files: ``(n,)`` uint64 hashes of the bytes of the pictures; of unreadable pictures 0.
        pixels: ``(n,)`` uint64 hashes of their pixels in red, green and blue; of unreadable pictures 0.
        labels: ``(n,)`` uint64 hashes of the labels as they would be trained on; of those that would not, 0.
        label_lengths: How often each number of characters was met in the labels as they are stored.
        widths: How often each width in pixels was met.
        heights: How often each height in pixels was met.
        ratios: How often each ratio of width to height was met, in ``RATIO_PARTS``.
        characters: How often each character was met in the labels as they are stored.
        outside: The same of those that the charset cannot write.
        written: The characters of the labels as they would be trained on.
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
        """Room for what will be found in ``count`` samples."""
        files, pixels, labels = (np.zeros(count, np.uint64) for _ in range(3))
        return cls(start, np.zeros(count, np.uint32), files, pixels, labels)

    def take(self, part: Examined) -> None:
        """Put what was found in some of these samples in its place."""
        place = slice(part.start - self.start, part.start - self.start + len(part.flags))
        for name in ("flags", "files", "pixels", "labels"):
            getattr(self, name)[place] = getattr(part, name)
        for name in ("label_lengths", "widths", "heights", "ratios", "characters", "outside", "written"):
            getattr(self, name).update(getattr(part, name))


class Examine:
    """Examines samples of one store; it can be pickled.

    Args:
        store: The samples.
        settings: What they are measured by.
    """

    def __init__(self, store: SampleStore, settings: InspectionSettings) -> None:
        self._store = store
        self._settings = settings
        self._charset = settings.charset.charset()
        self._rules = settings.charset.rules()

    def __call__(self, indices: range) -> Iterator[Examined]:
        """One result for all samples of a range.

        Args:
            indices: One after the other.
        """
        found = Examined.nothing(indices.start, len(indices))
        for place, index in enumerate(indices):
            flags: set[str] = set()
            target = self._label(index, place, found, flags)
            size = self._trained_size(index, self._picture(index, place, found, flags), flags)
            if target is not None:
                self._check_time_steps(target, size, flags)
            if not flags.isdisjoint(LABEL_FAULTS):
                found.labels[place] = 0
            found.flags[place] = sum(FLAGS[name] for name in flags)
        yield found

    def _label(self, index: int, place: int, found: Examined, flags: set[str]) -> list[int] | None:
        """Class ids of the label, where it can be trained on."""
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

    def _picture(self, index: int, place: int, found: Examined, flags: set[str]) -> tuple[int, int] | None:
        """Width and height of the picture, where it can be read."""
        try:
            data = self._store.image_bytes(index)
            pixels = load_image(data, 3)
        except ImageError as error:
            flags.add(error.reason if error.reason in PICTURE_FAULTS else "unreadable_picture")
            return None
        except DataError:
            flags.add("unreadable_picture")
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
        """The size that training goes by: the stored one, where there is one."""
        try:
            stored = self._store.stored_size(index)
        except DataError:
            flags.add("wrong_stored_size")
            if self._settings.image.resize == "keep_ratio":
                flags.add("unreadable_picture")
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
