"""Weights as files for other projects' runtimes, each with its input, padding, characters, blank and output.

Facts are those of RapidOCR 3.10, PaddleOCR 3.7 (PaddleX 3.7), OpenCV 4.14 and 5.0, EasyOCR 1.7.2 and OnnxTR 0.9. Shape
letters: N batch, C image channels, W width as given, R width after resizing, T time steps, V classes with the blank.
"""

import io
import json
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crnn.config.model import ImageConfig, ReaderConfig, time_steps
from crnn.config.section import checked_call
from crnn.decoding.ctc import decode_greedy
from crnn.engines.loading import open_model
from crnn.errors import CheckpointError, ConfigError, ExportMismatchError, MissingExtraError
from crnn.export import drawn_images
from crnn.files import atomic_write, check_free
from crnn.image import resize
from crnn.model.backbones import BACKBONES, BATCH_NORM
from crnn.model.weights import Weights, read_weights
from crnn.terminal import check_writable

Runtime = Literal["rapidocr", "paddleocr", "opencv", "easyocr", "onnxtr"]

# Width of an input that the runtime wants fixed. OnnxTR cuts crops above 8:1 apart; OpenCV's was measured.
_WIDTHS: dict[str, int] = {"opencv": 128, "onnxtr": 256}
_SEEN = 0.002  # of a column that differs from the padding: half of what one step of 255 makes in [-1, 1]
_IMPOSSIBLE = -50.0  # logit of a character behind an image
_DRAWN = 24
_PADDLE_NAME = "en_PP-OCRv5_mobile_rec"  # a name that PaddleOCR knows, or it refuses the folder
_LEAST_EQUAL = 0.95  # share of the drawn words that must be read alike

_Array = npt.NDArray[Any]
_Reader = Callable[[list[_Array]], _Array]


@dataclass(frozen=True, slots=True)
class RuntimeReport:
    """Report of an export: path, names and bytes of the files, drawn words and how many of them were read alike."""

    path: Path
    files: dict[str, int]
    images: int
    equal: int


@checked_call
def export_for(runtime: Runtime, model: str | Path, out: str | Path, *, width: int | None = None) -> RuntimeReport:
    """Write a network for another runtime; what it reads of drawn words, given as the runtime gives them, is compared.

    Args:
        runtime: The runtime.
        model: Name of shipped weights, a weights file, or a run folder.
        out: ``OUT.onnx`` for RapidOCR, else a new folder; for PaddleOCR also ``OUT.tar``.
        width: Pixels of the input, for ``opencv`` and ``onnxtr``. Default: that of squashed images, else 128; 256.

    Raises:
        ConfigError: A choice is unknown or contradicts another, or the runtime cannot express the characters.
        CheckpointError: The weights cannot be read, or the file cannot be written.
        DataError: The folder exists.
        ExportMismatchError: The exported network reads other texts.
        MissingExtraError: A needed package is not installed.
    """
    path = Path(out)
    _check(runtime, model, path, width)
    weights = read_weights(model)
    config = weights.config
    characters = config.charset.charset().characters
    _check_network(runtime, config)
    if runtime in ("rapidocr", "opencv") and (lines := "\n".join(characters).splitlines()) != list(characters):
        broken = next(c for c, line in zip(characters, [*lines, ""], strict=False) if c != line)
        raise ConfigError(f"--for {runtime} has a line for each character, and {broken!r} ends lines; train without it")
    if width is None:
        squashed = runtime == "opencv" and config.image.resize == "squash"
        width = config.image.image_width if squashed else _WIDTHS.get(runtime)
    if runtime == "easyocr":
        files, read = _easyocr(weights, path.name)
    else:
        files, read = _WRITERS[runtime](weights, characters, width)
    images, equal = _compared(weights, read, width if runtime == "opencv" else None)
    if equal < _LEAST_EQUAL * images:
        raise ExportMismatchError(
            f"{path}: not written, it is not its source: {images - equal} of {images} drawn words differ. Report it"
        )
    _write(path, files)
    return RuntimeReport(path, {name: len(content) for name, content in files.items()}, images, equal)


def _check(runtime: Runtime, model: str | Path, path: Path, width: int | None) -> None:
    if width is not None and (runtime not in _WIDTHS or not 16 <= width <= 4096):
        raise ConfigError(f"--width is {width} for {runtime}; expected 16 to 4096, with opencv or onnxtr")
    suffixes = {"rapidocr": (".onnx",), "paddleocr": ("", ".tar")}.get(runtime, ("",))
    if path.suffix not in suffixes:
        wanted = " or ".join(
            {".onnx": "a file OUT.onnx", "": "a folder, without a suffix", ".tar": "OUT.tar"}[s] for s in suffixes
        )
        raise ConfigError(f"OUT {path}: expected {wanted} for {runtime}")
    if path.suffix:
        check_writable("OUT", str(path), f"words{path.suffix}")
    else:
        check_free(path)
        check_writable("OUT", "" if path.is_dir() else str(path), "words")
    if runtime == "easyocr" and not path.name.isidentifier():
        raise ConfigError(f"OUT {path}: EasyOCR imports a module of that name; expected letters, digits and _")
    if Path(model).suffix == ".onnx":
        raise CheckpointError(f"{model}: is exported already; expected weights: a name, a weights file or a run folder")
    if runtime == "easyocr" and find_spec("torch") is None:
        raise MissingExtraError("torch", "train", f"exporting for {runtime}")


def _check_network(runtime: Runtime, config: ReaderConfig) -> None:
    """Refuse what only imported weights have, and what a runtime's files do not provide for."""
    model, image = config.model, config.image
    given = {"pooling": model.pooling, "neck": model.neck, "rnn2": model.rnn2, "mean": image.mean, "std": image.std}
    fixed: dict[str, Any] = {"pooling": "modelzoo"} if runtime != "opencv" else {}
    if runtime == "easyocr":
        fixed |= {"neck": "linear", "rnn2": "both", "mean": 127.5, "std": 127.5}
    for name, expected in fixed.items():
        if given[name] != expected:
            raise ConfigError(
                f"--for {runtime}: these weights have {name} {given[name]!r}, as those of other projects may; expected "
                f"{expected!r}, or --for opencv, which takes all"
            )


def _write(path: Path, files: dict[str, bytes]) -> None:
    if path.suffix == ".tar":
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        atomic_write(path, packed.getvalue(), CheckpointError)
    elif path.suffix:
        (content,) = files.values()
        atomic_write(path, content, CheckpointError)
    else:
        with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=f".{path.name}") as scratch:
            folder = Path(scratch) / path.name
            folder.mkdir()
            for name, content in files.items():
                atomic_write(folder / name, content, CheckpointError)
            if path.exists():  # it is empty; Windows does not rename onto a folder
                path.rmdir()
            folder.rename(path)


def _compared(weights: Weights[Any], read: _Reader, width: int | None) -> tuple[int, int]:
    """Return the number of drawn words, and of those that ``read`` reads as crnn does, squashed to ``width`` if any."""
    # A column less: a width that all round alike. The last column differs from every padding.
    drawn = [image[:, :, :-1] for batch in drawn_images(weights.config, _DRAWN) for image in batch]
    for image in drawn:
        image[:, :, -1] ^= 16
    engine = open_model(weights.path)[0]
    equal = 0
    for first in range(0, len(drawn), 6):
        group = drawn[first : first + 6]
        found = decode_greedy(read(group))
        for text, image in zip(found, group, strict=True):
            pixels = resize(image.transpose(1, 2, 0), weights.config.image, width)
            equal += decode_greedy(engine.log_probs(pixels[None]))[0].ids == text.ids
    return len(drawn), equal


# ---- graphs that find the image in its padding -----------------------------------------------------------------------


def _padded_graph(weights: Weights[Any], *, padding: float, blank_first: bool, width: int | str) -> Any:
    """Return a graph of images of any width, each followed by columns of ``padding``, that reads each as if alone.

    ``x (N, 3, 32, W)`` in [-1, 1] -> ``(N, T, V)``: probabilities with the blank first, of images in blue, green, red,
    or logits with the blank last, of images in red, green, blue.
    """
    from onnx import TensorProto, helper

    from crnn.engines.onnx_graph import Graph, Lengths, add_network, add_normalization

    config, num_classes = weights.config, weights.config.charset.charset().num_classes
    result = "probabilities" if blank_first else "logits"
    graph = Graph(
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 32, width]),
        helper.make_tensor_value_info(result, TensorProto.FLOAT, ["N", "T", num_classes]),
    )
    op = _Operators(graph)
    given, rounded_up = "x", padding == 0.0  # the width, by RapidOCR and PaddleOCR; by OnnxTR down

    # Where the image ends, and the width to which crnn resizes one of that size.
    columns = op.range(op("Shape", given, start=3, end=4))  # .................................... (W)
    away = op("ReduceMax", op("Abs", op("Sub", given, padding)), axes=[1, 2], keepdims=0)  # ..... (N, W)
    ends = op("Mul", op("Cast", op("Greater", away, _SEEN), to=TensorProto.INT64), op("Add", columns, 1))
    ends = op("Max", op("ReduceMax", ends, axes=[1], keepdims=1), 1)  # .......................... (N, 1)
    doubled = op("Add", op("Mul", ends, 2), -1 if rounded_up else 1)  # between the widths that were rounded to this
    if rounded_up:  # but for an image that fills its batch
        full = op("Equal", ends, op("Shape", given, start=3, end=4))
        doubled = op("Add", doubled, op("Mul", op("Cast", full, to=TensorProto.INT64), 2))
    widths = _target_widths(op, doubled, config.image)  # ........................................ (N, 1)
    targets = op.range(op("ReduceMax", widths, axes=[0, 1], keepdims=0))  # ...................... (R)
    present = op("Cast", op("Less", targets, widths), to=TensorProto.FLOAT)
    steps = op("Sub", op("Div", widths, 4), 1)  # ................................................ (N, 1)
    graph.lengths = Lengths(
        op("Unsqueeze", present, [1, 2]), op("Cast", op("Squeeze", steps, [1]), to=TensorProto.INT32)
    )

    # Pixels in eight bits, grey or in red, green, blue, as Pillow makes them.
    mixed = [[0.299, 0.587, 0.114]] if config.image.image_channels == 1 else np.eye(3).tolist()
    kernel = np.array(mixed)[:, :: -1 if blank_first else 1, None, None]
    pixels = op("Conv", given, 127.5 * kernel, np.full(len(kernel), 127.5), kernel_shape=[1, 1])
    matrix = _resampling(op, columns, targets, ends, widths, config.image)  # .................... (N, 1, W, R)
    pixels = op("Clip", op("Round", op("MatMul", op("Round", pixels), matrix)), 0.0, 255.0)
    values = op(
        "Mul", add_normalization(graph, pixels, config.image), graph.lengths.columns
    )  # ............... (N, C, 32, R)

    logits = add_network(graph, values, _blank_first(weights) if blank_first else weights)
    there = op("Less", op.range(op("Shape", logits, start=1, end=2)), steps)  # .................. (N, T)
    blanks = np.full(num_classes, _IMPOSSIBLE)
    blanks[0 if blank_first else -1] = 0.0
    arguments = [op("Unsqueeze", there, [2]), logits, op.constant(blanks)]
    if blank_first:
        graph.add("Softmax", [op("Where", *arguments)], result, axis=-1)
    else:
        graph.add("Where", arguments, result)
    return graph.model


class _Operators:
    """Operators of a graph whose values need no names; numbers and arrays become constants."""

    def __init__(self, graph: Any) -> None:
        self._graph, self._count = graph, 0

    def __call__(self, operator: str, *inputs: Any, **attributes: Any) -> str:
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        output: str = self._graph.add(operator, names, self._name(operator), **attributes)
        return output

    def constant(self, value: Any) -> str:
        name: str = self._graph.constant(self._name("constant"), np.asarray(value))
        return name

    def range(self, count: str) -> str:
        """Add the whole numbers below ``count``."""
        scalar = self("Reshape", count, np.array([], dtype=np.int64))
        return self("Range", np.int64(0), scalar, np.int64(1))

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"wrap{self._count}.{kind}"


def _target_widths(op: _Operators, doubled: str, image: ImageConfig) -> str:
    """Add ``crnn.image.target_width`` for images of height 32 whose widths are given in halves of pixels."""
    if image.resize == "squash":
        return op("Clip", doubled, np.int64(image.image_width), np.int64(image.image_width))
    scaled = op("Mul", doubled, round(1000 * image.width_scale))
    units = op("Div", op("Add", scaled, 1000 * image.width_step), 2000 * image.width_step)
    return op("Clip", op("Mul", units, image.width_step), np.int64(image.min_width), np.int64(image.max_width))


def _resampling(op: _Operators, columns: str, targets: str, ends: str, widths: str, image: ImageConfig) -> str:
    """Add the matrices ``(N, 1, W, R)`` by which Pillow resizes rows (``Resample.c``), antialiased."""
    from onnx import TensorProto

    def floats(values: str, axis: int) -> str:
        return op("Cast", op("Unsqueeze", values, [axis]), to=TensorProto.FLOAT)

    scale = op("Div", floats(ends, 2), floats(widths, 2))  # ...................................... (N, 1, 1)
    centres = op("Mul", op("Add", floats(targets, 0), 0.5), scale)  # ............................. (N, 1, R)
    places = op("Add", floats(columns, 1), 0.5)  # ................................................ (W, 1)
    distance = op("Abs", op("Div", op("Sub", places, centres), op("Max", scale, 1.0)))  # ......... (N, W, R)
    if image.interpolation == "bilinear":
        weights = op("Relu", op("Sub", 1.0, distance))
    else:  # Keys 1981 with a = -0.5: (1.5 d - 2.5) d^2 + 1 up to 1, -0.5 (d - 1) (d - 2)^2 up to 2
        far = op("Min", distance, 2.0)
        square, beyond = op("Mul", far, far), op("Sub", far, 2.0)
        near = op("Add", op("Mul", op("Sub", op("Mul", far, 1.5), 2.5), square), 1.0)
        tail = op("Mul", op("Mul", op("Sub", far, 1.0), -0.5), op("Mul", beyond, beyond))
        weights = op("Where", op("Less", far, 1.0), near, tail)
    weights = op("Mul", weights, op("Cast", op("Less", places, floats(ends, 2)), to=TensorProto.FLOAT))
    # Columns behind the resized image, which are masked, may have no sum.
    total = op("Max", op("ReduceSum", weights, [1], keepdims=1), 1e-6)
    return op("Unsqueeze", op("Div", weights, total), [1])


def _graph_reader(graph: Any, padding: float, blank_first: bool, width: int) -> _Reader:
    """Return a function that gives images to a padded graph as its runtime does."""
    from crnn.engines.onnx_engine import import_onnxruntime

    session = import_onnxruntime().InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])

    def read(images: list[_Array]) -> _Array:
        widest = max(width, *(image.shape[2] for image in images))
        batch = np.full((len(images), 3, 32, widest), padding, np.float32)
        for place, image in enumerate(images):
            batch[place, :, :, : image.shape[2]] = (image[:: -1 if blank_first else 1] - np.float32(127.5)) / 127.5
        (scores,) = session.run(None, {"x": batch})
        return np.roll(np.log(scores + 1e-30), -1, axis=2) if blank_first else np.asarray(scores)

    return read


# ---- files of each runtime -------------------------------------------------------------------------------------------

_Files = tuple[dict[str, bytes], _Reader]


def _rapidocr(weights: Weights[Any], characters: str, _: int | None) -> _Files:
    graph = _padded_graph(weights, padding=0.0, blank_first=True, width="W")
    graph.metadata_props.add(key="character", value="\n".join(characters))
    return {"model": graph.SerializeToString()}, _graph_reader(graph, 0.0, True, 320)


def _paddleocr(weights: Weights[Any], characters: str, _: int | None) -> _Files:
    graph = _padded_graph(weights, padding=0.0, blank_first=True, width="W")
    settings = {
        "Global": {"model_name": _PADDLE_NAME},
        "PreProcess": {
            "transform_ops": [
                {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}},
                {"RecResizeImg": {"image_shape": [3, 32, 320]}},
                {"KeepKeys": {"keep_keys": ["image"]}},
            ]
        },
        "PostProcess": {"name": "CTCLabelDecode", "character_dict": list(characters)},
    }
    files = {"inference.onnx": graph.SerializeToString(), "inference.yml": _json(settings)}
    return files, _graph_reader(graph, 0.0, True, 320)


def _onnxtr(weights: Weights[Any], characters: str, width: int | None) -> _Files:
    assert width is not None
    graph = _padded_graph(weights, padding=-1.0, blank_first=False, width=width)
    settings = {
        "mean": [0.5] * 3, "std": [0.5] * 3, "input_shape": [3, 32, width], "vocab": characters,
        "arch": "crnn_vgg16_bn", "task": "recognition",
    }  # fmt: skip
    files = {"model.onnx": graph.SerializeToString(), "config.json": _json(settings)}
    return files, _graph_reader(graph, -1.0, False, width)


def _opencv(weights: Weights[Any], characters: str, width: int | None) -> _Files:
    """Return a graph of one image of one width: its shapes are all that OpenCV 4 infers."""
    from onnx import TensorProto, helper

    from crnn.engines.onnx_engine import import_onnxruntime
    from crnn.engines.onnx_graph import Graph, add_network

    assert width is not None
    channels, num_classes = weights.config.image.image_channels, len(characters) + 1
    graph = Graph(
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 32, width]),
        helper.make_tensor_value_info(
            "log_probs", TensorProto.FLOAT, [time_steps(width, weights.config.model.pooling), 1, num_classes]
        ),
    )
    logits = add_network(graph, "x", _blank_first(weights))
    log_probs = graph.add("LogSoftmax", [logits], "batch_first", axis=-1)
    graph.add("Transpose", [log_probs], "log_probs", perm=[1, 0, 2])
    content = graph.model.SerializeToString()
    mean, std = np.float32(weights.config.image.mean), np.float32(weights.config.image.std)
    session = import_onnxruntime().InferenceSession(content, providers=["CPUExecutionProvider"])

    def read(images: list[_Array]) -> _Array:
        resized = [resize(image.transpose(1, 2, 0), weights.config.image, width) for image in images]
        scores = [session.run(None, {"x": (image[None] - mean) / std})[0] for image in resized]
        return np.roll(np.concatenate(scores, axis=1).transpose(1, 0, 2), -1, axis=2)

    return {"model.onnx": content, "vocabulary.txt": ("\n".join(characters) + "\n").encode()}, read


def _easyocr(weights: Weights[Any], name: str) -> _Files:
    import torch

    from crnn.interop import easyocr_network

    config = weights.config
    characters = config.charset.charset().characters
    layers = [
        [*layer[:4], layer.pool, number in BATCH_NORM[config.model.batch_norm]]
        for number, layer in enumerate(BACKBONES[config.model.backbone], start=1)
    ]
    params: dict[str, Any] = {
        "layers": layers,
        "hidden_size": config.model.lstm_size,
        "image": config.image.model_dump(mode="json"),
    }
    settings = {"network_params": params, "imgH": 32, "lang_list": ["en"], "character_list": characters}
    state = {key: torch.from_numpy(np.array(value, np.float32)) for key, value in _blank_first(weights).tensors.items()}
    network = easyocr_network.Model(len(characters) + 1, **params).eval()
    network.load_state_dict(state)
    saved = io.BytesIO()
    # On CPUs EasyOCR cuts these seven characters off; on GPUs it needs them.
    torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, saved)

    def read(images: list[_Array]) -> _Array:
        widest = max(image.shape[2] for image in images)
        grey = [np.asarray(image.mean(axis=0, keepdims=True).round(), np.uint8) for image in images]
        batch = np.stack([np.pad(g, ((0, 0), (0, 0), (0, widest - g.shape[2])), mode="edge") for g in grey])
        with torch.no_grad():
            return np.roll(network(torch.from_numpy(batch) / 127.5 - 1).log_softmax(2).numpy(), -1, axis=2)

    source = Path(easyocr_network.__file__).read_bytes()
    return {f"{name}.yaml": _json(settings), f"{name}.py": source, f"{name}.pth": saved.getvalue()}, read


def _blank_first(weights: Weights[Any]) -> Weights[Any]:
    return replace(
        weights, tensors={k: np.roll(v, 1, 0) if k.startswith("head.") else v for k, v in weights.tensors.items()}
    )


def _json(values: dict[str, Any]) -> bytes:
    """Return JSON, which is also YAML."""
    return json.dumps(values, ensure_ascii=False, indent=2).encode() + b"\n"


_WRITERS = {"rapidocr": _rapidocr, "paddleocr": _paddleocr, "opencv": _opencv, "onnxtr": _onnxtr}
