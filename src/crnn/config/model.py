"""Settings that a weights file carries, a part of those of a run: model, image and charset.

The ModelZoo's parameters keep their names; those that follow from others are checked where they are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from crnn.charset import Case, Charset, LabelRules, Unicode, Unknown, Whitespace
from crnn.config.section import Section, checked_settings

BACKBONE_CHANNELS = {"vgg": 512, "small": 256}  # depth D of the feature sequence
HIDDEN_SIZES = {"vgg": 256, "small": 128}  # default units of each LSTM per direction
MIN_IMAGE_WIDTH = 16


Pooling = Literal["modelzoo", "paper"]


def time_steps(width: int, pooling: Pooling = "modelzoo") -> int:
    """Return the number of time steps T of an image of ``width`` pixels: 24 for 100, with the paper's pooling 26.

    Two poolings halve the width, and the last convolution, 2 wide and unpadded, takes one more column; each of the
    paper's other two adds one.
    """
    return width // 4 + (1 if pooling == "paper" else -1)


class ModelConfig(Section):
    """The network."""

    backbone: Literal["vgg", "small"] = "vgg"
    """``vgg``: the seven convolutions of the paper (8.3 M parameters). ``small``: for CPUs (1.4 M)."""

    batch_norm: Literal["all", "paper", "dtrb"] = "all"
    """Batch normalization after every convolution (ModelZoo), after the 3rd, 5th and 7th (paper), or after the 5th and
    6th (DTRB)."""

    pooling: Pooling = "modelzoo"
    """Third and fourth pooling: 2x1 (ModelZoo, DTRB), or 2x2 with overlap and a column of padding (paper), for two more
    time steps."""

    neck: Literal["linear", "none"] = "linear"
    """Layer between the two LSTMs: ``linear``, from both directions to ``hidden_size`` (paper's code), or ``none``
    (ModelZoo's V1)."""

    rnn2: Literal["both", "forward"] = "both"
    """Directions of the second LSTM; the ModelZoo's V1 has the forward one alone."""

    hidden_size: Annotated[int, Field(ge=8, le=4096)] | None = None
    """Units of each LSTM per direction. Default: 256 for ``vgg`` (paper, ModelZoo), 128 for ``small``."""

    use_dropout: bool = False
    """Dropout between the two LSTM layers while training (ModelZoo: on)."""

    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Share of activations set to zero by ``use_dropout`` (ModelZoo: 0.1, a keep probability of 0.9)."""

    class_num: int | None = None
    """Number of classes with the blank. Follows from the charset; checked when given."""

    input_size: int | None = None
    """Depth of the first LSTM's input. Follows from the backbone; checked when given."""

    num_step: int | None = None
    """Time steps of an image of ``image_width`` pixels. Follows from width and pooling; checked when given."""

    blank: int | None = None
    """Class id of the CTC blank. Always the last class; checked when given."""

    @property
    def lstm_size(self) -> int:
        """Units of each LSTM per direction; by default the backbone's."""
        return self.hidden_size or HIDDEN_SIZES[self.backbone]


class ImageConfig(Section):
    """The network's input."""

    image_height: int = 32
    """Pixels. The backbones are made for 32."""

    image_width: Annotated[int, Field(ge=MIN_IMAGE_WIDTH, le=4096)] = 100
    """Pixels of every image under ``resize = "squash"`` (paper and ModelZoo: 100, PARSeq: 128)."""

    image_channels: Literal[1, 3] = 1
    """1: grey (paper). 3: red, green, blue (ModelZoo)."""

    chroma_retry: bool = False
    """Read colored images of which a grey network (``image_channels`` 1) is unsure again by their chroma, and keep the
    surer reading."""

    resize: Literal["squash", "keep_ratio"] = "squash"
    """``squash`` every image to ``image_width``, or ``keep_ratio`` and round to a multiple of ``width_step``."""

    width_step: Annotated[int, Field(ge=4, le=256, multiple_of=4)] = 16
    """Pixels between the widths of ``keep_ratio``. Images of one width share a batch, unpadded."""

    min_width: Annotated[int, Field(ge=MIN_IMAGE_WIDTH, le=4096)] = 32
    """Least width in pixels under ``keep_ratio``; narrower images are stretched to it."""

    max_width: Annotated[int, Field(ge=MIN_IMAGE_WIDTH, le=4096)] = 512
    """Largest width in pixels under ``keep_ratio``; wider images are squashed to it."""

    width_scale: Annotated[float, Field(gt=0.0, le=4.0)] = 1.0
    """Factor on the width under ``keep_ratio``: below 1 for networks trained on the narrower letters of ``squash``."""

    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """Filter for resizing (DTRB, PARSeq: bicubic). Always with antialiasing."""

    mean: Annotated[float, Field(ge=0.0, le=255.0)] = 127.5
    """Value of pixels that becomes 0 in the network (MMOCR, MindOCR: 127)."""

    std: Annotated[float, Field(ge=1.0, le=255.0)] = 127.5
    """Difference from ``mean`` that becomes 1 (MMOCR, MindOCR: 127)."""

    @property
    def needs_color(self) -> bool:
        """Return true if images are read in color: for three channels, or for ``chroma_retry``."""
        return self.chroma_retry or self.image_channels == 3

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.image_height != 32:
            raise ValueError(f"image_height is {self.image_height}; the backbones are made for 32")
        if self.min_width > self.max_width:
            raise ValueError(f"min_width {self.min_width} is above max_width {self.max_width}")
        return self


class CharsetConfig(Section):
    """Characters of the network, and rules that fit labels to them."""

    characters: str = "36"
    """36, 62, 94, 95 (94 and the space), or the characters themselves in the order of their class ids."""

    case: Literal["auto", Case] = "auto"
    """``auto``: lower-case labels when the charset has no capitals, upper-case when it has only capitals."""

    unicode: Literal["auto", Unicode] = "auto"
    """Unicode form of labels. ``auto``: ``ascii`` (NFKD, rest removed; PARSeq) for ASCII charsets, else NFC."""

    whitespace: Literal["auto", Whitespace] = "auto"
    """``auto``: removed when the charset has no space (PARSeq), else runs of it become one space."""

    unknown: Unknown = "drop_character"
    """Treatment of characters outside the charset (PARSeq: drop_character, DTRB: drop_sample)."""

    language: str = "none"
    """Default language of readings: ``none``, or a shipped one, ``en``."""

    max_text_length: Annotated[int, Field(ge=1)] = 25
    """Longest label in characters; samples with longer labels are skipped and counted (DTRB, PARSeq: 25)."""

    truncate: bool = False
    """Cut longer labels to ``max_text_length`` instead (ModelZoo: at 23)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        Charset(self.characters)  # its error is a ValueError
        return self

    def charset(self) -> Charset:
        """Return the charset."""
        return Charset(self.characters)

    def rules(self) -> LabelRules:
        """Return the label rules, with every ``auto`` decided by the characters."""
        characters = self.charset().characters
        case, unicode, whitespace = self.case, self.unicode, self.whitespace
        if case == "auto":
            lower, upper = characters.lower(), characters.upper()
            case = "lower" if characters == lower != upper else "upper" if characters == upper != lower else "keep"
        if unicode == "auto":
            unicode = "ascii" if characters.isascii() else "NFC"
        if whitespace == "auto":
            whitespace = "collapse" if " " in characters else "remove"
        return LabelRules(
            whitespace=whitespace, unicode=unicode, case=case, unknown=self.unknown, max_length=self.max_text_length,
            truncate=self.truncate,
        )  # fmt: skip


class ReaderConfig(Section):
    """Settings in a weights file: enough to rebuild and feed its network."""

    model: ModelConfig = ModelConfig()
    image: ImageConfig = ImageConfig()
    charset: CharsetConfig = CharsetConfig()

    @model_validator(mode="after")
    def _check_derived(self) -> Self:
        charset = self.charset.charset()
        derived = {
            "class_num": (charset.num_classes, "the charset has that many characters and the blank"),
            "blank": (charset.blank, "the blank is the last class"),
            "input_size": (BACKBONE_CHANNELS[self.model.backbone], f"backbone {self.model.backbone} gives that depth"),
            "num_step": (
                time_steps(self.image.image_width, self.model.pooling),
                f"image_width is {self.image.image_width}, pooling {self.model.pooling}",
            ),
        }
        for key, (expected, why) in derived.items():
            given = getattr(self.model, key)
            if given is not None and given != expected:
                raise ValueError(f"model.{key} is {given} but must be {expected}: {why}. Leave it out or correct it")
        return self

    def reader(self) -> ReaderConfig:
        """Return these sections alone."""
        return ReaderConfig(model=self.model, image=self.image, charset=self.charset)


def parse_reader_config(values: Mapping[str, Any], source: str) -> ReaderConfig:
    """Parse the settings of a weights file; ``source`` is their origin for error messages."""
    return checked_settings(ReaderConfig, values, source)
