"""Draw words by number, each of the class of crop widths that its number says.

Under ``image.resize = "keep_ratio"`` images of a batch have one width, so texts are drawn for classes of widths; under
``squash`` there is one class.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crnn.charset import Charset, min_time_steps
from crnn.config.model import ImageConfig, Pooling, time_steps
from crnn.config.synth import StyleConfig
from crnn.errors import ConfigError, DataError
from crnn.synth.corpus import Corpus, Text
from crnn.synth.filters import Flags, Floats, Integers
from crnn.synth.font_check import Font
from crnn.synth.fonts import FontSet
from crnn.synth.rasterizer import MASK_HEIGHT, Lettering, crop_width, mask_width, render_mask

CLASS_BITS = 44  # A sample or word with the number ``n`` of width class ``c`` has the number ``(c << CLASS_BITS) + n``
_GROWTH = 1.22  # Width of one class over that of the class before
_TOLERANCE = 1.1  # Largest stretch of a crop to the width of its batch; beyond it crops get more margin

_WORD, _MEASURE = 3, 4  # First words of the seeds of drawn and measured words, apart from those of ``crnn.data``
_MAX_TRIES = 50  # Texts that no font can write, in a row, that count as an error in the settings
_MAX_WIDTH_TRIES = 200  # Draws for a text of a wanted width before the nearest is taken
_LETTER_WIDTH = 15.5  # Approximate pixels of a letter in an image 32 pixels high
_UNLIKE_WIDTH = 1.8  # Factor, either way, beyond which fonts are too rare to try a text in them
_LEANING, _MAX_LEANING_TRIES = 0.06, 50  # Share of the narrowest images with longer words, which lean so that they fit
_LONGEST_LEANING = 2.8  # Largest factor on the width of those
_MEASURED, _MEASURED_IN_FONTS = 3_000, 500  # Texts, to estimate the shares of the classes


@dataclass(frozen=True, slots=True)
class WidthClass:
    """Crops of about one width."""

    low: int  # Narrowest image in pixels
    high: int  # Widest image in pixels
    crops: tuple[float, float]  # Least and largest width in pixels of its crops at the network's height
    fit: tuple[float, float] | None  # As for ``Geometry.draw``

    @property
    def middle(self) -> int:
        """Width in pixels of samples without a batch."""
        return max((self.low + self.high) // 8 * 4, self.low)


def width_classes(image: ImageConfig, width: int | None = None) -> tuple[WidthClass, ...]:
    """Return the classes of the settings: one under ``squash``, of ``width`` or ``image.image_width`` pixels."""
    if image.resize == "squash":
        width = width or image.image_width
        return (WidthClass(width, width, (0.0, np.inf), None),)
    # Readers stretch images narrower than min_width to it, so the first class takes all of them.
    edges = [image.min_width * 1.06]
    while edges[-1] * _GROWTH < image.max_width * 0.95:
        edges.append(edges[-1] * _GROWTH)
    classes = [WidthClass(image.min_width, image.min_width, (0.0, edges[0]), (0.0, _TOLERANCE))]
    for low, high in itertools.pairwise([*edges, max(image.max_width, edges[-1])]):
        last = high >= image.max_width
        pixels = (int(np.ceil(low / 4)) * 4, int(high / 4) * 4)
        if pixels[0] > pixels[1]:
            continue
        crops = (low, image.max_width * 1.15 if last else high)
        classes.append(WidthClass(*pixels, crops, (1.0 / _TOLERANCE, np.inf if last else _TOLERANCE)))
    return tuple(classes)


@dataclass(frozen=True, slots=True)
class Words:
    """Drawn words."""

    numbers: Integers  # ``(n,)`` int64
    masks: npt.NDArray[np.uint8]  # ``(n, MASK_HEIGHT, Wc)`` uint8 coverage
    ratios: Floats  # ``(n,)`` float64 width over height of the ink
    targets: Integers  # ``(n, S)`` int64 class ids, zero-padded
    lengths: Integers  # ``(n,)`` int64 of the targets
    texts: tuple[str, ...]  # As drawn
    skipped: Counter[str]  # Texts that could not be drawn, by reason


def has_spaces(texts: Sequence[str]) -> Flags:
    """Return ``(n,)`` flags of texts that are lines, not words."""
    return np.array([" " in text for text in texts], dtype=bool)


@dataclass(frozen=True)
class WordWriter:
    """Draw words by number; may be pickled to worker processes."""

    seed: int
    corpus: Corpus
    fonts: FontSet
    style: StyleConfig
    charset: Charset
    classes: tuple[WidthClass, ...]
    max_length: int
    pooling: Pooling = "modelzoo"

    def shares(self) -> Floats:
        """Estimate the share of each class of widths among the texts of the corpus from a sample."""
        counts = np.zeros(len(self.classes))
        if len(self.classes) == 1:
            return counts + 1.0
        letters = np.empty(_MEASURED)
        widths = []
        for number in range(_MEASURED):
            rng = np.random.default_rng([self.seed, _MEASURE, number])
            text = self.corpus.draw(rng, self.fonts.characters)
            letters[number] = len(text.drawn) + 0.4
            # Measuring all in fonts would take longer than everything else at the start of a run.
            font = self._pick_font(rng, text) if number < _MEASURED_IN_FONTS else None
            if font is not None:
                widths.append(crop_width(text.drawn, font, Lettering.draw(rng, self.style)) / letters[number])
        found = letters * np.random.default_rng([self.seed, _MEASURE]).choice(widths or [_LETTER_WIDTH], _MEASURED)
        ends = [kind.crops[1] for kind in self.classes]
        counts += np.bincount(np.searchsorted(ends, found, side="right"), minlength=len(ends) + 1)[:-1]
        # Rare widths are left to their neighbours: finding one would take hundreds of texts.
        counts[counts < 0.003 * _MEASURED] = 0.0
        if not counts.any():
            raise ConfigError(
                f"rendered text is {np.median(found):.0f} pixels wide, above image.max_width {self.classes[-1].high}"
            )
        # Too wide texts are drawn anew as texts that just fit.
        if counts[-1]:
            counts[-1] += (found >= ends[-1]).sum()
        return np.asarray(counts / counts.sum())

    def write(self, numbers: Integers) -> Words:
        """Draw the words of these numbers, all of one class of widths."""
        count = len(numbers)
        kind = self.classes[int(numbers[0]) >> CLASS_BITS if count else 0]
        masks = np.empty((count, MASK_HEIGHT, mask_width(kind.high)), dtype=np.uint8)
        ratios = np.empty(count)
        targets = np.zeros((count, self.max_length), dtype=np.int64)
        lengths = np.empty(count, dtype=np.int64)
        texts = []
        skipped: Counter[str] = Counter()
        for row, number in enumerate(numbers.tolist()):
            rng = np.random.default_rng([self.seed, _WORD, number])
            masks[row], ratios[row], text = self._word(rng, skipped, kind)
            ids = self.charset.encode(text.label)
            targets[row, : len(ids)], lengths[row] = ids, len(ids)
            texts.append(text.drawn)
        return Words(numbers, masks, ratios, targets, lengths, tuple(texts), skipped)

    def _word(
        self, rng: np.random.Generator, skipped: Counter[str], kind: WidthClass
    ) -> tuple[npt.NDArray[np.uint8], float, Text]:
        for _ in range(_MAX_TRIES):
            if kind.fit is None:
                text = self.corpus.draw(rng, self.fonts.characters)
                font, lettering = self._pick_font(rng, text), Lettering.draw(rng, self.style)
            else:
                text, font, lettering = self._of_width(rng, kind)
            if font is None:
                skipped["no_font"] += 1
                continue
            drawn = render_mask(text.drawn, font, lettering, mask_width(kind.high), rng)
            if drawn is not None:
                return *drawn, text
            skipped["no_ink"] += 1
        raise DataError(
            f"none of {_MAX_TRIES} texts in a row has one font for it, the last {text.drawn!r}; see fonts.folders"
        )

    def _pick_font(self, rng: np.random.Generator, text: Text) -> Font | None:
        return self.fonts.pick(rng, text.drawn.replace(" ", ""))  # a space needs no ink

    def _of_width(self, rng: np.random.Generator, kind: WidthClass) -> tuple[Text, Font | None, Lettering]:
        """Draw a text and font whose crop belongs to a class, or the nearest of several."""
        low, high = kind.crops
        leans = kind.fit is not None and kind.fit[0] == 0.0 and rng.random() < _LEANING
        if leans:
            low, high = high, _LONGEST_LEANING * high
        best: tuple[float, Text, Font | None, Lettering] | None = None
        for number in range(_MAX_WIDTH_TRIES):
            if leans and number == _MAX_LEANING_TRIES:  # there may be no longer words
                (low, high), best = kind.crops, None
            letters = (low / _UNLIKE_WIDTH / _LETTER_WIDTH - 0.4, high * _UNLIKE_WIDTH / _LETTER_WIDTH)
            writable = self.fonts.characters
            text = self.corpus.draw_sized(rng, writable, letters) or self.corpus.draw(rng, writable)
            if min_time_steps(self.charset.encode(text.label)) > time_steps(kind.low, self.pooling):
                continue
            font, lettering = self._pick_font(rng, text), Lettering.draw(rng, self.style)
            if font is None:
                continue
            width = crop_width(text.drawn, font, lettering)
            if low <= width < high:
                return text, font, lettering
            distance = max(low / width, width / high)
            if best is None or distance < best[0]:
                best = distance, text, font, lettering
        if best is None:
            raise DataError(
                f"no text of {_MAX_WIDTH_TRIES} in a row has a font and fits into {kind.low} pixels; see fonts.folders"
            )
        return best[1:]
