"""Files of character models: safetensors with the counts, and metadata with the charset, the order and a checksum.

Only counts are stored, a few bytes for each n-gram (2.6 MB for 160,000 words at order 6); everything else is computed
when a file is read. Nothing is pickled, and the file appears when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from crnn.charset import Charset
from crnn.decoding.language_model import CharacterModel
from crnn.decoding.ngram_counts import MAX_ORDER, NgramCounts
from crnn.errors import CharsetError, DataError
from crnn.whole_file import write_whole

__all__ = ["load_language_model", "save_language_model"]

_FORMAT = "crnn-language-model"
_FORMAT_VERSION = 1
_TYPES = {"symbols": "u", "counts": "f", "children": "u"}


def save_language_model(model: CharacterModel, path: str | os.PathLike[str]) -> int:
    """Write a model; what was at ``path`` is replaced when the new file is whole.

    Returns:
        Bytes written.

    Raises:
        DataError: It cannot be written.
    """
    counts = model.counts
    metadata = {
        "format": _FORMAT,
        "format_version": str(_FORMAT_VERSION),
        "crnn_version": version("crnn"),
        "characters": json.dumps(counts.characters),
        "order": str(counts.order),
        "words": str(counts.num_words),
    }
    arrays = {name: np.ascontiguousarray(getattr(counts, name)) for name in _TYPES}
    data = save(arrays, metadata={**metadata, "sha256": _digest(arrays, metadata)})
    try:
        write_whole(Path(path), data)
    except OSError as error:
        raise DataError(
            f"{os.fspath(path)}: cannot be written: {error.strerror}; expected a file in a folder that exists"
        ) from error
    return len(data)


def load_language_model(path: str | os.PathLike[str], charset: Charset | None = None) -> CharacterModel:
    """Read a model.

    Args:
        path: A file from ``save_language_model``, or ``crnn lm``.
        charset: That of the network that it is to be used with, where it is known.

    Raises:
        DataError: The file is missing, damaged, foreign, or from a newer version.
        CharsetError: The model is for another charset.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        raise DataError(f"language model {name}: there is no such file; expected one written by 'crnn lm'")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"language model {name}: not a safetensors file, or cut short ({why}); expected one written by 'crnn lm'"
        ) from error
    _check(name, metadata, arrays)
    try:
        characters, order, num_words = (
            json.loads(metadata["characters"]),
            int(metadata["order"]),
            int(metadata["words"]),
        )
        if not (isinstance(characters, str) and 1 <= order <= MAX_ORDER):
            raise DataError(f"characters are {characters!r}, the order is {order}; expected 1 to {MAX_ORDER}")
        model = CharacterModel(NgramCounts(characters, order, **arrays, num_words=num_words))
    except (KeyError, ValueError) as error:
        raise DataError(
            f"language model {name}: {error}. The file was changed; make it again with 'crnn lm'"
        ) from error
    if charset is not None and model.charset != charset:
        raise CharsetError(
            f"language model {name}: is for {model.charset}, the network writes {charset}; expected the same "
            "characters in the same order. Make one with 'crnn lm --charset'"
        )
    return model


def _check(name: str, metadata: dict[str, str], arrays: dict[str, npt.NDArray[Any]]) -> None:
    if metadata.get("format") != _FORMAT:
        what = f"a {metadata['format']!r} file" if "format" in metadata else "a safetensors file of another program"
        raise DataError(f"language model {name}: is {what}; expected a language model, written by 'crnn lm'")
    if metadata.get("format_version") != str(_FORMAT_VERSION):
        raise DataError(
            f"language model {name}: has format version {metadata.get('format_version')} of crnn "
            f"{metadata.get('crnn_version')}; this version reads {_FORMAT_VERSION}. Upgrade crnn to read it"
        )
    expected = metadata.pop("sha256", None)
    kinds = {key: array.dtype.kind for key, array in arrays.items() if array.ndim == 1}
    if kinds != _TYPES or _digest(arrays, metadata) != expected:
        raise DataError(f"language model {name}: checksum does not fit, the file is damaged; make it again")


def _digest(arrays: dict[str, npt.NDArray[Any]], metadata: dict[str, str]) -> str:
    """SHA-256 over the metadata, and over names, types, shapes and bytes of all arrays."""
    digest = hashlib.sha256()
    for key in sorted(metadata):
        digest.update(f"{key}={metadata[key]}\n".encode())
    for key in sorted(arrays):
        digest.update(f"{key} {arrays[key].dtype} {arrays[key].shape}\n".encode())
        digest.update(arrays[key].tobytes())
    return digest.hexdigest()
