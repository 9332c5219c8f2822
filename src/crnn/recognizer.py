"""The public face of a trained network: images in, readings out.

``Recognizer`` brings images of any kind and number to the network's array (``crnn.image``), batches those of one width
without padding, and gives one ``Reading`` for each, in order. Log-probabilities come from an ``Engine``
(``crnn.engines``), texts from a ``Decoder`` (``crnn.decoding``).

Shape letters: N batch, C image channels, W width, T time steps, V classes with the blank.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from crnn.charset import Charset
from crnn.config.model import ReaderConfig
from crnn.decoding.confidence import Calibration
from crnn.decoding.decoder import Decoded, Decoder, DecodingOptions
from crnn.engines.engine import Engine, Mode, Precision
from crnn.engines.loading import EngineChoice, open_model
from crnn.errors import CheckpointError, ConfigError, ImageError
from crnn.image import BinaryFile, ImageSource, LineWarning, line_warning, load_fitted
from crnn.model.weights import DEFAULT_MODEL
from crnn.parallel import available_threads, ordered_map

__all__ = ["Alternative", "Character", "Reading", "Recognizer", "load"]


_R = TypeVar("_R")
_Floats = npt.NDArray[np.float32]
_ONE_IMAGE = (str, os.PathLike, bytes, bytearray, memoryview, BinaryFile, np.ndarray, Image.Image)
"""Types of one image, though some of them can be iterated over."""

_DECODED_BATCHES = 8
"""Batches that are decoded together with a language: the words that it may change are few in each."""

_HELD_BATCHES = 8
"""Batches' worth of images that may wait for others of their width; it bounds the memory of streams."""


@dataclass(frozen=True, slots=True)
class Character:
    """One character of a reading.

    Attributes:
        text: The character.
        score: Largest log-probability of its class over the time steps that it is aligned to, at most 0.
        start: Left border in pixels of the image as it was given.
        end: Right border, likewise. Neighbours share the border halfway between the steps aligned to them.
    """

    text: str
    score: float
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another text that an image may show.

    Attributes:
        text: The text.
        score: As for ``Reading``.
        confidence: As for ``Reading``.
    """

    text: str
    score: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What an image says.

    Attributes:
        text: The text; empty when the network sees none.
        score: Natural-log probability of the text under the network: the sum over all its CTC alignments, at most 0.
            ``math.exp(score)`` is a probability.
        characters: The characters of the text with their scores and places, left to right.
        confidence: Probability in [0, 1] that the text is right, as far as the weights are calibrated (``crnn train``
            does that on its validation sets, ``crnn calibrate`` on others). It knows the language and the lexicon that
            the text was found with, and in a lexicon that the image may show none of its words.
        alternatives: Where several texts were asked for (``n_best``) the others, the likeliest first.
        warning: What the image likely is in place of one upright line that fits the network: ``page``, ``turned`` or
            ``too_wide``, see ``crnn.image.ADVICE``.
    """

    text: str
    score: float
    characters: tuple[Character, ...]
    confidence: float
    alternatives: tuple[Alternative, ...] = ()
    warning: LineWarning | None = None


def _borders(spans: Sequence[tuple[int, int]], width: int) -> list[tuple[float, float]]:
    """Return left and right border of each character in pixels of the network's image.

    Time step t looks at the pixels around 4 (t + 1): two poolings make a column of four pixels, the last convolution
    joins two columns. Neighbours share the border halfway between their steps; the outermost characters reach as far
    out as half the mean gap between neighbours, or two pixels where there is one character.
    """
    if not spans:
        return []
    # Plain numbers: for the few characters of a word, arrays would take several times as long.
    starts, ends = [4.0 * start + 2.0 for start, _ in spans], [4.0 * end + 2.0 for _, end in spans]
    gaps = [start - end for start, end in zip(starts[1:], ends[:-1], strict=True)]
    margin = sum(gaps) / len(gaps) / 2.0 if gaps else 2.0
    between = [end + gap / 2.0 for end, gap in zip(ends[:-1], gaps, strict=True)]
    borders = [starts[0] - margin, *between, ends[-1] + margin]
    inside = [min(max(border, 0.0), float(width)) for border in borders]
    return list(itertools.pairwise(inside))


@dataclass(frozen=True, slots=True)
class FittedImage:
    """An image at the size of the network.

    Attributes:
        pixels: ``(C, 32, W)``, ``uint8``.
        original_size: Width and height in pixels, as it was given.
    """

    pixels: npt.NDArray[np.uint8]
    original_size: tuple[int, int]


class WidthBatcher:
    """Batches of images of one width.

    Args:
        batch_size: Images of a full batch.
        held: Items that may be added from an image on before its batch is ready, full or not; at least ``batch_size``.
    """

    def __init__(self, batch_size: int, held: int) -> None:
        self._batch_size, self._held = batch_size, held
        self._waiting: dict[int, list[tuple[int, FittedImage]]] = {}  # by width, that of the oldest image first
        self._count = 0

    def add(self, item: FittedImage | ImageError) -> list[list[tuple[int, FittedImage]]]:
        """Return the batches that are ready now: images with their places, counted from 0 over all items."""
        ready = []
        if isinstance(item, FittedImage):
            width = item.pixels.shape[2]
            self._waiting.setdefault(width, []).append((self._count, item))
            if len(self._waiting[width]) == self._batch_size:
                ready.append(self._waiting.pop(width))
        self._count += 1
        oldest = next(iter(self._waiting), None)
        if oldest is not None and self._count - self._waiting[oldest][0][0] >= self._held:
            ready.append(self._waiting.pop(oldest))
        return ready

    def flush(self) -> list[list[tuple[int, FittedImage]]]:
        """Return what is left, that of the oldest images first."""
        ready, self._waiting = list(self._waiting.values()), {}
        return ready


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """What the network says of images that went through it together.

    Attributes:
        log_probs: ``(N, T, V)`` float32, normalised over V.
        places: For each image its place in the order in which images came, from 0.
        width: Of the network's images, in pixels.
        original_sizes: Width and height of the images as they were given.
    """

    log_probs: npt.NDArray[np.float32]
    places: tuple[int, ...]
    width: int
    original_sizes: tuple[tuple[int, int], ...]


class Recognizer:
    """Reads images of words and short lines.

    Args:
        engine: What computes log-probabilities.
        config: Settings of its weights: charset and image.
        batch_size: Images per forward pass. With 1, each is read when it comes, and nothing is made ahead.
        threads: That open and resize images ahead of the network; with 1 the caller's own does. Default: one for
            each processor, up to eight.
        calibration: Of the weights; without one, confidences are probabilities as the network gives them.
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
        threads: int | None = None,
        calibration: Calibration | None = None,
        **options: Any,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; expected 1 or more")
        if threads is not None and threads < 1:
            raise ConfigError(f"threads is {threads}; expected 1 or more, or none for one for each processor")
        self.config = config
        self._threads = available_threads() if threads is None else threads
        self.charset: Charset = config.charset.charset()
        self.batch_size = batch_size
        self._calibration, self._options = calibration, DecodingOptions().changed(options)
        self.decoder = self._decoder(self._options)
        self._engine = engine

    @overload
    def read(self, images: ImageSource, **options: Any) -> Reading: ...
    @overload
    def read(self, images: Iterable[ImageSource], **options: Any) -> list[Reading]: ...

    def read(self, images: ImageSource | Iterable[ImageSource], **options: Any) -> Reading | list[Reading]:
        """Read one image, or many.

        Args:
            images: A path, encoded bytes, a PIL image or an array ``(H, W)`` or ``(H, W, C)``; or an iterable of them.
            options: For this call, in the place of those that the reader was made with; ``None`` takes one away.

        Returns:
            A ``Reading`` for one image, a list of them in the same order for many.

        Raises:
            ImageError: An image cannot be read. ``stream`` reads the others all the same.
            CheckpointError: The network gives no numbers (nan).
            ConfigError: As for the reader itself.
        """
        if isinstance(images, _ONE_IMAGE) or not isinstance(images, Iterable):  # what is no image is refused as one
            return self.read([images], **options)[0]
        readings = []
        for reading in self.stream(images, **options):
            if isinstance(reading, ImageError):
                raise reading
            readings.append(reading)
        return readings

    def stream(self, images: ImageSource | Iterable[ImageSource], **options: Any) -> Iterator[Reading | ImageError]:
        """Read images as they come, in bounded memory.

        Args:
            images: Any number of images; the iterable is only drawn from as readings are taken. One image counts
                as a list of one.
            options: As for ``read``.

        Yields:
            For each image, in order, its ``Reading``, or the ``ImageError`` that says why there is none.
        """
        if isinstance(images, _ONE_IMAGE) or not isinstance(images, Iterable):
            images = [images]
        decoder = self._decoder(self._options.changed(options)) if options else self.decoder
        return self._decoded(self.run(images, _apart), decoder)

    def _decoded(
        self, outputs: Iterator[NetworkOutput | ImageError], decoder: Decoder
    ) -> Iterator[Reading | ImageError]:
        """Yield readings in order, of several batches at a time where that costs less."""
        with_language = decoder.prior is not None and self.batch_size > 1
        most = self.batch_size * (_DECODED_BATCHES if with_language else 1)
        failure: list[Exception] = []
        waiting = _until_failure(outputs, failure)
        while held := list(itertools.islice(waiting, most)):
            by_steps: dict[int, list[tuple[int, _Floats]]] = {}
            for place, output in enumerate(held):
                if isinstance(output, NetworkOutput):
                    by_steps.setdefault(output.log_probs.shape[1], []).append((place, output.log_probs))
            groups = [np.concatenate([log_probs for _, log_probs in members]) for members in by_steps.values()]
            found: dict[int, Decoded] = {}
            for members, decoded in zip(by_steps.values(), decoder.decode_groups(groups), strict=True):
                found.update({place: text for (place, _), text in zip(members, decoded, strict=True)})
            for place, output in enumerate(held):
                if isinstance(output, ImageError):
                    yield output
                else:
                    yield self.reading(found[place], output, 0)
        if failure:
            raise failure[0]

    def _decoder(self, options: DecodingOptions) -> Decoder:
        section = self.config.charset
        return Decoder(self.charset, section.rules(), options, calibration=self._calibration, language=section.language)

    def reading(self, decoded: Decoded, output: NetworkOutput, n: int) -> Reading:
        """Return a text that was decoded from image ``n`` of a batch in characters and pixels."""
        found, size, width = decoded.text, output.original_sizes[n], output.width
        text = self.charset.decode(found.ids)
        characters = tuple(
            Character(character, score, start * size[0] / width, end * size[0] / width)
            for character, score, (start, end) in zip(
                text, found.character_scores, _borders(found.spans, width), strict=True
            )
        )
        alternatives = tuple(Alternative(self.charset.decode(c.ids), c.score, c.confidence) for c in decoded.others)
        warning = line_warning(size, text, found.score, self.config.image)
        return Reading(text, found.score, characters, decoded.confidence, alternatives, warning)

    def run(
        self, images: Iterable[ImageSource], function: Callable[[NetworkOutput], Sequence[_R]]
    ) -> Iterator[_R | ImageError]:
        """Run images through the network and a function over its output.

        Args:
            images: Any number of images; the iterable is only drawn from as results are taken.
            function: Called with each batch; gives one result for each image in it.

        Yields:
            For each image, in order, its result, or the ``ImageError`` that says why there is none.

        Raises:
            CheckpointError: The network gives no numbers (nan).
        """
        # With batches of one, a reading does not wait for the next image, which may be slow to come.
        threads = self._threads if self.batch_size > 1 else 1
        batcher = WidthBatcher(self.batch_size, self.batch_size * _HELD_BATCHES)
        results: dict[int, _R | ImageError] = {}  # by place, until those before are there
        given, failure = 0, list[Exception]()
        # Pillow's images load and remember things when they are looked at: none may be seen by two threads.
        sources = (self._fitted(image) if isinstance(image, Image.Image) else image for image in images)
        with closing(ordered_map(self._fitted, sources, workers=threads, ahead=self.batch_size)) as items:
            for place, item in enumerate(_until_failure(items, failure)):
                if isinstance(item, ImageError):
                    results[place] = item
                for batch in batcher.add(item):
                    results.update(self._computed(batch, function))
                while given in results:
                    yield results.pop(given)
                    given += 1
        for batch in batcher.flush():
            results.update(self._computed(batch, function))
            while given in results:
                yield results.pop(given)
                given += 1
        if failure:
            raise failure[0]

    def _computed(
        self, batch: list[tuple[int, FittedImage]], function: Callable[[NetworkOutput], Sequence[_R]]
    ) -> Iterator[tuple[int, _R]]:
        places, images = zip(*batch, strict=True)
        log_probs = self._engine.log_probs(np.stack([image.pixels for image in images]))
        if np.isnan(log_probs).any():
            raise CheckpointError(
                "the network gives no numbers (nan); its weights are damaged, or its training went astray. Use others"
            )
        sizes = tuple(image.original_size for image in images)
        output = NetworkOutput(log_probs, places, images[0].pixels.shape[2], sizes)
        return zip(places, function(output), strict=True)

    def _fitted(self, source: ImageSource | FittedImage | ImageError) -> FittedImage | ImageError:
        if isinstance(source, FittedImage | ImageError):
            return source
        try:
            return FittedImage(*load_fitted(source, self.config.image))
        except ImageError as error:
            return error


def _until_failure(items: Iterator[_R], failure: list[Exception]) -> Iterator[_R]:
    """Yield items up to an exception, which is kept for later."""
    try:
        yield from items
    except Exception as error:  # whatever the caller's iterable raises
        failure.append(error)


def _apart(output: NetworkOutput) -> list[NetworkOutput]:
    """Return the output for each image of a batch by itself."""
    return [
        NetworkOutput(output.log_probs[n : n + 1], (place,), output.width, (original,))
        for n, (place, original) in enumerate(zip(output.places, output.original_sizes, strict=True))
    ]


def load(
    model: str | Path = DEFAULT_MODEL,
    *,
    engine: EngineChoice = "auto",
    device: str = "auto",
    precision: Precision = "fp32",
    threads: int | None = None,
    mode: Mode = "throughput",
    batch_size: int = 64,
    **options: Any,
) -> Recognizer:
    """Load a reader.

    Args:
        model: Name of weights that ship with the package, a weights file, a run folder, or an exported file.
        engine: What computes: ``openvino``, ``onnx`` or ``torch``; ``auto`` takes the first of them that is installed
            and can do what is asked for.
        device: ``auto``, ``cpu``, or an accelerator's name, for torch.
        precision: ``bf16`` and ``int8`` are faster where the processor has them; readings may differ from ``fp32`` in
            the rare case. ``int8`` reads shipped weights, or files that were exported so.
        threads: Threads on the CPU. Default: ``OMP_NUM_THREADS``, else the engine's own choice.
        mode: ``throughput`` for many images; ``latency`` where each one is waited for.
        batch_size: Images per forward pass.
        options: How texts are found: ``decode``, ``beam_width``, ``lexicon``, ``lexicon_margin``, ``lm``,
            ``lm_weight``, ``pattern``, ``allow``, ``block``, ``n_best``, as ``crnn.decoding.decoder.DecodingOptions``
            has them.

    Raises:
        CheckpointError: The weights are missing, damaged, foreign, or from a newer version.
        ConfigError: The engine or the device cannot do it, a number is out of range, a choice is unknown, or options
            contradict each other.
        DataError: The lexicon or the language model cannot be used.
        MissingExtraError: The engine, or any, is not installed.

    Example:
        ``crnn.load().read("word.png").text``, ``crnn.load("runs/crnn", lexicon="towns.txt")``
    """
    opened = open_model(model, engine=engine, device=device, precision=precision, threads=threads, mode=mode)
    return Recognizer(
        opened.engine,
        opened.config,
        batch_size=batch_size,
        threads=threads,
        calibration=opened.calibration,
        **options,
    )
