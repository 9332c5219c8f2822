"""SynthText in the Wild: ``gt.mat`` beside 858,750 scenes with 7,266,866 words.

References: Gupta, Vedaldi and Zisserman 2016, arXiv:1604.06646, and the set's readme.txt. Read against mmocr, docTR,
MindOCR and ABINet, which all split texts at white space; ABINet, MindOCR and issues of ankush-me/SynthText on
degenerate boxes and scenes with unequal numbers of words and boxes.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from crnn.data.formats.matfile import Variables, read_mat, text_rows
from crnn.data.formats.records import Box, Quad, Reader, Record, Skipped, find_annotation, sample
from crnn.errors import ConfigError, DataError

_VARIABLES = ("imnames", "wordBB", "txt")
_MIN_AREA = 1.0  # square pixels; smaller words are skipped
_MAX_COORDINATE = 1e6
_TOLERANCE = 0.01  # square pixels; coordinates are published as float32, which is exact to some 0.0001 pixels


class _Scene(NamedTuple):
    name: str
    corners: bytes | None  # (number of words, 4, 2) float32, x and y; None where they are malformed
    text: str | None

    @property
    def num_boxes(self) -> int:
        return len(self.corners or b"") // 32


class SynthTextReader(Reader):
    """The words of SynthText, scene by scene in the order of the file.

    Per scene ``gt.mat`` has ``imnames`` (``8/ballet_106_0.jpg``), ``wordBB`` (2 x 4 x words: x and y of the corners,
    clockwise from the text's top left) and ``txt`` (rows of text; the nth word of all rows belongs to the nth box).
    They are held in memory. Boxes outside of a scene are left to ``crnn.data.crops``, which clips them; ABINet drops
    them. Skips are counted per box, one for a scene without boxes; both crops skip the same.

    ``source`` is ``gt.mat``, its folder (``SynthText`` in the archive), or the folder around it. ``crop="box"`` gives
    the ``Box`` of whole pixels around each ``Quad``, as in ``crop_by_word_bb_syn90k.py`` of ABINet, used by parseq too.
    ``margin`` is added on its sides, as a share of the mean of width and height, rounded up to whole pixels. ABINet and
    parseq have 0; the author's script draws up to 0.1.
    """

    def __init__(
        self, source: str | os.PathLike[str], crop: Literal["quad", "box"] = "quad", margin: float = 0.0
    ) -> None:
        if not 0 <= margin <= 1 or (crop == "quad" and margin != 0):
            raise ConfigError(f"the margin of crop {crop!r} is {margin}; expected 0 to 1 with box, and 0 with quad")
        path = find_annotation(source, ("gt.mat", "SynthText/gt.mat"))
        self.root = path.parent
        self._crop, self._margin = crop, margin
        self._scenes = list(read_mat(path, _VARIABLES, _scenes))

    def __len__(self) -> int:
        return sum(max(scene.num_boxes, 1) for scene in self._scenes)

    def __iter__(self) -> Iterator[Record | Skipped]:
        for number, scene in enumerate(self._scenes, start=1):
            words = (scene.text or "").split()
            fault = ""
            if scene.corners is None or scene.text is None:
                fault = "malformed"
            elif len(words) != scene.num_boxes:
                fault = "word_box_mismatch"
            elif not words:
                fault = "no_words"
            if fault or scene.corners is None:
                for n in range(1, max(scene.num_boxes, 1) + 1):
                    yield sample(scene.name, "", word=n, fault=fault, place=f"scene {number}")
                continue
            quads = np.frombuffer(scene.corners, np.float32).reshape(-1, 4, 2).tolist()
            for n, (word, points) in enumerate(zip(words, quads, strict=True), start=1):
                a, b, c, d = ((x, y) for x, y in points)
                quad = Quad((a, b, c, d))
                held = all(abs(value) <= _MAX_COORDINATE for point in points for value in point)  # NaN is not
                fault = quad.fault(_TOLERANCE, _MIN_AREA) if held else "malformed"
                fault = fault or ("encoding" if "\ufffd" in word else "")
                region = quad if fault or self._crop == "quad" else _box(quad, self._margin)
                fault = "no_area" if region is None else fault
                yield sample(scene.name, word, word=n, region=region, fault=fault, place=f"scene {number}")


def _scenes(path: Path, variables: Variables) -> Iterator[_Scene]:
    sizes = {}
    for name in _VARIABLES:
        cells = variables.get(name)
        if cells is None or cells.dtype.kind != "O":
            found = ", ".join(variables) or "no variables"
            raise DataError(f"{path}: has {found}; expected the cell arrays {', '.join(_VARIABLES)}. Check the file")
        sizes[name] = cells.size
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        counts = ", ".join(f"{size} in {name}" for name, size in sizes.items())
        raise DataError(f"{path}: has {counts}; expected as many scenes in each, and not none. Check the file")
    columns = [variables[name].ravel("F") for name in _VARIABLES]
    for i in range(columns[0].size):
        name, boxes, text = (column[i] for column in columns)
        for column in columns:
            column[i] = None  # free the memory of sent scenes
        rows = text_rows(text)
        yield _Scene("\n".join(text_rows(name) or ()), _corners(boxes), None if rows is None else " ".join(rows))


def _corners(boxes: Any) -> bytes | None:
    if not isinstance(boxes, np.ndarray) or boxes.dtype.kind not in "fiu":
        return None
    if boxes.size == 0:
        return b""
    if boxes.shape[:2] != (2, 4) or boxes.ndim > 3:
        return None
    return boxes.reshape((2, 4, -1)).T.astype(np.float32).tobytes()


def _box(quad: Quad, margin: float) -> Box | None:
    xs, ys = zip(*quad.points, strict=True)
    left, right, top, bottom = round(min(xs)), round(max(xs)), round(min(ys)), round(max(ys))
    if left == right or top == bottom:
        return None
    added = math.ceil(margin * (right - left + bottom - top) / 2)
    return Box(left - added, top - added, right - left + 2 * added, bottom - top + 2 * added)
