"""Contact sheets: many images with captions in one image, for TensorBoard and to look at sets."""

import math
import os
import sys
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from crnn.errors import ConfigError, printable

_MARGIN = 4
_FONT_SIZE = 12
_LINE_HEIGHT = 15
_MAX_CAPTION = 200  # characters that are measured; more never fit in a cell
_MARK = (208, 0, 0)
_ABSENT = (224, 224, 224)

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_Image = npt.NDArray[np.uint8]


def contact_sheet(
    images: Sequence[_Image | None],
    captions: Sequence[str],
    *,
    columns: int = 4,
    cell: tuple[int, int] = (180, 60),
    marked: Collection[int] = (),
    font_path: str | os.PathLike[str] | None = None,
) -> _Image:
    """Draw images in rows, each with its caption under it, scaled with its ratio kept to fill its cell.

    Args:
        images: ``(H, W, C)`` uint8 each, C of 1 (grey) or 3 (RGB); ``None`` is drawn as a crossed box.
        captions: One each; line breaks begin new lines, and long lines end in dots.
        columns: Images in a row, at least 1.
        cell: Width and height in pixels of an image with its caption.
        marked: Places in ``images`` to frame in red.
        font_path: A TrueType or OpenType file (else ``ConfigError``). Default: Pillow's own, with the Latin letters.

    Returns:
        ``(H, W, 3)`` uint8, at least one row.
    """
    lines = [caption.split("\n") for caption in captions]
    caption_height = _LINE_HEIGHT * max(map(len, lines), default=1)
    box = (cell[0] - 2 * _MARGIN, cell[1] - 2 * _MARGIN - caption_height)
    if columns < 1 or min(box) < 1:
        raise ValueError(f"{columns} columns of {cell} pixels; expected at least 1, with room for an image in each")
    rows = max(-(-len(images) // columns), 1)
    sheet = Image.new("RGB", (cell[0] * columns, cell[1] * rows), "white")
    draw = ImageDraw.Draw(sheet)
    font = load_font(font_path, _FONT_SIZE)
    for place, (pixels, texts) in enumerate(zip(images, lines, strict=True)):
        left, top = cell[0] * (place % columns), cell[1] * (place // columns)
        if pixels is None:
            x, y = left + _MARGIN, top + _MARGIN
            right, bottom = x + min(box[0], 2 * box[1]) - 1, y + box[1] - 1
            draw.rectangle((x, y, right, bottom), outline=_ABSENT)
            draw.line((x, y, right, bottom), fill=_ABSENT)
            draw.line((x, bottom, right, y), fill=_ABSENT)
        else:
            sheet.paste(_fitted(pixels, box), (left + _MARGIN, top + _MARGIN))
        for number, text in enumerate(texts):
            at = (left + _MARGIN, top + cell[1] - _MARGIN - caption_height + number * _LINE_HEIGHT)
            draw.text(at, _shortened(text, box[0], font), fill=_MARK if place in marked else "black", font=font)
        if place in marked:
            draw.rectangle((left, top, left + cell[0] - 1, top + cell[1] - 1), outline=_MARK, width=2)
    return np.asarray(sheet)


def packed_sheet(
    images: Sequence[_Image], captions: Sequence[str], *, width: int, font_path: str | os.PathLike[str] | None = None
) -> _Image:
    """Draw images of one height, doubled, in rows, as many in each as fit, with one line of caption under them.

    An image gets as much room as its caption needs; images wider than the sheet are scaled down. Images and
    ``font_path`` are as for ``contact_sheet``, the result is ``(H, width, 3)``.
    """
    font = load_font(font_path, _FONT_SIZE)
    room = width - 2 * _MARGIN
    height = 2 * max((pixels.shape[0] for pixels in images), default=1)
    cells: list[tuple[int, int, Image.Image, str]] = []
    left = row = 0
    for pixels, caption in zip(images, captions, strict=True):
        shown = _fitted(pixels, (min(2 * pixels.shape[1], room), height))
        text = _shortened(caption, room, font)
        wide = max(shown.width, math.ceil(font.getlength(text))) + 2 * _MARGIN
        if left and left + wide > width:
            left, row = 0, row + 1
        cells.append((left + _MARGIN, row, shown, text))
        left += wide
    step = height + _LINE_HEIGHT + 2 * _MARGIN
    sheet = Image.new("RGB", (width, step * (row + 1)), "white")
    draw = ImageDraw.Draw(sheet)
    for left, row, shown, text in cells:
        sheet.paste(shown, (left, row * step + _MARGIN))
        draw.text((left, row * step + _MARGIN + shown.height), text, fill="black", font=font)
    return np.asarray(sheet)


def load_font(path: str | os.PathLike[str] | None, size: int, index: int = 0) -> _Font:
    """Load a font by path and index of its file (``ConfigError`` if unreadable); ``None`` is Pillow's own."""
    if path is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(path, size, index)
    except OSError as error:
        raise ConfigError(f"font {path}: cannot be read ({error}); expected a TrueType or OpenType file") from error


def _fitted(pixels: _Image, box: tuple[int, int]) -> Image.Image:
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    # In whole numbers: the side that decides is filled exactly.
    if image.width * box[1] <= image.height * box[0]:
        size = (max(1, image.width * box[1] // image.height), box[1])
    else:
        size = (box[0], max(1, image.height * box[0] // image.width))
    return image.resize(size).convert("RGB")


def _shortened(text: str, width: int, font: _Font) -> str:
    """Escape and shorten a text to ``width`` pixels."""
    text = printable(text[: _MAX_CAPTION + 1], sys.maxsize)
    if len(text) <= _MAX_CAPTION and font.getlength(text) <= width:
        return text
    text = text[:_MAX_CAPTION]
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
