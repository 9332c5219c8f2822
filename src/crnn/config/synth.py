"""The settings of what is written, and with which fonts. Every strength names where its default comes from.

Sources by short name: MJ is MJSynth (Jaderberg et al. 2014, arXiv 1406.2227; constants after a published port of its
renderer), ST is SynthTIGER (Yim et al. 2021, arXiv 2107.09313; its published configuration), "own" is chosen here, by
looking at sheets of images or by the experiments in docs/log/experiments.md.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from crnn.config.section import Section, Share


class SynthConfig(Section):
    """Rendered text as a source of training images."""

    pool_size: Annotated[int, Field(ge=64, le=4_194_304)] = 16_384
    """Drawn words that are kept at a time, of all ranks together; each takes about 6 kB."""

    reuse: Annotated[float, Field(ge=1.0, le=64.0)] = 4.0
    """Images per drawn word, each with another style. 1 draws every word anew."""

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
    space and images keep their proportions (``image.resize = "keep_ratio"``); otherwise 0."""

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


class FontConfig(Section):
    """With which fonts it is written."""

    folders: tuple[str, ...] = ("shipped",)
    """Where fonts are looked for, in folders within them too: paths, ``shipped`` (those of the package), ``system``."""

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
    """Least share of the needed characters that a font must have (own; capitals and digits alone are 0.38 of 94)."""

    min_readable: Share = 0.45
    """Least share of a font's letters and digits that are like those of the shipped fonts (own: below are dingbats,
    barcodes and letters that are hard to read; a few scripts too). 0 uses any."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.folders:
            raise ValueError('folders is empty; name at least one, or "shipped"')
        if self.min_weight > self.max_weight:
            raise ValueError(f"min_weight {self.min_weight} is above max_weight {self.max_weight}")
        return self


class StyleConfig(Section):
    """How written words are bent, coloured and surrounded."""

    # how letters are set: drawn with the word, so every use of it has the same

    tracking_share: Share = 0.2
    """Share of words set with wider spaces between letters."""

    tracking: Annotated[float, Field(ge=0.0, le=2.0)] = 0.5
    """Largest added space in em, drawn from Beta(2, 5): usually about a quarter of it (MJ: 20 Beta(2, 5) px at 60)."""

    tight_share: Share = 0.04
    """Share of words whose letters are moved together, by up to 0.07 em (own)."""

    letter_jitter_share: Share = 0.06
    """Share of words whose letters are out of place, across and, independently, up and down (own; MJ: 0.2 across)."""

    letter_jitter: Annotated[float, Field(ge=0.0, le=0.5)] = 0.04
    """Standard deviation of that in em (MJ: 10 % of the space)."""

    small_caps_share: Share = 0.03
    """Share of words whose lower-case letters are drawn as small capitals (own)."""

    underline_share: Share = 0.015
    """Share of underlined words (MJ underlines, its share is not published; own)."""

    # shape

    stretch: Annotated[float, Field(ge=0.0, le=1.0)] = 0.15
    """Standard deviation of the logarithm of a stretch in width (own; signs condense and widen their fonts)."""

    slant_share: Share = 0.2
    """Share of words that are slanted, besides those in italic fonts (MJ: 0.2)."""

    slant: Annotated[float, Field(ge=0.0, le=1.0)] = 0.4
    """Largest slant, as pixels across per pixel up (ST: skew up to 30 degrees, 0.58)."""

    rotate_degrees: Annotated[float, Field(ge=0.0, le=45.0)] = 3.5
    """Standard deviation of the rotation of every word (MJ: 5; ST: uniform up to 10)."""

    tilt_share: Share = 0.08
    """Share of words that are turned further (own)."""

    tilt_degrees: Annotated[float, Field(ge=0.0, le=90.0)] = 20.0
    """Largest turn of those."""

    perspective_share: Share = 0.4
    """Share of words seen from the side, from above or below (ST: 4 of 9 transformations)."""

    perspective: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.25
    """Largest change of scale from the middle to an end: 0.25 makes one end 0.6 of the other (ST: 0.5 to 1)."""

    arc_share: Share = 0.12
    """Share of words on a circle (ST: 0.2, MJ: parabolas on 0.2)."""

    arc_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 90.0
    """Largest angle that a word takes of its circle; small angles are drawn more often (ST: 20 to 40)."""

    wave_share: Share = 0.04
    """Share of words on a wave (own)."""

    wave: Annotated[float, Field(ge=0.0, le=1.0)] = 0.12
    """Largest height of the wave, as a share of the text's."""

    elastic_share: Share = 0.15
    """Share of words whose surface is uneven (ST: every letter; MJ defines it and does not use it)."""

    elastic: Annotated[float, Field(ge=0.0, le=0.5)] = 0.06
    """Largest move of a point, as a share of the text's height."""

    margin: Annotated[float, Field(ge=0.0, le=1.0)] = 0.16
    """Largest usual margin of a crop, as a share of the text's height; the sides differ by a little (own: tight crops
    as in IIIT5K and SVT)."""

    loose_share: Share = 0.1
    """Share of crops with much more space on some sides (own; MJ: 15 px of 60)."""

    loose: Annotated[float, Field(ge=0.0, le=2.0)] = 0.5
    """Largest margin of those, as a share of the text's height."""

    cut: Annotated[float, Field(ge=0.0, le=0.3)] = 0.03
    """How far a tight crop may cut into the text, as a share of its height."""

    # colours and fills

    contrast_least: Share = 0.1
    """Smallest difference between text and background, of the range from black to white (own)."""

    contrast_most: Share = 0.95
    """Largest difference between text and background."""

    low_contrast_share: Share = 0.25
    """Share of words whose difference is drawn from the lowest third (own: a quarter of SVT's crops)."""

    texture_share: Share = 0.55
    """Share of backgrounds with a texture (ST: 0.5)."""

    texture: Annotated[float, Field(ge=0.0, le=1.0)] = 0.35
    """Largest strength of a texture, as a share of the contrast of text and background (own: more hides the text)."""

    fill_texture_share: Share = 0.2
    """Share of words whose letters have a texture of their own (MJ, ST)."""

    gradient_share: Share = 0.3
    """Share of backgrounds, and of words, whose grey changes from side to side (own)."""

    gradient: Annotated[float, Field(ge=0.0, le=1.0)] = 0.4
    """Largest change from one side to the other, as a share of the contrast."""

    weight_share: Share = 0.3
    """Share of words made bolder or thinner than their font (MJ: 0.5 bold)."""

    weight: Annotated[float, Field(ge=0.0, le=2.0)] = 0.8
    """Largest change of a stroke's edge in pixels of the finished image."""

    outline_share: Share = 0.12
    """Share of words with a border around their letters (ST: 0.05; MJ: 0.25 with border or shadow)."""

    outline: Annotated[float, Field(ge=0.0, le=4.0)] = 2.0
    """Largest width of a border in pixels of the finished image."""

    hollow_share: Share = 0.02
    """Share of words of which only the border is drawn (own)."""

    shadow_share: Share = 0.12
    """Share of words with a shadow (ST: 0.1)."""

    shadow: Annotated[float, Field(ge=0.0, le=8.0)] = 3.0
    """Largest offset of a shadow in pixels of the finished image."""

    extrusion_share: Share = 0.06
    """Share of words with depth: the letters drawn again and again towards one side (ST: 0.1)."""

    tone_share: Share = 0.03
    """Share of words whose first or last letters have another tone, as in names of two parts (own)."""

    relief_share: Share = 0.08
    """Share of words lit from one side, raised from or cut into their background (MJ: inset)."""

    print_share: Share = 0.0
    """Share of crops as of scanned documents, receipts and labels: dark letters on plain paper, straight, evenly lit;
    what scenes and cameras do to signs is left out (own)."""

    fade_share: Share = 0.0
    """Share of words that are printed unevenly, paler in some places, as thermal and worn prints are (own)."""

    dots_share: Share = 0.0
    """Share of words made of dots, as by needle printers and displays (own)."""

    texture_tiles: Annotated[int, Field(ge=1, le=16_384)] = 256
    """Textures to choose from, made at the start; 350 kB of memory each."""

    backgrounds: tuple[str, ...] = ()
    """Folders with images of which parts become textures, beside the procedural ones (MJ, ST: photographs)."""

    background_share: Share = 0.5
    """Share of the textures that are from those images, where there are any."""

    # what else is in the crop

    neighbour_share: Share = 0.2
    """Share of crops in which another word begins or ends, cut off at the edge (ST: 0.25)."""

    second_neighbour_share: Share = 0.3
    """Share of those with another one at another side (own)."""

    frame_share: Share = 0.08
    """Share of crops with lines beside the text: edges of a sign, rules, frames (own)."""

    split_share: Share = 0.08
    """Share of backgrounds made of two areas of different grey (own)."""

    ghost_share: Share = 0.05
    """Share of backgrounds with faint parts of other words (ST's midground, own strength)."""

    occlusion_share: Share = 0.02
    """Share of words with a pole, a wire or a branch in front of them (own)."""

    blend_share: Share = 0.2
    """Share of finished scenes over which a texture is blended once more, text and background alike (MJ, ST)."""

    blend: Annotated[float, Field(ge=0.0, le=1.0)] = 0.35
    """Largest strength of that, as a share of the light."""

    @model_validator(mode="after")
    def _check_contrast(self) -> Self:
        if self.contrast_least > self.contrast_most:
            raise ValueError(f"contrast_least {self.contrast_least} is above contrast_most {self.contrast_most}")
        return self


class CameraConfig(Section):
    """What happens to an image between the scene and the file."""

    # light

    shade_share: Share = 0.35
    """Share of images that are lit unevenly (own)."""

    shade: Annotated[float, Field(ge=0.0, le=1.0)] = 0.35
    """Largest relative change of brightness from place to place, either way (own)."""

    glare_share: Share = 0.04
    """Share of images with a bright spot of reflected light (own)."""

    glare: Annotated[float, Field(ge=0.0, le=2.0)] = 0.5
    """Largest brightness that a spot adds at its middle; 1 is from black to white (own)."""

    # exposure

    contrast_share: Share = 0.85
    """Share of images whose contrast and brightness are changed; the others keep those of their colours (own)."""

    contrast_middle: Annotated[float, Field(gt=0.0, le=128.0)] = 50.0
    """Median of the contrast that is aimed at, as the standard deviation of the pixels in grey levels of 255 (the
    training parts of IIIT5K-Words and Street View Text: 56 and 33)."""

    contrast_spread: Annotated[float, Field(ge=0.0, le=2.0)] = 0.5
    """Standard deviation of that contrast's logarithm (both sets: 0.4 and 0.5; nine in ten of them: 26 to 90, 13 to
    71)."""

    contrast_least: Annotated[float, Field(gt=0.0, le=128.0)] = 12.0
    """Least contrast that is aimed at, in the same unit (one in twenty of Street View Text is below 13)."""

    brightness: Annotated[float, Field(ge=0.0, le=1.0)] = 0.18
    """Largest change of brightness of those images, either way; 1 is from black to white (own)."""

    # sharpness

    blur_share: Share = 0.5
    """Share of images with a lens or a file less sharp than its pixels (ST: 0.9)."""

    blur: Annotated[float, Field(ge=0.0, le=8.0)] = 0.8
    """Largest sigma of that blur in pixels of the crop's file (ST: 2 at text of 40 to 80 pixels; MJ: normal, 1)."""

    defocus_share: Share = 0.45
    """Share of images that are out of focus (own; Street View Text has such signs)."""

    defocus: Annotated[float, Field(ge=0.0, le=8.0)] = 1.6
    """Largest sigma of that, in pixels of a 32 pixel high image (own)."""

    motion_share: Share = 0.07
    """Share of images that are smeared in some direction (own)."""

    motion: Annotated[float, Field(ge=0.0, le=12.0)] = 4.0
    """Longest path, in pixels of a 32 pixel high image (own)."""

    # pixels

    low_resolution: Share = 1.0
    """Share of the crops with fewer pixels than the network sees that are taken with so few; 0 takes none so."""

    shrink_share: Share = 0.1
    """Share of images that had been stored smaller than the crop says (MJ, ST: 0.1)."""

    shrink: Annotated[float, Field(ge=1.0, le=8.0)] = 2.0
    """Largest factor of that; never to less than 10 pixels in height (ST: 2.5; MJ: to 24 to 32 pixels)."""

    aliasing_share: Share = 0.25
    """Share of low resolutions that pixels were left out for, instead of averaged (own)."""

    noise_share: Share = 0.6
    """Share of images with noise of the sensor (MJ, ST: all)."""

    noise: Annotated[float, Field(ge=0.0, le=64.0)] = 6.0
    """Largest standard deviation of that in grey levels of 255, per pixel of the crop's file; small ones are drawn more
    often (ST: 4 to 8; MJ: 4; crops of the two training parts have less, about 1 after they are resized)."""

    shot_noise: Annotated[float, Field(ge=0.0, le=64.0)] = 6.0
    """Largest standard deviation of noise that grows with the root of brightness, at white, in grey levels (own)."""

    salt_share: Share = 0.01
    """Share of images with black and white single pixels (own)."""

    salt: Annotated[float, Field(ge=0.0, le=0.5)] = 0.02
    """Largest share of such pixels (own)."""

    # what the camera's software does

    sharpen_share: Share = 0.25
    """Share of images with exaggerated edges, as from telephones (own)."""

    sharpen: Annotated[float, Field(ge=0.0, le=8.0)] = 1.5
    """Largest factor on what differs from the neighbouring pixels (own)."""

    gamma_share: Share = 0.4
    """Share of images whose middle tones are brightened or darkened (own)."""

    gamma: Share = 0.5
    """Largest such change; 0.5 takes a middle grey to 0.375 or 0.625 (own)."""

    cast_share: Share = 0.3
    """Share of coloured images with a tint (own)."""

    cast: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.12
    """Largest relative change of each colour (own)."""

    invert_share: Share = 0.05
    """Share of images whose light and dark are exchanged (own; colours are drawn both ways anyhow)."""

    posterise_share: Share = 0.02
    """Share of images with few grey levels, 4 to 24 (own)."""

    jpeg_share: Share = 0.75
    """Share of images that were stored as JPEG (MJ, ST: all)."""

    jpeg_worst: Annotated[int, Field(ge=1, le=100)] = 40
    """Worst quality, on libjpeg's scale of 1 to 100 (ST: 50; MJ: normal about 80, 10)."""

    jpeg_best: Annotated[int, Field(ge=1, le=100)] = 95
    """Best quality (ST: 95)."""

    @model_validator(mode="after")
    def _check_quality(self) -> Self:
        if self.jpeg_worst > self.jpeg_best:
            raise ValueError(f"jpeg_worst {self.jpeg_worst} is above jpeg_best {self.jpeg_best}")
        return self
