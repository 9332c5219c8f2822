"""Weights files on disk, read and calibrated without torch.

A weights file is a safetensors file; its metadata has the settings (model, image, charset), the charset's characters,
the version, and a SHA-256 over everything. ``crnn.model.checkpoint`` writes such files and reads them into torch.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from safetensors import SafetensorError

from crnn.config.model import ReaderConfig, parse_reader_config
from crnn.decoding.confidence import Calibration
from crnn.errors import CheckpointError, ConfigError
from crnn.files import atomic_write, check_not_foreign
from crnn.model.hub import fetch, is_hub_name

DEFAULT_MODEL = "crnn-small"  # of the shipped weights, the most words right per millisecond

_SUFFIX = ".safetensors"

_FOLDER = Path(str(files("crnn") / "weights"))


def shipped_names() -> list[str]:
    """Return the names of the weights in the package, sorted."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in _FOLDER.glob(f"*{_SUFFIX}"))


def shipped_weights(name: str) -> Path | None:
    """Return the shipped weights file of that name, or ``None``.

    A name wins over a local file or folder of the same name; ``./name`` means the latter.
    """
    return _FOLDER / (name + _SUFFIX) if name in shipped_names() else None


def shipped_engine_file(name: str, precision: str) -> Path | None:
    """Return the exported file of that precision that ships with the weights of that name, or ``None``."""
    path = _FOLDER / f"{name}.{precision}.onnx"
    return path if name in shipped_names() and path.is_file() else None


WEIGHTS_FORMAT = "crnn-weights"
FORMAT_VERSION = 1
# Bytes of a value, and its least bits, but for the sign, that are inf or nan in float32: whole numbers compare faster.
_NOT_FINITE = {"F16": (2, 0x7C00), "BF16": (2, 0x7F80), "F32": (4, 0x7F80_0000), "F64": (8, 1151 << 52)}

_Tensor = TypeVar("_Tensor")

# Types in the header of a safetensors file; checksums have torch's names of them.
_TORCH_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Weights(Generic[_Tensor]):
    """Content of a weights file."""

    tensors: dict[str, _Tensor]  # of the network, by name: torch's, on the CPU, or numpy arrays
    config: ReaderConfig  # rebuilds the network
    info: dict[str, Any]  # facts for people: step, accuracy, the whole settings of the run
    path: Path
    calibration: Calibration | None = None  # curves of the confidences, if they were fitted (``crnn calibrate``)


def read_weights(source: str | Path) -> Weights[npt.NDArray[Any]]:
    """Read a weights file, or the best weights of a run folder, without torch; numpy lacks bfloat16."""
    return read_weights_with(safetensors.numpy.load, source)


def read_weights_with(load: Callable[[bytes], dict[str, _Tensor]], source: str | Path) -> Weights[_Tensor]:
    """Read a weights file, or the best weights of a run folder; ``load`` as in ``read_tensor_file``."""
    path = resolve_weights(source)
    try:
        tensors, metadata = read_tensor_file(path, load)
        config, info, calibration = weights_metadata(path, metadata)
    except CheckpointError as error:
        if not is_hub_name(source):
            raise
        raise CheckpointError(f"{source}: {error}") from error
    return Weights(tensors, config, info, path, calibration)


def resolve_weights(source: str | Path) -> Path:
    """Return the weights file of ``source``: shipped weights by name, itself, or ``best`` (else ``last``) of a run.

    ``hf://OWNER/NAME`` is fetched from the hub (``crnn.model.hub``).
    """
    if not str(source):
        raise CheckpointError("the model's name is empty; expected a weights file, a run folder or a shipped name")
    shipped = shipped_weights(str(source))
    if shipped is not None:
        return shipped
    if is_hub_name(source):
        return fetch(str(source))
    path = Path(source)
    if os.path.isdir(path):  # noqa: PTH112 - Path raises for names that are too long
        for name in ("best.safetensors", "last.safetensors"):
            if (path / name).is_file():
                return path / name
        raise CheckpointError(f"{source}: a folder without best.safetensors or last.safetensors; expected a run folder")
    if not os.path.isfile(path):  # noqa: PTH113
        names = ", ".join(shipped_names())
        raise CheckpointError(f"model {str(source)!r:.200} is no weights file, run folder or shipped name ({names})")
    return path


def weights_metadata(
    path: Path, metadata: Mapping[str, Any], kind: str = WEIGHTS_FORMAT, version: int = FORMAT_VERSION
) -> tuple[ReaderConfig, dict[str, Any], Calibration | None]:
    """Check the metadata of a weights file, or of another ``kind``; return settings, info and calibration."""
    if metadata.get("format") != kind:
        wanted = "best.safetensors of the run folder" if kind == WEIGHTS_FORMAT else "a file of crnn export"
        raise CheckpointError(f"{path}: is a {metadata.get('format')!r} file; expected {kind}, such as {wanted}")
    if metadata.get("format_version") not in range(1, version + 1):
        raise CheckpointError(
            f"{path}: has format version {metadata.get('format_version')!r}; expected at most {version}. Upgrade crnn"
        )
    try:
        config = parse_reader_config(metadata["config"], str(path))
    except (KeyError, TypeError, ValueError) as error:  # ConfigError is a ValueError; the others: it is no mapping
        raise CheckpointError(f"{path}: settings in the file cannot be used: {error}") from error
    if config.charset.charset().characters != metadata.get("characters"):
        raise CheckpointError(f"{path}: the charset's name and its characters in the file contradict each other")
    calibration = None
    if metadata.get("calibration") is not None:
        try:
            calibration = Calibration.from_dict(metadata["calibration"])
        except ConfigError as error:
            raise CheckpointError(f"{path}: {error}. Make it anew with crnn calibrate") from error
    return config, metadata.get("info", {}), calibration


def read_tensor_file(
    path: Path, load: Callable[[bytes], dict[str, _Tensor]]
) -> tuple[dict[str, _Tensor], dict[str, Any]]:
    """Read tensors and metadata of a weights file or checkpoint, and check its checksum.

    ``load`` is that of ``safetensors.numpy`` or ``safetensors.torch``. Whatever is wrong is a ``CheckpointError``.
    """
    if path.suffix in (".onnx", ".xml"):
        raise CheckpointError(f"{path}: is an exported file; expected weights: a weights file, a run folder or a name")
    check_not_foreign(path, str(path), "one written by crnn", CheckpointError)
    try:
        data = path.read_bytes()
        if int.from_bytes(data[:8], "little") > 16 << 20:  # bytes of JSON, twenty times as many in memory
            raise SafetensorError("header too large")
        tensors = load(data)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; expected a weights file or a run folder") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a safetensors file, or cut short ({str(error).splitlines()[0]}); expected one written by crnn"
        ) from error
    except KeyError as error:
        raise CheckpointError(
            f"{path}: has tensors of type {error.args[0]}, which numpy has not; read it with --engine torch"
        ) from None
    texts: dict[str, str] = _header(data).get("__metadata__", {})
    expected = texts.pop("sha256", None)
    if expected is None or "format" not in texts:
        raise CheckpointError(
            f"{path}: a safetensors file without crnn's metadata; expected a file written by crnn train or crnn export"
        )
    if tensor_digest(data, texts) != expected:
        raise CheckpointError(f"{path}: checksum does not fit, the file is damaged; use another copy or checkpoint")
    try:
        metadata = {key: json.loads(text) for key, text in texts.items()}
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: metadata is not JSON ({error}); expected a file written by crnn") from error
    if metadata["format"] == WEIGHTS_FORMAT and (name := _not_finite(data)):
        raise CheckpointError(f"{path}: tensor {name} has nan, inf or a variance below 0; train anew, or use others")
    return tensors, metadata


def weights_to_calibrate(source: str | Path, out: str | Path | None = None) -> Weights[bytes]:
    """Check and return the weights for ``save_calibration``, before hours of reading."""
    if out is None and (shipped_weights(str(source)) is not None or is_hub_name(source)):
        where = "is on the hub" if is_hub_name(source) else "ships with the package"
        raise CheckpointError(f"{source} {where} and stays as it is; expected another file to write, --out")
    return read_weights_with(_whole, source)  # checked: intact, ours, of a known version


def save_calibration(source: str | Path, calibration: Calibration, out: str | Path | None = None) -> Path:
    """Write a calibration into a weights file, or to ``out``, and return that; everything else in it stays the same."""
    weights = weights_to_calibrate(source, out)
    held, metadata = read_tensor_file(weights.path, _whole)
    data, metadata = held[""], {**metadata, "calibration": calibration.as_dict()}
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}
    texts["sha256"] = tensor_digest(data, texts)
    header = json.dumps({**_header(data), "__metadata__": texts}, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # so that the tensors behind it are aligned
    tensors = memoryview(data)[8 + int.from_bytes(data[:8], "little") :]
    path = weights.path if out is None else Path(out)
    atomic_write(path, b"".join((len(header).to_bytes(8, "little"), header, tensors)), CheckpointError)
    return path


def _whole(data: bytes) -> dict[str, bytes]:
    """Return a safetensors file as it is, whatever types its tensors have, once it is known to be one."""
    safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    return {"": data}


def _not_finite(data: bytes) -> str | None:
    """Return the first tensor that is not finite as float32, or is a negative variance, or ``None``."""
    header = _header(data)
    tensors = memoryview(data)[8 + int.from_bytes(data[:8], "little") :]
    for name in sorted(header.keys() - {"__metadata__"}):
        if (kind := header[name]["dtype"]) in _NOT_FINITE:
            size, least = _NOT_FINITE[kind]
            bits, sign = np.frombuffer(tensors[slice(*header[name]["data_offsets"])], f"<u{size}"), 1 << (8 * size - 1)
            negative = name.endswith(".running_var") and bits.max(initial=0) > sign
            if negative or (bits & (sign - 1)).max(initial=0) >= least:
                return name
    return None


def with_info(path: Path, info: Mapping[str, Any]) -> bytes:
    """Return a weights file with other facts for people; all else in it stays."""
    data = path.read_bytes()
    header, end = _header(data), 8 + int.from_bytes(data[:8], "little")
    texts = {**header["__metadata__"], "info": json.dumps(info, ensure_ascii=False)}
    del texts["sha256"]
    header["__metadata__"] = {**texts, "sha256": tensor_digest(data, texts)}
    head = json.dumps(header, ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)  # tensors begin at whole words
    return len(head).to_bytes(8, "little") + head + data[end:]


def tensor_digest(data: bytes, texts: Mapping[str, str]) -> str:
    """Return the SHA-256 over the tensors of a safetensors file and over its metadata, in any order."""
    digest = hashlib.sha256()
    for key in sorted(texts):
        digest.update(f"{key}={texts[key]}\n".encode())
    header = _header(data)
    header.pop("__metadata__", None)
    tensors = memoryview(data)[8 + int.from_bytes(data[:8], "little") :]
    for name in sorted(header):
        begin, end = header[name]["data_offsets"]
        dtype = _TORCH_NAMES.get(header[name]["dtype"])
        digest.update(f"{name} torch.{dtype} {tuple(header[name]['shape'])}\n".encode())
        digest.update(tensors[begin:end])
    return digest.hexdigest()


def _header(data: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header
