"""Counts of character n-grams in words: what a character model is made of (``crnn.decoding.language_model``).

A word is its characters between a mark for its beginning and one for its end. Counts are held as a trie, n-gram by
n-gram in order of length, in as few bytes as they need.

Shape letters: V classes with the blank (the last one, V - 1), E n-grams. Numpy only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from crnn.charset import Charset, LabelRules, LabelSkip
from crnn.errors import ConfigError, DataError
from crnn.reader_config import CharsetConfig

__all__ = ["DEFAULT_ORDER", "MAX_ORDER", "NgramCounts", "count_ngrams"]

_Doubles = npt.NDArray[np.float64]

MAX_ORDER = 12

DEFAULT_ORDER = 6
"""Where nothing else is said. With the shipped words 7 reads no better, and 5 worse by one to three in 100 crops."""


@dataclass(frozen=True, slots=True)
class NgramCounts:
    """The counts of a model, as it is stored: a trie in order of length, then of parent, then of symbol.

    Symbols are class ids, V - 1 for the end and V for the beginning of a word. Nodes are numbered from 1; node 0 is the
    empty context.

    Attributes:
        characters: Of the charset.
        order: Longest n-gram in it, with the marks.
        symbols: ``(E,)`` unsigned, last symbol of each n-gram.
        counts: ``(E,)`` float32, how often it was seen, at least 0.
        children: ``(E + 1,)`` unsigned, n-grams that are one symbol longer, for node 0 and all n-grams.
        num_words: Words that were counted.
    """

    characters: str
    order: int
    symbols: npt.NDArray[np.unsignedinteger[Any]]
    counts: npt.NDArray[np.float32]
    children: npt.NDArray[np.unsignedinteger[Any]]
    num_words: int


def count_ngrams(
    words: Iterable[str | tuple[str, float]],
    charset: Charset,
    order: int = DEFAULT_ORDER,
    rules: LabelRules | None = None,
) -> tuple[NgramCounts, dict[str, int]]:
    """Count the n-grams of words.

    Args:
        words: Words, or pairs of a word and its weight, which counts as so many occurrences (any number above 0). The
            same word may come again.
        charset: What they are written in.
        order: Longest n-gram, the marks of beginning and end included; 1 to ``MAX_ORDER``.
        rules: How a word becomes a text of the charset. Default: as labels do that are trained on
            (``CharsetConfig.rules``), of any length.

    Returns:
        The counts, and how many words gave none, by reason (``LabelSkip``).

    Raises:
        ConfigError: The order is out of range.
        CharsetError: The rules say ``error`` for unknown characters, and there is one.
        DataError: No word is left, or a weight is not a number above 0.
    """
    if not 1 <= order <= MAX_ORDER:
        raise ConfigError(f"order is {order}; expected 1 to {MAX_ORDER}")
    if rules is None:
        rules = replace(CharsetConfig(characters=charset.characters).rules(), max_length=None, truncate=False)
    weights, num_words, skipped = _weighted(words, charset, rules)
    if not weights:
        found = ", ".join(f"{reason}: {count}" for reason, count in skipped.items())
        raise DataError(f"there is no word to learn from ({found or 'none was given'}); expected at least one")
    levels = _count_levels(list(weights), np.fromiter(weights.values(), dtype=np.float64), charset, order)
    symbols, counts, children = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    kept = NgramCounts(charset.characters, order, _small(symbols[1:]), counts[1:], _small(children), num_words)
    return kept, skipped


def _weighted(
    words: Iterable[str | tuple[str, float]], charset: Charset, rules: LabelRules
) -> tuple[dict[str, float], int, dict[str, int]]:
    """Weights of the texts that words become, how many words those were, and how many became none."""
    weights: dict[str, float] = {}
    skipped: Counter[str] = Counter()
    num_words = 0
    for item in words:
        word, weight = (item, 1.0) if isinstance(item, str) else item
        if not 0.0 < weight < np.inf:
            raise DataError(f"word {word!r} has the weight {weight}; expected a number above 0")
        try:
            text = rules.apply(word, charset)
        except LabelSkip as skip:
            skipped[skip.reason] += 1
            continue
        weights[text] = weights.get(text, 0.0) + weight
        num_words += 1
    return weights, num_words, dict(skipped)


def _count_levels(
    texts: Sequence[str], weights: _Doubles, charset: Charset, order: int
) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]:
    """Symbols, counts and number of children of the nodes, length by length; the first is node 0 alone."""
    base = charset.num_classes + 1
    end, begin = charset.blank, charset.num_classes
    lengths = np.fromiter(map(len, texts), dtype=np.intp, count=len(texts)) + 2
    ids = charset.encode("".join(texts))
    flat = np.full(int(lengths.sum()), end, dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    inner = np.ones(flat.size, dtype=np.bool_)
    inner[starts] = inner[starts + lengths - 1] = False
    flat[starts], flat[inner] = begin, ids
    places = np.arange(flat.size) - np.repeat(starts, lengths)  # in the word
    weight = np.repeat(weights, lengths)

    levels = [(np.zeros(1, np.int64), np.zeros(1, np.float32), np.zeros(1, np.int64))]
    node = np.zeros(flat.size, dtype=np.int64)  # of the n-gram that ends there, counted within its length
    for length in range(1, order + 1):
        # An n-gram is one that is a symbol shorter, and ends one place before, with the symbol that stands here.
        here = np.flatnonzero(places >= length - 1)
        parents = node[here - 1] if length > 1 else np.zeros(here.size, dtype=np.int64)
        keys, which = np.unique(parents * base + flat[here], return_inverse=True)
        counts = np.bincount(which, weight[here], minlength=keys.size).astype(np.float32)
        symbols = keys % base
        if length == 1:
            counts[symbols == begin] = 0.0  # nobody predicts the beginning of a word
        levels[-1][2][:] = np.bincount(keys // base, minlength=levels[-1][0].size)
        levels.append((symbols, counts, np.zeros(keys.size, np.int64)))
        node[here] = which
    return levels


def _small(numbers: npt.NDArray[Any]) -> npt.NDArray[np.unsignedinteger[Any]]:
    """The same whole numbers in as few bytes as hold the largest."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))
