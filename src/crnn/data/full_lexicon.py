"""A set's full lexicon: every word that one of its samples may be, each once.

The benchmarks with a lexicon give each picture some 50 words of its own. The hardest case puts those of all pictures
together; it is no file of any set. Sets without lexicons of their own have the words of their labels.

Reference:
    Shi, Bai and Yao 2015, arXiv 1507.05717, section 3.1 (IC03): the full lexicon combines those of all pictures.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crnn.charset import Charset, LabelRules, LabelSkip
from crnn.data.source import SampleStore
from crnn.errors import DataError
from crnn.whole_file import write_whole

__all__ = ["FullLexicon", "WordSource", "full_lexicon", "write_lexicon"]

WordSource = Literal["labels", "kept", "both"]
"""Where words are taken from: the labels, the lexicons kept with samples, or both.

The published lexicons contain the labels of their pictures, so that with them ``kept`` and ``both`` are the same.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FullLexicon:
    """The words of one or more sets.

    Attributes:
        words: Each once, as the label rules leave them, sorted by code points.
        labels: Labels that were looked at.
        kept: Words of kept lexicons that were looked at.
        left_out: Labels and words that gave none, by reason: those of ``LabelSkip``, and ``unreadable_record``.
    """

    words: tuple[str, ...]
    labels: int
    kept: int
    left_out: dict[str, int]


def full_lexicon(
    stores: Iterable[SampleStore],
    charset: Charset,
    rules: LabelRules,
    *,
    words_from: WordSource = "both",
    progress: Callable[[int], None] = lambda _: None,
) -> FullLexicon:
    """The full lexicon of sets.

    What is in memory grows with the number of different words, and not with that of samples.

    Args:
        stores: The sets.
        charset: What words are written in.
        rules: How labels, and words of lexicons, become words.
        words_from: Where they are taken from.
        progress: Called with the number of samples looked at since it was called before.

    Raises:
        CharsetError: The rules say ``error`` for unknown characters, and there is one.
        DataError: There is no word at all; the message says why.
    """
    words: set[str] = set()
    raw_words: set[str] = set()  # each lexicon has mostly words that others have, too; rules are applied once
    left_out: Counter[str] = Counter()
    num_labels = num_kept = 0
    paths = []

    def take(text: str) -> None:
        try:
            words.add(rules.apply(text, charset))
        except LabelSkip as reason:
            left_out[reason.reason] += 1

    for store in stores:
        paths.append(store.path)
        for index in range(len(store)):
            try:
                if words_from != "kept":
                    num_labels += 1
                    take(store.label(index))
                if words_from != "labels":
                    for word in _kept(store, index):
                        num_kept += 1
                        if word not in raw_words:
                            raw_words.add(word)
                            take(word)
            except DataError:
                left_out["unreadable_record"] += 1
            progress(1)
    if not words:
        raise DataError(f"{', '.join(paths)}: {_why_none(words_from, num_kept, left_out, charset)}")
    return FullLexicon(words=tuple(sorted(words)), labels=num_labels, kept=num_kept, left_out=dict(left_out))


def write_lexicon(path: str | os.PathLike[str], words: Sequence[str]) -> None:
    """Write one word a line, in UTF-8; the file appears when it is whole.

    Raises:
        DataError: There is such a file already, or it cannot be written.
    """
    place = Path(path)
    if os.path.lexists(place):
        raise DataError(f"{os.fspath(path)}: exists already; expected a new file. Choose another, or remove it")
    try:
        write_whole(place, "".join(f"{word}\n" for word in words).encode())
    except OSError as error:
        raise DataError(
            f"{os.fspath(path)}: cannot be written: {error.strerror}; expected a file in a folder that exists"
        ) from error


def _kept(store: SampleStore, index: int) -> Iterator[str]:
    yield from store.lexicon(index) or ()
    large_lexicon = getattr(store, "large_lexicon", None)  # LMDB stores alone have a second one
    if large_lexicon is not None:
        yield from large_lexicon(index) or ()


def _why_none(words_from: WordSource, num_kept: int, left_out: Counter[str], charset: Charset) -> str:
    if words_from == "kept" and not num_kept and not left_out:
        return (
            "no lexicons are kept with the samples; expected an LMDB store that has them. Take the words of the labels "
            "(--from labels)"
        )
    found = ", ".join(f"{reason}: {count}" for reason, count in left_out.items())
    return (
        f"has no word for a lexicon ({found or 'nothing there'}) in the characters {charset.characters!r}; expected "
        "some. Name the characters of the labels (--charset)"
    )
