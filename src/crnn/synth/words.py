"""Drawn words by number: what to write, with which face, how it is set. Each is a pure function of seed and number."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crnn.charset import Charset
from crnn.errors import DataError
from crnn.synth.corpus import Corpus
from crnn.synth.fonts import FaceSet
from crnn.synth.glyphs import CELL_HEIGHT, Lettering, draw_cell
from crnn.synth.look_settings import LookConfig

__all__ = ["WordWriter", "Words"]

Numbers = npt.NDArray[np.int64]

_WORD = 3
"""First word of the seeds of drawn words, apart from those of ``crnn.data``."""

_MAX_TRIES = 50
"""Texts that no face can write, in a row, before the settings are to blame."""


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
        width: Columns of a cell.
        max_length: Longest target.
    """

    def __init__(
        self, seed: int, corpus: Corpus, faces: FaceSet, look: LookConfig, charset: Charset, width: int, max_length: int
    ) -> None:
        self.seed, self.corpus, self.faces, self.look = seed, corpus, faces, look
        self.charset, self.width, self.max_length = charset, width, max_length

    def write(self, numbers: Numbers) -> Words:
        """The words of these numbers.

        Raises:
            DataError: Text after text has no face or no ink.
        """
        count = len(numbers)
        cells = np.empty((count, CELL_HEIGHT, self.width), dtype=np.uint8)
        ratios = np.empty(count)
        targets = np.zeros((count, self.max_length), dtype=np.int64)
        lengths = np.empty(count, dtype=np.int64)
        texts = []
        skipped: Counter[str] = Counter()
        for row, number in enumerate(numbers):
            rng = np.random.default_rng([self.seed, _WORD, int(number)])
            cells[row], ratios[row], label, text = self._word(rng, skipped, self.corpus.longest(int(number)))
            ids = self.charset.encode(label)
            targets[row, : len(ids)], lengths[row] = ids, len(ids)
            texts.append(text)
        return Words(numbers, cells, ratios, targets, lengths, tuple(texts), skipped)

    def _word(
        self, rng: np.random.Generator, skipped: Counter[str], longest: int | None
    ) -> tuple[npt.NDArray[np.uint8], float, str, str]:
        tried = []
        for _ in range(_MAX_TRIES):
            text = self.corpus.draw(rng, self.faces.characters, longest)
            face = self.faces.pick(rng, text.drawn.replace(" ", ""))  # a space needs no ink
            lettering = Lettering.draw(rng, self.look)
            if face is None:
                skipped["no_face"] += 1
            else:
                drawn = draw_cell(text.drawn, face, lettering, self.width, rng)
                if drawn is not None:
                    return *drawn, text.label, text.drawn
                skipped["no_ink"] += 1
            tried.append(text.drawn)
        raise DataError(
            f"none of {_MAX_TRIES} texts in a row could be drawn, the last {tried[-1]!r}: no single face has all their "
            "characters. Give faces for the charset in faces.folders, or words of one script in corpus.words"
        )
