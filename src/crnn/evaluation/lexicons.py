"""Lexicons of an evaluation: 50 or 1,000 words per sample, all labels of the set, or a file.

Reference: Wang, Babenko and Belongie 2011, "End-to-end scene text recognition" (SVT, 50 words an image); Mishra,
Alahari and Jawahar 2012, "Scene text recognition using higher order language priors" (IIIT5K, 50 and 1,000 words);
Shi, Bai and Yao 2015, arXiv 1507.05717, section 3.2 (the columns of table 2).
"""

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
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

_PER_SAMPLE = ("50", "1k")
_REMEMBERED = 1024  # lexicons of samples; in SVT the words of one scene share theirs


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
    words_from: Literal["labels", "kept", "both"] = "both",
    progress: Callable[[int], None] = lambda _: None,
) -> FullLexicon:
    """Build the full lexicon of sets from their labels, the lexicons kept with samples, or both.

    Memory grows with the number of different words, not of samples. ``progress`` gets the number of samples read since
    the last call.

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
                for spec in _PER_SAMPLE if words_from != "labels" else ():
                    for word in store.lexicon(index, large=spec == "1k") or ():
                        num_kept += 1
                        if word not in raw_words:
                            raw_words.add(word)
                            take(word)
            except DataError:
                left_out["unreadable_record"] += 1
            progress(1)
    if not words:
        found = ", ".join(f"{reason}: {count}" for reason, count in left_out.items()) or "nothing there"
        raise DataError(
            f"{', '.join(paths)}: has no word for a lexicon ({found}) in the characters {charset.characters!r}; "
            "expected some. Name the characters of the labels (--charset), or take their words (--from labels)"
        )
    return FullLexicon(words=tuple(sorted(words)), labels=num_labels, kept=num_kept, left_out=dict(left_out))


def write_lexicon(path: str | os.PathLike[str], words: Sequence[str]) -> None:
    """Write one word a line, in UTF-8, atomically; an existing file is a ``DataError``."""
    if os.path.lexists(path):
        raise DataError(f"{os.fspath(path)}: exists already; expected a new file. Choose another, or remove it")
    atomic_write(Path(path), "".join(f"{word}\n" for word in words).encode(), DataError)


def lexicon_name(spec: str) -> str:
    """Return the name of a lexicon in tables: ``50``, ``1k``, ``full``, or the file's name, which must be there."""
    if spec in (*_PER_SAMPLE, "full"):
        return spec
    if not Path(spec).is_file():
        raise ConfigError(f"lexicon {spec!r} is neither 50, 1k or full nor a file with one word a line")
    return Path(spec).name


@dataclass(frozen=True, slots=True)
class SetLexicon:
    """Lexicon of the samples of one set."""

    name: str
    size: int | None  # number of words, if all samples share it
    of: Callable[[int], Lexicon | None]  # by the index of a sample
    margin: float | None  # ``DecodingOptions.lexicon_margin``

    def matches(
        self, log_probs: npt.NDArray[np.floating[Any]], indices: Sequence[int], *, posterior: bool = False
    ) -> list[list[LexiconMatch] | None]:
        """Return the best word of each sample from ``log_probs``, ``(N, T, V)``, and N indices in the set.

        Each has a list of one match, empty if no word can be written in T steps, or ``None`` without a lexicon.
        """
        lexicons = {n: lexicon for n, index in enumerate(indices) if (lexicon := self.of(index)) is not None}
        if not lexicons:
            return [None] * len(indices)
        matches = decode_lexicon(log_probs[list(lexicons)], [*lexicons.values()], 1, self.margin, posterior=posterior)
        found = dict(zip(lexicons, matches, strict=True))
        return [found.get(n) for n in range(len(indices))]


def open_lexicon(
    spec: str, store: SampleStore, charset: Charset, rules: LabelRules, margin: float | None = None
) -> SetLexicon:
    """Open a lexicon for one set, under the charset and label rules of the network; ``DataError`` without any word.

    ``spec`` is ``50`` or ``1k`` (the smaller or larger one kept with each sample), ``full`` (all labels) or a file.
    """
    rules = lexicon_rules(rules)
    name = lexicon_name(spec)
    if spec in _PER_SAMPLE:

        @functools.lru_cache(maxsize=_REMEMBERED)
        def built(words: tuple[str, ...]) -> Lexicon | None:
            try:
                return Lexicon.from_words(words, charset, rules=rules)
            except DataError:  # none of them can be written; the sample is counted among those without a lexicon
                return None

        return SetLexicon(name, None, lambda index: built(store.lexicon(index, large=spec == "1k") or ()), margin)
    if spec == "full":
        words = full_lexicon([store], charset, rules, words_from="labels").words
        lexicon = Lexicon.from_words(words, charset, rules=rules)
    else:
        lexicon = Lexicon.load(spec, charset, rules=rules)
    return SetLexicon(name, len(lexicon), lambda _: lexicon, margin)
