"""The pictures of a face's characters: drawn, compared with each other, and with the faces that ship."""

from __future__ import annotations

import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

__all__ = ["ALNUM", "Glyphs", "shipped_folder"]

ALNUM = string.digits + string.ascii_letters

_EM = 64  # pixels per em of the glyphs that are looked at
_CANVAS = 4 * _EM
_ORIGIN = (_EM + _EM // 2, 2 * _EM + _EM // 2)
_SIDE = 16  # pixels of a normalised glyph
_MIN_LETTERS = 20  # of ALNUM, to judge a face by them
_MIN_LIKENESS = 0.6  # cosine between a letter and a reference, for a letter to count as recognised
_SAME = 0.985  # cosine between two drawings of one outline
_MAX_TWINS = 4  # different characters with one picture; I, l and | may look the same


def shipped_folder() -> Path:
    """The folder of the faces that come with the package."""
    return Path(__file__).parent / "faces"


class Glyphs:
    """The pictures of some characters in one face."""

    def __init__(self, path: Path, index: int, axes: Sequence[float], characters: str) -> None:
        self._font = ImageFont.truetype(str(path), _EM, index=index, layout_engine=ImageFont.Layout.BASIC)
        if axes:
            self._font.set_variation_by_axes(list(axes))
        self._boxes: dict[str, tuple[int, int, int, int]] = {}
        self._pictures: dict[str, Image.Image] = {}
        for character in characters:
            try:
                picture = self._draw(character)
            except OSError:  # this outline is broken ("raster overflow"); the others may be well
                continue
            box = picture.getbbox()
            if box is not None:
                self._boxes[character] = box
                self._pictures[character] = picture.crop(box)
        self._characters = characters

    def _draw(self, character: str) -> Image.Image:
        picture = Image.new("L", (_CANVAS, _CANVAS))
        ImageDraw.Draw(picture).text(_ORIGIN, character, fill=255, font=self._font, anchor="ls")
        return picture

    def usable(self) -> str:
        """The characters that are drawn, and not all by the same picture."""
        nothing = self._draw("\U0010fffd")  # mapped by no font: what is drawn for missing characters
        box = nothing.getbbox()
        missing = nothing.crop(box) if box else None
        twins: Counter[bytes] = Counter()
        for picture, _ in {(picture.tobytes(), c.casefold()) for c, picture in self._pictures.items()}:
            twins[picture] += 1

        def is_drawn(character: str) -> bool:
            picture = self._pictures.get(character)
            if picture is None:
                return _is_blank(character)
            return twins[picture.tobytes()] <= _MAX_TWINS and not (missing and _is_same(picture, missing))

        return "".join(c for c in self._characters if is_drawn(c))

    def cap_height(self, characters: str) -> float:
        """Height of capitals, or digits, in ems."""
        for group in (string.ascii_uppercase, string.digits):
            heights = [_ORIGIN[1] - self._boxes[c][1] for c in group if c in characters and c in self._boxes]
            if heights:
                return round(float(np.median(heights)) / _EM, 4)
        return 0.0

    def normalised(self, characters: str, *, hollow: bool = False) -> npt.NDArray[np.float32]:
        """``(K, D)`` float32 unit vectors, one for each drawn character, or for its outline."""
        pictures = [self._pictures[c] for c in characters]
        vectors = [_normalise(_outline(picture) if hollow else picture) for picture in pictures]
        return np.stack(vectors) if vectors else np.zeros((0, _SIDE * _SIDE), np.float32)

    def readable(self, characters: str) -> float:
        """Share of the letters and digits whose most similar reference is the same one, whatever the case."""
        own = "".join(c for c in ALNUM if c in characters and c in self._pictures)
        if len(own) < _MIN_LETTERS:
            return 1.0
        names, references = _references()
        likeness = self.normalised(own) @ references.T
        nearest = likeness.argmax(axis=1).tolist()
        hits = [
            _LOOKALIKES[names[at]] == _LOOKALIKES[c] and float(likeness[row, at]) > _MIN_LIKENESS
            for row, (c, at) in enumerate(zip(own, nearest, strict=True))
        ]
        return round(sum(hits) / len(hits), 4)

    def one_case(self, characters: str) -> bool:
        """Whether letters whose two forms differ have one form here."""
        pairs = [c for c in "abdeghmnqrt" if c in characters and c.upper() in characters]
        pairs = [c for c in pairs if c in self._pictures and c.upper() in self._pictures]
        if len(pairs) < 6:
            return False
        same = (self.normalised("".join(pairs)) * self.normalised("".join(pairs).upper())).sum(axis=1)
        return bool(np.median(same) > 0.9)


def _is_blank(character: str) -> bool:
    """Whether a character is meant to leave no ink: spaces, joiners."""
    return unicodedata.category(character) in {"Zs", "Cf"}


def _is_same(one: Image.Image, other: Image.Image) -> bool:
    """Whether two glyphs have one outline; not bit for bit, as hinting treats letters and other glyphs differently."""
    if abs(one.width - other.width) > 1 or abs(one.height - other.height) > 1:
        return False
    return float((_normalise(one) * _normalise(other)).sum()) > _SAME


def _normalise(picture: Image.Image) -> npt.NDArray[np.float32]:
    """A glyph in a square, its box filling it, thin ones kept thin; softened and made a unit vector."""
    width, height = picture.size
    wide = max(3, round(_SIDE * min(1.0, 1.6 * width / height)))
    high = max(3, round(_SIDE * min(1.0, 1.6 * height / width)))
    square = np.zeros((_SIDE + 2, _SIDE + 2), np.float32)
    left, top = (_SIDE - wide) // 2 + 1, (_SIDE - high) // 2 + 1
    square[top : top + high, left : left + wide] = np.asarray(picture.resize((wide, high), Image.Resampling.BOX))
    # Strokes of other weights and places shall overlap.
    soft = square[:-2] + 2 * square[1:-1] + square[2:]
    soft = soft[:, :-2] + 2 * soft[:, 1:-1] + soft[:, 2:]
    flat = soft.reshape(-1) - soft.mean()
    norm = float(np.sqrt((flat * flat).sum()))
    return np.asarray(flat / norm if norm else flat, dtype=np.float32)


def _outline(picture: Image.Image) -> Image.Image:
    """A glyph as open faces draw it: its edge alone."""
    solid = ImageOps.expand(picture, 4)
    inner = np.asarray(solid.filter(ImageFilter.MinFilter(5)))
    return Image.fromarray(np.asarray(solid) - inner).crop((4, 4, 4 + picture.width, 4 + picture.height))


# Characters that many faces draw alike once their size is gone.
_GROUPS = ("0oOQD", "1iIlLjJ", "2zZ", "5sS", "6bG", "8B", "9qg", "uvUV", "4A", "yY")
_LOOKALIKES = {c: c.casefold() for c in ALNUM} | {c: group[0] for group in _GROUPS for c in group}


@lru_cache(maxsize=1)
def _references() -> tuple[str, npt.NDArray[np.float32]]:
    """Letters and digits of the faces that ship, solid and hollow: which each is, and ``(K, D)`` unit vectors."""
    names = ""
    vectors = []
    for path in sorted(shipped_folder().rglob("*.ttf")):
        glyphs = Glyphs(path, 0, (), ALNUM)
        for hollow in (False, True):
            names += ALNUM
            vectors.append(glyphs.normalised(ALNUM, hollow=hollow))
    return names, np.concatenate(vectors)
