"""Exported networks as files: a graph for engines, and in it all that a reader needs to know of it.

An exported file is an ONNX file, or OpenVINO's pair of ``.xml`` and ``.bin``. Inside of it stand, as text that engines
pass over, the metadata (JSON: settings, characters, precision, calibration, what it was made from) and a SHA-256 over
the whole content, which is checked before any engine sees the file. While it is computed, 64 zeros stand in its place.

What opens a graph is an engine; nothing here imports one, nor the package ``onnx``.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from crnn.decoding.confidence import Calibration
from crnn.engines.engine import Precision
from crnn.errors import CheckpointError
from crnn.reader_config import ReaderConfig
from crnn.weights_file import FORMAT_VERSION as WEIGHTS_VERSION
from crnn.weights_file import WEIGHTS_FORMAT, weights_metadata

__all__ = [
    "ENGINE_FORMAT",
    "FORMAT_VERSION",
    "METADATA_KEY",
    "SHA256_KEY",
    "UNSEALED",
    "EngineFile",
    "read_engine_file",
    "sealed",
]

ENGINE_FORMAT = "crnn-engine"
FORMAT_VERSION = 1

METADATA_KEY = "crnn_metadata"
"""Key of the metadata, in ``metadata_props`` of an ONNX file and in ``rt_info`` of an ``.xml``: JSON, ASCII alone."""

SHA256_KEY = "crnn_sha256"
"""Key of the checksum beside it: 64 digits."""

UNSEALED = "0" * 64
"""What stands under ``SHA256_KEY`` while the checksum is computed."""

# A StringStringEntryProto of an ONNX file: key (field 1), value (field 2), each with its length in front.
_ONNX_SHA256 = re.compile(rb"\x0a\x0b" + SHA256_KEY.encode() + rb"\x12\x40([0-9a-f]{64})")
_ONNX_METADATA = re.compile(rb"\x0a\x0d" + METADATA_KEY.encode() + rb"\x12([\x80-\xff]{0,3}[\x00-\x7f])")
_XML_SHA256 = re.compile(rb"<" + SHA256_KEY.encode() + rb' value="([0-9a-f]{64})"')
_XML_METADATA = re.compile(rb"<" + METADATA_KEY.encode() + rb' value="([^"]*)"')


@dataclass(frozen=True, slots=True, eq=False)
class EngineFile:
    """What an exported file holds.

    Attributes:
        model: The bytes of an ONNX file, which are those that were checked; ``None`` for an ``.xml``, which OpenVINO
            reads itself, together with its ``.bin``.
        config: Settings of the network: charset and image are what a reader needs.
        precision: What it computes in.
        calibration: What confidences are made with, where the weights had it.
        info: What it was made from: crnn's version, the weights' checksum, how it was quantised.
        path: Where it was read.
    """

    model: bytes | None
    config: ReaderConfig
    precision: Precision
    calibration: Calibration | None
    info: dict[str, Any]
    path: Path


def read_engine_file(source: str | Path) -> EngineFile:
    """Read an exported file, and check that it is whole and ours.

    Args:
        source: ``.onnx``, or ``.xml`` with its ``.bin`` beside it.

    Raises:
        CheckpointError: It is missing, cut short, damaged, foreign, of a newer version, or contradicts itself.
    """
    path = Path(source)
    model = _bytes(path, "an exported file, .onnx or .xml")
    if path.suffix == ".xml":
        weights = _bytes(path.with_suffix(".bin"), f"the weights that belong to {path.name}; both files are needed")
        seal, text = _XML_SHA256.search(model), _xml_metadata(model)
    else:
        weights = b""
        seal, text = _ONNX_SHA256.search(model), _onnx_metadata(model)
    if seal is None or text is None:
        raise CheckpointError(
            f"{path}: has no metadata of crnn's, or is cut short; expected a file written by crnn export. "
            "Export the weights anew"
        )
    if _digest(model, weights, seal) != seal[1].decode():
        parts = f"it or {path.with_suffix('.bin').name}" if weights else "it"
        raise CheckpointError(f"{path}: checksum does not fit, {parts} is damaged; use another copy, or export anew")
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: metadata is not JSON ({error}); expected a file written by crnn") from error
    return _checked(path, model if path.suffix != ".xml" else None, metadata)


def sealed(model: bytes, weights: bytes = b"") -> bytes:
    """The bytes of an exported file with its checksum in them.

    Args:
        model: Of the ``.onnx`` or the ``.xml``, with the metadata, and ``UNSEALED`` as its checksum.
        weights: Of the ``.bin``.
    """
    seal = _XML_SHA256.search(model) or _ONNX_SHA256.search(model)
    assert seal is not None, "metadata are put in before a file is sealed"
    assert seal[1].decode() == UNSEALED, "a file is sealed once"
    return model[: seal.start(1)] + _digest(model, weights, seal).encode() + model[seal.end(1) :]


def _digest(model: bytes, weights: bytes, seal: re.Match[bytes]) -> str:
    digest = hashlib.sha256(memoryview(model)[: seal.start(1)])
    digest.update(UNSEALED.encode())
    digest.update(memoryview(model)[seal.end(1) :])
    digest.update(weights)
    return digest.hexdigest()


def _bytes(path: Path, expected: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; expected {expected}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; expected {expected}") from error


def _onnx_metadata(model: bytes) -> str | None:
    found = _ONNX_METADATA.search(model)
    if found is None:
        return None
    size = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(found[1]))  # a varint of protobuf's
    return model[found.end() : found.end() + size].decode(errors="replace")


def _xml_metadata(model: bytes) -> str | None:
    found = _XML_METADATA.search(model)
    return None if found is None else html.unescape(found[1].decode(errors="replace"))


def _checked(path: Path, model: bytes | None, metadata: Any) -> EngineFile:
    values: Mapping[str, Any] = metadata if isinstance(metadata, dict) else {}
    if values.get("format") != ENGINE_FORMAT:
        raise CheckpointError(f"{path}: is a {values.get('format')!r} file; expected one written by crnn export")
    if values.get("format_version") not in range(1, FORMAT_VERSION + 1):
        raise CheckpointError(
            f"{path}: has format version {values.get('format_version')!r} of crnn {values.get('crnn_version')}; "
            f"this version reads {FORMAT_VERSION}. Upgrade crnn to read it"
        )
    if values.get("precision") not in get_args(Precision):
        raise CheckpointError(
            f"{path}: has precision {values.get('precision')!r}; expected one of: {', '.join(get_args(Precision))}"
        )
    # Settings, characters and calibration are those of a weights file, and so are the rules for them.
    as_weights = {**values, "format": WEIGHTS_FORMAT, "format_version": WEIGHTS_VERSION}
    config, info, calibration = weights_metadata(path, as_weights)
    return EngineFile(model, config, values["precision"], calibration, info, path)
