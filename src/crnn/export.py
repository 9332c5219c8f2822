"""Export of weights to an ONNX file: built, quantised, read back, compared, and only then put in place."""

import contextlib
import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFont

from crnn.config.model import ImageConfig, ReaderConfig
from crnn.config.section import checked_call
from crnn.data.source import open_source
from crnn.decoding.ctc import decode_greedy
from crnn.engines.engine import EngineName, Pixels, Precision
from crnn.engines.exported_file import ENGINE_FORMAT, FORMAT_VERSION, METADATA_KEY, SHA256_KEY, UNSEALED, sealed
from crnn.engines.loading import installed_engines, open_model
from crnn.errors import CheckpointError, ConfigError, DataError, ExportMismatchError, ImageError, MissingExtraError
from crnn.files import atomic_write
from crnn.image import load_resized
from crnn.model.weights import Weights, read_weights
from crnn.terminal import check_writable

_BATCH = 16
_FIRST = 2_000_000_000  # number of the first rendered sample, beyond those of a usual training
_DRAWN = 48  # drawn words, for comparisons only

_Array = npt.NDArray[np.uint8]

# Largest difference of a log-probability, mean distance of distributions, share of texts: see Comparison. On real crops
# crnn-small has 0.0014 and 0.6 % in int8; rendered lines are long and hard, one character of forty makes another text.
LIMITS: dict[Precision, tuple[float, float, float]] = {"fp32": (1e-3, 1e-4, 0.0), "int8": (math.inf, 0.02, 0.2)}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of an exported network in an engine with its source, on the same images."""

    engine: EngineName
    log_probs: float  # largest difference of a log-probability
    distribution: float  # mean total variation distance of the distributions over classes, in [0, 1]
    texts: int  # differing readings
    images: int
    widths: tuple[int, ...]  # of the images, in pixels
    alone: float  # largest difference of a score between an image alone and in a batch, in nats
    alone_texts: int  # differing readings among these

    def problem(self, limits: tuple[float, float, float]) -> str | None:
        """Return a description of what is beyond the limits, or ``None``."""
        log_probs, distribution, share = limits
        checks = (  # a nan is within nothing
            (self.log_probs <= log_probs, f"log-probabilities differ by {self.log_probs:.2g}, at most {log_probs:g}"),
            (self.distribution <= distribution, f"distributions by {self.distribution:.2g}, at most {distribution:g}"),
            (self.texts <= share * self.images, f"{self.texts} of {self.images} texts, at most {100 * share:g} %"),
            (
                self.alone_texts <= share * self.images,
                f"{self.alone_texts} texts between an image alone and in a batch",
            ),
        )
        return "; ".join(text for within, text in checks if not within) or None


@dataclass(frozen=True, slots=True)
class ExportReport:
    """Report of an export: file, bytes, images and quantised parts in words, and a comparison for each engine."""

    path: Path
    size: int
    precision: Precision
    images: str
    quantized: str | None
    source: EngineName
    comparisons: tuple[Comparison, ...]


@checked_call
def export(
    model: str | Path,
    out: str | Path,
    *,
    precision: Precision = "fp32",
    data: Sequence[str] = (),
    samples: int = 512,
    say: Callable[[str], None] = lambda _: None,
) -> ExportReport:
    """Write a network as a file for engines.

    The file is read back by each installed engine and compared with the source before it replaces an older one.

    Args:
        model: Name of shipped weights, a weights file, or a run folder.
        out: The ``.onnx`` file to write.
        precision: ``fp32`` or ``int8``.
        data: LMDB folders and list files with images to quantise and compare; labels are ignored. Default: rendered
            words.
        samples: Number of images.
        say: Called with each line of progress.

    Raises:
        ConfigError: A choice is unknown or contradicts another, or words cannot be rendered and no data are given.
        CheckpointError: The weights cannot be read, or the file cannot be written.
        DataError: The data cannot be read.
        ExportMismatchError: The exported network differs from its source by more than ``LIMITS``.
        MissingExtraError: torch is not installed, and words are to be rendered.
    """
    path = Path(out)
    _check(model, path, precision, samples)
    weights = read_weights(model)
    images, described = _images(weights, data, samples, precision, say)
    say(f"{described}, to compare with{' and to quantise' if precision == 'int8' else ''}")
    from crnn.engines.onnx_graph import network_graph

    graph, quantized = network_graph(weights), None
    info = {"source_sha256": hashlib.sha256(weights.path.read_bytes()).hexdigest()}
    if precision == "int8":
        from crnn.quantize import quantize_graph

        done = quantize_graph(graph, images)
        graph, kept = done.graph, ", ".join(done.kept)
        quantized = f"{len(done.ranges)} convolutions in int8 (a scale for each channel); {kept} in floating point"
        # Number and kind only; folder names of this machine are of no use elsewhere.
        info |= {"quantized": quantized, "images": described.partition(" of ")[0]}
    metadata = {
        "format": ENGINE_FORMAT, "format_version": FORMAT_VERSION, "crnn_version": version("crnn"),
        "precision": precision, "config": weights.config.model_dump(mode="json", exclude_none=True),
        "characters": weights.config.charset.charset().characters,
        "calibration": None if weights.calibration is None else weights.calibration.as_dict(),
        "info": info,
    }  # fmt: skip
    for key, value in ((METADATA_KEY, json.dumps(metadata)), (SHA256_KEY, UNSEALED)):
        graph.metadata_props.add(key=key, value=value)
    content = sealed(graph.SerializeToString())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        file.write_bytes(content)
        source, comparisons = _compare(weights, file, precision, images)
    for comparison in comparisons:
        if problem := comparison.problem(LIMITS[precision]):
            advice = "Quantise with images like those that are read, --data" if quantized else "Report it"
            raise ExportMismatchError(
                f"{path}: not written, it is not its source: with {comparison.engine}, {problem}. {advice}"
            )
    atomic_write(path, content, CheckpointError)
    return ExportReport(path, len(content), precision, described, quantized, source, comparisons)


def _check(model: str | Path, path: Path, precision: Precision, samples: int) -> None:
    if precision not in LIMITS:
        raise ConfigError(f"precision is {precision!r}; expected one of: {', '.join(LIMITS)}")
    if path.suffix != ".onnx":
        raise ConfigError(f"{path}: expected a file to write that ends in .onnx")
    check_writable("OUT", str(path), "words.onnx")
    if samples < 1:
        raise ConfigError(f"samples is {samples}; expected 1 or more")
    if Path(model).suffix == ".onnx":
        raise CheckpointError(f"{model}: is exported already; expected weights: a name, a weights file or a run folder")


def _images(
    weights: Weights[Any], data: Sequence[str], samples: int, precision: Precision, say: Callable[[str], None]
) -> tuple[list[Pixels], str]:
    if data:
        images = stored_images(data, weights.config.image, samples, say)
        return images, f"{_count(images)} images of {', '.join(data)}"
    if precision != "int8":  # any will do, and these are there at once
        samples = min(samples, _DRAWN)
        return drawn_images(weights.config, samples), f"{samples} drawn words"
    if find_spec("torch") is None:
        raise MissingExtraError("torch", "train", "quantising without --data, with rendered words,")
    return rendered_images(weights.config, samples), f"{samples} rendered words"


def stored_images(
    data: Sequence[str], image: ImageConfig, count: int, say: Callable[[str], None] = lambda _: None
) -> list[Pixels]:
    """Load at most ``count`` images of sets, evenly spread; ``say`` gets a line on unreadable ones."""
    images: list[_Array] = []
    left_out: list[str] = []
    with contextlib.ExitStack() as opened:
        stores = [opened.enter_context(open_source(spec)) for spec in data]
        starts = np.cumsum([0, *map(len, stores)])
        total = int(starts[-1])
        chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
        for place, number in zip(chosen.tolist(), np.searchsorted(starts, chosen, side="right").tolist(), strict=True):
            store, index = stores[number - 1], place - int(starts[number - 1])
            try:
                images.append(load_resized(store.image_bytes(index), image))
            except ImageError as error:  # no loss for the comparison
                left_out.append(f"{store.path}: {store.key(index)}: {error}")
    if not images:
        why = f" ({left_out[0]})" if left_out else ""
        raise DataError(f"{', '.join(data)}: has no images that can be read{why}; expected some hundreds")
    if left_out:
        say(f"{len(left_out)} of {len(chosen)} images cannot be read and are left out; the first: {left_out[0]}")
    return _batches(images)


def rendered_images(config: ReaderConfig, count: int) -> list[Pixels]:
    """Render ``count`` words and lines in the characters of a network, as ``crnn synth`` does; always the same."""
    from crnn.config.run import Config
    from crnn.synth.renderer import Renderer, to_bytes

    images: list[_Array] = []
    try:
        renderer = Renderer(Config(model=config.model, image=config.image, charset=config.charset))
        for first in range(0, count, _BATCH):
            samples = np.arange(_FIRST + first, _FIRST + min(first + _BATCH, count), dtype=np.int64)
            for _, numbers in renderer.groups(samples):
                found, _, scene = renderer.samples(numbers)
                pixels = to_bytes(found).numpy()
                if config.image.resize == "squash":
                    images.extend(pixels)
                    continue
                for one, (height, width) in zip(pixels, scene.geometry.crop, strict=True):
                    image = Image.fromarray(one[0] if len(one) == 1 else one.transpose(1, 2, 0))
                    size = (max(8, round(image.height * width / height)), image.height)  # the proportions of the crop
                    images.append(load_resized(image.resize(size, Image.Resampling.BICUBIC), config.image))
    except (ConfigError, DataError) as error:
        raise ConfigError(f"words in these characters cannot be rendered: {error}. Give images with --data") from None
    return _batches(images)


def drawn_images(config: ReaderConfig, count: int) -> list[Pixels]:
    """Draw ``count`` words in Pillow's own font: any image shows whether two forms of a network agree."""
    rng = np.random.default_rng(0)
    characters = [c for c in config.charset.charset().characters if not c.isspace()]
    images: list[_Array] = []
    for number in range(count):
        text = "".join(rng.choice(characters, size=rng.integers(1, 12)))
        mask = ImageFont.load_default(int(rng.integers(14, 48))).getmask(text)
        pixels = np.pad(np.array(mask, np.uint8).reshape(mask.size[::-1]), 6)
        images.append(load_resized(255 - pixels if number % 2 else pixels, config.image))
    return _batches(images)


def _batches(images: Iterable[_Array]) -> list[Pixels]:
    """Batch images by width, in order."""
    by_width: dict[int, list[_Array]] = {}
    for image in images:
        by_width.setdefault(image.shape[2], []).append(image)
    return [
        np.stack(members[first : first + _BATCH])
        for _, members in sorted(by_width.items())
        for first in range(0, len(members), _BATCH)
    ]


def _compare(
    weights: Weights[Any], exported: Path, precision: Precision, batches: list[Pixels]
) -> tuple[EngineName, tuple[Comparison, ...]]:
    """Compare the exported file in each engine that opens it with the source."""
    installed = installed_engines()
    source: EngineName = "torch" if "torch" in installed else "onnx"
    engine = open_model(weights.path, engine=source, device="cpu")[0]
    expected = [engine.log_probs(batch) for batch in batches]
    comparisons = []
    for name in sorted(installed):
        if name == "torch":
            continue
        engine = open_model(exported, engine=name, precision=precision)[0]
        pairs = list(zip(map(engine.log_probs, batches), expected, strict=True))
        texts = [(decode_greedy(given), decode_greedy(wanted)) for given, wanted in pairs]
        alone = [decode_greedy(engine.log_probs(batch[:1]))[0] for batch in batches]
        together = [given[0] for given, _ in texts]
        distances = [0.5 * np.abs(np.exp(given) - np.exp(wanted)).sum(axis=2).ravel() for given, wanted in pairs]
        comparisons.append(
            Comparison(
                engine=name,
                log_probs=max(float(np.abs(given - wanted).max()) for given, wanted in pairs),
                distribution=float(np.concatenate(distances).mean()),
                texts=sum(a.ids != b.ids for given, wanted in texts for a, b in zip(given, wanted, strict=True)),
                images=_count(batches),
                widths=tuple(sorted({batch.shape[3] for batch in batches})),
                alone=max(abs(a.score - b.score) for a, b in zip(alone, together, strict=True)),
                alone_texts=sum(a.ids != b.ids for a, b in zip(alone, together, strict=True)),
            )
        )
    return source, tuple(comparisons)


def _count(batches: Sequence[Pixels]) -> int:
    return sum(map(len, batches))
