"""MATLAB files (version 5 to 7), read by scipy in a child process.

A damaged file can crash scipy with a segmentation fault, or take all memory; in a child with a limit that becomes a
``DataError``. The child converts the content and sends it in pieces.
"""

import contextlib
import itertools
import multiprocessing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from crnn.errors import DataError, MissingExtraError, printable

_PIECE = 1000  # items per message
_MAX_BYTES = 4 << 30  # memory of the child: twice what the largest file, that of SynthText, takes

Variables = Mapping[str, Any]
"""Arrays by name, as from ``scipy.io.loadmat``; ``None`` for one not asked for."""

_T = TypeVar("_T")

_unsent: Iterator[Any] = iter(())  # in the child


def read_mat(path: Path, names: Sequence[str], convert: Callable[[Path, Variables], Iterable[_T]]) -> Iterator[_T]:
    """Convert variables of a MATLAB file in a child process, and yield the items in order.

    The child imports the main module: in a script, call this under ``if __name__ == "__main__"``. ``convert`` is a
    module's function, called in the child with ``path`` and the variables; it may raise ``DataError``.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
        try:
            child.submit(_load, path, names, convert).result()
            while piece := child.submit(_next_piece).result():
                yield from piece
        except BrokenProcessPool:
            raise DataError(
                f"{path}: ended the process that reads it: it is damaged, or there is too little memory"
            ) from None


def text_rows(value: Any) -> list[str] | None:
    """Return rows of a character matrix, if it is one; an empty one has none. Undecodable characters are U+FFFD."""
    if not isinstance(value, np.ndarray) or (value.dtype.kind != "U" and (value.size or value.dtype.kind == "O")):
        return None
    return [str(row) for row in value.ravel()]


def _load(path: Path, names: Sequence[str], convert: Callable[[Path, Variables], Iterable[Any]]) -> None:
    global _unsent
    try:
        import scipy.io
    except ImportError:
        raise MissingExtraError("scipy", "data", "Reading MATLAB files") from None
    warnings.simplefilter("ignore")
    with contextlib.suppress(ImportError, ValueError):  # Windows has none; a lower one is there already
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (_MAX_BYTES, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    try:
        variables = dict.fromkeys(name for name, _, _ in scipy.io.whosmat(path, appendmat=False))
        variables |= {
            name: value
            for name, value in scipy.io.loadmat(path, appendmat=False, variable_names=names).items()
            if name in variables
        }
    except NotImplementedError:
        raise DataError(
            f"{path}: is a MATLAB file of version 7.3 (HDF5); expected 5 to 7. Save it with save(..., '-v7')"
        ) from None
    except Exception as error:  # scipy raises nearly anything
        cause = printable(str(error)) or type(error).__name__
        raise DataError(f"{path}: cannot be read as a MATLAB file of version 5 to 7: {cause}. Check the file") from None
    _unsent = iter(convert(path, variables))


def _next_piece() -> list[Any]:
    return list(itertools.islice(_unsent, _PIECE))
