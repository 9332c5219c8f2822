"""Sheets of rendered samples, to look at before training on millions of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from crnn.config import Config
from crnn.contact_sheet import contact_sheet
from crnn.synth.draws import Draws
from crnn.synth.renderer import Renderer, to_bytes

__all__ = ["explain_sheet", "preview_sheet"]

_COLUMNS = 8


def preview_sheet(
    config: Config, count: int, first: int = 0, say: Callable[[str], None] = lambda _: None
) -> Image.Image:
    """Samples ``first`` to ``first + count``, each with its label and, where it differs, what was drawn.

    Args:
        config: Charset, image, corpus, faces, look, camera; ``train.seed``.
        count: Samples.
        first: Number of the first one.
        say: Called with each line that says what was found and what was left out.

    Raises:
        ConfigError: The settings leave nothing to draw, or no face to draw it with.
        DataError: A word list, a face or a background cannot be read.
    """
    renderer = _renderer(config, say)
    pictures, captions = [], []
    for start in range(first, first + count, 64):
        numbers = np.arange(start, min(start + 64, first + count), dtype=np.int64)
        rendered, words, _ = renderer.samples(numbers)
        pictures += list(_pixels(rendered))
        for text, target, length in zip(words.texts, words.targets, words.lengths, strict=True):
            label = config.charset.charset().decode(target[:length].tolist())
            captions.append(label if text == label else f"{label}   ({text})")
    height, width = renderer.shape
    # Twice as large: what matters are single pixels.
    cell = (2 * width + 8, 2 * height + 26)
    face = _caption_face(renderer, captions)
    return Image.fromarray(contact_sheet(pictures, captions, columns=min(_COLUMNS, count), cell=cell, font_path=face))


def explain_sheet(
    config: Config, count: int, first: int = 0, say: Callable[[str], None] = lambda _: None
) -> Image.Image:
    """How samples come about: one in a row, from the drawn word to the finished picture.

    Args:
        config: Charset, image, corpus, faces, look, camera; ``train.seed``.
        count: Samples.
        first: Number of the first one.
        say: Called with each line that says what was found and what was left out.

    Raises:
        ConfigError: The settings leave nothing to draw, or no face to draw it with.
        DataError: A word list, a face or a background cannot be read.
    """
    renderer = _renderer(config, say)
    numbers = np.arange(first, first + count, dtype=np.int64)
    words = renderer.writer.write(numbers)
    draws = Draws(config.train.seed, numbers)
    cells = torch.from_numpy(words.cells)
    stages: list[tuple[str, Tensor]] = [("word", cells[:, None].float() / 255.0)]

    with torch.no_grad():
        scene = renderer.scene(
            draws,
            cells,
            words.ratios,
            renderer.beside(numbers),
            lambda stage, pictures: stages.append((stage, pictures.clone())),
        )
        stages.append(("light", scene.pictures.clone()))
        stages.append(("camera", renderer.photographed(draws, scene)))
    pictures, captions = [], []
    for row, text in enumerate(words.texts):
        for stage, rendered in stages:
            pictures.append(_pixels(rendered[row : row + 1])[0])
            captions.append(text if stage == "word" else stage)
    height, width = renderer.shape
    return Image.fromarray(
        contact_sheet(
            pictures,
            captions,
            columns=len(stages),
            cell=(2 * width + 8, 2 * height + 26),
            font_path=_caption_face(renderer, words.texts),
        )
    )


def _renderer(config: Config, say: Callable[[str], None]) -> Renderer:
    renderer = Renderer(config)
    for line in renderer.remarks():
        say(line)
    return renderer


def _caption_face(renderer: Renderer, captions: Sequence[str]) -> str | None:
    """The face in use that can write most of the captions; ``None``: ASCII will do, which Pillow's own face has."""
    needed = {c for caption in captions for c in caption if not c.isspace()}
    if all(c.isascii() for c in needed):
        return None
    return max(
        renderer.faces.faces, key=lambda face: (len(needed & face.characters), not face.italic, -abs(face.weight - 400))
    ).path


def _pixels(pictures: Tensor) -> npt.NDArray[np.uint8]:
    """``(N, H, W, C)`` uint8."""
    pixels: npt.NDArray[np.uint8] = to_bytes(pictures).permute(0, 2, 3, 1).cpu().numpy()
    return pixels
