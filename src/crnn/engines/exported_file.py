"""Exported ONNX files: a graph, metadata (JSON) and a SHA-256 over the whole file, checked before an engine opens it.

Nothing here imports an engine, nor the package ``onnx``.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from crnn.config.model import ReaderConfig
from crnn.decoding.confidence import Calibration
from crnn.engines.engine import Precision
from crnn.errors import CheckpointError
from crnn.files import check_not_foreign
from crnn.model.weights import weights_metadata

ENGINE_FORMAT = "crnn-engine"
FORMAT_VERSION = 1

METADATA_KEY = "crnn_metadata"  # of ``metadata_props``: JSON, ASCII only
SHA256_KEY = "crnn_sha256"  # 64 digits
UNSEALED = "0" * 64  # value of ``SHA256_KEY`` while the checksum is computed

# A StringStringEntryProto of an ONNX file: key (field 1), value (field 2), each with its length in front.
_ONNX_SHA256 = re.compile(rb"\x0a\x0b" + SHA256_KEY.encode() + rb"\x12\x40([0-9a-f]{64})")
_ONNX_METADATA = re.compile(rb"\x0a\x0d" + METADATA_KEY.encode() + rb"\x12([\x80-\xff]{0,3}[\x00-\x7f])")


@dataclass(frozen=True, slots=True, eq=False)
class EngineFile:
    """Content of an exported file: its bytes, as they were checked, and what a weights file says of the network."""

    model: bytes
    precision: Precision
    config: ReaderConfig
    info: dict[str, Any]
    calibration: Calibration | None


def read_engine_file(source: str | Path) -> EngineFile:
    """Read an exported ``.onnx`` file; ``CheckpointError`` unless it is whole, of crnn, not newer, and consistent."""
    path = Path(source)
    if path.suffix == ".xml":
        raise CheckpointError(f"{path}: files of OpenVINO's own format are not read; expected .onnx. Export anew")
    check_not_foreign(path, str(path), "a file of crnn export", CheckpointError)
    try:
        model = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; expected an exported file, .onnx") from error
    seal, start = _ONNX_SHA256.search(model), _ONNX_METADATA.search(model)
    if seal is None or start is None:
        raise CheckpointError(f"{path}: has no metadata of crnn's, or is cut short; expected a file of crnn export")
    if _digest(model, seal) != seal[1].decode():
        raise CheckpointError(f"{path}: checksum does not fit, it is damaged; use another copy, or export anew")
    size = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(start[1]))  # a varint of protobuf's
    try:
        metadata: dict[str, Any] = dict(json.loads(model[start.end() : start.end() + size]))
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: metadata is no JSON object ({error}); expected a file of crnn export"
        ) from error
    facts = weights_metadata(path, metadata, ENGINE_FORMAT, FORMAT_VERSION)
    precision: Any = metadata.get("precision")
    if precision not in get_args(Precision):
        raise CheckpointError(f"{path}: has precision {precision!r}; expected one of: {', '.join(get_args(Precision))}")
    return EngineFile(model, precision, *facts)


def sealed(model: bytes) -> bytes:
    """Return an exported file, with metadata and ``UNSEALED``, with its checksum filled in."""
    seal = _ONNX_SHA256.search(model)
    assert seal is not None, "metadata are put in before a file is sealed"
    assert seal[1].decode() == UNSEALED, "a file is sealed once"
    return model[: seal.start(1)] + _digest(model, seal).encode() + model[seal.end(1) :]


def _digest(model: bytes, seal: re.Match[bytes]) -> str:
    digest = hashlib.sha256(memoryview(model)[: seal.start(1)])
    digest.update(UNSEALED.encode())
    digest.update(memoryview(model)[seal.end(1) :])
    return digest.hexdigest()
