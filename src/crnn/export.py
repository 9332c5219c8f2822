"""Export of weights to an ONNX file: built, quantised, read back, compared, and only then put in place.

For the data beside the graph see ``crnn.engines.exported_file``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from crnn.config.model import ImageConfig, ReaderConfig
from crnn.data.source import open_source
from crnn.decoding.ctc import decode_greedy
from crnn.engines.engine import Engine, EngineName, LogProbs, Pixels, Precision
from crnn.engines.exported_file import ENGINE_FORMAT, FORMAT_VERSION, METADATA_KEY, SHA256_KEY, UNSEALED, sealed
from crnn.engines.loading import installed_engines, open_model
from crnn.errors import CheckpointError, ConfigError, DataError, ExportMismatchError, ImageError, MissingExtraError
from crnn.image import load_resized
from crnn.model.weights import Weights, read_weights

if TYPE_CHECKING:
    import onnx


_BATCH = 16
_FIRST = 2_000_000_000  # number of the first rendered sample, beyond those of a usual training

_Array = npt.NDArray[np.uint8]


_DRAWN = 48  # drawn words, for comparisons only

_COMPARED = 384  # images to compare, about, if more were taken to quantise with


def stored_images(
    data: Sequence[str], image: ImageConfig, count: int, say: Callable[[str], None] = lambda _: None
) -> list[Pixels]:
    """Load images of sets, evenly spread over all of them.

    Args:
        data: LMDB folders and list files.
        image: The ``image`` settings.
        count: Largest number of images.
        say: Called with the number of unreadable images and the first cause, if any.

    Raises:
        DataError: A set cannot be opened, or no image can be read.
        MissingExtraError: A set is an LMDB folder, and ``lmdb`` is not installed.
    """
    images: list[_Array] = []
    left_out: list[str] = []
    stores = [open_source(spec) for spec in data]
    try:
        ends = np.cumsum([len(store) for store in stores])
        total = int(ends[-1]) if stores else 0
        chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
        for place, number in zip(chosen.tolist(), np.searchsorted(ends, chosen, side="right").tolist(), strict=True):
            store, index = stores[number], place - int(ends[number]) + len(stores[number])
            try:
                images.append(load_resized(store.image_bytes(index), image))
            except ImageError as error:  # no loss for the comparison
                left_out.append(f"{store.path}: {store.key(index)}: {error}")
    finally:
        for store in stores:
            store.close()
    if not images:
        why = f" ({left_out[0]})" if left_out else ""
        raise DataError(f"{', '.join(data)}: has no images that can be read{why}; expected some hundreds")
    if left_out:
        say(f"{len(left_out)} of {len(chosen)} images cannot be read and are left out; the first: {left_out[0]}")
    return list(_batches(images))


def rendered_images(config: ReaderConfig, count: int) -> list[Pixels]:
    """Render ``count`` words and lines in the characters of a network, as ``crnn synth`` does; always the same.

    Raises:
        ConfigError: No shipped font can write these characters.
        MissingExtraError: A package for rendering is not installed.
    """
    from crnn.config.run import Config
    from crnn.synth.renderer import Renderer, to_bytes

    squashed = config.image.resize == "squash"
    images: list[_Array] = []
    try:
        settings = Config(model=config.model, image=config.image, charset=config.charset)
        renderer = Renderer(settings)
        for first in range(0, count, _BATCH):
            samples = np.arange(_FIRST + first, _FIRST + min(first + _BATCH, count), dtype=np.int64)
            for _, numbers in renderer.groups(samples):
                found, _, scene = renderer.samples(numbers)
                pixels = to_bytes(found).numpy()
                if squashed:
                    images.extend(pixels)
                    continue
                for image, (height, width) in zip(pixels.transpose(0, 2, 3, 1), scene.geometry.crop, strict=True):
                    images.append(load_resized(_in_proportion(image, width / height), config.image))
    except (ConfigError, DataError) as error:
        raise ConfigError(f"words in these characters cannot be rendered: {error}. Give images with --data") from None
    return list(_batches(images))


def drawn_images(config: ReaderConfig, count: int) -> list[Pixels]:
    """Draw ``count`` words in Pillow's only font (unknown characters become boxes), dark on light or light on dark.

    They do not resemble crops, but any image shows whether two forms of a network agree.
    """
    rng = np.random.default_rng(0)
    characters = [c for c in config.charset.charset().characters if not c.isspace()]
    images: list[_Array] = []
    for _ in range(count):
        text = "".join(rng.choice(characters, size=rng.integers(1, 12)))
        font = ImageFont.load_default(int(rng.integers(14, 48)))
        left, top, right, bottom = (int(side) for side in font.getbbox(text))
        paper, ink = rng.integers(0, 100, 3), rng.integers(150, 256, 3)
        if rng.random() < 0.5:
            paper, ink = ink, paper
        image = Image.new("RGB", (right - left + 12, max(bottom - top, 1) + 8), tuple(paper.tolist()))
        ImageDraw.Draw(image).text((6 - left, 4 - top), text, font=font, fill=tuple(ink.tolist()))
        images.append(load_resized(image, config.image))
    return list(_batches(images))


def _in_proportion(pixels: _Array, ratio: float) -> Image.Image:
    """Resize an image ``(H, W, C)`` to the proportions of its crop."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return image.resize((max(8, round(image.height * ratio)), image.height), Image.Resampling.BICUBIC)


def _batches(images: Iterable[_Array]) -> Iterator[Pixels]:
    """Batch images by width, in order."""
    by_width: dict[int, list[_Array]] = {}
    for image in images:
        by_width.setdefault(image.shape[2], []).append(image)
    for _, members in sorted(by_width.items()):
        for first in range(0, len(members), _BATCH):
            yield np.stack(members[first : first + _BATCH])


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest differences between an exported network and its source.

    Attributes:
        log_probs: Of a log-probability; ``None``: any.
        distribution: Mean total variation distance of the distributions over classes, in [0, 1].
        texts: Share of differing readings.
    """

    log_probs: float | None
    distribution: float
    texts: float


LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(log_probs=1e-3, distribution=1e-4, texts=0.0),
    # Rendered lines are long and hard: one character of forty makes another text.
    "int8": Limits(log_probs=None, distribution=0.02, texts=0.2),
}
"""Limits by precision. On real crops ``crnn-small`` has 0.0014 and 0.6 % in int8; rendered words are harder to read."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of an exported network in an engine with its source, on the same images.

    Attributes:
        engine: Engine of the exported network.
        log_probs: Largest difference of a log-probability.
        distribution: Mean total variation distance of the distributions over classes, in [0, 1].
        texts: Number of differing readings.
        images: Number of images.
        widths: Widths of the images, in pixels.
        alone: Largest difference of a score between an image alone and in a batch, in nats.
        alone_texts: Number of differing readings among these.
    """

    engine: EngineName
    log_probs: float
    distribution: float
    texts: int
    images: int
    widths: tuple[int, ...]
    alone: float
    alone_texts: int

    def problem(self, limits: Limits) -> str | None:
        """Return a description of what is beyond the limits, or ``None``."""
        found = []
        if limits.log_probs is not None and not self.log_probs <= limits.log_probs:  # also where it is no number
            found.append(f"log-probabilities differ by {self.log_probs:.2g}, at most {limits.log_probs:g} is allowed")
        if not self.distribution <= limits.distribution:
            found.append(f"distributions by {self.distribution:.2g} on average, at most {limits.distribution:g}")
        if self.texts > limits.texts * self.images:
            found.append(f"{self.texts} of {self.images} texts, at most {100 * limits.texts:g} %")
        if self.alone_texts > limits.texts * self.images:
            found.append(f"{self.alone_texts} texts between an image alone and in a batch")
        return "; ".join(found) or None


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
        MissingExtraError: A needed package is not installed.
    """
    path = Path(out)
    _check(model, path, precision, samples)
    weights = read_weights(model)
    images, described = _images(weights, data, samples, precision, say)
    say(f"{described}, to compare with{' and to quantise' if precision == 'int8' else ''}")
    graph, quantized = _graph(weights, precision, images)
    metadata = _metadata(weights, precision, quantized, described)
    with _place_beside(path) as folder:
        file = folder / path.name
        _write(graph, metadata, file)
        source, comparisons = _compare(weights, file, precision, _thinned(images))
        for comparison in comparisons:
            problem = comparison.problem(LIMITS[precision])
            if problem is not None:
                raise ExportMismatchError(
                    f"{path}: not written, it is not what its source is: with {comparison.engine}, {problem}. "
                    + ("Quantise with images like those that are read, --data" if quantized else "Report it, please")
                )
        size = file.stat().st_size
        file.replace(path)
    return ExportReport(path, size, precision, described, quantized, source, tuple(comparisons))


def _check(model: str | Path, path: Path, precision: Precision, samples: int) -> None:
    if precision not in LIMITS:
        raise ConfigError(f"precision is {precision!r}; expected one of: {', '.join(LIMITS)}")
    if path.suffix != ".onnx":
        raise ConfigError(f"{path}: expected a file to write that ends in .onnx")
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise ConfigError(f"{path}: expected a file in a folder that exists")
    if samples < 1:
        raise ConfigError(f"samples is {samples}; expected 1 or more")
    if Path(model).suffix == ".onnx":
        raise CheckpointError(f"{model}: is exported already; expected weights: a name, a weights file or a run folder")
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "export", "exporting")


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
    images = rendered_images(weights.config, samples)
    return images, f"{_count(images)} rendered words"


def _graph(weights: Weights[Any], precision: Precision, images: list[Pixels]) -> tuple[onnx.ModelProto, str | None]:
    from crnn.engines.onnx_graph import network_graph

    graph = network_graph(weights)
    if precision != "int8":
        return graph, None
    from crnn.quantize import quantize_graph

    done = quantize_graph(graph, images)
    return done.graph, (
        f"{len(done.ranges)} convolutions in int8 (a scale for each channel); {', '.join(done.kept)} in floating point"
    )


def _metadata(weights: Weights[Any], precision: Precision, quantized: str | None, images: str) -> dict[str, Any]:
    info: dict[str, Any] = {"source_sha256": hashlib.sha256(weights.path.read_bytes()).hexdigest()}
    if quantized is not None:
        # Number and kind only; folder names of this machine are of no use elsewhere.
        info |= {"quantized": quantized, "images": images.partition(" of ")[0]}
    return {
        "format": ENGINE_FORMAT,
        "format_version": FORMAT_VERSION,
        "crnn_version": version("crnn"),
        "precision": precision,
        "config": weights.config.model_dump(mode="json", exclude_none=True),
        "characters": weights.config.charset.charset().characters,
        "calibration": None if weights.calibration is None else weights.calibration.as_dict(),
        "info": info,
    }


@contextlib.contextmanager
def _place_beside(path: Path) -> Iterator[Path]:
    """Make a temporary folder on the disk of ``path``."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.resolve().parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}. Make room, or choose another folder"
        ) from error


def _write(graph: onnx.ModelProto, metadata: dict[str, Any], path: Path) -> None:
    for key, value in ((METADATA_KEY, json.dumps(metadata)), (SHA256_KEY, UNSEALED)):
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, value
    with path.open("wb") as file:
        file.write(sealed(graph.SerializeToString()))
        file.flush()
        os.fsync(file.fileno())


def _compare(
    weights: Weights[Any], exported: Path, precision: Precision, batches: list[Pixels]
) -> tuple[EngineName, list[Comparison]]:
    """Compare the exported file in each engine that opens it with the source."""
    installed = installed_engines()
    source: EngineName = "torch" if "torch" in installed else "onnx"
    expected = _outputs(open_model(weights.path, engine=source, device="cpu").engine, batches)
    names: list[EngineName] = [n for n in ("onnx", "openvino") if n in installed]
    found = []
    for name in names:
        engine = open_model(exported, engine=name, precision=precision).engine
        found.append(_comparison(name, engine, batches, expected))
    return source, found


def _comparison(name: EngineName, engine: Engine, batches: list[Pixels], expected: list[LogProbs]) -> Comparison:
    given = _outputs(engine, batches)
    distances = [0.5 * np.abs(np.exp(a) - np.exp(b)).sum(axis=2) for a, b in zip(given, expected, strict=True)]
    texts = [decode_greedy(batch) for batch in given]
    sources = [decode_greedy(batch) for batch in expected]
    firsts = [(batch[:1], decoded[0]) for batch, decoded in zip(batches, texts, strict=True)]
    alone = [(decode_greedy(engine.log_probs(image))[0], together) for image, together in firsts]
    return Comparison(
        engine=name,
        log_probs=max(float(np.abs(a - b).max()) for a, b in zip(given, expected, strict=True)),
        distribution=float(np.concatenate([d.reshape(-1) for d in distances]).mean()),
        texts=sum(a.ids != b.ids for x, y in zip(texts, sources, strict=True) for a, b in zip(x, y, strict=True)),
        images=_count(batches),
        widths=tuple(sorted({batch.shape[3] for batch in batches})),
        alone=max(abs(one.score - together.score) for one, together in alone),
        alone_texts=sum(one.ids != together.ids for one, together in alone),
    )


def _outputs(engine: Engine, batches: list[Pixels]) -> list[LogProbs]:
    return [engine.log_probs(batch) for batch in batches]


def _thinned(batches: list[Pixels]) -> list[Pixels]:
    """Return some of the batches, of all widths; every third is cut to half, as sizes must not matter."""
    step = -(-_count(batches) // _COMPARED)
    chosen = batches[::step]
    return [
        batch[: len(batch) if place % 3 != 2 else max(1, len(batch) // 2 - 1)] for place, batch in enumerate(chosen)
    ]


def _count(batches: Sequence[Pixels]) -> int:
    return sum(len(batch) for batch in batches)
