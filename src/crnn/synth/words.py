"""Drawn words by number: what to write, with which face, how it is set. Each is a pure function of seed and number."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crnn.charset import Charset, min_time_steps
from crnn.errors import ConfigError, DataError
from crnn.reader_config import time_steps
from crnn.synth.corpus import Corpus, Text
from crnn.synth.fonts import Face, FaceSet
from crnn.synth.glyphs import CELL_HEIGHT, Lettering, cell_width, crop_width, draw_cell
from crnn.synth.look_settings import LookConfig
from crnn.synth.widths import CLASS_BITS, WidthClass

__all__ = ["WordWriter", "Words"]

Numbers = npt.NDArray[np.int64]

_WORD = 3
"""First word of the seeds of drawn words, apart from those of ``crnn.data``."""

_MAX_TRIES = 50
"""Texts that no face can write, in a row, before the settings are to blame."""

_MAX_WIDTH_TRIES = 200
"""Texts that are drawn for one of a wanted width before the nearest has to do."""

_LETTER_WIDTH, _UNLIKE_WIDTH = 15.5, 1.8
"""Pixels of a letter in a picture 32 pixels high, about, and the factor, either way, beyond which faces are too rare to
try a text in them."""

_LEANING, _LONGEST_LEANING = 0.06, 2.8
"""Share of the narrowest pictures that show longer words, which lean so that they fit; and how much longer."""

_MAX_LEANING_TRIES = 50

_MEASURE = 4
"""First word of the seeds of texts that are only measured."""

_MEASURED = 3_000
_MEASURED_IN_FACES = 500


@dataclass(frozen=True, slots=True)
class Words:
    """Drawn words.

    Attributes:
        numbers: ``(n,)`` int64.
        cells: ``(n, CELL_HEIGHT, Wc)`` uint8 coverage.
        ratios: ``(n,)`` float64 width over height of the ink.
        targets: ``(n, S)`` int64 class ids, zero behind each end.
        lengths: ``(n,)`` int64 of the targets.
        texts: What was drawn.
        skipped: Texts that could not be drawn, by reason.
    """

    numbers: Numbers
    cells: npt.NDArray[np.uint8]
    ratios: npt.NDArray[np.float64]
    targets: Numbers
    lengths: Numbers
    texts: tuple[str, ...]
    skipped: Counter[str]


class WordWriter:
    """Draws words by number. May be pickled to worker processes.

    Args:
        seed: Of all words.
        corpus: What to write.
        faces: With what.
        look: How letters are set.
        charset: Of the targets.
        classes: Classes of widths; the number of a word says to which it belongs.
        max_length: Longest target.
    """

    def __init__(
        self,
        seed: int,
        corpus: Corpus,
        faces: FaceSet,
        look: LookConfig,
        charset: Charset,
        classes: tuple[WidthClass, ...],
        max_length: int,
    ) -> None:
        self.seed, self.corpus, self.faces, self.look = seed, corpus, faces, look
        self.charset, self.classes, self.max_length = charset, classes, max_length

    def shares(self) -> npt.NDArray[np.float64]:
        """Return the share of each class of widths among the texts of the corpus, from a sample of them.

        Raises:
            ConfigError: All texts are wider than ``image.max_width``.
        """
        counts = np.zeros(len(self.classes))
        if len(self.classes) == 1:
            return counts + 1.0
        letters = np.empty(_MEASURED)
        widths = []
        for number in range(_MEASURED):
            rng = np.random.default_rng([self.seed, _MEASURE, number])
            text = self.corpus.draw(rng, self.faces.characters)
            letters[number] = len(text.drawn) + 0.4
            # All in faces would take longer than everything else at the start of a run.
            face = self._face(rng, text) if number < _MEASURED_IN_FACES else None
            if face is not None:
                widths.append(crop_width(text.drawn, face, Lettering.draw(rng, self.look)) / letters[number])
        found = letters * np.random.default_rng([self.seed, _MEASURE]).choice(widths or [_LETTER_WIDTH], _MEASURED)
        ends = [kind.crops[1] for kind in self.classes]
        counts += np.bincount(np.searchsorted(ends, found, side="right"), minlength=len(ends) + 1)[:-1]
        # Rare widths are left to their neighbours: to find one of them would take hundreds of texts.
        counts[counts < 0.003 * _MEASURED] = 0.0
        if not counts.any():
            raise ConfigError(
                f"rendered text is {np.median(found):.0f} pixels wide at a height of 32, more than image.max_width "
                f"{self.classes[-1].high}; expected texts that fit. Raise image.max_width, or draw shorter texts"
            )
        # What is too wide is drawn anew as something that just fits.
        if counts[-1]:
            counts[-1] += (found >= ends[-1]).sum()
        return np.asarray(counts / counts.sum())

    def write(self, numbers: Numbers) -> Words:
        """The words of these numbers, all of one class of widths.

        Raises:
            DataError: Text after text has no face or no ink.
        """
        count = len(numbers)
        kind = self.classes[int(numbers[0]) >> CLASS_BITS if count else 0]
        cells = np.empty((count, CELL_HEIGHT, cell_width(kind.high)), dtype=np.uint8)
        ratios = np.empty(count)
        targets = np.zeros((count, self.max_length), dtype=np.int64)
        lengths = np.empty(count, dtype=np.int64)
        texts = []
        skipped: Counter[str] = Counter()
        for row, number in enumerate(numbers):
            rng = np.random.default_rng([self.seed, _WORD, int(number)])
            cells[row], ratios[row], label, text = self._word(
                rng, skipped, self.corpus.longest(int(number) & ((1 << CLASS_BITS) - 1)), kind
            )
            ids = self.charset.encode(label)
            targets[row, : len(ids)], lengths[row] = ids, len(ids)
            texts.append(text)
        return Words(numbers, cells, ratios, targets, lengths, tuple(texts), skipped)

    def _word(
        self, rng: np.random.Generator, skipped: Counter[str], longest: int | None, kind: WidthClass
    ) -> tuple[npt.NDArray[np.uint8], float, str, str]:
        tried = []
        for _ in range(_MAX_TRIES):
            if kind.fit is None:
                text = self.corpus.draw(rng, self.faces.characters, longest)
                face = self._face(rng, text)
                lettering = Lettering.draw(rng, self.look)
            else:
                text, face, lettering = self._of_width(rng, kind, longest)
            if face is None:
                skipped["no_face"] += 1
            else:
                drawn = draw_cell(text.drawn, face, lettering, cell_width(kind.high), rng)
                if drawn is not None:
                    return *drawn, text.label, text.drawn
                skipped["no_ink"] += 1
            tried.append(text.drawn)
        raise DataError(
            f"none of {_MAX_TRIES} texts in a row could be drawn, the last {tried[-1]!r}: no single face has all their "
            "characters. Give faces for the charset in faces.folders, or words of one script in corpus.words"
        )

    def _face(self, rng: np.random.Generator, text: Text) -> Face | None:
        return self.faces.pick(rng, text.drawn.replace(" ", ""))  # a space needs no ink

    def _of_width(
        self, rng: np.random.Generator, kind: WidthClass, longest: int | None
    ) -> tuple[Text, Face | None, Lettering]:
        """A text in a face whose crop belongs to a class, or the nearest to it that was found."""
        low, high = kind.crops
        leans = kind.fit is not None and kind.fit[0] == 0.0 and rng.random() < _LEANING
        if leans:
            low, high = high, _LONGEST_LEANING * high
        best: tuple[float, Text, Face | None, Lettering] | None = None
        for number in range(_MAX_WIDTH_TRIES):
            if leans and number == _MAX_LEANING_TRIES:  # there may be no longer words
                (low, high), best = kind.crops, None
            letters = (low / _UNLIKE_WIDTH / _LETTER_WIDTH - 0.4, high * _UNLIKE_WIDTH / _LETTER_WIDTH)
            text = self.corpus.draw_sized(rng, self.faces.characters, longest, letters)
            if text is None:
                text = self.corpus.draw(rng, self.faces.characters, longest)
            if min_time_steps(self.charset.encode(text.label)) > time_steps(kind.low):
                continue
            face, lettering = self._face(rng, text), Lettering.draw(rng, self.look)
            if face is None:
                continue
            width = crop_width(text.drawn, face, lettering)
            if low <= width < high:
                return text, face, lettering
            distance = max(low / width, width / high)
            if best is None or distance < best[0]:
                best = distance, text, face, lettering
        if best is None:
            raise DataError(
                f"no text of {_MAX_WIDTH_TRIES} in a row has a face that can write it and fits into "
                f"{kind.low} pixels. Give faces for the charset in faces.folders, or a smaller image.max_width"
            )
        return best[1:]
