"""What commands have in common: results as JSON, files that must be writable, packages that must be there."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from crnn.errors import ConfigError, MissingExtraError

__all__ = ["check_writable", "print_json", "require_torch"]


def print_json(values: dict[str, Any]) -> None:
    """One JSON object as one line on stdout, in characters that the terminal has."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a file name with odd bytes, or a terminal that is not UTF-8: then as \u escapes
        text = json.dumps(values, allow_nan=False)
    print(text, flush=True)


def require_torch(purpose: str, extra: str) -> None:
    """Refuse to go on without torch.

    Raises:
        MissingExtraError: It is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("torch", extra, purpose)


def check_writable(flag: str, path: str, example: str) -> None:
    """Refuse a file that cannot be written, before the work whose result would be lost; none given is fine.

    Raises:
        ConfigError: It is a folder, or there is no folder for it.
    """
    if path and (Path(path).is_dir() or not Path(path).resolve().parent.is_dir()):
        why = "is a folder" if Path(path).is_dir() else "there is no such folder to write it in"
        raise ConfigError(f"{flag} {path}: {why}; expected a file in a folder that exists, such as {example}")
