"""Reading with a lexicon: of its words the one that the network finds likeliest, exactly.

``decode_lexicon`` gives the words of the highest CTC probability among all words of the lexicon, whatever its size.
Scores are those of ``crnn.decoding.ctc.sequence_log_probs``; words that are equally likely rank as in the lexicon.

Shape letters: N batch, T time steps, V classes with the blank. All logarithms are natural.

References:
    Shi, Bai and Yao 2015, arXiv 1507.05717, section 2.3.2 (lexicon-based transcription).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crnn.decoding.ctc import greedy, sequence_log_probs
from crnn.decoding.lexicon import Lexicon
from crnn.decoding.log_probs import check_log_probs
from crnn.decoding.trie_search import search_tries
from crnn.errors import ConfigError, DataError

__all__ = ["LexiconMatch", "decode_lexicon"]

_Floats = npt.NDArray[np.floating[Any]]
_Doubles = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.intp]

_FEW_WORDS = 64  # so many are scored one by one in less time than a search takes
_BATCH = 128  # pictures that are searched together
_TOTAL_ERROR = 0.01


@dataclass(frozen=True, slots=True)
class LexiconMatch:
    """A word that a picture may show.

    Attributes:
        index: Index of the word in the lexicon; ``None``: not a word of it, but the free reading.
        ids: Class ids.
        score: Log-probability of the text, as everywhere (``sequence_log_probs``).
        posterior: Probability of the word if the picture shows one of the lexicon's words, in [0, 1]. ``None`` for the
            free reading, and where it is not asked for.
    """

    index: int | None
    ids: tuple[int, ...]
    score: float
    posterior: float | None


def decode_lexicon(
    log_probs: _Floats,
    lexicon: Lexicon | Sequence[Lexicon],
    n_best: int = 1,
    margin: float | None = None,
    *,
    posterior: bool = False,
) -> list[list[LexiconMatch]]:
    """The likeliest words of a lexicon, exactly.

    Args:
        log_probs: ``(N, T, V)``, normalised.
        lexicon: One for all pictures, or N, one for each.
        n_best: Words to return, at least 1.
        margin: Nats, 0 or more. The free reading is returned, before the words, where its score exceeds that of the
            best word by more than this, and where no word is possible. Default: never.
        posterior: Compute posteriors. They are at most 1 % (of themselves) too small where the lexicon is large, as the
            sum over all its words is bounded and not computed to the last word. That takes some ten times as long as
            to find the best word.

    Returns:
        For each picture up to ``n_best`` matches, the likeliest first, of equal scores the first of the lexicon. There
        are fewer where words have probability 0: those that need more than T time steps, and all that meet a step in
        which log-probabilities are -inf.

    Raises:
        DataError: ``log_probs`` are not what ``check_log_probs`` expects, there are not N lexicons, or one is for
            another number of classes.
        ConfigError: A number is out of range.
    """
    lexicons, which = _checked(log_probs, lexicon, n_best)
    if margin is not None and not margin >= 0.0:
        raise ConfigError(f"margin is {margin}; expected nats, 0 or more")
    results: list[list[LexiconMatch]] = []
    for start in range(0, len(log_probs), _BATCH):
        some, of_some = log_probs[start : start + _BATCH], which[start : start + _BATCH]
        results += _search(some, lexicons, of_some, n_best, posterior)
    if margin is None:
        return results
    return [
        [free, *matches][:n_best] if not matches or free.score > matches[0].score + margin else matches
        for free, matches in zip(_free_readings(log_probs), results, strict=True)
    ]


def _checked(log_probs: _Floats, lexicon: Lexicon | Sequence[Lexicon], n_best: int) -> tuple[list[Lexicon], _Indices]:
    """The different lexicons, and which of them each picture has."""
    if n_best < 1:
        raise ConfigError(f"n_best is {n_best}; expected 1 or more")
    check_log_probs(log_probs)
    num_samples, _, num_classes = log_probs.shape
    given = [lexicon] * num_samples if isinstance(lexicon, Lexicon) else list(lexicon)
    if len(given) != num_samples:
        raise DataError(
            f"there are {len(given)} lexicons for {num_samples} samples of log_probs; expected one for each"
        )
    number: dict[int, int] = {}
    which = np.array([number.setdefault(id(one), len(number)) for one in given], dtype=np.intp)
    lexicons = list({id(one): one for one in given}.values())
    for one in lexicons:
        if one.charset.num_classes != num_classes:
            raise DataError(
                f"log_probs have shape {log_probs.shape}, so {num_classes} classes, and a lexicon has "
                f"{one.charset.num_classes}; expected one made with the charset of the network"
            )
    return lexicons, which


def _free_readings(log_probs: _Floats) -> list[LexiconMatch]:
    ids = greedy(log_probs)
    scores = sequence_log_probs(log_probs, ids).tolist()
    return [LexiconMatch(None, tuple(text), score, None) for text, score in zip(ids, scores, strict=True)]


def _search(
    log_probs: _Floats, lexicons: Sequence[Lexicon], which: _Indices, n_best: int, posterior: bool
) -> list[list[LexiconMatch]]:
    sizes = np.array([len(one) for one in lexicons], dtype=np.intp)[which]
    if sizes.max(initial=0) <= _FEW_WORDS:
        rows = np.repeat(np.arange(len(which)), sizes)
        indices = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return _matches(log_probs, lexicons, which, rows, indices, n_best, None if posterior else _unknown(log_probs))
    used, trie_of = np.unique(which, return_inverse=True)
    tries = [lexicons[number].trie for number in used.tolist()]
    found = search_tries(log_probs, tries, trie_of, n_best, _TOTAL_ERROR if posterior else None)
    return _matches(log_probs, lexicons, which, found.rows, found.words, n_best, found.log_total)


def _matches(
    log_probs: _Floats,
    lexicons: Sequence[Lexicon],
    which: _Indices,
    rows: _Indices,
    indices: _Indices,
    n_best: int,
    log_total: _Doubles | None,
) -> list[list[LexiconMatch]]:
    """Words of pictures with their scores, the ``n_best`` likeliest of each picture; rows ascend.

    ``log_total`` is what all words of a picture have together, NaN where no posteriors are asked for. Default: the sum
    over these.
    """
    texts = [lexicons[number].ids(index) for number, index in zip(which[rows].tolist(), indices.tolist(), strict=True)]
    scores = sequence_log_probs(log_probs, texts, rows)
    if log_total is None:
        log_total = np.full(len(log_probs), -np.inf)
        np.logaddexp.at(log_total, rows, scores)
    order = np.lexsort((indices, -scores, rows))
    sorted_rows = rows[order]
    kept = order[(np.arange(len(order)) - np.searchsorted(sorted_rows, sorted_rows) < n_best)]
    kept = kept[scores[kept] > -np.inf]
    found: list[list[LexiconMatch]] = [[] for _ in range(len(log_probs))]
    shares = np.exp(np.minimum(scores[kept] - log_total[rows[kept]], 0.0)).tolist()
    for at, share in zip(kept.tolist(), shares, strict=True):
        n = int(rows[at])
        posterior = None if math.isnan(share) else share
        found[n].append(LexiconMatch(int(indices[at]), texts[at], float(scores[at]), posterior))
    return found


def _unknown(log_probs: _Floats) -> _Doubles:
    return np.full(len(log_probs), np.nan)
