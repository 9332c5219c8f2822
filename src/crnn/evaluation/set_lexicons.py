"""The lexicons with which sets are evaluated: 50 or 1,000 words of each sample, all labels of the set, or a file.

Reference:
    Wang, Babenko and Belongie 2011, "End-to-end scene text recognition" (SVT, 50 words a picture); Mishra, Alahari and
    Jawahar 2012, "Scene text recognition using higher order language priors" (IIIT5K, 50 and 1,000 words a picture);
    Shi, Bai and Yao 2015, arXiv 1507.05717, section 3.2 (the columns of the paper's table 2).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crnn.charset import Charset, LabelRules
from crnn.data.full_lexicon import full_lexicon
from crnn.data.source import SampleStore
from crnn.decoding.decoder import lexicon_rules
from crnn.decoding.lexicon import Lexicon
from crnn.decoding.lexicon_search import LexiconMatch, decode_lexicon
from crnn.errors import ConfigError, DataError

__all__ = ["SetLexicon", "check_lexicon", "lexicon_name", "open_lexicon"]

_PER_SAMPLE = ("50", "1k")
_REMEMBERED = 1024  # lexicons of samples; in SVT the words of one scene share theirs

_Floats = npt.NDArray[np.floating[Any]]


def check_lexicon(spec: str) -> None:
    """Refuse a lexicon that cannot be one, before anything is read.

    Args:
        spec: ``50``, ``1k``, ``full``, or a file.

    Raises:
        ConfigError: It is none of the names, and no file.
    """
    if spec not in (*_PER_SAMPLE, "full") and not Path(spec).is_file():
        raise ConfigError(
            f"lexicon {spec!r} is neither 50, 1k or full nor a file; expected one of these, or a file with one word a "
            "line"
        )


def lexicon_name(spec: str) -> str:
    """What tables call a lexicon: its name, or that of its file."""
    return spec if spec in (*_PER_SAMPLE, "full") else Path(spec).name


class SetLexicon:
    """A lexicon for the samples of one set.

    Args:
        name: As tables show it.
        words_of: Gives the words of the sample at a place in the set: one lexicon for all, one of its own, or ``None``.
        shared: The one lexicon for all, where it is.
        margin: As for ``decode_lexicon``.
    """

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
        """The best word of each sample.

        Args:
            log_probs: ``(N, T, V)``.
            indices: N places in the set.
            posterior: Also how likely it is among the words, which takes longer with large lexicons.

        Returns:
            For each sample a list of one match, an empty one where no word can be written in T steps, or ``None`` where
            the sample has no lexicon.
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
    """The lexicon that a user named, for one set.

    Args:
        spec: ``50`` or ``1k``: the smaller or larger lexicon that is kept with each sample; ``full``: the labels of the
            set; or a file.
        store: The set.
        charset: Of the network.
        rules: Its label rules.
        margin: As for ``decode_lexicon``.

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
