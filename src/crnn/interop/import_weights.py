"""Import of other projects' weights: read, recognised, converted, run once, written as a weights file of ours."""

import hashlib
import io
import re
import textwrap
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from crnn.charset import NAMED_CHARSETS, Charset
from crnn.config.model import ReaderConfig, parse_reader_config
from crnn.config.section import checked_call
from crnn.engines.torch_engine import TorchEngine
from crnn.errors import CheckpointError, ConfigError
from crnn.interop.mindspore import read_checkpoint
from crnn.interop.sources import Arrays, Source, converted, named_plainly, recognized
from crnn.model.checkpoint import build_network, save_weights
from crnn.model.weights import Weights
from crnn.terminal import check_writable

_MAX_DEPTH = 4  # of a state in a state
_MAX_BYTES = 1 << 30  # of a file, and of what a zip archive unpacks to; ours have 33 MB
_MAX_HEADER = 16 << 20  # of JSON in safetensors, twenty times as many in memory
_MAX_VALUES = 1 << 28  # of all tensors: views may repeat a few bytes
_STATES = ("state_dict", "model_state_dict", "model", "net")

SourceName = Literal["auto", "clovaai", "meijieru", "parseq", "mmocr", "mindspore", "mindocr"]


@dataclass(frozen=True, slots=True)
class Imported:
    """Report of an import: the file written, the source recognised, the settings, and what was changed."""

    path: Path
    source: str
    licence: str
    config: ReaderConfig
    changes: tuple[str, ...]


@checked_call
def import_weights(
    file: str | Path,
    out: str | Path,
    *,
    source: SourceName = "auto",
    characters: str | None = None,
    width: int | None = None,
    resize: Literal["squash", "keep_ratio"] | None = None,
) -> Imported:
    """Write another project's CRNN as a weights file.

    Args:
        file: PyTorch's ``.pth``, ``.pt`` or ``.ckpt`` (nothing is unpickled but tensors), MindSpore's ``.ckpt``, or
            safetensors.
        out: The ``.safetensors`` file to write.
        source: The project; ``auto``: by the names of the tensors.
        characters: Characters in the order of the source's class ids, without the blank, or the name of a charset.
            Default: the source's own, where the number of classes leaves no doubt.
        width: Width in pixels of the source's images, if it was not the project's usual one.
        resize: ``keep_ratio`` for a network that learned from images whose ratio was kept. Default: the project's way.

    Raises:
        CheckpointError: The file cannot be read, or is of another network.
        ConfigError: Characters are needed, or their number does not fit.
    """
    if not str(out):
        raise ConfigError("OUT is empty; expected a file such as imported.safetensors")
    check_writable("OUT", str(out), "imported.safetensors", (".safetensors",), [str(file)])
    path = Path(file)
    data = _read(path)
    try:
        state, facts = _tensors(data, str(path))
    except CheckpointError:
        raise
    except (KeyError, ValueError, RuntimeError, NotImplementedError) as error:  # types and shapes that numpy lacks
        raise CheckpointError(f"{path}: has tensors that cannot be read ({error!r:.150})") from error
    arrays = named_plainly(state)
    found_source = recognized(arrays, source, str(path))
    facts = facts if found_source.name == "parseq" else {}
    if facts.get("leaky_relu"):
        raise CheckpointError(f"{path}: was trained with leaky_relu; this network has ReLU, it cannot be imported")
    found = converted(found_source, arrays, str(path))
    image = {"image_channels": found.image_channels, **found_source.image}
    if isinstance(size := facts.get("img_size"), list | tuple) and len(size) == 2:
        image |= {"image_height": size[0], "image_width": size[1]}
    image |= {key: value for key, value in (("image_width", width), ("resize", resize)) if value is not None}
    if width is not None and image.get("resize") == "keep_ratio":
        raise ConfigError(f"--width {width} does nothing where ratios are kept; leave it out, or give --resize squash")
    chosen = _characters(found_source, found.num_classes, characters, facts.get("charset_train"))
    config = parse_reader_config(
        {"model": found.model, "image": image, "charset": {"characters": chosen}}, f"{path}, {found_source.title}"
    )
    tensors = {name: torch.from_numpy(array) for name, array in found.tensors.items()}
    network = build_network(Weights(tensors, config, {}, path))
    pixels = np.random.default_rng(0).integers(0, 256, (8, found.image_channels, 32, 100), np.uint8)
    if not np.isfinite(TorchEngine(network).log_probs(pixels)).all():
        raise CheckpointError(f"{path}: gives nan or infinite values on images; it is damaged, or never learned")
    imported = {
        "source": found_source.title, "sha256": hashlib.sha256(data).hexdigest(),
        "licence": found_source.licence, "changes": list(found.changes),
    }  # fmt: skip
    save_weights(Path(out), tensors, config, {"imported": imported})
    return Imported(Path(out), found_source.title, found_source.licence, config, found.changes)


def _characters(source: Source, num_classes: int, given: str | None, own: object) -> str:
    """Return the name of the charset, or its characters."""
    if given is None:
        characters = own if isinstance(own, str) else source.characters.get(num_classes)
        if characters is None:
            raise ConfigError(
                f"{source.title} with {num_classes} classes may have any characters, and the file does not say which; "
                f"give its {num_classes - 1} characters in the order of its class ids, without the blank: --characters"
            )
    else:
        characters = Charset(given).characters
    if len(characters) != num_classes - 1:
        raise ConfigError(
            f"{'charset_train' if given is None else '--characters'} has {len(characters)} characters, and the file "
            f"{num_classes} classes; expected {num_classes - 1} characters, and the blank"
        )
    return next((name for name, named in NAMED_CHARSETS.items() if named == characters), characters)


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path}: is no file; expected one of weights")
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise CheckpointError(f"{path}: has {size:,} bytes; expected weights of a CRNN, at most {_MAX_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; expected a file of weights") from error


def _tensors(data: bytes, name: str) -> tuple[Arrays, Mapping[str, Any]]:
    """Return the floating-point tensors of a file, and a Lightning checkpoint's settings; the rest are counters."""
    facts: Mapping[str, Any] = {}
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= _MAX_HEADER:
        try:
            found: Any = load_safetensors(data)
        except SafetensorError as error:
            raise CheckpointError(f"{name}: is no whole safetensors file ({error}); use another copy") from error
    elif data.startswith((b"PK\x03\x04", b"\x80")):
        found, facts = _unpickled(data, name)
    elif data.startswith(b"\x89HDF"):
        raise CheckpointError(f"{name}: is a file of Keras; keras-ocr's network has an STN, it cannot be imported")
    else:
        arrays = read_checkpoint(data, name)
        return {key: array for key, array in arrays.items() if array.dtype.kind == "f"}, facts
    tensors = {key: value for key, value in found.items() if isinstance(value, Tensor) and _is_plain(value)}
    if not tensors:
        raise CheckpointError(f"{name}: holds no tensors by name; expected the state_dict of a network")
    if sum(tensor.numel() for tensor in tensors.values()) > _MAX_VALUES:
        raise CheckpointError(f"{name}: has tensors of more than {_MAX_VALUES:,} values; expected those of a CRNN")
    return {str(key): tensor.detach().float().numpy() for key, tensor in tensors.items()}, facts


def _is_plain(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    # Otherwise it is expanded from fewer values, by which a small file would fill the memory.
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


def _unpickled(data: bytes, name: str) -> tuple[Mapping[Any, Any], Mapping[str, Any]]:
    """Return the state and hyper-parameters of a file of PyTorch, which may hold tensors and plain values alone."""
    try:
        if data.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if sum(member.file_size for member in archive.infolist()) > _MAX_BYTES:
                    raise ValueError(f"unpacks to more than {_MAX_BYTES:,} bytes")
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, for files that are damaged, foreign or hold more than tensors
        plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error)) or type(error).__name__
        why = textwrap.shorten(plain.splitlines()[0], 160, placeholder=" ...")
        raise CheckpointError(
            f"{name}: cannot be read as tensors alone ({why}), and nothing else is "
            "unpickled, since that runs code of others. Save its state_dict by itself, where the file is trusted: "
            "torch.save(torch.load(FILE, weights_only=False).state_dict(), NEW)"
        ) from error
    facts: Any = found.get("hyper_parameters") if isinstance(found, Mapping) else None
    for _ in range(_MAX_DEPTH):
        key = next((k for k in _STATES if isinstance(found, Mapping) and isinstance(found.get(k), Mapping)), None)
        if key is not None:
            found = found[key]
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{name}: holds a {type(found).__name__}; expected the state_dict of a network")
    return found, facts if isinstance(facts, Mapping) else {}
