"""Rendered samples as a stored set or as a sheet to look at."""

import contextlib
import io
import json
import os
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from crnn.config.run import Config
from crnn.contact_sheet import contact_sheet, packed_sheet
from crnn.data.list_file import ListWriter
from crnn.data.loader import iterate_batches
from crnn.data.store import LmdbWriter
from crnn.errors import DataError
from crnn.files import check_free
from crnn.synth.filters import Integers
from crnn.synth.renderer import Renderer, to_bytes
from crnn.synth.words import Words

Shape = Literal["natural", "network"]
Encoding = Literal["png", "jpeg"]

_CHUNK = 64  # Samples that a process makes at a time
_NATURAL_WIDTH = 160  # Width of composed words before they get their proportions: eight letters 32 pixels high
_MAX_WIDTH = 640  # Widest natural image under ``squash``; under ``keep_ratio`` it is twice ``image.max_width``
_QUALITY = 90  # Of JPEG files
_COLUMNS = 8  # Of a sheet
_PACKED_WIDTH = 1600  # Pixels of a sheet with images of many widths, at least

_T = TypeVar("_T")
_Encoded = tuple[bytes, str, tuple[int, int]]  # A file, its label, and width and height
_Captioned = tuple[npt.NDArray[np.uint8], str]  # An image ``(H, W, C)`` and its caption


def write_samples(
    config: Config,
    path: str | os.PathLike[str],
    count: int,
    *,
    first: int = 0,
    to: Literal["lmdb", "list"] = "lmdb",
    shape: Shape = "natural",
    encoding: Encoding = "png",
    progress: Callable[[int], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> int:
    """Write samples ``first`` to ``first + count - 1`` to a new or empty folder; return the number in the set.

    ``natural`` images are 32 pixels high, in the proportions of the crop, ``network`` ones as large as the network's
    input, under ``keep_ratio`` of the width of their class. A killed call leaves a partial set beside ``path``; the
    same call resumes it. ``progress`` gets the number of samples done since the last call, ``say`` remarks.
    """
    check_free(path)  # before fonts are looked for, which takes seconds
    source = _Chunks(config, first, count, shape, encoding)
    for line in source.renderer.remarks():
        say(line)
    sections = config.model_dump(mode="json", include={"charset", "image", "corpus", "style", "camera"})
    settings = {
        "what": "rendered text", "seed": config.train.seed, **sections, "count": count, "first": first,
        "shape": shape, "encoding": encoding, "fonts": source.renderer.fonts.digest,
    }  # fmt: skip
    state = json.dumps(settings, sort_keys=True).encode()
    with LmdbWriter(path) if to == "lmdb" else ListWriter(path) as writer:
        if writer.state is not None and writer.state != state:
            raise DataError(
                f"{os.fspath(path)}.partial: was begun with other settings; repeat the same command, or remove it"
            )
        done = writer.num_samples
        progress(done)
        chunks = iterate_batches(source, done // _CHUNK, -(-count // _CHUNK), config.data)
        with contextlib.closing(chunks):
            for number, chunk in enumerate(chunks, start=done // _CHUNK):
                kept = chunk[max(0, done - number * _CHUNK) :]
                for data, label, size in kept:
                    writer.add(data, label, size=size)
                writer.commit(state)
                progress(len(kept))
        return writer.num_samples


class _Chunks:
    """Encoded samples by number of their chunk."""

    def __init__(self, config: Config, first: int, count: int, shape: Shape, encoding: Encoding) -> None:
        width = max(config.image.image_width, _NATURAL_WIDTH) if shape == "natural" else None
        self.renderer = Renderer(config, width=width)
        self._first, self._count, self._shape, self._encoding = first, count, shape, encoding
        keeps_ratio = config.image.resize == "keep_ratio"
        self._max_width = 2 * config.image.max_width if keeps_ratio else _MAX_WIDTH

    def __getitem__(self, number: int) -> list[_Encoded]:
        start, end = number * _CHUNK, min((number + 1) * _CHUNK, self._count)
        return _in_order(self.renderer, self._first + start, end - start, self._rendered)

    def _rendered(self, numbers: Integers) -> list[_Encoded]:
        images, words, scene = self.renderer.samples(numbers)
        result = []
        for pixels, label, (high, wide) in zip(
            _pixels(images), _labels(self.renderer, words), scene.geometry.crop, strict=True
        ):
            image = Image.fromarray(pixels[:, :, 0] if pixels.shape[-1] == 1 else pixels)
            if self._shape == "natural":
                width = int(np.clip(round(image.height * wide / high), 8, self._max_width))
                image = image.resize((width, image.height), Image.Resampling.BICUBIC)
            data = io.BytesIO()
            options = {"compress_level": 3} if self._encoding == "png" else {"quality": _QUALITY}
            image.save(data, self._encoding.upper(), **options)
            result.append((data.getvalue(), label, image.size))
        return result


def _in_order(renderer: Renderer, first: int, count: int, render: Callable[[Integers], list[_T]]) -> list[_T]:
    """Return results of ``render``, which takes samples of one class of widths, in the order of the samples."""
    found: dict[int, _T] = {}
    for places, numbers in renderer.groups(np.arange(first, first + count, dtype=np.int64)):
        found.update(zip(places.tolist(), render(numbers), strict=True))
    return [found[place] for place in range(count)]


def _labels(renderer: Renderer, words: Words) -> list[str]:
    rows = zip(words.targets.tolist(), words.lengths.tolist(), strict=True)
    return [renderer.writer.charset.decode(target[:length]) for target, length in rows]


def _pixels(images: Tensor) -> npt.NDArray[np.uint8]:
    """Return ``(N, H, W, C)`` uint8."""
    pixels: npt.NDArray[np.uint8] = to_bytes(images).permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def preview_sheet(
    config: Config, count: int, first: int = 0, say: Callable[[str], None] = lambda _: None
) -> Image.Image:
    """Show samples from ``first``, each with its label and, where it differs, the drawn text."""
    renderer = _renderer(config, say)

    def render(numbers: Integers) -> list[_Captioned]:
        images, words, _ = renderer.samples(numbers)
        labels = zip(_labels(renderer, words), words.texts, strict=True)
        captions = [label if text == label else f"{label}   ({text})" for label, text in labels]
        return list(zip(_pixels(images), captions, strict=True))

    end = first + count
    shown = [
        sample
        for start in range(first, end, _CHUNK)
        for sample in _in_order(renderer, start, min(_CHUNK, end - start), render)
    ]
    return _sheet(renderer, shown, min(_COLUMNS, count))


def explain_sheet(
    config: Config, count: int, first: int = 0, say: Callable[[str], None] = lambda _: None
) -> Image.Image:
    """Show samples stage by stage, one in a row, from the drawn word to the finished image."""
    renderer = _renderer(config, say)

    def render(numbers: Integers) -> list[list[_Captioned]]:
        stages: list[tuple[str, npt.NDArray[np.uint8]]] = []
        _, words, _ = renderer.samples(numbers, lambda stage, images: stages.append((stage, _pixels(images))))
        return [
            [(pixels[row], text if stage == "word" else stage) for stage, pixels in stages]
            for row, text in enumerate(words.texts)
        ]

    samples = _in_order(renderer, first, count, render)
    if len(renderer.classes) == 1:
        return _sheet(renderer, [stage for stages in samples for stage in stages], len(samples[0]))
    sheets = [np.asarray(_sheet(renderer, stages, len(stages))) for stages in samples]
    return Image.fromarray(np.concatenate(sheets))


def _renderer(config: Config, say: Callable[[str], None]) -> Renderer:
    renderer = Renderer(config)
    for line in renderer.remarks():
        say(line)
    return renderer


def _sheet(renderer: Renderer, shown: Sequence[_Captioned], columns: int) -> Image.Image:
    """Arrange images, doubled to show single pixels, in columns, or packed where they differ in width."""
    images, captions = [image for image, _ in shown], [caption for _, caption in shown]
    font = _caption_font(renderer, captions)
    if len(renderer.classes) > 1:
        width = max(_PACKED_WIDTH, 2 * renderer.classes[-1].high + 8)
        return Image.fromarray(packed_sheet(images, captions, width=width, font_path=font))
    cell = (2 * renderer.classes[0].low + 8, 2 * renderer.height + 26)
    return Image.fromarray(contact_sheet(images, captions, columns=columns, cell=cell, font_path=font))


def _caption_font(renderer: Renderer, captions: Sequence[str]) -> str | None:
    """Return the font that can write most of the captions; ``None`` (Pillow's font) for ASCII."""
    needed = {c for caption in captions for c in caption if not c.isspace()}
    if all(c.isascii() for c in needed):
        return None
    return max(
        renderer.fonts.fonts, key=lambda font: (len(needed & font.characters), not font.italic, -abs(font.weight - 400))
    ).path
