"""Settings of rendered text. Every strength names the source of its default.

MJ is MJSynth (Jaderberg et al. 2014, arXiv 1406.2227; constants after a published port of its renderer), ST is
SynthTIGER (Yim et al. 2021, arXiv 2107.09313; its published configuration), SVT is Street View Text, "own" is chosen
here, by looking at sheets of images or by the experiments in docs/log/experiments.md.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from crnn.config.section import Section, Share

Weight = Annotated[float, Field(ge=0.0)]


class SynthConfig(Section):
    """Rendered text as a source of training images."""

    pool_size: Annotated[int, Field(ge=64, le=4_194_304)] = 16_384
    """Drawn words kept at a time, over all ranks; each takes about 6 kB."""
    reuse: Annotated[float, Field(ge=1.0, le=64.0)] = 4.0
    """Images per drawn word, each in another style. 1 draws every word anew."""
    epoch_samples: Annotated[int, Field(ge=1)] = 1_000_000
    """Samples that count as an epoch, as rendered text has no end; unused with ``train.num_steps``."""


class CorpusConfig(Section):
    """Texts to render."""

    removed: ClassVar[Mapping[str, Any]] = {"short_first": 0, "uniform_longest": 18}

    words: tuple[str, ...] = ("shipped",)
    """Word lists: ``shipped`` (English, from SCOWL) and UTF-8 files with a word per line, or word, tab, frequency."""
    word_ratios: tuple[Annotated[float, Field(gt=0.0)], ...] = ()
    """Shares of the lists of ``words`` in the words of one length. Default: equal shares."""

    only_words: bool = False
    """Draw only the words of the lists, unchanged, of any length, by their frequency to the power ``frequency_power``;
    ``word_ratios`` are shares in all words."""

    pattern: str = ""
    """Regular expression that all texts match, such as ``[A-Z]{2}-[0-9]{4}``, in the syntax of ``crnn read --pattern``.
    Repeats without a limit (``*``, ``+``, ``{2,}``) go up to 8 beyond the least. Empty: none."""

    frequency_power: Annotated[float, Field(ge=0.0, le=2.0)] = 0.5
    """Exponent of a word's frequency in its probability: 0 all alike, 1 as often as in texts (own)."""
    length_weights: tuple[Weight, ...] = (
        *(1.5, 8.5, 16.0, 18.4, 17.0, 13.0, 10.2, 6.0, 4.0, 2.4, 1.4, 0.8, 0.4, 0.25, 0.15),
    )
    """Weights of the label lengths 1, 2, 3, ... of words; none: as in the lists. Longer words of own lists keep their
    share. Default: the 2,007 labels without digits in the training parts of IIIT5K-Words and SVT, in %, smoothed."""

    balance: Share = 0.25
    """Share of words chosen from four by the rarest letter (after ST's character augmentation; own)."""

    case_lower: Weight = 0.25
    """Weight of words in lower case (own: signs are mostly capitals; MJ and ST: all three forms alike)."""
    case_upper: Weight = 0.40
    """Weight of words in upper case."""
    case_capitalised: Weight = 0.30
    """Weight of words as in their list, with the first letter in upper case."""
    case_mixed: Weight = 0.05
    """Weight of words with upper case in other places: one letter inside, or any."""

    punctuation: Share = 0.17
    """Share of words with marks, left out of labels where the charset lacks them (12 % of those labels; MJ: none)."""

    word_weight: Weight = 0.56
    """Weight of words from the lists. Weights of kinds are own, after those labels, of which 11 % have digits."""
    joined_weight: Weight = 0.10
    """Weight of words, or several without a space, of uniform length (ST: 0.1, against rare long words)."""
    made_up_weight: Weight = 0.07
    """Weight of pronounceable words made up after the lists."""
    brand_weight: Weight = 0.03
    """Weight of names like those of companies: ``PhotoMax``, ``H&M``."""
    number_weight: Weight = 0.07
    """Weight of numbers, lengths as in those labels: 1 to 10 digits, mostly 2."""
    code_weight: Weight = 0.04
    """Weight of codes of letters and digits, like plates, part numbers and seats."""
    price_weight: Weight = 0.02
    """Weight of prices."""
    date_weight: Weight = 0.02
    """Weight of dates and years."""
    time_weight: Weight = 0.01
    """Weight of times and opening hours."""
    telephone_weight: Weight = 0.01
    """Weight of telephone numbers."""
    quantity_weight: Weight = 0.03
    """Weight of measures, ordinals, percentages and house numbers: ``250ml``, ``2ND``, ``50%``, ``12A``."""
    single_weight: Weight = 0.025
    """Weight of single characters: letters and digits, and large signs like ``&`` where the charset has them."""
    web_weight: Weight = 0.015
    """Weight of pieces of web and mail addresses."""
    phrase_weight: Weight = 0.25
    """Weight of several words in a line, where the charset has the space; without it 0."""
    phrase_words: Annotated[int, Field(ge=2, le=16)] = 3
    """Most words in a phrase; fewer where they do not fit."""
    line_weight: Weight = 0.6
    """Weight of lines: sentences, names, addresses, receipts, labels, codes. They need the space in the charset and
    ``image.resize = "keep_ratio"``."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.word_ratios and len(self.word_ratios) != len(self.words):
            raise ValueError(f"word_ratios has {len(self.word_ratios)} numbers for {len(self.words)} lists in words")
        if self.only_words and self.pattern:
            raise ValueError(f"only_words is on and pattern is {self.pattern!r}; expected one of them at most")
        for ending in ("case_", "_weight"):
            names = [name for name in type(self).model_fields if ending in name and name != "length_weights"]
            if not any(getattr(self, name) for name in names):
                raise ValueError(f"{', '.join(names)} are all 0; give at least one of them a weight")
        return self


class FontConfig(Section):
    """Fonts to write with."""

    folders: Annotated[tuple[str, ...], Field(min_length=1)] = ("shipped",)
    """Folders searched for fonts, at any depth: paths, ``shipped`` (those of the package), ``system``."""

    families: tuple[str, ...] = ("*",)
    """Patterns of the families to use, such as ``Noto *``; case does not matter."""
    exclude: tuple[str, ...] = ()
    """Patterns of families to leave out."""

    italics: bool = True
    """Use italic and oblique styles."""
    min_weight: Annotated[int, Field(ge=1, le=1000)] = 200
    """Lightest weight to use: 400 is regular. Hairlines vanish in 32 pixels (own)."""
    max_weight: Annotated[int, Field(ge=1, le=1000)] = 1000
    """Heaviest weight to use: 700 is bold."""

    min_coverage: Share = 0.5
    """Least share of the needed characters in a font (own; capitals and digits alone are 0.38 of 94)."""
    min_readable: Share = 0.45
    """Least share of a font's letters and digits that resemble those of the shipped fonts (own: below are dingbats,
    barcodes, letters hard to read, a few scripts). 0 uses any."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_weight > self.max_weight:
            raise ValueError(f"min_weight {self.min_weight} is above max_weight {self.max_weight}")
        return self


class StyleConfig(Section):
    """Shape, colours and surroundings of words."""

    # how letters are set: drawn with the word, so every use of it has the same

    tracking_share: Share = 0.2
    """Share of words set with wider spaces between letters."""
    tracking: Annotated[float, Field(ge=0.0, le=2.0)] = 0.5
    """Largest added space in em, drawn from Beta(2, 5): usually about a quarter (MJ: 20 Beta(2, 5) px at 60)."""
    tight_share: Share = 0.04
    """Share of words whose letters are moved together, by up to 0.07 em (own)."""

    letter_jitter_share: Share = 0.06
    """Share of words whose letters are out of place, across and, independently, up and down (own; MJ: 0.2 across)."""
    letter_jitter: Annotated[float, Field(ge=0.0, le=0.5)] = 0.04
    """Standard deviation of the displacement in em (MJ: 10 % of the space)."""

    small_caps_share: Share = 0.12
    """Share of texts in capitals whose letters behind the first of each word are smaller (own)."""
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
    """Largest such turn."""

    perspective_share: Share = 0.4
    """Share of words seen from the side, above or below (ST: 4 of 9 transformations)."""
    perspective: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.25
    """Largest change of scale from the middle to an end, half in lines: 0.25 makes one end 0.6 of the other (ST 0.5)"""

    arc_share: Share = 0.12
    """Share of words on a circle (ST: 0.2, MJ: parabolas on 0.2)."""
    arc_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 90.0
    """Largest angle of the arc; small angles are drawn more often (ST: 20 to 40)."""

    wave_share: Share = 0.04
    """Share of words on a wave (own)."""
    wave: Annotated[float, Field(ge=0.0, le=1.0)] = 0.12
    """Largest height of the wave, as a share of the text's."""

    elastic_share: Share = 0.15
    """Share of words whose surface is uneven (ST: every letter; MJ defines it and does not use it)."""
    elastic: Annotated[float, Field(ge=0.0, le=0.5)] = 0.06
    """Largest move of a point, as a share of the text's height."""

    margin: Annotated[float, Field(ge=0.0, le=1.0)] = 0.16
    """Largest usual margin of a crop, as a share of the text's height (own: tight crops as in IIIT5K and SVT)."""
    loose_share: Share = 0.1
    """Share of crops with much more space on some sides (own; MJ: 15 px of 60)."""
    loose: Annotated[float, Field(ge=0.0, le=2.0)] = 0.5
    """Largest margin of those, as a share of the text's height; above and below lines, half."""
    cut: Annotated[float, Field(ge=0.0, le=0.3)] = 0.03
    """Largest cut of a tight crop into the text, as a share of its height."""

    # colours and fills

    contrast_least: Share = 0.1
    """Least difference between text and background, of the range from black to white (own)."""
    contrast_most: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    """Largest difference between text and background."""
    low_contrast_share: Share = 0.25
    """Share of words with a difference from the lowest third (own: a quarter of SVT's crops)."""

    texture_share: Share = 0.55
    """Share of backgrounds with a texture (ST: 0.5)."""
    texture: Annotated[float, Field(ge=0.0, le=1.0)] = 0.35
    """Largest strength of a texture, as a share of the contrast of text and background (own: more hides the text)."""
    fill_texture_share: Share = 0.2
    """Share of words with textured letters (MJ, ST)."""

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
    """Share of words drawn as borders alone (own)."""

    shadow_share: Share = 0.12
    """Share of words with a shadow (ST: 0.1)."""
    shadow: Annotated[float, Field(ge=0.0, le=12.0)] = 8.0
    """Largest offset of a shadow, and depth of letters that have depth, in pixels of the finished image; less than a
    third of the letters' height (own: letters on walls of shops)."""
    extrusion_share: Share = 0.06
    """Share of words with depth: the letters drawn again and again towards one side (ST: 0.1)."""
    wall_share: Share = 0.0
    """Share of words of letters that stand on a wall in daylight: long dark sides below, bricks or planks behind (own:
    signs of shops)."""

    tone_share: Share = 0.03
    """Share of words whose first or last letters have another tone, as in names of two parts (own)."""
    relief_share: Share = 0.08
    """Share of words lit from one side, raised from or cut into their background (MJ: inset)."""

    print_share: Share = 0.0
    """Share of crops like scanned documents, receipts and labels: dark letters on plain paper, straight, evenly lit,
    without the effects of scenes and cameras (own)."""
    fade_share: Share = 0.0
    """Share of words printed unevenly, paler in places, like thermal and worn prints (own)."""
    dots_share: Share = 0.0
    """Share of words made of dots, like those of needle printers and displays (own)."""

    texture_tiles: Annotated[int, Field(ge=1, le=16_384)] = 256
    """Number of textures, made at the start; 350 kB of memory each."""
    backgrounds: tuple[str, ...] = ()
    """Folders of images whose parts become textures, beside the procedural ones (MJ, ST: photographs)."""
    background_share: Share = 0.5
    """Share of textures from those images, where there are any."""

    # surroundings

    neighbor_share: Share = 0.2
    """Share of crops with a part of another word, cut off at the edge (ST: 0.25)."""
    second_neighbor_share: Share = 0.3
    """Share of those with a second one at another side (own)."""

    frame_share: Share = 0.08
    """Share of crops with lines beside the text: edges of a sign, rules, frames (own)."""
    split_share: Share = 0.08
    """Share of backgrounds made of two areas of different grey (own)."""
    ghost_share: Share = 0.05
    """Share of backgrounds with faint parts of other words (ST's midground, own strength)."""
    occlusion_share: Share = 0.02
    """Share of words with a pole, a wire or a branch in front of them (own)."""

    blend_share: Share = 0.2
    """Share of finished scenes with a texture blended over text and background alike (MJ, ST)."""
    blend: Annotated[float, Field(ge=0.0, le=1.0)] = 0.35
    """Largest strength of that texture, as a share of the light."""

    @model_validator(mode="after")
    def _check_contrast(self) -> Self:
        if self.contrast_least > self.contrast_most:
            raise ValueError(f"contrast_least {self.contrast_least} is above contrast_most {self.contrast_most}")
        return self


class CameraConfig(Section):
    """Changes to an image between the scene and the file."""

    # light

    shade_share: Share = 0.35
    """Share of images lit unevenly (own)."""
    shade: Annotated[float, Field(ge=0.0, le=1.0)] = 0.35
    """Largest relative change of brightness from place to place, either way (own)."""

    glare_share: Share = 0.04
    """Share of images with a bright spot of reflected light (own)."""
    glare: Annotated[float, Field(ge=0.0, le=2.0)] = 0.5
    """Largest brightness that a spot adds at its middle; 1 is from black to white (own)."""

    # exposure

    contrast_share: Share = 0.85
    """Share of images whose contrast and brightness are changed (own)."""
    contrast_middle: Annotated[float, Field(gt=0.0, le=128.0)] = 50.0
    """Median contrast aimed at, as the standard deviation in grey levels of 255 (IIIT5K-Words: 56; SVT: 33)."""
    contrast_spread: Annotated[float, Field(ge=0.0, le=2.0)] = 0.5
    """Standard deviation of its logarithm (both sets: 0.4 and 0.5; nine in ten of their crops: 26 to 90, 13 to 71)."""
    contrast_least: Annotated[float, Field(gt=0.0, le=128.0)] = 12.0
    """Least contrast aimed at, in the same unit (one in twenty crops of SVT is below 13)."""
    brightness: Annotated[float, Field(ge=0.0, le=1.0)] = 0.18
    """Largest change of brightness of those images, either way; 1 is from black to white (own)."""

    # sharpness

    blur_share: Share = 0.5
    """Share of images with a lens or a file less sharp than its pixels (ST: 0.9)."""
    blur: Annotated[float, Field(ge=0.0, le=8.0)] = 0.8
    """Largest sigma of that blur in pixels of the crop's file (ST: 2 at text of 40 to 80 pixels; MJ: normal, 1)."""

    defocus_share: Share = 0.45
    """Share of images out of focus (own; SVT has such signs)."""
    defocus: Annotated[float, Field(ge=0.0, le=8.0)] = 1.6
    """Largest sigma of defocus, in pixels of a 32 pixel high image; with blur at most 2.8 (own)."""

    motion_share: Share = 0.07
    """Share of images smeared by motion in some direction (own)."""
    motion: Annotated[float, Field(ge=0.0, le=12.0)] = 4.0
    """Longest path of that motion, in pixels of a 32 pixel high image (own)."""

    # pixels

    low_resolution: Share = 1.0
    """Share of low-resolution crops taken with as few pixels; the others get at least the network's resolution."""
    shrink_share: Share = 0.1
    """Share of images shrunk further before they are stored (MJ, ST: 0.1)."""
    shrink: Annotated[float, Field(ge=1.0, le=8.0)] = 2.0
    """Largest factor of shrinking; never below 10 pixels in height (ST: 2.5; MJ: to 24 to 32 pixels)."""
    aliasing_share: Share = 0.25
    """Share of low resolutions reached by leaving out pixels instead of averaging them (own)."""

    noise_share: Share = 0.6
    """Share of images with sensor noise (MJ, ST: all)."""
    noise: Annotated[float, Field(ge=0.0, le=64.0)] = 6.0
    """Largest standard deviation of noise in grey levels of 255, per pixel of the crop's file; small ones are drawn
    more often (ST: 4 to 8; MJ: 4)."""
    shot_noise: Annotated[float, Field(ge=0.0, le=64.0)] = 6.0
    """Largest standard deviation at white, in grey levels, of noise that grows with the root of brightness (own)."""

    salt_share: Share = 0.01
    """Share of images with black and white single pixels (own)."""
    salt: Annotated[float, Field(ge=0.0, le=0.5)] = 0.02
    """Largest share of such pixels (own)."""

    # the camera's software

    sharpen_share: Share = 0.25
    """Share of images with exaggerated edges, as from telephones (own)."""
    sharpen: Annotated[float, Field(ge=0.0, le=8.0)] = 1.5
    """Largest factor on the difference from neighbouring pixels (own)."""

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
    posterize_share: Share = 0.02
    """Share of images with few grey levels, 4 to 24 (own)."""

    jpeg_share: Share = 0.75
    """Share of images stored as JPEG (MJ, ST: all)."""
    jpeg_worst: Annotated[int, Field(ge=1, le=100)] = 40
    """Worst quality, on libjpeg's scale of 1 to 100 (ST: 50; MJ: normal about 80, 10)."""
    jpeg_best: Annotated[int, Field(ge=1, le=100)] = 95
    """Best quality (ST: 95)."""

    @model_validator(mode="after")
    def _check_quality(self) -> Self:
        if self.jpeg_worst > self.jpeg_best:
            raise ValueError(f"jpeg_worst {self.jpeg_worst} is above jpeg_best {self.jpeg_best}")
        return self
