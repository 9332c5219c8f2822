"""Square grey parts of the user's own pictures, to be textures.

Any folder of photographs will do. It may hold other things as well: what cannot be used is counted by reason and told
in one line. One picture at a time is in memory, and no more are opened than there are tiles to fill, but for bad ones.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from crnn.errors import ConfigError, ImageError
from crnn.image import load_image
from crnn.picture_file import open_picture, read_picture_file

__all__ = ["background_tiles"]

Grey = npt.NDArray[np.uint8]

_log = logging.getLogger(__name__)

MAX_LISTED = 100_000
"""Files of a folder that are looked at; where there are more, those whose paths come first."""

MIN_SIDE = 64
"""Pixels; smaller pictures have no structure left when they are as large as a tile."""

MIN_DEVIATION = 4.0
"""Grey levels; a part with less is sky or paper, and would become a tile of compression noise."""

SIDES = (0.3, 1.0)
"""A part's side, as a share of its picture's shorter side: the same things are seen near and far."""

_TRIES_PER_PART = 4
_DECODED_SIDE = 1024  # JPEG files are decoded at a half, quarter or eighth where that leaves as much as this
_EXAMPLES = 3


def background_tiles(
    folders: tuple[str, ...], count: int, size: int, rng: np.random.Generator
) -> tuple[Grey, Counter[str]]:
    """Parts of random pictures, from random places and of random sizes.

    As many pictures as possible are used, and each for the same number of parts. The result follows from the pictures,
    their paths and the state of ``rng``.

    Args:
        folders: Where pictures are, at any depth; links to folders are not followed.
        count: Number of parts, at least 1.
        size: Their height and width in pixels.
        rng: For order and places.

    Returns:
        ``(count, size, size)`` uint8, none of them flat; and how many files were left out, by reason: those of
        ``ImageError``, ``too_small`` (a side below ``MIN_SIDE``) and ``flat``.

    Raises:
        ConfigError: A folder is missing or holds no file, or no file of all of them can be used.
    """
    paths = [path for folder in folders for path in _files(folder)]
    paths = [paths[place] for place in rng.permutation(len(paths)).tolist()]
    tiles = np.empty((count, size, size), dtype=np.uint8)
    problems: list[ImageError] = []
    filled = 0
    while paths and filled < count:
        usable = []
        for number, path in enumerate(paths):
            if filled == count:
                break
            wanted = -(-(count - filled) // (len(paths) - number))
            try:
                parts = _parts(path, wanted, size, rng)
            except ImageError as error:
                problems.append(error)
                continue
            tiles[filled : filled + len(parts)] = parts
            filled += len(parts)
            usable.append(path)
        paths = usable
    skipped = Counter(error.reason for error in problems)
    told = ", ".join(f"{number} {reason}" for reason, number in skipped.most_common())
    if filled < count:
        raise ConfigError(
            f"look.backgrounds: no picture in {', '.join(folders)} can be used ({told}: {problems[0]}); expected "
            f"folders with photographs of at least {MIN_SIDE} x {MIN_SIDE} pixels"
        )
    if problems:
        examples = "; ".join(str(error) for error in problems[:_EXAMPLES])
        _log.warning("look.backgrounds: left out %d files (%s), for example: %s", len(problems), told, examples)
    return tiles, skipped


def _files(folder: str) -> list[Path]:
    """The files below a folder, in the same order on every machine."""
    root = Path(folder)
    if not root.is_dir():
        raise ConfigError(f"look.backgrounds: {folder}: no such folder; expected a folder with pictures")
    files: list[Path] = []
    for place, folders, names in os.walk(root):
        folders.sort()
        # is_file: to open a pipe would be to wait for its writer.
        files += [path for name in sorted(names) if not name.startswith(".") and (path := Path(place, name)).is_file()]
        if len(files) > MAX_LISTED:
            _log.warning("look.backgrounds: %s: more than %d files; the others are not looked at", folder, MAX_LISTED)
            break
    if not files:
        raise ConfigError(f"look.backgrounds: {folder}: holds no file; expected a folder with pictures")
    return files[:MAX_LISTED]


def _parts(path: Path, count: int, size: int, rng: np.random.Generator) -> list[Grey]:
    """At least one part, and usually ``count``."""
    grey = _grey(path)
    height, width = grey.shape
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"{path}: is {width} x {height} pixels; expected at least {MIN_SIDE}", reason="too_small")
    picture = Image.fromarray(grey)
    parts: list[Grey] = []
    for _ in range(_TRIES_PER_PART * count):
        side = min(height, width) * rng.uniform(*SIDES)
        left, top = rng.uniform(0.0, width - side), rng.uniform(0.0, height - side)
        box = (left, top, left + side, top + side)
        part = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box=box))
        if part.std() >= MIN_DEVIATION:
            parts.append(part)
            if len(parts) == count:
                break
    if not parts:
        raise ImageError(f"{path}: is of one grey all over; expected a photograph", reason="flat")
    return parts


def _grey(path: Path) -> Grey:
    name = str(path)
    picture = open_picture(read_picture_file(name), name)
    picture.draft(None, (_DECODED_SIDE, _DECODED_SIDE))
    try:
        return load_image(picture, 1)[:, :, 0]
    except ImageError as error:  # it knows the path no longer
        raise ImageError(f"{name}: {error}", reason=error.reason) from error
