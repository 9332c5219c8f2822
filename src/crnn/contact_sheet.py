"""Many images with a caption under each, as one picture: for TensorBoard, and to look at a set with one's own eyes.

Captions may be of any script: characters that the face has not are drawn as its empty box, and those that cannot be
drawn at all (control characters, halves of surrogate pairs) as escapes.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from crnn.errors import ConfigError

_MARGIN = 4
_FONT_SIZE = 12
_LINE_HEIGHT = 15
_MAX_CAPTION = 200  # characters that are measured; more never fit in a cell
_MARK = (208, 0, 0)
_ABSENT = (224, 224, 224)

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    pictures: Sequence[npt.NDArray[np.uint8] | None],
    captions: Sequence[str],
    *,
    columns: int = 4,
    cell: tuple[int, int] = (180, 60),
    marked: Collection[int] = (),
    font_path: str | os.PathLike[str] | None = None,
) -> npt.NDArray[np.uint8]:
    """Draw images in rows, each with its caption under it.

    Every image is made smaller or larger, with its ratio kept, until it fills the width or the height that its cell
    leaves above the captions.

    Args:
        pictures: ``(H, W, C)`` uint8 each, C of 1 (grey) or 3 (red, green, blue); ``None`` where there is none to show,
            which is drawn as a crossed box.
        captions: One for each; a line break begins a new line. What is too long ends in dots.
        columns: Images in a row, at least 1.
        cell: Width and height in pixels that each image and its caption have; the height must leave room above the
            lines.
        marked: Places in ``pictures`` that are framed in red.
        font_path: A TrueType or OpenType file for the captions. Default: the face that Pillow brings, which has the
            Latin letters.

    Returns:
        ``(H, W, 3)`` uint8: ``columns`` cells wide, as many high as there are rows, at least one.

    Raises:
        ConfigError: ``font_path`` is no face that can be read.
        ValueError: The captions are fewer or more than the images, or a cell has no room for an image.
    """
    lines = [caption.split("\n") for caption in captions]
    caption_height = _LINE_HEIGHT * max(map(len, lines), default=1)
    box = (cell[0] - 2 * _MARGIN, cell[1] - 2 * _MARGIN - caption_height)
    if columns < 1 or min(box) < 1:
        raise ValueError(f"{columns} columns of {cell} pixels; expected at least 1, with room for a picture in each")
    rows = max(-(-len(pictures) // columns), 1)
    sheet = Image.new("RGB", (cell[0] * columns, cell[1] * rows), "white")
    draw = ImageDraw.Draw(sheet)
    font = load_font(None if font_path is None else (os.fspath(font_path), 0), _FONT_SIZE)
    for place, (pixels, texts) in enumerate(zip(pictures, lines, strict=True)):
        left, top = cell[0] * (place % columns), cell[1] * (place // columns)
        corner = (left + _MARGIN, top + _MARGIN)
        if pixels is None:
            _draw_absent(draw, corner, box)
        else:
            sheet.paste(_fitted(pixels, box), corner)
        for number, text in enumerate(texts):
            at = (left + _MARGIN, top + cell[1] - _MARGIN - caption_height + number * _LINE_HEIGHT)
            draw.text(at, _shortened(text, box[0], font), fill=_MARK if place in marked else "black", font=font)
        if place in marked:
            draw.rectangle((left, top, left + cell[0] - 1, top + cell[1] - 1), outline=_MARK, width=2)
    return np.asarray(sheet)


def packed_sheet(
    pictures: Sequence[npt.NDArray[np.uint8]],
    captions: Sequence[str],
    *,
    width: int,
    scale: int = 2,
    font_path: str | os.PathLike[str] | None = None,
) -> npt.NDArray[np.uint8]:
    """Draw images of one height in rows, as many in each as there is room for, captions under them.

    Args:
        pictures: ``(H, W, C)`` uint8 each, C of 1 (grey) or 3 (red, green, blue).
        captions: One line for each. An image has as much room as its caption needs.
        width: Of the sheet in pixels; wider images are made smaller.
        scale: How much larger images are drawn.
        font_path: As for ``contact_sheet``.

    Returns:
        ``(H, width, 3)`` uint8.

    Raises:
        ConfigError: ``font_path`` is no face that can be read.
    """
    font = load_font(None if font_path is None else (os.fspath(font_path), 0), _FONT_SIZE)
    room = width - 2 * _MARGIN
    height = scale * max((pixels.shape[0] for pixels in pictures), default=1)
    cells: list[tuple[int, int, Image.Image, str]] = []
    left = row = 0
    for pixels, caption in zip(pictures, captions, strict=True):
        shown = _fitted(pixels, (min(scale * pixels.shape[1], room), height))
        text = _shortened(caption, room, font)
        wide = max(shown.width, math.ceil(font.getlength(text))) + 2 * _MARGIN
        if left and left + wide > width:
            left, row = 0, row + 1
        cells.append((left, row, shown, text))
        left += wide
    step = height + _LINE_HEIGHT + 2 * _MARGIN
    sheet = Image.new("RGB", (width, step * (row + 1)), "white")
    draw = ImageDraw.Draw(sheet)
    for left, row, shown, text in cells:
        sheet.paste(shown, (left + _MARGIN, row * step + _MARGIN))
        draw.text((left + _MARGIN, row * step + _MARGIN + shown.height), text, fill="black", font=font)
    return np.asarray(sheet)


def load_font(font: tuple[str, int] | None, size: int) -> _Font:
    """Load a font by the path and index of its file; ``None``: Pillow's own.

    Raises:
        ConfigError: It is no face that can be read.
    """
    if font is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(font[0], size, index=font[1])
    except OSError as error:
        raise ConfigError(f"font {font[0]}: cannot be read ({error}); expected a TrueType or OpenType file") from error


def _fitted(pixels: npt.NDArray[np.uint8], box: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    # In whole numbers: the side that decides is filled exactly.
    if picture.width * box[1] <= picture.height * box[0]:
        size = (max(1, picture.width * box[1] // picture.height), box[1])
    else:
        size = (box[0], max(1, picture.height * box[0] // picture.width))
    return picture.resize(size).convert("RGB")


def _draw_absent(draw: ImageDraw.ImageDraw, corner: tuple[int, int], box: tuple[int, int]) -> None:
    left, top = corner
    right, bottom = left + min(box[0], 2 * box[1]) - 1, top + box[1] - 1
    draw.rectangle((left, top, right, bottom), outline=_ABSENT)
    draw.line((left, top, right, bottom), fill=_ABSENT)
    draw.line((left, bottom, right, top), fill=_ABSENT)


def _shortened(text: str, width: int, font: _Font) -> str:
    """Escape and shorten a text to ``width`` pixels."""
    text = "".join(map(_drawable, text[: _MAX_CAPTION + 1]))
    if len(text) <= _MAX_CAPTION and font.getlength(text) <= width:
        return text
    text = text[:_MAX_CAPTION]
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _drawable(character: str) -> str:
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return character.encode("unicode_escape").decode("ascii")
    return character
