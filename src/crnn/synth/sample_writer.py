"""Rendered samples as a stored set: an LMDB folder, or pictures with a list, for other tools."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from crnn.config import Config
from crnn.data.list_writer import ListWriter
from crnn.data.loader import iterate_batches
from crnn.data.partial_folder import PartialFolder
from crnn.data.store_writer import LmdbWriter
from crnn.errors import DataError
from crnn.synth.renderer import Renderer, to_bytes

__all__ = ["Encoding", "Shape", "write_samples"]

Shape = Literal["natural", "network"]
Encoding = Literal["png", "jpeg"]

_CHUNK = 64
"""Samples that a process makes at a time."""

_NATURAL_WIDTH = 160
"""Width at which words are composed that get their own proportions afterwards: that of eight letters 32 pixels high."""

_MAX_WIDTH = 640
"""Widest natural picture under ``squash``; under ``keep_ratio`` it is twice ``image.max_width``."""

_QUALITY = 90


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
    """Write samples ``first`` to ``first + count``.

    A killed call leaves a partial set beside ``path``; the same call goes on behind what is in it.

    Args:
        config: Charset, image, corpus, faces, look, camera; ``train.seed``; ``data.workers`` processes render.
        path: What to write; it must not exist yet, or be empty.
        count: Samples.
        first: Number of the first one. A sample is the same whatever the others are.
        to: An LMDB folder, or a folder of pictures and ``labels.tsv``.
        shape: ``natural``: 32 pixels high, in the proportions of the crop. ``network``: as the network sees it; under
            ``keep_ratio`` with the width of its class.
        encoding: Of the pictures.
        progress: Called with the number of samples done since the last call.
        say: Called with each line that says what was found and what was left out.

    Returns:
        How many are in the set.

    Raises:
        ConfigError: The settings leave nothing to draw, or no face to draw it with.
        DataError: The folder has something in it, or another set was begun there; the disk is full.
    """
    PartialFolder(path, ()).check_free()  # before faces are looked for, which takes seconds
    source = _Chunks(config, first, count, shape, encoding)
    for line in source.renderer.remarks():
        say(line)
    sections = config.model_dump(mode="json", include={"charset", "image", "corpus", "look", "camera"})
    settings = {
        "what": "rendered text", "seed": config.train.seed, **sections, "count": count, "first": first,
        "shape": shape, "encoding": encoding, "faces": source.renderer.faces.digest,
    }  # fmt: skip
    state = json.dumps(settings, sort_keys=True).encode()
    with LmdbWriter(path, keep_partial=True) if to == "lmdb" else ListWriter(path) as writer:
        if writer.state is not None and writer.state != state:
            raise DataError(
                f"{os.fspath(path)}: a set with other settings was begun there; expected the same command, which goes "
                f"on with it. Remove {os.fspath(path)}.partial to begin anew"
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
        self._charset = config.charset.charset()
        keeps_ratio = config.image.resize == "keep_ratio"
        self._max_width = 2 * config.image.max_width if keeps_ratio else _MAX_WIDTH

    def __getitem__(self, number: int) -> list[tuple[bytes, str, tuple[int, int]]]:
        start = number * _CHUNK
        samples = self._first + np.arange(start, min(start + _CHUNK, self._count), dtype=np.int64)
        found: dict[int, tuple[bytes, str, tuple[int, int]]] = {}
        for places, numbers in self.renderer.groups(samples):
            found.update(zip(places.tolist(), self._rendered(numbers), strict=True))
        return [found[place] for place in range(len(samples))]

    def _rendered(self, numbers: npt.NDArray[np.int64]) -> list[tuple[bytes, str, tuple[int, int]]]:
        """Samples of one class of widths."""
        with torch.no_grad():
            pictures, words, scene = self.renderer.samples(numbers)
        pixels = to_bytes(pictures).permute(0, 2, 3, 1).numpy()
        result = []
        for row in range(len(numbers)):
            picture = Image.fromarray(pixels[row, :, :, 0] if pixels.shape[-1] == 1 else pixels[row])
            if self._shape == "natural":
                high, wide = scene.geometry.crop[row]
                width = int(np.clip(round(picture.height * wide / high), 8, self._max_width))
                picture = picture.resize((width, picture.height), Image.Resampling.BICUBIC)
            target = words.targets[row, : words.lengths[row]].tolist()
            result.append((self._encoded(picture), self._charset.decode(target), picture.size))
        return result

    def _encoded(self, picture: Image.Image) -> bytes:
        data = io.BytesIO()
        if self._encoding == "png":
            picture.save(data, "PNG", compress_level=3)
        else:
            picture.save(data, "JPEG", quality=_QUALITY)
        return data.getvalue()
