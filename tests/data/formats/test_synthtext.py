"""SynthText: gt.mat as it is published, by scipy; every word cut by its own corners, every fault by its name."""

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.data.formats.records import Box, Quad, Record, Skipped
from crnn.data.formats.synthtext import MIN_AREA, SynthTextReader
from crnn.errors import ConfigError, DataError

Points = tuple[tuple[float, float], ...]
SQUARE: Points = ((10, 20), (50, 20), (50, 36), (10, 36))


def cells(values: list) -> np.ndarray:
    array = np.empty((1, len(values)), object)
    for i, value in enumerate(values):
        array[0, i] = value
    return array


def boxes(*quads: Points) -> np.ndarray:
    """2 x 4 x n, and 2 x 4 where there is one word: MATLAB drops a last dimension of 1."""
    array = np.array(quads, np.float32).reshape(-1, 4, 2).T
    return array[:, :, 0] if array.shape[2] == 1 else array


def scene(name: object, word_boxes: object, *rows: str) -> tuple:
    return (name, word_boxes, np.array(rows) if rows else "")


def write(folder: Path, *scenes: tuple, compress: bool = False, **more: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names, word_boxes, texts = (cells(list(column)) for column in zip(*scenes, strict=True))
    characters = cells([np.random.default_rng(0).random((2, 4, 5)) for _ in scenes])
    variables = {"charBB": characters, "wordBB": word_boxes, "imnames": names, "txt": texts} | more
    scipy.io.savemat(folder / "gt.mat", variables, do_compression=compress)
    return folder / "gt.mat"


def shifted(dx: float, dy: float = 0.0) -> Points:
    return tuple((x + dx, y + dy) for x, y in SQUARE)


# The first two boxes that are published, and words as they are published beside them.
PUBLISHED: tuple[Points, Points] = (
    ((420.58957, 21.06382), (512.3321, 23.069519), (511.92203, 41.827087), (420.1795, 39.82139)),
    ((418.85016, 46.19922), (431.88342, 48.254295), (428.7077, 68.39458), (415.67444, 66.3395)),
)


@pytest.mark.parametrize("compress", [False, True])
def test_words_by_their_corners(tmp_path, compress):
    write(
        tmp_path,
        scene("8/ballet_106_0.jpg", boxes(*PUBLISHED, SQUARE, shifted(60)), "Lines:\nI   ", " don't\n  ", "pkg"),
        scene("9/a b_0.jpg", boxes(SQUARE), "one"),
        compress=compress,
    )
    reader = SynthTextReader(tmp_path)
    assert reader.root == tmp_path
    assert len(reader) == 5
    samples = list(reader)
    assert [(s.key, s.label, s.path) for s in samples] == [
        ("8/ballet_106_0.jpg#1", "Lines:", "8/ballet_106_0.jpg"),
        ("8/ballet_106_0.jpg#2", "I", "8/ballet_106_0.jpg"),
        ("8/ballet_106_0.jpg#3", "don't", "8/ballet_106_0.jpg"),
        ("8/ballet_106_0.jpg#4", "pkg", "8/ballet_106_0.jpg"),
        ("9/a b_0.jpg#1", "one", "9/a b_0.jpg"),
    ]
    for sample, expected in zip(samples, [*PUBLISHED, SQUARE, shifted(60), SQUARE], strict=True):
        assert isinstance(sample.region, Quad)
        assert sample.region.points == tuple(tuple(float(np.float32(v)) for v in point) for point in expected)
    assert list(reader) == samples
    assert list(pickle.loads(pickle.dumps(reader))) == samples


def test_boxes_as_abinet_cuts_them(tmp_path):
    """Rounded smallest and largest coordinates, nothing added, as the script does that made parseq's set."""
    write(tmp_path, scene("1/a.jpg", boxes(*PUBLISHED), "two words"))
    assert [sample.region for sample in SynthTextReader(tmp_path, crop="box")] == [
        Box(420, 21, 512 - 420, 42 - 21),
        Box(416, 46, 432 - 416, 68 - 46),
    ]


def test_the_margin_is_a_part_of_the_mean_of_width_and_height(tmp_path):
    write(tmp_path, scene("1/a.jpg", boxes(SQUARE, shifted(-30, -20)), "two words"))
    assert [sample.region for sample in SynthTextReader(tmp_path, crop="box", margin=0.1)] == [
        Box(10 - 3, 20 - 3, 40 + 6, 16 + 6),  # a tenth of 28, rounded up
        Box(-20 - 3, -3, 46, 22),  # whoever opens the image knows its size
    ]


def test_places(tmp_path):
    path = write(tmp_path / "SynthText", scene("1/a.jpg", boxes(SQUARE), "one"))
    for source in (tmp_path, tmp_path / "SynthText", path, str(path)):
        reader = SynthTextReader(source)
        assert reader.root == tmp_path / "SynthText"
        assert len(reader) == 1


def test_numbers_of_other_types(tmp_path):
    whole = np.array([[10, 50, 50, 10], [20, 20, 36, 36]])
    write(tmp_path, *(scene("1/a.jpg", whole.astype(dtype), "one") for dtype in ("f8", "i4", "u1", "u2")))
    assert [sample.region for sample in SynthTextReader(tmp_path)] == [Quad(SQUARE)] * 4


FAULTS: dict[str, Points] = {
    "mirrored": SQUARE[::-1],
    "mirrored, the left for the right": (SQUARE[1], SQUARE[0], SQUARE[3], SQUARE[2]),
    "self_crossing": (SQUARE[0], SQUARE[1], SQUARE[3], SQUARE[2]),
    "self_crossing, sideways": (SQUARE[0], SQUARE[2], SQUARE[1], SQUARE[3]),
    "not_convex": (SQUARE[0], SQUARE[1], (20, 25), SQUARE[3]),
    "not_convex, a triangle": (SQUARE[0], SQUARE[0], SQUARE[2], SQUARE[3]),
    "no_area": (SQUARE[0],) * 4,
    "no_area, two pairs": (SQUARE[0], SQUARE[0], SQUARE[1], SQUARE[1]),
    "no_area, a line": ((10, 20), (20, 20), (30, 20), (40, 20)),
    "no_area, a hair": ((10, 20), (50, 20), (50, 20.02), (10, 20.02)),
    "malformed": ((10, 20), (float("nan"), 20), (50, 36), (10, 36)),
    "malformed, infinite": ((10, 20), (50, 20), (50, float("inf")), (10, 36)),
    "malformed, far away": ((10, 20), (1e30, 20), (1e30, 36), (10, 36)),
}


@pytest.mark.parametrize("crop", ["quad", "box"])
def test_boxes_that_cannot_be_cut_are_counted(tmp_path, crop):
    write(
        tmp_path,
        *(scene(f"1/{i}.jpg", boxes(SQUARE, FAULTS[x], shifted(60)), "a bad word") for i, x in enumerate(FAULTS)),
    )
    reader = SynthTextReader(tmp_path, crop)
    samples = list(reader)
    assert len(reader) == len(samples) == 3 * len(FAULTS)
    assert [getattr(sample, "label", None) for sample in samples] == ["a", None, "word"] * len(FAULTS)
    assert samples[1::3] == [Skipped(f"1/{i}.jpg#2", fault.split(",")[0]) for i, fault in enumerate(FAULTS)]


VIEWS = st.tuples(
    st.tuples(st.floats(-200, 800), st.floats(-200, 800)),  # corner
    st.tuples(st.floats(3, 300), st.floats(3, 60)),  # size
    st.floats(0, 6.28),  # angle
    st.tuples(st.floats(-0.25, 0.25), st.floats(-0.25, 0.25)),  # tilt
)


@settings(max_examples=3)  # each starts a process
@given(st.lists(VIEWS, min_size=10, max_size=40))
def test_any_view_of_a_rectangle_is_a_word_and_its_mirror_image_is_not(views):
    flat = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float)
    quads = []
    for corner, size, angle, tilt in views:
        seen = flat * size / (1 + flat @ np.array(tilt))[:, None]  # a perspective, all of it in front of the camera
        turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
        points = seen @ turn + corner
        quads += [points, points[::-1], points[[0, 1, 3, 2]]]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), scene("1/a.jpg", boxes(*quads), "word mirrored crossed " * len(views)))
        samples = list(SynthTextReader(folder))
    for i in range(0, len(samples), 3):
        word, mirrored, crossed = samples[i : i + 3]
        assert isinstance(word, Record)
        assert np.allclose(word.region.points, quads[i], atol=1e-3)
        assert mirrored.reason == "mirrored"
        assert crossed.reason == "self_crossing"


CORNERS = st.lists(st.tuples(st.floats(-50, 50, width=32), st.floats(-50, 50, width=32)), min_size=4, max_size=4)


@settings(max_examples=3)
@given(st.lists(CORNERS, min_size=20, max_size=60))
def test_any_corners_are_a_word_or_have_one_fault(quads):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), scene("1/a.jpg", boxes(*map(tuple, quads)), "word " * len(quads)))
        samples = list(SynthTextReader(folder))
    for points, sample in zip(quads, samples, strict=True):
        assert_same_fault(points, sample.reason if isinstance(sample, Skipped) else "word")


def assert_same_fault(points: list, found: str) -> None:
    """By another way: shapes are told apart by which sides meet and by the hull, not by the turns at the corners."""
    corners = np.array(points, float)
    sides = [(corners[i], corners[(i + 1) % 4]) for i in range(4)]
    areas = [cross(corners[i - 1], corners[i], corners[(i + 1) % 4]) for i in range(4)]
    if any(abs(area) <= 1 for area in areas):
        return  # near to a line, rounding decides
    signed_area = sum(a[0] * b[1] - a[1] * b[0] for a, b in sides) / 2
    if meet(*sides[0], *sides[2]) or meet(*sides[1], *sides[3]):
        assert found == "self_crossing"
    elif abs(signed_area) < MIN_AREA:
        assert found == "no_area"
    elif any(inside(corners[i], np.delete(corners, i, axis=0)) for i in range(4)):
        assert found == "not_convex"
    else:
        assert found == ("word" if signed_area > 0 else "mirrored")


def cross(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def meet(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> bool:
    return cross(a, b, c) * cross(a, b, d) < 0 and cross(c, d, a) * cross(c, d, b) < 0


def inside(point: np.ndarray, triangle: np.ndarray) -> bool:
    signs = [cross(triangle[i - 1], triangle[i], point) > 0 for i in range(3)]
    return len(set(signs)) == 1


def test_scenes_that_cannot_be_used_are_counted_by_their_boxes(tmp_path):
    two = boxes(SQUARE, shifted(60))
    write(
        tmp_path,
        scene("1/good.jpg", two, "two words"),
        scene("2/few.jpg", two, "one"),
        scene("3/many.jpg", boxes(SQUARE), "two words"),
        scene("4/no boxes.jpg", np.zeros((2, 4, 0)), "one"),
        scene("5/nothing.jpg", np.zeros((0, 0)), ""),
        scene("6/no text.jpg", two, " \n "),
        scene("../7.jpg", two, "two words"),
        scene("/8.jpg", boxes(SQUARE), "one"),
        scene("", two, "two words"),
        scene(np.arange(3), two, "two words"),
        scene("a\tb.jpg", boxes(SQUARE), "one"),
        scene("11/shape.jpg", np.zeros((3, 4, 2)), "two words"),
        scene("12/shape.jpg", np.zeros((2, 4, 2, 2)), "two words"),
        scene("13/text.jpg", "no numbers", "two words"),
        ("14/cells.jpg", two, cells(["two", "words"])),
    )
    reader = SynthTextReader(tmp_path)
    samples = list(reader)
    assert len(reader) == len(samples)
    assert [sample.label for sample in samples if isinstance(sample, Record)] == ["two", "words"]
    assert [(sample.key, sample.reason) for sample in samples if isinstance(sample, Skipped)] == [
        ("2/few.jpg#1", "word_box_mismatch"),
        ("2/few.jpg#2", "word_box_mismatch"),
        ("3/many.jpg#1", "word_box_mismatch"),
        ("4/no boxes.jpg#1", "word_box_mismatch"),
        ("5/nothing.jpg#1", "no_words"),
        ("6/no text.jpg#1", "word_box_mismatch"),
        ("6/no text.jpg#2", "word_box_mismatch"),
        ("../7.jpg#1", "outside_root"),
        ("../7.jpg#2", "outside_root"),
        ("/8.jpg#1", "outside_root"),
        ("scene 9#1", "malformed"),
        ("scene 9#2", "malformed"),
        ("scene 10#1", "malformed"),
        ("scene 10#2", "malformed"),
        ("a b.jpg#1", "malformed"),
        ("11/shape.jpg#1", "malformed"),
        ("12/shape.jpg#1", "malformed"),
        ("13/text.jpg#1", "malformed"),
        ("14/cells.jpg#1", "malformed"),
        ("14/cells.jpg#2", "malformed"),
    ]


def test_a_word_that_is_not_utf8_is_counted(tmp_path):
    path = write(tmp_path, scene("1/a.jpg", boxes(SQUARE, shifted(60)), "grün word"))
    content = path.read_bytes()
    assert content.count("grün".encode()) == 1
    path.write_bytes(content.replace("grün".encode(), b"gr\xf0\x9fn"))
    first, second = SynthTextReader(tmp_path)
    assert first == Skipped("1/a.jpg#1", "encoding")
    assert second.label == "word"


WORDS = st.lists(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=6))
ROWS = st.lists(WORDS.filter(bool), min_size=1, max_size=4)


@settings(max_examples=3)
@given(st.lists(st.tuples(ROWS, st.sampled_from([" ", "\n", " \n ", "\t", "\r\n"])), min_size=1, max_size=20))
def test_text_is_split_at_white_space_alone(texts):
    scenes, words = [], []
    for i, (rows, gap) in enumerate(texts):
        quads = [shifted(n) for n in range(sum(map(len, rows)))]
        scenes.append(scene(f"1/{i}.jpg", boxes(*quads), *(gap.join(row) + " " for row in rows)))
        words += [word for row in rows for word in row]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), *scenes)
        assert [sample.label for sample in SynthTextReader(folder)] == words


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"txt": np.arange(3)}, "has charBB, wordBB, imnames, txt; expected the cell arrays imnames, wordBB, txt"),
        ({"txt": cells(["a", "b"])}, "has 1 in imnames, 1 in wordBB, 2 in txt; expected as many scenes in each"),
    ],
)
def test_files_of_another_form(tmp_path, more, match):
    write(tmp_path, scene("1/a.jpg", boxes(SQUARE), "one"), **more)
    with pytest.raises(DataError, match=match):
        SynthTextReader(tmp_path)


def test_a_file_without_scenes(tmp_path):
    scipy.io.savemat(tmp_path / "gt.mat", {name: cells([]) for name in ("imnames", "wordBB", "txt")})
    with pytest.raises(DataError, match=r"has 0 in imnames.*and not none"):
        SynthTextReader(tmp_path)
    scipy.io.savemat(tmp_path / "gt.mat", {})
    with pytest.raises(DataError, match="has no variables; expected the cell arrays"):
        SynthTextReader(tmp_path)


def test_a_file_that_is_cut_off(tmp_path):
    path = write(tmp_path, *(scene(f"1/{i}.jpg", boxes(SQUARE), "one") for i in range(50)), compress=True)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"gt\.mat: cannot be read as a MATLAB file of version 5 to 7: "):
        SynthTextReader(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"crop": "circle"}, "no crop 'circle'; expected quad or box"),
        ({"crop": "box", "margin": -0.1}, "the margin of crop 'box' is -0.1; expected 0 to 1"),
        ({"crop": "box", "margin": 1.5}, "is 1.5"),
        ({"crop": "box", "margin": float("nan")}, "is nan"),
        ({"crop": "quad", "margin": 0.1}, "and 0 with quad"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, match):
    with pytest.raises(ConfigError, match=match):
        SynthTextReader(tmp_path, **arguments)
    with pytest.raises(DataError, match=r"has no gt\.mat or SynthText/gt\.mat"):
        SynthTextReader(tmp_path)
