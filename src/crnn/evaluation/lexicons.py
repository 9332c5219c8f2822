"""Lexicons of an evaluation: 50 or 1,000 words per sample, all labels of the set, or a file.

Reference: Wang, Babenko and Belongie 2011, "End-to-end scene text recognition" (SVT, 50 words an image); Mishra,
Alahari and Jawahar 2012, "Scene text recognition using higher order language priors" (IIIT5K, 50 and 1,000 words);
Shi, Bai and Yao 2015, arXiv 1507.05717, section 3.2 (the columns of table 2).
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crnn.charset import Charset, LabelRules, LabelSkip
from crnn.data.source import SampleStore
from crnn.decoding.decoder import lexicon_rules
from crnn.decoding.lexicon import Lexicon
from crnn.decoding.lexicon_search import LexiconMatch, decode_lexicon
from crnn.errors import ConfigError, DataError
from crnn.files import atomic_write

WordSource = Literal["labels", "kept", "both"]
"""Source of words: the labels, the lexicons kept with samples, or both.

Published lexicons contain the labels, so that ``kept`` and ``both`` are the same for them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FullLexicon:
    """Words of one or more sets, unique, after the label rules, sorted by code points.

    ``labels`` and ``kept`` count the labels and the words of kept lexicons read; ``left_out`` those dropped, by reason:
    those of ``LabelSkip``, and ``unreadable_record``.
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
    """Build the full lexicon of sets; memory grows with the number of different words, not of samples.

    ``progress`` gets the number of samples read since the last call.

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
    """Write one word a line, in UTF-8, atomically.

    Raises:
        DataError: There is such a file already, or it cannot be written.
    """
    place = Path(path)
    if os.path.lexists(place):
        raise DataError(f"{os.fspath(path)}: exists already; expected a new file. Choose another, or remove it")
    atomic_write(place, "".join(f"{word}\n" for word in words).encode(), DataError)


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


_PER_SAMPLE = ("50", "1k")
_REMEMBERED = 1024  # lexicons of samples; in SVT the words of one scene share theirs

_Floats = npt.NDArray[np.floating[Any]]


def check_lexicon(spec: str) -> None:
    """Raise ``ConfigError`` unless ``spec`` is ``50``, ``1k``, ``full`` or a file, before anything is read."""
    if spec not in (*_PER_SAMPLE, "full") and not Path(spec).is_file():
        raise ConfigError(
            f"lexicon {spec!r} is neither 50, 1k or full nor a file; expected one of these, or a file with one word a "
            "line"
        )


def lexicon_name(spec: str) -> str:
    """Return the name of a lexicon in tables: ``50``, ``1k``, ``full``, or the file's name."""
    return spec if spec in (*_PER_SAMPLE, "full") else Path(spec).name


class SetLexicon:
    """Lexicon for the samples of one set: ``words_of`` an index (or ``None``), or ``shared`` by all."""

    def __init__(
        self,
        name: str,
        words_of: Callable[[int], Lexicon | None],
        shared: Lexicon | None = None,
        margin: float | None = None,
    ) -> None:
        self.name = name
        self.shared = shared
        self._words_of = words_of
        self._margin = margin

    def matches(
        self, log_probs: _Floats, indices: Sequence[int], *, posterior: bool = False
    ) -> list[list[LexiconMatch] | None]:
        """Return the best word of each sample from ``log_probs``, ``(N, T, V)``, and N indices in the set.

        Each has a list of one match, empty if no word can be written in T steps, or ``None`` without a lexicon.
        ``posterior`` adds the word's probability among the words, slower with large lexicons.
        """
        lexicons = [self._words_of(index) for index in indices]
        rows = [n for n, lexicon in enumerate(lexicons) if lexicon is not None]
        found: list[list[LexiconMatch] | None] = [None] * len(lexicons)
        if not rows:
            return found
        some = log_probs if len(rows) == len(lexicons) else log_probs[rows]
        own = [lexicon for lexicon in lexicons if lexicon is not None]
        words: Lexicon | list[Lexicon] = own if self.shared is None else self.shared
        matches = decode_lexicon(some, words, 1, self._margin, posterior=posterior)
        for n, match in zip(rows, matches, strict=True):
            found[n] = match
        return found


def open_lexicon(
    spec: str,
    store: SampleStore,
    charset: Charset,
    rules: LabelRules,
    *,
    margin: float | None = None,
) -> SetLexicon:
    """Open a lexicon for one set, under the charset and label rules of the network.

    ``spec`` is ``50`` or ``1k`` (the smaller or larger lexicon kept with each sample), ``full`` (the labels of the set)
    or a file.

    Raises:
        DataError: A file or the labels of a set have no word that the network can write.
    """
    rules = lexicon_rules(rules)
    name = lexicon_name(spec)
    if spec in _PER_SAMPLE:
        kept = store.lexicon if spec == "50" else getattr(store, "large_lexicon", lambda _: None)

        @functools.lru_cache(maxsize=_REMEMBERED)
        def built(words: tuple[str, ...]) -> Lexicon | None:
            try:
                return Lexicon.from_words(words, charset, rules=rules)
            except DataError:  # none of them can be written; the sample is counted among those without a lexicon
                return None

        def words_of(index: int) -> Lexicon | None:
            words = kept(index)
            return built(tuple(words)) if words else None

        return SetLexicon(name, words_of, None, margin)
    if spec == "full":
        words = full_lexicon([store], charset, rules, words_from="labels").words
        lexicon = Lexicon.from_words(words, charset, rules=rules)
    else:
        lexicon = Lexicon.load(spec, charset, rules=rules)
    return SetLexicon(name, lambda _: lexicon, lexicon, margin)
