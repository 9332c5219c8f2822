"""Checks many font files: in processes, with what was found remembered between runs.

::

    paths --remembered?--> cache file in the user's cache folder
             else -------> python -m crnn.synth.face_check, one process per core, a JSON line per file -> cache

A font on which FreeType dies takes its process along: it is reported as ``crashed`` and the rest goes on in another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from crnn.cores import usable_cores
from crnn.progress import counting_bar
from crnn.synth.face_check import CHECK_VERSION, CheckedFile, check_file, checked_characters
from crnn.synth.face_glyphs import shipped_folder

__all__ = ["cache_folder", "scan_files"]

_FEW_FILES = 24  # are checked here: starting a process takes longer than checking that many
_FILES_PER_PROCESS = 200


def scan_files(
    paths: Sequence[Path], characters: str, *, workers: int | None = None, quiet: bool = False
) -> list[CheckedFile]:
    """What each of some font files can write, in their order.

    Args:
        paths: Font files.
        characters: What to look for.
        workers: Processes. Default: as many as there are cores. 0: everything in this process.
        quiet: No progress bar.
    """
    wanted = checked_characters(characters)
    keys = [_key(path) for path in paths]
    cache = _Cache(wanted)
    found: dict[str, CheckedFile] = {key: checked for key in keys if (checked := cache.get(key)) is not None}
    todo = [(key, path) for key, path in zip(keys, paths, strict=True) if key not in found]
    if todo:
        with counting_bar("checking fonts", len(todo), enabled=not quiet) as advance:
            checked_now = _check([path for _, path in todo], wanted, workers, advance)
        fresh = {key: checked for (key, _), checked in zip(todo, checked_now, strict=True)}
        found |= fresh
        cache.add({key: checked for key, checked in fresh.items() if checked.problems[:1] != _CRASHED[:1]})
    return [found[key] for key in keys]


def cache_folder() -> Path:
    """The user's folder for things that can be made again."""
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        root = os.path.expanduser("~/Library/Caches")  # noqa: PTH111 - leaves "~" where there is no home, no exception
    else:
        root = os.environ.get("XDG_CACHE_HOME")
    return Path(root or os.path.expanduser("~/.cache")) / "crnn"  # noqa: PTH111


# --- checking ---------------------------------------------------------------------------------------------------------

_CRASHED = (("crashed", "the process that drew it died"),)


def _check(
    paths: list[Path], characters: str, workers: int | None, advance: Callable[[int], None]
) -> list[CheckedFile]:
    ours = shipped_folder()
    if workers == 0 or (len(paths) <= _FEW_FILES and all(ours in path.parents for path in paths)):
        checked = []
        for path in paths:
            checked.append(check_file(path, characters))
            advance(1)
        return checked
    parts = [paths[start : start + _FILES_PER_PROCESS] for start in range(0, len(paths), _FILES_PER_PROCESS)]
    with ThreadPoolExecutor(workers or usable_cores()) as pool:
        results = pool.map(lambda part: _check_in_process(part, characters, advance), parts)
        return [checked for part in results for checked in part]


def _check_in_process(paths: list[Path], characters: str, advance: Callable[[int], None]) -> list[CheckedFile]:
    """``check_file`` of each, in a process of its own; another one after each file that ends it."""
    checked: list[CheckedFile] = []
    while len(checked) < len(paths):
        request = {"characters": characters, "compare": True, "files": [str(path) for path in paths[len(checked) :]]}
        # One thread each: there are as many processes as cores already.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        command = [sys.executable, "-m", "crnn.synth.face_check"]
        # A file for stderr: FreeType's and fontTools' complaints are not for the user, and a full pipe would block.
        with (
            tempfile.TemporaryFile() as complaints,
            subprocess.Popen(  # noqa: S603 - this interpreter, this package
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True, env=environment
            ) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError), process.stdin:
                json.dump(request, process.stdin)
            for line in process.stdout:
                if not line.endswith("\n"):
                    break
                checked.append(CheckedFile.from_json(json.loads(line)))
                advance(1)
        if len(checked) < len(paths):
            checked.append(CheckedFile(problems=_CRASHED))
            advance(1)
    return checked


# --- remembering ------------------------------------------------------------------------------------------------------


def _key(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return f"{path}|missing"
    return f"{path}|{stat.st_size}|{stat.st_mtime_ns}"


class _Cache:
    """What was found in files of given names, sizes and times; one file for each set of characters."""

    def __init__(self, characters: str) -> None:
        code = hashlib.sha256(f"{CHECK_VERSION} {characters}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self._path = cache_folder() / f"faces-{code}.json"
        self._known = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}  # none yet, not readable, or damaged: everything is checked again
        return known if isinstance(known, dict) else {}

    def get(self, key: str) -> CheckedFile | None:
        try:
            return CheckedFile.from_json(self._known[key])
        except (KeyError, TypeError, ValueError):
            return None

    def add(self, fresh: dict[str, CheckedFile]) -> None:
        """Remember what was found, beside what other processes remembered in between."""
        known = self._read() | {key: checked.as_json() for key, checked in fresh.items()}
        # A folder that cannot be written costs time, nothing else.
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.stem}-", suffix=".json")
            try:
                with os.fdopen(number, "w", encoding="utf-8") as file:
                    json.dump(known, file, ensure_ascii=True, separators=(",", ":"))
                os.replace(name, self._path)  # noqa: PTH105 - names from mkstemp
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name)  # noqa: PTH108
                raise
