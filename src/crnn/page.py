"""Reading of whole photos: a detector finds the lines, and the reader of lines reads them.

Each line is cut out by a perspective warp to the lengths of its own edges; what is longer than the network's images is
cut at gaps and joined. Places are in pixels of the image as it is seen, with its EXIF orientation applied.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from crnn.contact_sheet import load_font
from crnn.data.crops import crop
from crnn.data.formats.records import Quad
from crnn.errors import DataError, ImageError
from crnn.explanation import find_font
from crnn.image import ImageSource, load_image
from crnn.interop.detection import MAX_LINES, Detector, load_detector
from crnn.model.weights import DEFAULT_MODEL
from crnn.reading_order import reorder
from crnn.recognizer import Character, Reading, Recognizer, load

Pixels: TypeAlias = npt.NDArray[np.uint8]
Work: TypeAlias = "Generator[list[Pixels], Sequence[Reading] | None, Page]"
Points: TypeAlias = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]

_TALL = 1.5  # height by width of a box whose line is likely turned by 90 degrees
_QUARTERS = (0, 1, 3)  # by which a tall box is turned to be read
_SPACE = 0.22  # least width of a space, as a share of the height
_LEGIBLE, _SHEET = 22.0, 3000  # of a sheet, in pixels: height of most lines' boxes; the photo's longer side at most
_SURE = 0.8  # confidence of lines that tell which side of a page is up


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text in a photo.

    Attributes:
        text: The text.
        box: Corners (x, y) in pixels of the photo, clockwise from the top left of the text: of a line that stands on
            its head, the first is at the bottom right.
        confidence: Probability in [0, 1] that the text is right; of a line that was cut, the product of its parts'.
        score: As of a reading; of a line that was cut, the sum.
        characters: Characters with their places in pixels along the line, from the left edge of ``box``.
    """

    text: str
    box: Points
    confidence: float
    score: float
    characters: tuple[Character, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the line in the form of ``crnn read --detect --json``."""
        return {
            "text": self.text,
            "score": self.score if math.isfinite(self.score) else None,
            "confidence": self.confidence,
            "box": [[round(x, 1), round(y, 1)] for x, y in self.box],
            "characters": [
                {"text": c.text, "score": c.score, "start": round(c.start, 1), "end": round(c.end, 1)}
                for c in self.characters
            ],
        }


@dataclass(frozen=True, slots=True)
class Page:
    """Lines of a photo in reading order, without those on which the network sees no text.

    Attributes:
        rows: Rows downwards, the lines of each from left to right. Boxes are of one row if they stand side by side and
            the middle of one lies within half a height of the other's, measured along the lines' own tilt. Columns of
            text are thus read across, as a receipt or a table is.
        size: Width and height in pixels of the photo.
    """

    rows: tuple[tuple[Line, ...], ...]
    size: tuple[int, int]

    @property
    def lines(self) -> tuple[Line, ...]:
        """The lines in reading order."""
        return tuple(itertools.chain.from_iterable(self.rows))

    @property
    def text(self) -> str:
        """The texts, with a tab between those of a row and a line end behind each row but the last."""
        return "\n".join("\t".join(line.text for line in row) for row in self.rows)

    def draw(self, image: ImageSource) -> Image.Image:
        """Return the photo with the lines' boxes beside their texts, at the same places; doubtful ones are red."""
        photo = Image.fromarray(load_image(image, 3))
        heights = [_edges(line.box)[1] for line in self.lines]
        # Letters large enough to be read; the sheet small enough to be opened.
        scale = min(
            max(_LEGIBLE / sorted(heights)[len(heights) // 2], 0.1) if heights else 1.0, _SHEET / max(photo.size)
        )
        photo = photo.resize((max(1, round(photo.width * scale)), max(1, round(photo.height * scale))))
        sheet = Image.new("RGB", (2 * photo.width, photo.height), "white")
        path, index = (None if self.text.isascii() else find_font("".join(line.text for line in self.lines))) or (
            None,
            0,
        )
        for line in self.lines:
            colour = "black" if line.confidence >= 0.5 else (208, 0, 0)
            corners = [(x * scale, y * scale) for x, y in line.box]
            ImageDraw.Draw(photo).polygon(corners, outline=(11, 87, 208), width=2)
            width, height = (max(1, round(side)) for side in _edges(corners))
            font = load_font(path, 100, index)
            size = min(0.75 * height, 98.0 * width / max(font.getlength(line.text), 1.0))
            font = load_font(path, max(1, int(size)), index)
            tile = Image.new("L", (width, height))
            ImageDraw.Draw(tile).text((0, height / 2), line.text, 255, font, "lm")
            (x0, y0), (x1, y1) = corners[:2]
            tile = tile.rotate(-math.degrees(math.atan2(y1 - y0, x1 - x0)), Image.Resampling.BICUBIC, expand=True)
            x, y = (sum(corner[axis] for corner in corners) / 4 for axis in (0, 1))
            sheet.paste(colour, (round(photo.width + x - tile.width / 2), round(y - tile.height / 2)), tile)
        sheet.paste(photo, (0, 0))
        return sheet

    def as_dict(self) -> dict[str, Any]:
        """Return the page in the form of ``crnn read --detect --json``."""
        lines = [{**line.as_dict(), "row": number} for number, row in enumerate(self.rows) for line in row]
        return {"width": self.size[0], "height": self.size[1], "lines": lines}


class PageReader:
    """Reader of whole photos, which keeps reader and detector loaded.

    Args:
        reader: Reader of lines, of ``crnn.load``.
        detect: Name of a detector, ``rapidocr``, or a function (``crnn.interop.detection.Detector``).
        threads: Threads of a detector that is loaded by its name.

    Raises:
        ConfigError: There is no detector of this name.
        MissingExtraError: The detector's package is not installed.
    """

    def __init__(self, reader: Recognizer, detect: str | Detector = "rapidocr", *, threads: int | None = None) -> None:
        self.reader = reader
        self._detect = load_detector(detect, threads) if isinstance(detect, str) else detect
        config = reader.config.image
        proportional = config.max_width / config.width_scale
        self._longest = (
            proportional if config.resize == "keep_ratio" else 2 * config.image_width
        ) / config.image_height

    def read(self, image: ImageSource, **options: Any) -> Page:
        """Read all lines of an image; options of reading as for ``Recognizer.read``.

        Raises:
            ImageError: It cannot be read, or has more than 1000 lines.
        """
        work = self.steps(image)
        step = advance(work)
        while not isinstance(step, Page):
            step = advance(work, self.reader.read(step, **options))
        return step

    def stream(self, images: Iterable[ImageSource], **options: Any) -> Iterator[Page | ImageError]:
        """Yield the page of each image, in order, or the error that says why there is none."""
        for image in images:
            try:
                yield self.read(image, **options)
            except ImageError as error:
                yield error

    def steps(self, image: ImageSource) -> Work:
        """Find the lines of an image for a reading elsewhere: yields images to read, takes their readings."""
        pixels = load_image(image, 3)
        try:
            boxes = np.asarray(self._detect(pixels), dtype=np.float64)
        except (TypeError, ValueError) as error:  # ragged lists, or texts
            raise DataError(f"the detector gives no boxes ({error}); expected (N, 4, 2)") from error
        boxes = boxes.reshape(0, 4, 2) if boxes.size == 0 else boxes
        if boxes.ndim != 3 or boxes.shape[1:] != (4, 2):
            raise DataError(f"the detector gives boxes of shape {boxes.shape}; expected (N, 4, 2)")
        if len(boxes) > MAX_LINES:
            raise ImageError(f"the image has more than {MAX_LINES:,} lines; cut it into parts", reason="too_large")
        colored = self.reader.config.image.needs_color and (pixels != pixels[:, :, :1]).any()
        scene = Image.fromarray(pixels).convert("RGB" if colored else "L")
        # A tall box is a line turned to either side, or one upright letter.
        tall = [height >= _TALL * width for width, height in map(_edges, boxes.tolist())]
        views = [[_turned(b, k) for k in (_QUARTERS if t else (0,))] for b, t in zip(boxes.tolist(), tall, strict=True)]
        read = yield from self._read(scene, views)
        if quarters := _quarters(read):  # then most boxes that are about as high as wide are turned, too
            square = [place for place, box in enumerate(boxes.tolist()) if not tall[place] and _is_square(box)]
            again = yield from self._read(scene, [[_turned(boxes[place], quarters)] for place in square])
            for place, views_of in zip(square, again, strict=True):
                read[place] = views_of if views_of[0].line.text else read[place]
        found = [_upright(of, quarters) for of in read]
        upside = [place for place, view in enumerate(found) if view.upside_down]
        if upside:  # that few of such lines are called so tells more of a page than of a line
            sure = sum(view.line.text != "" and view.line.confidence >= _SURE for view in found)
            whole = len(upside) > sure
            places = range(len(found)) if whole else upside
            again = yield from self._read(scene, [[_turned(found[place].line.box, 2)] for place in places])
            for place, (view,) in zip(places, again, strict=True):
                found[place] = view if whole and view.line.text else max(found[place], view, key=_rank)
        return Page(_in_order([view.line for view in found if view.line.text]), scene.size)

    def _read(
        self, scene: Image.Image, views: Sequence[Sequence[Points]]
    ) -> Generator[list[Pixels], Sequence[Reading] | None, list[list[_View]]]:
        """Read the lines of boxes, each in several views."""
        cut = [[self._cut(scene, box) for box in of] for of in views]
        readings = iter((yield [part.pixels for of in cut for parts in of for part in parts]) or ())
        return [
            [_joined(b, p, list(itertools.islice(readings, len(p)))) for b, p in zip(*line, strict=True)]
            for line in zip(views, cut, strict=True)
        ]

    def _cut(self, scene: Image.Image, box: Points) -> list[_Part]:
        """Return the parts of a line, from left to right; none where the box has no area in the image."""
        try:
            # Without margins: those that are wider or narrower by a tenth of the height at an end cost exact lines.
            image = crop(scene, Quad(box))
        except ImageError:  # a box without area, or outside
            return []
        pixels = np.asarray(image)
        spans = _parts(np.asarray(image.convert("L")), self._longest, words=" " not in self.reader.charset.characters)
        return [_Part(pixels[:, start:end], start, spaced) for start, end, spaced in spans]


def advance(work: Work, readings: Sequence[Reading] | None = None) -> list[Pixels] | Page:
    """Return the next images of ``PageReader.steps`` to read, given the readings of those before, or the page."""
    try:
        return work.send(readings)
    except StopIteration as done:
        return cast(Page, done.value)


class _Part(NamedTuple):
    """A part of a line."""

    pixels: Pixels
    start: int  # in pixels from the left edge of the line's box
    spaced: bool  # a space is in front of it


class _View(NamedTuple):
    """A line as it is read from one side."""

    line: Line
    upside_down: bool


def read_page(
    image: ImageSource,
    model: str | Path = DEFAULT_MODEL,
    *,
    detect: str | Detector = "rapidocr",
    reader: Recognizer | None = None,
    **options: Any,
) -> Page:
    """Find and read all lines of a photo; for many photos, ``PageReader`` loads reader and detector once.

    Args:
        image: As for ``Recognizer.read``.
        model: As for ``crnn.load``.
        detect: Name of a detector, ``rapidocr`` (``pip install 'crnn[detect]'``), or a function from pixels ``(H, W,
            3)`` to corners ``(N, 4, 2)``.
        reader: A loaded reader, in place of ``model``; then ``options`` are those of ``Recognizer.read``.
        options: Options of ``crnn.load``.

    Example:
        ``crnn.read_page("photo.jpg").text``
    """
    if reader is not None:
        return PageReader(reader, detect).read(image, **options)
    return PageReader(load(model, **options), detect, threads=options.get("threads")).read(image)


# ---- Boxes


def _turned(box: Sequence[Sequence[float]], quarters: int) -> Points:
    """Return the corners of a box whose text is turned by so many quarters clockwise, from the top left of the text."""
    a, b, c, d = ((float(x), float(y)) for x, y in (*box[quarters:], *box[:quarters]))
    return a, b, c, d


def _edges(box: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return width and height, means of opposite edges."""
    above, right, below, left = (math.dist(box[k], box[(k + 1) % 4]) for k in range(4))
    return (above + below) / 2, (left + right) / 2


def _is_square(box: Sequence[Sequence[float]]) -> bool:
    width, height = _edges(box)
    return width < _TALL * height


def _quarters(found: Sequence[Sequence[_View]]) -> int:
    """Return the quarters by which most of the text of a page is turned."""
    votes = [0.0] * len(_QUARTERS)
    for views in found:
        best = max(views, key=_rank)
        if len(best.line.text) > 1:  # single characters are read from every side
            votes[views.index(best)] += len(best.line.text) * best.line.confidence
    return _QUARTERS[votes.index(max(votes))]


def _upright(views: Sequence[_View], quarters: int) -> _View:
    """Return the view of a line that is turned as the page is, else the one that reads best."""
    as_page = views[_QUARTERS.index(quarters)] if quarters and len(views) > 1 else None
    if as_page is not None and as_page.line.text:
        return as_page
    # A tall box is no single letter on its side: that would be wider than letters are.
    return max((view for view in views if view is views[0] or len(view.line.text) > 1), key=_rank)


def _in_order(lines: Sequence[Line]) -> tuple[tuple[Line, ...], ...]:
    """Return the rows of lines; see ``Page``."""
    if not lines:
        return ()
    boxes = np.array([line.box for line in lines])
    right = (boxes[:, 1] + boxes[:, 2] - boxes[:, 0] - boxes[:, 3]) / 2
    # Most of the text says which way is right, and how far it is tilted; long lines know best.
    quarters: Counter[int] = Counter()
    angles = np.arctan2(right[:, 1], right[:, 0])
    for line, angle in zip(lines, angles, strict=True):
        quarters[round(angle / (math.pi / 2)) % 4] += len(line.text)
    page = quarters.most_common(1)[0][0] * math.pi / 2
    tilts = (angles - page + math.pi) % (2 * math.pi) - math.pi
    lengths = np.hypot(right[:, 0], right[:, 1])
    flat = np.flatnonzero(np.abs(tilts) < math.pi / 4)
    ordered = flat[np.argsort(tilts[flat])]
    middle = np.searchsorted(np.cumsum(lengths[ordered]), lengths[ordered].sum() / 2)
    turn = page + tilts[ordered[middle]]
    x, y = boxes @ np.array([math.cos(turn), math.sin(turn)]), boxes @ np.array([-math.sin(turn), math.cos(turn)])
    left, width, top, height = x.min(1), np.ptp(x, axis=1), y.min(1), np.ptp(y, axis=1)
    rows: list[list[int]] = []
    centres, bottoms = x.mean(1).tolist(), (top + height).tolist()
    lowest: list[float] = []  # edge of each row
    for k in np.argsort(y.mean(1)).tolist():
        for number in range(len(rows) - 1, -1, -1):
            if lowest[number] <= top[k]:
                continue
            row = rows[number]
            # The nearest box of the row says most, where lines fan out.
            near = min(row, key=lambda j: abs(centres[j] - centres[k]))
            first, second = sorted((near, k), key=lambda j: float(left[j]))
            apart = left[first] + width[first] - left[second] < min(width[first], width[second]) / 2
            lower, upper = max(top[near], top[k]), min(top[near] + height[near], top[k] + height[k])
            if apart and upper - lower > min(height[near], height[k]) / 2:
                row.append(k)
                lowest[number] = max(lowest[number], bottoms[k])
                break
        else:
            rows.append([k])
            lowest.append(bottoms[k])
    return tuple(tuple(lines[k] for k in sorted(row, key=lambda j: float(left[j]))) for row in rows)


# ---- Parts of lines


def _parts(grey: Pixels, longest: float, *, words: bool) -> list[tuple[int, int, bool]]:
    """Return the columns of the parts of a line, and whether a space is in front of each.

    A part is at most ``longest`` times as wide as the line is high. With ``words`` it is a word: the network has no
    space. Cuts are in gaps, columns with little contrast; where there is none, in the column with the least.
    """
    height, width = grey.shape
    limit = max(1, math.floor(longest * height))
    if width <= limit and not words:
        return [(0, width, False)]
    inner = grey[height // 10 : height - height // 10].astype(np.int16)
    contrast = inner.max(0) - inner.min(0)
    gaps = _runs(contrast <= (contrast.min() + np.percentile(contrast, 90)) / 2)
    wide = [(start, end) for start, end in gaps if end - start >= _SPACE * height]
    cuts: list[tuple[int, int]] = [gap for gap in wide if gap[0] > 0 and gap[1] < width] if words else []
    parts: list[tuple[int, int, bool]] = []
    start, spaced = 0, False
    for stop, following in [*cuts, (width, width)]:
        end = stop + (following - stop) // 2 if following < width else width
        while end - start > limit:
            inside = [g for g in gaps if start + limit // 2 <= (g[0] + g[1]) // 2 <= start + limit]
            low = start + limit // 2 + int(contrast[start + limit // 2 : start + limit].argmin())
            gap = max(inside, key=lambda g: g[1] - g[0], default=(low, low))
            at = (gap[0] + gap[1]) // 2
            parts.append((start, at, spaced))
            start, spaced = at, gap in wide
        parts.append((start, end, spaced))
        start, spaced = end, True
    return parts


def _runs(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return start and end of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def _joined(box: Points, parts: Sequence[_Part], readings: Sequence[Reading]) -> _View:
    """Return the line of its parts."""
    characters: list[Character] = []
    for part, reading in zip(parts, readings, strict=True):
        moved = [replace(c, start=c.start + part.start, end=c.end + part.start) for c in reading.characters]
        if part.spaced and characters and moved:
            characters.append(Character(" ", 0.0, characters[-1].end, moved[0].start))
        characters += moved
    text = readings[0].text if len(readings) == 1 else reorder("".join(c.text for c in characters))
    confidence = math.prod(reading.confidence for reading in readings)
    line = Line(text, box, confidence, sum(reading.score for reading in readings), tuple(characters))
    return _View(line, any(reading.turned == 180 for reading in readings))


def _rank(view: _View) -> tuple[bool, float]:
    return bool(view.line.text), view.line.confidence
