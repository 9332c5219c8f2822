"""Contact sheets: every image in its place with its ratio kept, captions of any script, marks."""

import numpy as np
import pytest

from crnn.contact_sheet import contact_sheet, packed_sheet
from crnn.errors import ConfigError


def filled(height, width, *colour):
    return np.full((height, width, len(colour)), colour, np.uint8)


def test_every_image_is_there_with_its_caption():
    grey, red, wide = filled(10, 20, 200), filled(64, 64, 255, 0, 0), filled(8, 4000, 0, 0, 0)
    sheet = contact_sheet([grey, red, wide, grey, grey], ["one", "two", "字é", "", "five"])
    assert (sheet.shape, sheet.dtype) == ((120, 720, 3), np.uint8)
    assert (sheet[4:41, 4:78] == 200).all()  # 20 x 10 enlarged to 74 x 37
    assert (sheet[4:41, 184:221] == (255, 0, 0)).all()
    assert (sheet[4, 364:536] == 0).all()  # as wide as the cell, and one row high
    assert (sheet[5:41, 364:540] == 255).all()
    captions = [(sheet[y + 41 : y + 60, x : x + 180] < 128).any() for y, x in ((0, 0), (0, 180), (0, 360), (60, 0))]
    assert all(captions)
    assert (sheet[41:60, 540:] == 255).all()  # the fourth has none
    assert (sheet[60:, 180:] == 255).all()  # and there is no sixth image


def test_marked_images_are_framed_in_red():
    sheet = contact_sheet([filled(10, 10, 90)] * 2, ["x", "y"], columns=2, cell=(40, 50), marked=[1])
    red = (sheet == (208, 0, 0)).all(axis=2)
    assert red[:, [40, 79]].all()
    assert red[[0, 49], 40:].all()
    assert not red[:, :40].any()
    assert (sheet[4:31, 44:71] == 90).all()  # the frame covers nothing of it


def test_what_cannot_be_read_is_a_crossed_box():
    sheet = contact_sheet([None], ["gone"])
    box = (sheet[4:41] == 224).all(axis=2)
    assert box[0, 4:78].all()
    assert box[:, 4].all()
    assert 100 < box.sum() < 500


@pytest.mark.parametrize(
    "caption",
    ["字典", "صباح", "🙂", "e\u0301", "\ud800x", "a\tb\0", "\u202eleft", "\x1b[31m", "\u2028", " "],
    ids=ascii,
)
def test_captions_of_any_script(caption):
    with_caption, without = contact_sheet([filled(9, 9, 0)], [caption]), contact_sheet([filled(9, 9, 0)], [""])
    assert with_caption.shape == without.shape
    assert (with_caption[:41] == without[:41]).all()
    assert (with_caption != without).any() == (caption != " ")


def test_long_captions_end_in_dots_inside_their_cell():
    for caption in ("w" * 40, "i" * 1_000_000):
        sheet = contact_sheet([filled(9, 9, 0)] * 2, [caption, ""], columns=2)
        assert (sheet[41:, 180:] == 255).all()
        assert (sheet[41:, 100:180] < 128).any()
    exact = contact_sheet([filled(9, 9, 0)], ["short"])
    assert (exact != contact_sheet([filled(9, 9, 0)], ["short..."])).any()


def test_packed_images_keep_their_sizes_and_their_order():
    """Three fit into the first row, the wide one has the second, and a narrow one makes room for its caption."""
    widths = [40, 40, 20, 140, 8, 40]
    shades = [10, 60, 110, 160, 30, 90]
    images = [np.full((16, width, 1), shade, np.uint8) for width, shade in zip(widths, shades, strict=True)]
    sheet = packed_sheet(images, ["a", "b", "c", "d", "a caption longer than this", "f"], width=300)
    assert sheet.shape == (3 * (32 + 15 + 8), 300, 3)
    places = [(0, 4), (0, 92), (0, 180), (1, 4), (2, 4)]
    for (row, left), width, shade in zip(places, widths, shades, strict=False):
        top = row * 55 + 4
        assert (sheet[top : top + 32, left : left + 2 * width] == shade).all()
        assert (sheet[top : top + 32, left - 1] == 255).all()
    row = sheet[2 * 55 + 4 : 2 * 55 + 36]
    (columns,) = np.where((row == 90).all(axis=(0, 2)))
    assert columns[0] > 100, "behind the caption of the narrow one"
    assert len(columns) == 80
    assert (sheet[2 * 55 + 36 : 2 * 55 + 51, 4:130] < 128).any(axis=(0, 2)).sum() > 60, "a whole caption"


def test_packed_images_wider_than_their_sheet_are_made_smaller():
    sheet = packed_sheet([np.zeros((16, 400, 3), np.uint8)], ["x" * 300], width=208)
    assert sheet.shape == (55, 208, 3)
    assert (sheet[4:12, 4:204] == 0).all()
    assert (sheet[:, 204:] == 255).all()
    assert (packed_sheet([], [], width=20) == 255).all()


def test_wrong_arguments():
    image = filled(9, 9, 0)
    for captions, columns in (([], 1), ([""], 0), (["a\nb\nc\nd"], 1)):
        with pytest.raises(ValueError, match=r"zip|with room for an image in each"):
            contact_sheet([image], captions, columns=columns)
    with pytest.raises(ConfigError, match=r"font no\.ttf: cannot be read .*expected a TrueType or OpenType file"):
        contact_sheet([image], ["a"], font_path="no.ttf")
