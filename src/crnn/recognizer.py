"""Pictures in, readings out: the public face of a trained network.

``Recognizer`` takes pictures of any kind and number, brings them to the network's array with ``crnn.image``, batches
those of one width without padding, and gives one ``Reading`` for each in the order in which they came. What computes
the log-probabilities is an ``Engine``; the torch engine is the one of this version, and torch is imported only when it
is made.

Shape letters: N batch, C image channels, W width, T time steps, V classes with the blank.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, Unpack, get_args, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from crnn.charset import Charset
from crnn.config import ReaderConfig
from crnn.decoding.decoder import Decoder, DecodingOptions
from crnn.errors import CheckpointError, ConfigError, ImageError, MissingExtraError
from crnn.image import ImageSource, load_image, normalise, resize, target_width
from crnn.reading import Reading, reading_of
from crnn.shipped import DEFAULT_MODEL

if TYPE_CHECKING:
    from crnn.model import CRNN

__all__ = [
    "Engine",
    "EngineName",
    "NetworkOutput",
    "Recognizer",
    "TorchEngine",
    "load",
]

_R = TypeVar("_R")

EngineName = Literal["auto", "torch"]
Precision = Literal["fp32", "bf16"]

_WINDOW_BATCHES = 8
"""Batches' worth of pictures that are held at once while they are sorted by width; it bounds the memory of streams."""


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """What the network says of pictures that went through it together.

    Attributes:
        log_probs: ``(N, T, V)`` float32, normalised over V.
        places: For each picture its place in the order in which pictures came, from 0.
        width: Of the network's pictures, in pixels.
        original_widths: Of the pictures as they were given.
    """

    log_probs: npt.NDArray[np.float32]
    places: tuple[int, ...]
    width: int
    original_widths: tuple[int, ...]


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
        temperature: That of the weights' calibration; without one there are no confidences for free texts.
        options: How texts are found: those of ``crnn.decoding.decoder.DecodingOptions``.

    Attributes:
        config: As given.
        charset: Of the network.
        batch_size: As given.
        decoder: What finds texts.

    Raises:
        ConfigError: A number is out of range, an option cannot be used, or options contradict each other.
        DataError: The lexicon or the language model cannot be used.
    """

    def __init__(
        self,
        engine: Engine,
        config: ReaderConfig,
        *,
        batch_size: int = 64,
        temperature: float | None = None,
        **options: Unpack[DecodingOptions],
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; expected 1 or more")
        self.config = config
        self.charset: Charset = config.charset.charset()
        self.batch_size = batch_size
        self.decoder = Decoder(self.charset, config.charset.rules(), temperature=temperature, **options)
        self._engine = engine

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
        return self.run(images, self.readings)

    def readings(self, output: NetworkOutput) -> list[Reading]:
        """What the pictures of one batch say."""
        decoded = self.decoder.decode(output.log_probs)
        return [
            reading_of(text, self.charset, output.width, original)
            for text, original in zip(decoded, output.original_widths, strict=True)
        ]

    def run(
        self, images: Iterable[ImageSource], function: Callable[[NetworkOutput], Sequence[_R]]
    ) -> Iterator[_R | ImageError]:
        """Pictures through the network, and what a function makes of its output.

        Args:
            images: Any number of pictures; the iterable is only drawn from as results are taken.
            function: Called with each batch; gives one result for each picture in it.

        Yields:
            For each picture, in order, its result, or the ``ImageError`` that says why there is none.

        Raises:
            CheckpointError: The network gives no numbers (nan).
        """
        sources = iter(images)
        # Where all pictures have one width there is nothing to sort, and readings need not wait for more of them.
        batches = _WINDOW_BATCHES if self.config.image.resize == "keep_ratio" else 1
        first = 0
        while window := list(islice(sources, self.batch_size * batches)):
            yield from self._run_window(window, first, function)
            first += len(window)

    def _run_window(
        self, window: Sequence[ImageSource], first: int, function: Callable[[NetworkOutput], Sequence[_R]]
    ) -> list[_R | ImageError]:
        results: dict[int, _R | ImageError] = {}
        by_width: dict[int, list[tuple[int, int, npt.NDArray[np.uint8]]]] = {}
        for place, source in enumerate(window, first):
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
                places, originals, pictures = zip(*members[start : start + self.batch_size], strict=True)
                log_probs = self._log_probs(normalise(np.stack(pictures)))
                found = function(NetworkOutput(log_probs, places, width, originals))
                results.update(zip(places, found, strict=True))
        return [results[place] for place in range(first, first + len(window))]

    def _log_probs(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        log_probs = self._engine.log_probs(images)
        if np.isnan(log_probs).any():
            raise CheckpointError(
                "the network gives no numbers (nan); its weights are damaged, or its training went astray. Use others"
            )
        return log_probs


def _check_choice(name: str, value: str, choices: Any) -> None:
    """Refuse a choice that a caller without a type checker got wrong: another one would be taken in silence."""
    if value not in get_args(choices):
        raise ConfigError(f"{name} is {value!r}; expected one of: {', '.join(get_args(choices))}")


def load(
    model: str | Path = DEFAULT_MODEL,
    *,
    engine: EngineName = "auto",
    device: str = "auto",
    precision: Precision = "fp32",
    threads: int | None = None,
    batch_size: int = 64,
    **options: Unpack[DecodingOptions],
) -> Recognizer:
    """Load a reader.

    Args:
        model: Name of weights that ship with the package, a weights file, or a run folder.
        engine: What computes; ``auto`` takes the fastest that is installed.
        device: ``auto``, ``cpu``, or an accelerator's name.
        precision: ``bf16`` is faster where the device has it; readings may differ from ``fp32`` in the rare case.
        threads: Threads of the engine on the CPU. Default: the engine's own choice.
        batch_size: Pictures per forward pass.
        options: How texts are found: ``decode``, ``beam_width``, ``lexicon``, ``lexicon_margin``, ``lm``,
            ``lm_weight``, ``pattern``, ``allow``, ``block``, ``n_best``, as ``crnn.decoding.decoder.DecodingOptions``
            has them.

    Raises:
        CheckpointError: The weights are missing, damaged, foreign, or from a newer version.
        ConfigError: The device cannot be used here, a number is out of range, a choice is unknown, or options
            contradict each other.
        DataError: The lexicon or the language model cannot be used.
        MissingExtraError: No engine is installed.

    Example:
        ``crnn.load().read("word.png").text``, ``crnn.load("runs/crnn", lexicon="towns.txt")``
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
    temperature = None if weights.calibration is None else weights.calibration.temperature
    return Recognizer(compute, weights.config, batch_size=batch_size, temperature=temperature, **options)
