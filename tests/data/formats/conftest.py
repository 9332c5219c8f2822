"""Helpers of all tests of readers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crnn.data.formats.records import Reader, Record


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    """A function that writes a file, and its folder, and gives its path."""

    def write(path: Path, content: str | bytes = b"") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture(scope="session")
def samples() -> Callable[[Reader], list[tuple[str, str]]]:
    """A function that gives path and label of each record, key and !reason of each skipped sample."""

    def samples(reader: Reader) -> list[tuple[str, str]]:
        found = [(s.path, s.label) if isinstance(s, Record) else (s.key, f"!{s.reason}") for s in reader]
        assert len(found) == len(reader)
        return found

    return samples


@pytest.fixture(scope="session")
def cells() -> Callable[..., np.ndarray]:
    """A function that makes a cell array of MATLAB."""

    def cells(*values: object) -> np.ndarray:
        array = np.empty((1, len(values)), object)
        for i, value in enumerate(values):
            array[0, i] = value
        return array

    return cells
