"""Sheets of rendered samples, to look at before training on millions of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from crnn.config import Config
from crnn.contact_sheet import contact_sheet, packed_sheet
from crnn.synth.draws import Draws
from crnn.synth.renderer import Renderer, to_bytes

__all__ = ["explain_sheet", "preview_sheet"]

_Captioned = tuple[npt.NDArray[np.uint8], str]
"""A picture ``(H, W, C)`` and what stands below it."""

_COLUMNS = 8

_PACKED_WIDTH = 1600
"""Pixels of a sheet with pictures of many widths, at least."""


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
    shown: list[_Captioned] = []
    charset = config.charset.charset()
    for start in range(first, first + count, 64):
        samples = np.arange(start, min(start + 64, first + count), dtype=np.int64)
        found: dict[int, _Captioned] = {}
        for places, numbers in renderer.groups(samples):
            rendered, words, _ = renderer.samples(numbers)
            for place, picture, text, target, length in zip(
                places.tolist(), _pixels(rendered), words.texts, words.targets, words.lengths, strict=True
            ):
                label = charset.decode(target[:length].tolist())
                found[place] = picture, label if text == label else f"{label}   ({text})"
        shown += [found[place] for place in range(len(samples))]
    return _sheet(renderer, shown, min(_COLUMNS, count))


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
    found: dict[int, list[_Captioned]] = {}
    for places, numbers in renderer.groups(np.arange(first, first + count, dtype=np.int64)):
        found.update(zip(places.tolist(), _stages(renderer, numbers), strict=True))
    samples = [found[place] for place in range(count)]
    if len(renderer.classes) > 1:
        return Image.fromarray(
            np.concatenate([np.asarray(_sheet(renderer, stages, len(stages))) for stages in samples])
        )
    return _sheet(renderer, [stage for stages in samples for stage in stages], len(samples[0]))


def _stages(renderer: Renderer, numbers: npt.NDArray[np.int64]) -> list[list[_Captioned]]:
    """The stages of samples of one class of widths, each with its name; the first has what was drawn for a name."""
    words = renderer.writer.write(numbers)
    draws = Draws(renderer.config.train.seed, numbers)
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
    return [
        [(_pixels(rendered[row : row + 1])[0], text if stage == "word" else stage) for stage, rendered in stages]
        for row, text in enumerate(words.texts)
    ]


def _sheet(renderer: Renderer, shown: Sequence[_Captioned], columns: int) -> Image.Image:
    """Pictures twice as large, as what matters are single pixels: in columns, or packed where they differ in width."""
    pictures, captions = [picture for picture, _ in shown], [caption for _, caption in shown]
    face = _caption_face(renderer, captions)
    if len(renderer.classes) > 1:
        width = max(_PACKED_WIDTH, 2 * renderer.classes[-1].high + 8)
        return Image.fromarray(packed_sheet(pictures, captions, width=width, font_path=face))
    cell = (2 * renderer.classes[0].low + 8, 2 * renderer.height + 26)
    return Image.fromarray(contact_sheet(pictures, captions, columns=columns, cell=cell, font_path=face))


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
