"""Tesseract beside us: one process for many pictures, one word each."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["read_with_tesseract", "tesseract_command", "tesseract_version"]

_SEPARATOR = "\x1e"  # no text has it


def tesseract_version() -> str | None:
    """What the installed Tesseract calls itself; ``None`` where there is none that knows English."""
    if shutil.which("tesseract") is None:
        return None
    known = subprocess.run(["tesseract", "--list-langs"], capture_output=True, text=True, check=False)
    if "eng" not in known.stdout.split():
        return None
    shown = subprocess.run(["tesseract", "--version"], capture_output=True, text=True, check=False)
    return (shown.stdout or shown.stderr).splitlines()[0]


def tesseract_command(source: str) -> list[str]:
    """The command that reads a picture, or a list of them, as one word each (``--psm 8``), in English."""
    return ["tesseract", source, "stdout", "--psm", "8", "-l", "eng", "-c", f"page_separator={_SEPARATOR}"]


def read_with_tesseract(paths: Sequence[str], threads: int, folder: Path) -> tuple[list[str], float]:
    """What pictures say, and the seconds that it took, loading included.

    Args:
        paths: Of the pictures.
        threads: Those of its own that it may use (OpenMP); pictures are read one after the other.
        folder: For the list of paths.

    Raises:
        RuntimeError: It fails, or gives another number of texts than there are pictures.
    """
    listed = folder / "tesseract.txt"
    listed.write_text("".join(f"{path}\n" for path in paths), "utf-8")
    environment = {**os.environ, "OMP_THREAD_LIMIT": str(threads)}
    start = time.perf_counter()
    done = subprocess.run(
        tesseract_command(str(listed)), capture_output=True, encoding="utf-8", env=environment, check=False
    )
    seconds = time.perf_counter() - start
    texts = [text.strip() for text in done.stdout.split(_SEPARATOR)]
    if len(texts) == len(paths) + 1 and not texts[-1]:  # a separator may also stand behind the last
        texts.pop()
    if done.returncode or len(texts) != len(paths):
        raise RuntimeError(f"tesseract: {len(texts)} texts for {len(paths)} pictures; {done.stderr[-300:]}")
    return texts, seconds
