"""The settings of what is written, and with which faces. Every strength names where its default comes from.

Sources by short name: MJ is MJSynth (Jaderberg et al. 2014, arXiv 1406.2227; constants after a published port of its
renderer), ST is SynthTIGER (Yim et al. 2021, arXiv 2107.09313; its published configuration), "own" is chosen here, by
looking at sheets of pictures or by the experiments in docs/log/experiments.md.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from crnn.config_section import Section, Share

__all__ = ["CorpusConfig", "FaceConfig", "SynthConfig"]


class SynthConfig(Section):
    """Rendered text as a source of training pictures."""

    pool_size: Annotated[int, Field(ge=64, le=4_194_304)] = 16_384
    """Drawn words that are kept at a time, of all ranks together; each takes about 6 kB."""

    reuse: Annotated[float, Field(ge=1.0, le=64.0)] = 4.0
    """Pictures per drawn word, each with another look. 1 draws every word anew."""

    epoch_samples: Annotated[int, Field(ge=1)] = 1_000_000
    """What counts as an epoch of something that has no end; ``train.num_steps`` does without."""


class CorpusConfig(Section):
    """What is written."""

    words: tuple[str, ...] = ("shipped",)
    """Word lists: ``shipped`` (English, from SCOWL) and UTF-8 files with a word per line, or word, tab, frequency."""

    word_ratios: tuple[Annotated[float, Field(gt=0.0)], ...] = ()
    """Shares of the lists of ``words`` in the words of one length. Default: the same for each, however long it is."""

    only_words: bool = False
    """Draw the words of the lists as they are and nothing else: no other case, no marks, no other kinds, in proportion
    to their frequency to ``frequency_power``, whatever their length; ``word_ratios`` are shares in all words."""

    pattern: str = ""
    """Draw texts that match this regular expression and nothing else, as in ``[A-Z]{2}-[0-9]{4}``; the syntax is that
    of ``crnn read --pattern``. Without a limit (``*``, ``+``, ``{2,}``) up to 8 more than the least. Empty: none."""

    frequency_power: Annotated[float, Field(ge=0.0, le=2.0)] = 0.5
    """A word is drawn in proportion to its frequency to this power: 0 all alike, 1 as often as in texts (own)."""

    length_weights: tuple[Annotated[float, Field(ge=0.0)], ...] = (
        *(1.5, 8.5, 16.0, 18.4, 17.0, 13.0, 10.2, 6.0, 4.0, 2.4, 1.4, 0.8, 0.4, 0.25, 0.15),
    )
    """Weights of the lengths 1, 2, 3, ... of words, in characters of the label; none: as the lists have them. Longer
    words of the user's own lists keep the share that these give them. Default: the 2,007 labels without digits in the
    training parts of IIIT5K-Words and SVT, letters alone, in %, smoothed."""

    uniform_longest: Annotated[int, Field(ge=1, le=256)] = 18
    """Longest label of ``joined_weight``, bounded by what fits (ST: 25; 4 pixels a letter are not readable; own)."""

    short_first: Annotated[int, Field(ge=0)] = 0
    """Drawn words at the start, by number, that are kept short: labels of 3 characters first, of one more after every
    tenth of these words, of all lengths afterwards. CTC's first thousands of steps give blanks alone, and short labels
    end that sooner (own). 0: all lengths from the first word on."""

    balance: Share = 0.25
    """Share of words that are the one of four with the rarest letter (after ST's character augmentation; own)."""

    case_lower: Annotated[float, Field(ge=0.0)] = 0.25
    """Weight of words in lower case (own: signs are mostly capitals; MJ and ST: all three forms alike)."""

    case_upper: Annotated[float, Field(ge=0.0)] = 0.40
    """Weight of words in upper case."""

    case_capitalised: Annotated[float, Field(ge=0.0)] = 0.30
    """Weight of words as their list has them, with the first letter in upper case."""

    case_mixed: Annotated[float, Field(ge=0.0)] = 0.05
    """Weight of words with upper case in other places: one letter inside, or any."""

    punctuation: Share = 0.17
    """Share of words with marks before, after or inside them, which labels leave out where the charset lacks them
    (12 % of the labels named at ``length_weights`` have some; MJ has none)."""

    word_weight: Annotated[float, Field(ge=0.0)] = 0.56
    """Weight of words from the lists. The weights of all kinds need not add up to 1; 0 leaves a kind out. All are own,
    after those labels, of which 11 % have digits."""

    joined_weight: Annotated[float, Field(ge=0.0)] = 0.10
    """Weight of words, or several without a space, whose length is uniform (ST: 0.1, against rare long words)."""

    made_up_weight: Annotated[float, Field(ge=0.0)] = 0.07
    """Weight of pronounceable words made up after those of the lists."""

    brand_weight: Annotated[float, Field(ge=0.0)] = 0.03
    """Weight of names as of companies: ``PhotoMax``, ``H&M``."""

    number_weight: Annotated[float, Field(ge=0.0)] = 0.07
    """Weight of numbers, lengths as in those labels: 1 to 10 digits, mostly 2."""

    code_weight: Annotated[float, Field(ge=0.0)] = 0.04
    """Weight of codes of letters and digits, like plates, part numbers and seats."""

    price_weight: Annotated[float, Field(ge=0.0)] = 0.02
    """Weight of prices."""

    date_weight: Annotated[float, Field(ge=0.0)] = 0.02
    """Weight of dates and years."""

    time_weight: Annotated[float, Field(ge=0.0)] = 0.01
    """Weight of times and opening hours."""

    telephone_weight: Annotated[float, Field(ge=0.0)] = 0.01
    """Weight of telephone numbers."""

    quantity_weight: Annotated[float, Field(ge=0.0)] = 0.03
    """Weight of measures, ordinals, percentages and house numbers: ``250ml``, ``2ND``, ``50%``, ``12A``."""

    single_weight: Annotated[float, Field(ge=0.0)] = 0.025
    """Weight of single characters: letters and digits, and large signs like ``&`` where the charset has them."""

    web_weight: Annotated[float, Field(ge=0.0)] = 0.015
    """Weight of pieces of web and mail addresses."""

    phrase_weight: Annotated[float, Field(ge=0.0)] = 0.25
    """Weight of several words in a line, where the charset has the space; without it 0."""

    phrase_words: Annotated[int, Field(ge=2, le=16)] = 3
    """Most words in a line; fewer where they do not fit."""

    line_weight: Annotated[float, Field(ge=0.0)] = 0.6
    """Weight of lines: sentences, names, addresses, receipts, labels, contacts, codes. Written where the charset has a
    space and pictures keep their proportions (``image.resize = "keep_ratio"``); otherwise 0."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.word_ratios and len(self.word_ratios) != len(self.words):
            raise ValueError(f"word_ratios has {len(self.word_ratios)} numbers for {len(self.words)} lists in words")
        if self.length_weights and not any(self.length_weights):
            raise ValueError("length_weights has no weight above 0; expected at least one, or no weights at all")
        if self.only_words and self.pattern:
            raise ValueError(f"only_words is on and pattern is {self.pattern!r}; expected one of them at most")
        for ending in ("case_", "_weight"):
            names = [name for name in type(self).model_fields if ending in name and name != "length_weights"]
            if not any(getattr(self, name) for name in names):
                raise ValueError(f"{', '.join(names)} are all 0; give at least one of them a weight")
        return self


class FaceConfig(Section):
    """With which faces it is written."""

    folders: tuple[str, ...] = ("shipped",)
    """Where faces are looked for, in folders within them too: paths, ``shipped`` (those of the package), ``system``."""

    families: tuple[str, ...] = ("*",)
    """Patterns of the families that are used, as in ``Noto *``; upper and lower case are the same."""

    exclude: tuple[str, ...] = ()
    """Patterns of families that are not used."""

    italics: bool = True
    """Use italic and oblique styles."""

    min_weight: Annotated[int, Field(ge=1, le=1000)] = 200
    """Lightest weight that is used: 400 is regular. Hairlines vanish in 32 pixels (own)."""

    max_weight: Annotated[int, Field(ge=1, le=1000)] = 1000
    """Heaviest weight that is used: 700 is bold."""

    min_coverage: Share = 0.5
    """Least share of the needed characters that a face must have (own; capitals and digits alone are 0.38 of 94)."""

    min_readable: Share = 0.45
    """Least share of a face's letters and digits that are like those of the shipped faces (own: below are dingbats,
    barcodes and letters that are hard to read; a few scripts too). 0 uses any."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.folders:
            raise ValueError('folders is empty; name at least one, or "shipped"')
        if self.min_weight > self.max_weight:
            raise ValueError(f"min_weight {self.min_weight} is above max_weight {self.max_weight}")
        return self
