"""Reading of images with a trained network: ``load`` and ``Recognizer``.

Images of one width are batched without padding.
"""

import inspect
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from crnn.charset import Charset
from crnn.config.model import Pooling, ReaderConfig
from crnn.config.section import checked_call
from crnn.decoding.confidence import Calibration, confidences
from crnn.decoding.ctc import Alternative, DecodedText, decode_greedy
from crnn.decoding.decoder import Decoder, DecodingOptions
from crnn.engines.engine import Engine, Mode, Precision
from crnn.engines.loading import EngineChoice, open_model
from crnn.errors import CheckpointError, ConfigError, ImageError
from crnn.image import BinaryFile, FittedImage, ImageSource, LineWarning, line_warning, load_fitted
from crnn.model.weights import DEFAULT_MODEL
from crnn.parallel import available_threads, ordered_map, until_failure

_R = TypeVar("_R")
_Floats = npt.NDArray[np.float32]
# types of one image, though some are iterable
_ONE_IMAGE = (str, os.PathLike, bytes, bytearray, memoryview, BinaryFile, np.ndarray, Image.Image)
_DECODED_BATCHES = 8  # decoded together with a language, which may change only few words of each
# Of 3,057 upright crops none reads so badly, and so well upside down; of turned ones a quarter do. At 0.5 it were
# nearly half, and twice as many upright ones, 3.4 %, were read again, one by one.
_DOUBTFUL, _CONVINCING = 0.4, 0.8
# Log-probability of a best path below which an image is read again, and how much larger that of its chroma must be.
_UNSURE_PATH, _SURER = math.log(0.8), math.log(1.2)
_HELD_BATCHES = 8  # batches' worth of images that may wait for others of their width; bounds the memory of streams


@dataclass(frozen=True, slots=True)
class Character:
    """A character of a reading.

    Attributes:
        text: The character.
        score: Largest log-probability of its class over its time steps, at most 0.
        start: Left border in pixels of the given image.
        end: Right border, likewise; neighbours share the border halfway between their steps.
    """

    text: str
    score: float
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Reading:
    """Text of an image.

    Attributes:
        text: The text; empty if the network sees none.
        score: Natural-log probability under the network, summed over all CTC alignments, at most 0.
        characters: Characters with scores and places, left to right in the image, also where the text is read from
            right to left.
        confidence: Probability in [0, 1] that the text is right, as far as the weights are calibrated (by ``crnn
            train`` on its validation sets, or ``crnn calibrate``). It takes account of the language and the lexicon,
            and of images that show no word of the lexicon.
        alternatives: Further texts, likeliest first (``n_best``).
        warning: Likely content in place of one upright line that fits the network: ``page``, ``turned``, ``too_wide``
            or ``frames``, see ``crnn.image.advice``.
        turned: Degrees clockwise by which the text is likely turned (90, 180 or 270), if ``warning`` is ``turned`` and
            the image reads well only when it is turned back; needs calibrated weights.
        size: Width and height in pixels of the image.
    """

    text: str
    score: float
    characters: tuple[Character, ...]
    confidence: float
    alternatives: tuple[Alternative, ...] = ()
    warning: LineWarning | None = None
    turned: int | None = None
    size: tuple[int, int] = (0, 0)

    def as_dict(self, *, with_alternatives: bool = False) -> dict[str, Any]:
        """Return the reading in the form of ``crnn read --json``; a score of minus infinity is ``None``."""
        values: dict[str, Any] = {
            "text": self.text,
            "score": _finite(self.score),
            "confidence": self.confidence,
            "warning": self.warning,
            "characters": [
                {"text": c.text, "score": c.score, "start": round(c.start, 1), "end": round(c.end, 1)}
                for c in self.characters
            ],
        }
        if self.turned is not None:
            values["turned"] = self.turned
        if with_alternatives:
            values["alternatives"] = [
                {"text": a.text, "score": _finite(a.score), "confidence": a.confidence} for a in self.alternatives
            ]
        return values


def _finite(score: float) -> float | None:
    return score if math.isfinite(score) else None


def _borders(
    spans: Sequence[tuple[int, int]], width: int, pooling: Pooling = "modelzoo", shift: float = 0.0
) -> list[tuple[float, float]]:
    """Return the borders of each character in pixels of the network's image.

    Time step t sees those around 4 (t + 1), and with the paper's pooling, padded at both ends, those around 4 t.
    The outermost characters reach out by half the mean gap, or two pixels for a single character. All are moved to the
    right by ``shift``.
    """
    if not spans:
        return []
    # Plain numbers: for the few characters of a word, arrays would take several times as long.
    first = shift + (-2.0 if pooling == "paper" else 2.0)
    starts, ends = [4.0 * start + first for start, _ in spans], [4.0 * end + first for _, end in spans]
    gaps = [start - end for start, end in zip(starts[1:], ends[:-1], strict=True)]
    margin = sum(gaps) / len(gaps) / 2.0 if gaps else 2.0
    between = [end + gap / 2.0 for end, gap in zip(ends[:-1], gaps, strict=True)]
    borders = [starts[0] - margin, *between, ends[-1] + margin]
    inside = [min(max(border, 0.0), float(width)) for border in borders]
    return list(itertools.pairwise(inside))


def batches_by_width(
    items: Iterable[FittedImage | ImageError], batch_size: int, held: int
) -> Iterator[list[tuple[int, FittedImage]] | tuple[int, ImageError]]:
    """Yield batches of images of one width, and errors at once, with their places, counted from 0 over all items.

    An image waits until its batch is full, ``held`` items came after it, or the items end or fail.
    """
    waiting: dict[int, list[tuple[int, FittedImage]]] = {}  # by width, that of the oldest image first
    failure: list[Exception] = []
    for place, item in enumerate(until_failure(items, failure)):
        if isinstance(item, ImageError):
            yield place, item
        else:
            width = item.pixels.shape[2]
            waiting.setdefault(width, []).append((place, item))
            if len(waiting[width]) == batch_size:
                yield waiting.pop(width)
        oldest = next(iter(waiting), None)
        if oldest is not None and place + 1 - waiting[oldest][0][0] >= held:
            yield waiting.pop(oldest)
    yield from waiting.values()
    if failure:
        raise failure[0]


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """Output of the network for one batch."""

    log_probs: npt.NDArray[np.float32]  # (N, T, V), normalized over V
    places: tuple[int, ...]  # of each image in the order of arrival, from 0
    width: int  # of the network's images, in pixels
    images: tuple[FittedImage, ...]


class Recognizer:
    """Reader of images of words and short lines.

    Args:
        engine: Engine for log-probabilities.
        config: Settings of its weights.
        batch_size: Images per forward pass. With 1, each is read as it comes, and nothing is prepared ahead.
        threads: Threads that open and resize images ahead of the network; 1 uses the caller's. Default: one per
            processor, up to eight.
        calibration: Calibration of the weights. Without one, confidences are the network's probabilities.
        options: Options of ``crnn.decoding.decoder.DecodingOptions``.

    Raises:
        ConfigError: A number is out of range, an option cannot be used, or options contradict each other.
        DataError: The lexicon or the language model cannot be used.
    """

    @checked_call
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
        self.config, self.batch_size = config, batch_size
        self._engine, self._calibration = engine, calibration
        self._threads = available_threads() if threads is None else threads
        for name, value in (("batch_size", batch_size), ("threads", self._threads)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; expected 1 or more")
        self.charset: Charset = config.charset.charset()
        self._options = DecodingOptions().changed(options, also=inspect.signature(load).parameters)
        self.decoder = self._decoder(self._options)

    @overload
    def read(self, images: ImageSource, **options: Any) -> Reading: ...
    @overload
    def read(self, images: Iterable[ImageSource], **options: Any) -> list[Reading]: ...

    def read(self, images: ImageSource | Iterable[ImageSource], **options: Any) -> Reading | list[Reading]:
        """Read one image, or many.

        Args:
            images: A path, encoded bytes, a PIL image or an array ``(H, W)`` or ``(H, W, C)``; or an iterable of them.
            options: Options for this call, in place of the reader's; ``None`` is the default.

        Raises:
            ImageError: An image cannot be read; ``stream`` still reads the others.
            CheckpointError: The network gives nan.
        """
        readings = []
        for reading in self.stream(images, **options):
            if isinstance(reading, ImageError):
                raise reading
            readings.append(reading)
        return readings[0] if isinstance(images, _ONE_IMAGE) or not isinstance(images, Iterable) else readings

    def stream(self, images: ImageSource | Iterable[ImageSource], **options: Any) -> Iterator[Reading | ImageError]:
        """Read images in bounded memory, drawing from the iterable only as readings are taken; options as for ``read``.

        Yields:
            The ``Reading`` of each image, in order, or the ``ImageError`` that says why there is none.
        """
        if isinstance(images, _ONE_IMAGE) or not isinstance(images, Iterable):  # other types are refused as images
            images = [images]
        decoder = self.decoder_of(options) if options else self.decoder
        return self.decoded(self.outputs(images), decoder)

    def outputs(self, images: Iterable[ImageSource | FittedImage]) -> Iterator[NetworkOutput | ImageError]:
        """Run images through the network; yield the output of each, in order, or the error that says why not."""
        return self.run(images, _apart)

    def decoded(
        self, outputs: Iterable[NetworkOutput | ImageError], decoder: Decoder
    ) -> Iterator[Reading | ImageError]:
        """Yield the readings of outputs, in order, decoding several batches at a time where that costs less."""
        with_language = decoder.prior is not None and self.batch_size > 1
        most = self.batch_size * (_DECODED_BATCHES if with_language else 1)
        failure: list[Exception] = []
        found = until_failure(outputs, failure)
        while held := list(itertools.islice(found, most)):
            by_steps: dict[int, list[tuple[int, NetworkOutput]]] = {}
            for place, output in enumerate(held):
                if isinstance(output, NetworkOutput):
                    by_steps.setdefault(output.log_probs.shape[1], []).append((place, output))
            groups = [np.concatenate([output.log_probs for _, output in group]) for group in by_steps.values()]
            readings: dict[int, Reading] = {}
            for group, decoded in zip(by_steps.values(), decoder.decode_groups(groups), strict=True):
                readings.update((place, self.reading(d, o)) for (place, o), d in zip(group, decoded, strict=True))
            readings |= self._turned(readings, held)
            for place, output in enumerate(held):
                yield output if isinstance(output, ImageError) else readings[place]
        if failure:
            raise failure[0]

    def decoder_of(self, options: Mapping[str, Any]) -> Decoder:
        """Return a decoder with other options than the reader's; raises their errors."""
        return self._decoder(self._options.changed(options))

    def _decoder(self, options: DecodingOptions) -> Decoder:
        section = self.config.charset
        return Decoder(self.charset, section.rules(), options, calibration=self._calibration, language=section.language)

    def reading(self, found: DecodedText, output: NetworkOutput) -> Reading:
        """Return the decoded text of a batch of one image, with places in pixels of the given image."""
        (image,), width = output.images, output.width
        size = image.original_size
        text = self.charset.decode(found.ids)
        shift = 0.0 if self._calibration is None else self._calibration.shift
        borders = _borders(found.spans, width, self.config.model.pooling, shift)
        places = zip(found.ids, found.character_scores, borders, strict=True)
        characters = tuple(
            Character(self.charset.characters[k], score, start * size[0] / width, end * size[0] / width)
            for k, score, (start, end) in places
        )
        warning = line_warning(size, text, found.score, self.config.image) or ("frames" if image.several else None)
        return Reading(text, found.score, characters, found.confidence, found.others, warning, size=size)

    def _turned(
        self, readings: dict[int, Reading], outputs: Sequence[NetworkOutput | ImageError]
    ) -> dict[int, Reading]:
        """Return those readings, with their turn, whose images read badly and, turned back, well."""
        tries: dict[int, list[tuple[int, int, npt.NDArray[np.uint8]]]] = {}  # place, turn and pixels, by width
        if self._calibration is None:  # then the limits mean nothing
            return {}
        for place, reading in readings.items():
            (image,) = outputs[place].images  # type: ignore[union-attr]
            turns = {}
            if reading.warning == "turned" and image.on_side is not None:
                turns = {90: image.on_side, 270: image.on_side[:, ::-1, ::-1]}
            elif reading.warning in (None, "frames") and reading.confidence < _DOUBTFUL:
                turns = {180: image.pixels[:, ::-1, ::-1]}
            for turn, pixels in turns.items():
                tries.setdefault(pixels.shape[2], []).append((place, turn, pixels))
        found: dict[int, tuple[float, int]] = {}  # confidence and turn of the best
        for same_width in tries.values():
            for first in range(0, len(same_width), self.batch_size):
                batch = same_width[first : first + self.batch_size]
                # Without the language: most of these are no text, on which its search takes long.
                texts = decode_greedy(self._engine.log_probs(np.stack([pixels for *_, pixels in batch])))
                sure = confidences([math.exp(text.score) for text in texts], self._calibration.greedy).tolist()
                for (place, turn, _), text, confidence in zip(batch, texts, sure, strict=True):
                    if text.ids:  # that noise shows nothing is sure, however it is turned
                        found[place] = max(found.get(place, (_CONVINCING, 0)), (confidence, turn))
        return {p: replace(readings[p], warning="turned", turned=turn) for p, (_, turn) in found.items() if turn}

    def run(
        self, images: Iterable[ImageSource | FittedImage], function: Callable[[NetworkOutput], Sequence[_R]]
    ) -> Iterator[_R | ImageError]:
        """Run images through the network and a function from a batch to one result per image; else as ``stream``."""
        # With batches of one, a reading does not wait for the next image, which may be slow to come.
        threads = self._threads if self.batch_size > 1 else 1
        results: dict[int, _R | ImageError] = {}  # by place, until those before are there
        given = 0
        # Pillow's images load lazily and keep state: none may be used by two threads.
        sources = (self.fit(image) if isinstance(image, Image.Image) else image for image in images)
        with closing(ordered_map(self.fit, sources, workers=threads, ahead=self.batch_size)) as items:
            for batch in batches_by_width(items, self.batch_size, self.batch_size * _HELD_BATCHES):
                results.update([batch] if isinstance(batch, tuple) else self._computed(batch, function))
                while given in results:
                    yield results.pop(given)
                    given += 1

    def _computed(
        self, batch: list[tuple[int, FittedImage]], function: Callable[[NetworkOutput], Sequence[_R]]
    ) -> Iterator[tuple[int, _R]]:
        places, images = zip(*batch, strict=True)
        log_probs = self._engine.log_probs(np.stack([image.pixels for image in images]))
        if np.isnan(log_probs).any():
            raise CheckpointError(
                "the network gives no numbers (nan); its weights are damaged, or its training went astray. Use others"
            )
        log_probs = self._with_chroma(log_probs, images)
        without_colors = tuple(replace(image, colors=None) for image in images)  # they may be held for long
        output = NetworkOutput(log_probs, places, images[0].pixels.shape[2], without_colors)
        return zip(places, function(output), strict=True)

    def _with_chroma(self, log_probs: _Floats, images: Sequence[FittedImage]) -> _Floats:
        """Return log-probabilities in which those of an image's chroma replace less sure ones of its grey levels."""
        sure = _best_paths(log_probs)
        found = {n: images[n].chroma() for n in np.flatnonzero(sure < _UNSURE_PATH).tolist()}
        chroma = {n: pixels for n, pixels in found.items() if pixels is not None}
        if not chroma:
            return log_probs
        again = self._engine.log_probs(np.stack([*chroma.values()]))
        surer = _best_paths(again) > sure[[*chroma]] + _SURER
        surer &= (again.argmax(axis=2) < again.shape[2] - 1).any(axis=1)  # that there is nothing in it says little
        log_probs = log_probs.copy()
        log_probs[[*chroma]] = np.where(surer[:, None, None], again, log_probs[[*chroma]])
        return log_probs

    def fit(self, source: ImageSource | FittedImage | ImageError) -> FittedImage | ImageError:
        """Open an image and resize it for the network; or return the error."""
        if isinstance(source, FittedImage | ImageError):
            return source
        try:
            return load_fitted(source, self.config.image)
        except ImageError as error:
            return error


def _best_paths(log_probs: _Floats) -> npt.NDArray[np.float64]:
    """Return the log-probability of each best path."""
    sums: npt.NDArray[np.float64] = log_probs.max(axis=2).sum(axis=1, dtype=np.float64)
    return sums


def _apart(output: NetworkOutput) -> list[NetworkOutput]:
    """Split the output of a batch by image."""
    return [
        NetworkOutput(output.log_probs[n : n + 1], (place,), output.width, (image,))
        for n, (place, image) in enumerate(zip(output.places, output.images, strict=True))
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
        model: Name of shipped weights, ``hf://OWNER/NAME[@REVISION]`` of the Hugging Face Hub, a weights file, a run
            folder, or an exported file.
        engine: ``openvino``, ``onnx`` or ``torch``; ``auto``: the first of them that is installed and can do it.
        device: ``auto``, ``cpu``, or an accelerator's name, for torch.
        precision: ``bf16`` and ``int8`` are faster on processors that have them; readings may rarely differ from
            ``fp32``. ``int8`` needs shipped weights or a file exported so.
        threads: Threads on the CPU. Default: ``OMP_NUM_THREADS``, else the engine's choice.
        mode: ``throughput`` for many images; ``latency`` for single ones.
        batch_size: Images per forward pass.
        options: Options of ``crnn.decoding.decoder.DecodingOptions``: ``decode``, ``beam_width``, ``lexicon``,
            ``lexicon_margin``, ``lm``, ``lm_weight``, ``pattern``, ``allow``, ``block``, ``n_best``.

    Raises:
        CheckpointError: The weights are missing, damaged, foreign, or from a newer version.
        ConfigError: The engine or device cannot do it, or an option is unknown, out of range or contradicts another.
        DataError: The lexicon or the language model cannot be used.
        MissingExtraError: No suitable engine is installed.

    Example:
        ``crnn.load().read("word.png").text``, ``crnn.load("runs/crnn", lexicon="towns.txt")``
    """
    opened, config, calibration = open_model(
        model, engine=engine, device=device, precision=precision, threads=threads, mode=mode
    )
    return Recognizer(opened, config, batch_size=batch_size, threads=threads, calibration=calibration, **options)
