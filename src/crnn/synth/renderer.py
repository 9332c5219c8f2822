"""Render samples by number, from settings to finished images."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from crnn.config.model import time_steps
from crnn.config.run import Config
from crnn.config.section import checked_call
from crnn.distributed import on_device
from crnn.synth.camera import NOT_IN_SCANNERS, apply_camera
from crnn.synth.compose import Neighbors, Scene, Trace, compose
from crnn.synth.corpus import Corpus
from crnn.synth.filters import Flags, Floats, Integers
from crnn.synth.fonts import find_fonts
from crnn.synth.rng import SampleRandom
from crnn.synth.textures import TextureBank
from crnn.synth.words import CLASS_BITS, Words, WordWriter, has_spaces, width_classes

_NEIGHBORS_FROM = 1 << 40  # Words beside sample i have this plus 2i, 2i + 1, numbers that no sample has
_LEAST_TEXT_HEIGHT = 11.0  # Pixels in the file, before shrinking; text of less is hardly readable


class Renderer:
    """Render samples by number. May be pickled while on a CPU.

    Args:
        config: Charset, image, corpus, fonts, style, camera and seed.
        device: Device for composing images.
        width: Width of the images under ``squash``. Default: ``image.image_width``.

    Attributes:
        classes: Classes of widths of the images; one under ``squash``.
        shares: ``(classes,)`` share of each among the samples.
    """

    @checked_call
    def __init__(self, config: Config, device: torch.device | None = None, width: int | None = None) -> None:
        self.config, self.device = config, device or torch.device("cpu")
        self.height = config.image.image_height
        self.classes = width_classes(config.image, width)
        keeps_ratio, pooling = config.image.resize == "keep_ratio", config.model.pooling
        steps = time_steps(config.image.max_width if keeps_ratio else config.image.image_width, pooling)
        charset = config.charset.charset()
        corpus = Corpus(config.corpus, charset, config.charset.rules(), steps, lines=keeps_ratio)
        letters = charset.characters
        both_cases = letters != letters.lower() and letters != letters.upper()
        self.fonts = find_fonts(config.fonts, corpus.characters, case_matters=both_cases)
        self.max_length = min(config.charset.max_text_length, steps)
        self.writer = WordWriter(
            config.train.seed, corpus, self.fonts, config.style, charset, self.classes, self.max_length, pooling
        )
        self.shares = self.writer.shares()
        self._textures = TextureBank(config.style, config.train.seed, self.device)

    def remarks(self) -> list[str]:
        """Return lines on the fonts and words used and left out."""
        fonts = f"rendered text: {len(self.fonts)} fonts of {len(self.fonts.families)} families"
        if self.fonts.skipped:
            fonts += "; left out " + ", ".join(f"{count} {why}" for why, count in self.fonts.skipped.most_common())
        return [fonts, *self.writer.corpus.notes]

    def numbers(self, samples: Integers) -> Integers:
        """Return samples with their class of widths, drawn by ``shares``, as ``WordWriter`` takes them."""
        if len(self.classes) == 1:
            return samples
        kinds = SampleRandom(self.config.train.seed, samples).choice("width class", self.shares.tolist())
        return samples + (kinds << CLASS_BITS)

    def groups(self, samples: Integers) -> Iterator[tuple[Integers, Integers]]:
        """Yield the places and numbers, as for ``samples``, of the samples of each class of widths."""
        numbers = self.numbers(samples)
        kinds = numbers >> CLASS_BITS
        for kind in np.unique(kinds):
            rows = np.flatnonzero(kinds == kind)
            yield rows, numbers[rows]

    @torch.no_grad()
    def samples(self, numbers: Integers, trace: Trace = lambda *_: None) -> tuple[Tensor, Words, Scene]:
        """Render samples of one class: ``(n, C, H, W)`` float32 in [0, 1], words, scenes; see ``compose``."""
        words = self.writer.write(numbers)
        samples = numbers & ((1 << CLASS_BITS) - 1)
        others_of = numbers - samples + _NEIGHBORS_FROM + 2 * samples

        def neighbors(rows: Integers, place: int) -> tuple[Tensor, Floats]:
            others = self.writer.write(others_of[rows] + place)
            return on_device(others.masks, self.device), others.ratios

        random = SampleRandom(self.config.train.seed, numbers)
        masks = on_device(words.masks, self.device)
        trace("word", masks[:, None].float() / 255.0)
        scene = self.scene(random, masks, words.ratios, has_spaces(words.texts), neighbors, trace)
        trace("light", scene.images)
        images = self.apply_camera(random, scene)
        trace("camera", images)
        return images, words, scene

    def scene(
        self,
        random: SampleRandom,
        masks: Tensor,
        ratios: Floats,
        lines: Flags,
        neighbors: Neighbors,
        trace: Trace = lambda *_: None,
        width: int | None = None,
    ) -> Scene:
        """Compose scenes of words of one class of widths; see ``compose``."""
        kind = self.classes[int(random.indices[0]) >> CLASS_BITS if len(random) else 0]
        shape, channels = (self.height, width or kind.middle), self.config.image.image_channels
        return compose(
            masks, ratios, lines, neighbors, random, self.config.style, self._textures, shape, channels, trace, kind.fit
        )

    def apply_camera(self, random: SampleRandom, scene: Scene) -> Tensor:
        """Return scenes as a camera stores them, ``(n, C, H, W)`` float32 in [0, 1]."""
        random = random.without(NOT_IN_SCANNERS, random.chance("printed", self.config.style.print_share))
        # Heights of crops in their files follow the training parts of IIIT5K-Words and SVT: median 34, a tenth below
        # 18, a tenth above 80.
        height = np.exp(random.normal("native height", np.log(36.0), 0.6)).clip(10.0, 240.0)
        crop = scene.geometry.crop
        # Those crops are tight: in a loose one the text is no smaller, but the crop is larger.
        height = np.maximum(height, _LEAST_TEXT_HEIGHT * crop[:, 0])
        native = np.stack([height, height * crop[:, 1] / crop[:, 0]], axis=1)
        return apply_camera(scene.images, random, self.config.camera, native)


def to_bytes(images: Tensor) -> Tensor:
    """Convert images in [0, 1] to uint8."""
    return (images * 255.0).round_().clamp_(0.0, 255.0).to(torch.uint8)
