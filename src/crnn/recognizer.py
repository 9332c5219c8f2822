"""Pictures in, readings out: the public face of a trained network.

``Recognizer`` takes pictures of any kind and number, brings them to the network's array with ``crnn.image``, batches
those of one width without padding, and gives one ``Reading`` for each in the order in which they came. What computes
the log-probabilities is an ``Engine``; the torch engine is the one of this version, and torch is imported only when it
is made.

Shape letters: N batch, C image channels, W width, T time steps, V classes with the blank.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from crnn.beam import decode_beam
from crnn.charset import Charset
from crnn.config import ReaderConfig
from crnn.decode import DecodedText, decode_greedy
from crnn.errors import CheckpointError, ConfigError, ImageError, MissingExtraError
from crnn.image import ImageSource, load_image, normalise, resize, target_width

if TYPE_CHECKING:
    from crnn.model import CRNN

__all__ = ["Character", "DecodeMethod", "Engine", "EngineName", "Reading", "Recognizer", "TorchEngine", "load"]

DecodeMethod = Literal["greedy", "beam"]
EngineName = Literal["auto", "torch"]
Precision = Literal["fp32", "bf16"]

_WINDOW_BATCHES = 8
"""Batches' worth of pictures that are held at once while they are sorted by width; it bounds the memory of streams."""


@dataclass(frozen=True, slots=True)
class Character:
    """One character of a reading.

    Attributes:
        text: The character.
        score: Largest log-probability of its class over the time steps that it is aligned to, at most 0.
        start: Left border in pixels of the picture as it was given.
        end: Right border, likewise. Neighbours share the border halfway between the steps aligned to them.
    """

    text: str
    score: float
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What a picture says.

    Attributes:
        text: The text; empty when the network sees none.
        score: Natural-log probability of the text under the network: the sum over all its CTC alignments, at most 0.
            ``math.exp(score)`` is a probability.
        characters: The characters of the text with their scores and places, left to right.
    """

    text: str
    score: float
    characters: tuple[Character, ...]


class Engine(Protocol):
    """What computes log-probabilities."""

    def log_probs(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """``(N, C, 32, W)`` float32 in [-1, 1] -> ``(N, T, V)`` float32, normalised over V."""
        ...


class TorchEngine:
    """The network in torch.

    Args:
        network: In evaluation mode; moved to the device.
        device: Where it computes.
        precision: ``fp32``, or ``bf16``: autocast.
        channels_last: Memory order of pictures and convolutions.
    """

    def __init__(
        self, network: CRNN, device: str = "cpu", precision: Precision = "fp32", channels_last: bool = True
    ) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(device)
        self._precision = precision
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._network = network.to(self._device).to(memory_format=self._format)  # type: ignore[call-overload]

    def log_probs(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """As ``Engine`` says."""
        torch = self._torch
        was_training = self._network.training
        self._network.eval()
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16"),
            ):
                tensor = torch.from_numpy(images).to(self._device).contiguous(memory_format=self._format)
                logits = self._network(tensor)
                result: npt.NDArray[np.float32] = logits.float().log_softmax(-1).cpu().numpy()
        finally:
            self._network.train(was_training)
        return result


class Recognizer:
    """Reads pictures of words and short lines.

    Args:
        engine: What computes log-probabilities.
        config: Settings of its weights: charset and image.
        batch_size: Pictures per forward pass.
        decode: ``greedy``, or ``beam``: prefix beam search, which finds the likeliest text more often.
        beam_width: Prefixes that the beam keeps.

    Raises:
        ConfigError: ``batch_size`` or ``beam_width`` is below 1, or ``decode`` is neither method.
    """

    def __init__(
        self,
        engine: Engine,
        config: ReaderConfig,
        *,
        batch_size: int = 64,
        decode: DecodeMethod = "greedy",
        beam_width: int = 10,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("beam_width", beam_width)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; expected 1 or more")
        _check_choice("decode", decode, DecodeMethod)
        self.config = config
        self.charset: Charset = config.charset.charset()
        self.batch_size = batch_size
        self._engine = engine
        self._decode = decode
        self._beam_width = beam_width

    @overload
    def read(self, images: ImageSource) -> Reading: ...  # type: ignore[overload-overlap]  # a str is one path
    @overload
    def read(self, images: Iterable[ImageSource]) -> list[Reading]: ...

    def read(self, images: ImageSource | Iterable[ImageSource]) -> Reading | list[Reading]:
        """Read one picture, or many.

        Args:
            images: A path, encoded bytes, a PIL image or an array ``(H, W)`` or ``(H, W, C)``; or an iterable of them.

        Returns:
            A ``Reading`` for one picture, a list of them in the same order for many.

        Raises:
            ImageError: A picture cannot be read. ``stream`` reads the others all the same.
            CheckpointError: The network gives no numbers (nan).
        """
        if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | np.ndarray | Image.Image):
            return self.read([images])[0]
        readings = []
        for reading in self.stream(images):
            if isinstance(reading, ImageError):
                raise reading
            readings.append(reading)
        return readings

    def stream(self, images: Iterable[ImageSource]) -> Iterator[Reading | ImageError]:
        """Read pictures as they come, in bounded memory.

        Args:
            images: Any number of pictures; the iterable is only drawn from as readings are taken.

        Yields:
            For each picture, in order, its ``Reading``, or the ``ImageError`` that says why there is none.
        """
        sources = iter(images)
        # Where all pictures have one width there is nothing to sort, and readings need not wait for more of them.
        batches = _WINDOW_BATCHES if self.config.image.resize == "keep_ratio" else 1
        while window := list(islice(sources, self.batch_size * batches)):
            yield from self._read_window(window)

    def _read_window(self, window: Sequence[ImageSource]) -> list[Reading | ImageError]:
        results: list[Reading | ImageError | None] = [None] * len(window)
        by_width: dict[int, list[tuple[int, int, npt.NDArray[np.uint8]]]] = {}
        for place, source in enumerate(window):
            try:
                pixels = load_image(source, self.config.image.image_channels)
            except ImageError as error:
                results[place] = error
                continue
            width = target_width((pixels.shape[1], pixels.shape[0]), self.config.image)
            fitted = resize(pixels, self.config.image, width)
            by_width.setdefault(width, []).append((place, pixels.shape[1], fitted))
        for width, members in sorted(by_width.items()):
            for start in range(0, len(members), self.batch_size):
                chunk = members[start : start + self.batch_size]
                images = normalise(np.stack([pixels for _, _, pixels in chunk]))
                for (place, original, _), text in zip(chunk, self._texts(images), strict=True):
                    results[place] = self._reading(text, width, original)
        return [result for result in results if result is not None]

    def _texts(self, images: npt.NDArray[np.float32]) -> list[DecodedText]:
        log_probs = self._engine.log_probs(images)
        if np.isnan(log_probs).any():
            raise CheckpointError(
                "the network gives no numbers (nan); its weights are damaged, or its training went astray. Use others"
            )
        if self._decode == "greedy":
            return decode_greedy(log_probs)
        return decode_beam(log_probs, self._beam_width)

    def _reading(self, text: DecodedText, width: int, original_width: int) -> Reading:
        borders = [b * original_width / width for b in _borders(text.spans, width)]
        characters = tuple(
            Character(self.charset.decode([i]), score, start, end)
            for i, score, (start, end) in zip(text.ids, text.character_scores, borders, strict=True)
        )
        return Reading(self.charset.decode(text.ids), text.score, characters)


def _check_choice(name: str, value: str, choices: Any) -> None:
    """Refuse a choice that a caller without a type checker got wrong: another one would be taken in silence."""
    if value not in get_args(choices):
        raise ConfigError(f"{name} is {value!r}; expected one of: {', '.join(get_args(choices))}")


def _borders(spans: Sequence[tuple[int, int]], width: int) -> list[npt.NDArray[np.float64]]:
    """Left and right border of each character in pixels of the network's picture.

    Time step t looks at the pixels around 4 (t + 1): two poolings make a column of four pixels, the last convolution
    joins two columns. Neighbours share the border halfway between their steps; the outermost characters reach as far
    out as half the mean gap between neighbours, or two pixels where there is one character.
    """
    edges = np.asarray(spans, dtype=np.float64).reshape(-1, 2) * 4.0 + (2.0, 2.0)
    gaps = edges[1:, 0] - edges[:-1, 1]
    margin = float(gaps.mean()) / 2.0 if len(gaps) else 2.0
    edges[1:, 0] -= gaps / 2.0
    edges[:-1, 1] += gaps / 2.0
    if len(edges):
        edges[0, 0] -= margin
        edges[-1, 1] += margin
    return list(edges.clip(0.0, width))


def load(
    model: str | Path,
    *,
    engine: EngineName = "auto",
    device: str = "auto",
    precision: Precision = "fp32",
    threads: int | None = None,
    batch_size: int = 64,
    decode: DecodeMethod = "greedy",
    beam_width: int = 10,
) -> Recognizer:
    """Load a reader.

    Args:
        model: A weights file or a run folder.
        engine: What computes; ``auto`` takes the fastest that is installed.
        device: ``auto``, ``cpu``, or an accelerator's name.
        precision: ``bf16`` is faster where the device has it; readings may differ from ``fp32`` in the rare case.
        threads: Threads of the engine on the CPU. Default: the engine's own choice.
        batch_size: Pictures per forward pass.
        decode: ``greedy`` or ``beam``.
        beam_width: Prefixes that the beam keeps.

    Raises:
        CheckpointError: The weights are missing, damaged, foreign, or from a newer version.
        ConfigError: The device cannot be used here, a number is out of range, or a choice is unknown.
        MissingExtraError: No engine is installed.

    Example:
        ``crnn.load("runs/crnn").read("word.png").text``
    """
    _check_choice("engine", engine, EngineName)  # one engine so far: both names mean it
    _check_choice("precision", precision, Precision)
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}; expected 1 or more, or none for the engine's own choice")
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "torch", "reading with the torch engine") from None
    from crnn.checkpoint import load_weights
    from crnn.distributed import resolve_device

    if threads is not None:
        torch.set_num_threads(threads)
    weights = load_weights(model)
    compute: Any = TorchEngine(weights.build(), str(resolve_device(device)), precision)
    return Recognizer(compute, weights.config, batch_size=batch_size, decode=decode, beam_width=beam_width)
