"""Words as blocks of lines: from any iterable, or from a file, some megabytes at a time."""

from __future__ import annotations

import codecs
import gzip
import itertools
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from crnn.errors import DataError

__all__ = ["lines_of_file", "lines_of_words"]

_BLOCK_BYTES = 1 << 22
_BLOCK_WORDS = 1 << 18


def lines_of_words(words: Iterable[str]) -> Iterator[str]:
    """Blocks of lines, each line a word and a line feed.

    A line feed in a word becomes other white space, so that it stays one word.
    """
    rest = iter(words)
    while some := list(itertools.islice(rest, _BLOCK_WORDS)):
        text = "\n".join(some)
        if text.count("\n") >= len(some):
            text = "\n".join(word.replace("\n", "\x1e") for word in some)
        yield text + "\n"


def lines_of_file(name: str, path: Path) -> Iterator[str]:
    """Blocks of whole lines of a UTF-8 file, plain or compressed; what follows a tab is left out.

    Args:
        name: Of the file, for messages.
        path: The file.

    Raises:
        DataError: It cannot be read, or is not UTF-8 text in lines.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    rest = ""
    try:
        with path.open("rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            with gzip.open(file) if packed else file as stream:
                while data := stream.read(_BLOCK_BYTES):
                    whole, feed, rest = (rest + decoder.decode(data)).rpartition("\n")
                    if "\0" in whole or len(rest) > _BLOCK_BYTES:
                        raise _no_lines(name)
                    if feed:
                        yield _words_of(whole)
        rest += decoder.decode(b"", final=True)
    except (EOFError, zlib.error):
        raise DataError(
            f"{name} is damaged: its compressed data break off. Expected a whole file; copy it again"
        ) from None
    except UnicodeDecodeError:
        raise _no_lines(name) from None
    except OSError as error:
        raise DataError(f"{name}: {error.strerror or error}. Expected a text file with one word per line") from None
    if "\0" in rest:
        raise _no_lines(name)
    if rest:
        yield _words_of(rest)


def _words_of(lines: str) -> str:
    text = f"{lines}\n".replace("\r\n", "\n")
    return re.sub(r"\t[^\n]*", "", text) if "\t" in text else text


def _no_lines(name: str) -> DataError:
    return DataError(f"{name} is not UTF-8 text in lines. Expected one word per line; save it as UTF-8")
