"""The weights that come with the package, by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["DEFAULT_MODEL", "shipped_engine_file", "shipped_names", "shipped_weights"]

DEFAULT_MODEL = "crnn-small"
"""What reads where nobody says what should: of the weights that ship, the most words right per millisecond."""

_SUFFIX = ".safetensors"


def shipped_names() -> list[str]:
    """Names of the weights in the package, sorted."""
    folder = files("crnn") / "weights"
    if not folder.is_dir():
        return []
    return sorted(item.name.removesuffix(_SUFFIX) for item in folder.iterdir() if item.name.endswith(_SUFFIX))


def shipped_weights(name: str) -> Path | None:
    """The weights file of that name in the package; ``None`` where there is none of it.

    A name wins over a file or folder of the same name, which ``./name`` still means.
    """
    return Path(str(files("crnn") / "weights" / (name + _SUFFIX))) if name in shipped_names() else None


def shipped_engine_file(name: str, precision: str) -> Path | None:
    """The exported file of that precision that ships beside the weights of that name; ``None`` where there is none."""
    path = Path(str(files("crnn") / "weights" / f"{name}.{precision}.onnx"))
    return path if name in shipped_names() and path.is_file() else None
