"""SynthText: gt.mat as it is published, by scipy; every word cut by its own corners, every fault by its name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from crnn.data.formats.records import Box, Quad, Skipped
from crnn.data.formats.synthtext import SynthTextReader
from crnn.errors import ConfigError, DataError

Points = tuple[tuple[float, float], ...]
SQUARE: Points = ((10, 20), (50, 20), (50, 36), (10, 36))


def boxes(*quads: Points) -> np.ndarray:
    """2 x 4 x n, and 2 x 4 where there is one word: MATLAB drops a last dimension of 1."""
    array = np.array(quads, np.float32).reshape(-1, 4, 2).T
    return array[:, :, 0] if array.shape[2] == 1 else array


def scene(name: object, word_boxes: object, *rows: str) -> tuple:
    return (name, word_boxes, np.array(rows) if rows else "")


@pytest.fixture(scope="session")
def write_set(cells: Callable[..., np.ndarray]) -> Callable[..., Path]:
    """A function that writes scenes as gt.mat in a folder."""

    def write_set(folder: Path, *scenes: tuple, compress: bool = False, **more: object) -> Path:
        names, word_boxes, texts = (cells(*column) for column in zip(*scenes, strict=True))
        characters = cells(*(np.random.default_rng(0).random((2, 4, 5)) for _ in scenes))
        variables = {"charBB": characters, "wordBB": word_boxes, "imnames": names, "txt": texts} | more
        folder.mkdir(exist_ok=True)
        scipy.io.savemat(folder / "gt.mat", variables, do_compression=compress)
        return folder / "gt.mat"

    return write_set


def shifted(dx: float, dy: float = 0.0) -> Points:
    return tuple((x + dx, y + dy) for x, y in SQUARE)


# The first two boxes that are published, and words as they are published beside them.
PUBLISHED: tuple[Points, Points] = (
    ((420.58957, 21.06382), (512.3321, 23.069519), (511.92203, 41.827087), (420.1795, 39.82139)),
    ((418.85016, 46.19922), (431.88342, 48.254295), (428.7077, 68.39458), (415.67444, 66.3395)),
)


def test_words_by_their_corners(tmp_path, write_set):
    path = write_set(
        tmp_path / "SynthText",
        scene("8/ballet_106_0.jpg", boxes(*PUBLISHED, SQUARE, shifted(60)), "Lines:\nI   ", " don't\n  ", "pkg"),
        scene("9/a b_0.jpg", boxes(SQUARE), "one"),
        *(scene("1/a.jpg", boxes(SQUARE).astype(dtype), "one") for dtype in ("f8", "i4", "u1", "u2")),
        compress=True,
    )
    for source in (tmp_path, str(path)):
        reader = SynthTextReader(source)
        assert (reader.root, len(reader)) == (tmp_path / "SynthText", 9)
    samples = list(reader)
    assert samples == list(reader)
    assert [(s.key, s.label, s.path) for s in samples[:5]] == [
        ("8/ballet_106_0.jpg#1", "Lines:", "8/ballet_106_0.jpg"),
        ("8/ballet_106_0.jpg#2", "I", "8/ballet_106_0.jpg"),
        ("8/ballet_106_0.jpg#3", "don't", "8/ballet_106_0.jpg"),
        ("8/ballet_106_0.jpg#4", "pkg", "8/ballet_106_0.jpg"),
        ("9/a b_0.jpg#1", "one", "9/a b_0.jpg"),
    ]
    for sample, expected in zip(samples, [*PUBLISHED, SQUARE, shifted(60), *[SQUARE] * 5], strict=True):
        assert isinstance(sample.region, Quad)
        assert sample.region.points == tuple(tuple(float(np.float32(v)) for v in point) for point in expected)


def test_boxes_as_abinet_cuts_them(tmp_path, write_set):
    """Rounded smallest and largest coordinates, nothing added, as the script does that made parseq's set."""
    write_set(tmp_path, scene("1/a.jpg", boxes(*PUBLISHED, SQUARE, shifted(-30, -20)), "four words in it"))
    assert [sample.region for sample in SynthTextReader(tmp_path, crop="box")] == [
        Box(420, 21, 512 - 420, 42 - 21),
        Box(416, 46, 432 - 416, 68 - 46),
        Box(10, 20, 40, 16),
        Box(-20, 0, 40, 16),  # whoever opens the image knows its size
    ]
    # The margin is a part of the mean of width and height: here a tenth of 28, rounded up.
    wide = list(SynthTextReader(tmp_path, crop="box", margin=0.1))
    assert [sample.region for sample in wide[2:]] == [Box(10 - 3, 20 - 3, 40 + 6, 16 + 6), Box(-20 - 3, -3, 46, 22)]


FAULTS: dict[str, Points] = {
    "mirrored": SQUARE[::-1],
    "self_crossing": (SQUARE[0], SQUARE[1], SQUARE[3], SQUARE[2]),
    "not_convex": (SQUARE[0], SQUARE[1], (20, 25), SQUARE[3]),
    "not_convex, a triangle": (SQUARE[0], SQUARE[0], SQUARE[2], SQUARE[3]),
    "no_area": (SQUARE[0],) * 4,
    "no_area, a hair": ((10, 20), (50, 20), (50, 20.02), (10, 20.02)),
    "malformed": ((10, 20), (float("nan"), 20), (50, 36), (10, 36)),
    "malformed, far away": ((10, 20), (1e30, 20), (1e30, 36), (10, 36)),
}


@pytest.mark.parametrize("crop", ["quad", "box"])
def test_boxes_that_cannot_be_cut_are_counted(tmp_path, write_set, crop):
    write_set(
        tmp_path,
        *(scene(f"1/{i}.jpg", boxes(SQUARE, FAULTS[x], shifted(60)), "a bad word") for i, x in enumerate(FAULTS)),
    )
    reader = SynthTextReader(tmp_path, crop)
    samples = list(reader)
    assert len(reader) == len(samples) == 3 * len(FAULTS)
    assert [getattr(sample, "label", None) for sample in samples] == ["a", None, "word"] * len(FAULTS)
    assert samples[1::3] == [Skipped(f"1/{i}.jpg#2", fault.split(",")[0]) for i, fault in enumerate(FAULTS)]


def test_scenes_that_cannot_be_used_are_counted_by_their_boxes(tmp_path, write_set, cells, samples):
    two = boxes(SQUARE, shifted(60))
    path = write_set(
        tmp_path,
        scene("1/good.jpg", two, "two words"),
        scene("2/few.jpg", two, "one"),
        scene("3/many.jpg", boxes(SQUARE), "two words"),
        scene("4/no boxes.jpg", np.zeros((2, 4, 0)), "one"),
        scene("5/nothing.jpg", np.zeros((0, 0)), ""),
        scene("6/no text.jpg", two, " \n "),
        scene("../7.jpg", two, "two words"),
        scene("", two, "two words"),
        scene(np.arange(3), boxes(SQUARE), "one"),
        scene("11/shape.jpg", np.zeros((3, 4, 2)), "two words"),
        scene("13/text.jpg", "no numbers", "two words"),
        ("14/cells.jpg", two, cells("two", "words")),
        scene("15/bytes.jpg", two, "grün word"),
    )
    path.write_bytes(path.read_bytes().replace("grün".encode(), b"gr\xf0\x9fn"))
    assert samples(SynthTextReader(tmp_path)) == [
        ("1/good.jpg", "two"),
        ("1/good.jpg", "words"),
        *((f"2/few.jpg#{n}", "!word_box_mismatch") for n in (1, 2)),
        ("3/many.jpg#1", "!word_box_mismatch"),
        ("4/no boxes.jpg#1", "!word_box_mismatch"),
        ("5/nothing.jpg#1", "!no_words"),
        *((f"6/no text.jpg#{n}", "!word_box_mismatch") for n in (1, 2)),
        *((f"../7.jpg#{n}", "!outside_root") for n in (1, 2)),
        *((f"scene 8#{n}", "!malformed") for n in (1, 2)),
        ("scene 9#1", "!malformed"),
        ("11/shape.jpg#1", "!malformed"),
        ("13/text.jpg#1", "!malformed"),
        *((f"14/cells.jpg#{n}", "!malformed") for n in (1, 2)),
        ("15/bytes.jpg#1", "!encoding"),
        ("15/bytes.jpg", "word"),
    ]


def test_files_of_another_form(tmp_path, write_set, cells):
    one = scene("1/a.jpg", boxes(SQUARE), "one")
    write_set(tmp_path, one, txt=np.arange(3))
    with pytest.raises(DataError, match="has charBB, wordBB, imnames, txt; expected the cell arrays imnames, wordBB"):
        SynthTextReader(tmp_path)
    scipy.io.savemat(tmp_path / "gt.mat", {name: cells() for name in ("imnames", "wordBB", "txt")})
    with pytest.raises(DataError, match=r"has 0 in imnames.*and not none"):
        SynthTextReader(tmp_path)


def test_a_margin_that_cannot_be_is_refused(tmp_path):
    for crop, margin in (("box", -0.1), ("box", float("nan")), ("quad", 0.1)):
        with pytest.raises(ConfigError, match=f"the margin of crop '{crop}' is {margin}; expected"):
            SynthTextReader(tmp_path, crop, margin)
