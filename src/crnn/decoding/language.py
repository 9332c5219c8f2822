"""Languages as character n-grams of case-folded words, stored as a trie with one byte per probability.

Shape letter: E n-grams. Logarithms are natural. References: Witten and Bell 1991, "The zero-frequency
problem", IEEE Transactions on Information Theory 37(4), method C (the smoothing); Chen and Goodman 1999, "An empirical
study of smoothing techniques for language modeling" (its interpolated form).
"""

import functools
import hashlib
import heapq
import importlib.resources
import json
import os
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from crnn.config.section import checked_call
from crnn.errors import ConfigError, DataError
from crnn.files import atomic_write, check_not_foreign
from crnn.reading_order import reorder

_Ints = npt.NDArray[np.int64]
_Doubles = npt.NDArray[np.float64]

# Longest n-gram, with the marks of the word's beginning and end (docs/log/experiments.md, 2026-11-29).
DEFAULT_ORDER, MAX_ORDER = 7, 10

_FORMAT, _FORMAT_VERSION = "crnn-language", "2"
_STEP, _BACKOFF_STEP = 1 / 16, 1 / 32  # of stored logarithms: 16 and 8 nats in a byte
_MAX_CHARACTERS = 1 << 16  # a row of numbers for each context
_MAX_BYTES = 1 << 28  # of a file, which takes some ten times as much when it is used
_LONGEST = 40  # characters up to which the likeliest word of each length is stored

_NUMBERS_ORDER = 8  # longer n-grams of numbers change no reading

_LOCK = threading.Lock()
if hasattr(os, "register_at_fork"):  # so that a fork gets whole tables, and no lock that nobody gives back
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


class Language:
    """Character n-grams of a language, sorted by length, then beginning, then last symbol.

    ``info`` holds ``name``, ``characters`` (of the symbols), ``order``, ``words``, ``best`` (log-probability of the
    likeliest word of 1, 2, ... characters).
    """

    def __init__(
        self,
        symbols: npt.NDArray[Any],  # (E,) unsigned, the last one of each n-gram
        log_probs: npt.NDArray[np.uint8],  # (E,) minus that of this symbol after those before it, in steps of 1/16
        # for each n-gram with longer ones, the empty one first: minus the logarithm of the weight left to the next
        # shorter context, in steps of 1/32
        backoffs: npt.NDArray[np.uint8],
        children: npt.NDArray[Any],  # (E + 1,) unsigned, number of n-grams one symbol longer
        info: dict[str, Any],
    ) -> None:
        self.info = info
        self.name, self.characters = str(info["name"]), str(info["characters"])
        self.order, self.num_words = int(info["order"]), int(info["words"])
        self.best = [float(value) for value in info["best"]]
        self.arrays = {"symbols": symbols, "log_probs": log_probs, "backoffs": backoffs, "children": children}
        self.end, self.begin = len(self.characters), len(self.characters) + 1
        self._base = len(self.characters) + 2
        if self.end > _MAX_CHARACTERS:
            raise DataError(f"has {self.end:,} characters, expected at most {_MAX_CHARACTERS:,}")
        self._levels = self._unfolded(symbols, children.astype(np.int64))
        self._ids = {character: symbol for symbol, character in enumerate(self.characters)}
        self._starts = np.cumsum([0, *(level.size for level in self._levels)])
        self._firsts = np.cumsum(children, dtype=np.int64) - children
        self._backoffs = np.zeros(children.size, dtype=np.uint8)
        self._backoffs[children > 0] = backoffs
        # Rows are added when their contexts are met, 250 bytes each; readers meet some thousands of them.
        self._row_of: dict[tuple[int, int], int] = {}
        self._contexts: list[tuple[int, int]] = []
        self._log_probs = np.empty((0, self.end + 1), dtype=np.float32)
        self._next = np.empty((0, self.end + 1), dtype=np.int32)
        self._rows([(1, self.begin)])

    def __reduce__(self) -> tuple[Any, ...]:  # without what is expanded
        return Language, (*self.arrays.values(), self.info)

    def _unfolded(self, symbols: npt.NDArray[Any], children: _Ints) -> list[_Ints]:
        """Return the n-grams of each length as whole numbers in base S + 2, ascending."""
        levels, done = [np.zeros(1, dtype=np.int64)], 0
        for _ in range(self.order):
            parents = levels[-1]
            number = children[done : done + parents.size]
            if number.min(initial=0) < 0 or number.max(initial=0) > symbols.size or number.sum() > symbols.size:
                break  # before memory is spent; said below
            last = symbols[done + parents.size - 1 :][: number.sum()]  # ``symbols`` lack the empty n-gram
            done += parents.size
            if not last.size:
                break
            levels.append(np.repeat(parents, number) * self._base + last)
        if sum(level.size for level in levels) != children.size:
            raise DataError("the n-grams contradict themselves")
        return levels

    def log_prob(self, rows: npt.NDArray[np.int32], symbols: npt.NDArray[Any] | int) -> _Doubles:
        """Return the log-probability of symbols in the contexts of rows; row 0 is the beginning of a word."""
        found: _Doubles = self._log_probs[rows, symbols].astype(np.float64)
        return found

    def following(self, rows: npt.NDArray[np.int32], symbols: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """Return the rows of the contexts after symbols, in the shape of ``rows``."""
        found: npt.NDArray[np.int32] = self._next[rows, symbols]
        unknown = found < 0
        if unknown.any():
            with _LOCK:
                pairs = np.unique(np.stack([rows[unknown], symbols[unknown]], axis=1), axis=0)
                longer = [self._longer(int(row), int(symbol)) for row, symbol in pairs]
                self._next[pairs[:, 0], pairs[:, 1]] = self._rows(longer)
            found = self._next[rows, symbols]
        return found

    def _node(self, length: int, key: int) -> int:
        """Return the place of an n-gram among all, or -1."""
        if length >= len(self._levels):
            return -1
        level = self._levels[length]
        place = int(np.searchsorted(level, key))
        return int(self._starts[length]) + place if place < level.size and level[place] == key else -1

    def _longer(self, row: int, symbol: int) -> tuple[int, int]:
        """Return length and number of the longest known context that ends in a symbol after a context."""
        length, key = self._contexts[row]
        length, key = length + 1, key * self._base + symbol
        while length > 0:
            node = self._node(length, key)
            if node >= 0 and self.arrays["children"][node]:
                return length, key
            length -= 1
            key %= self._base**length
        return 0, 0

    def _rows(self, contexts: Sequence[tuple[int, int]]) -> list[int]:
        """Return the rows of contexts (length, number), expanding new ones."""
        new = [context for context in dict.fromkeys(contexts) if context not in self._row_of]
        if new:
            log_probs = np.stack([self._expanded(length, key) for length, key in new])
            for context in new:
                self._row_of[context] = len(self._contexts)
                self._contexts.append(context)
            if len(self._contexts) > len(self._log_probs):
                more = max(len(self._contexts), 2 * len(self._log_probs), 1024) - len(self._log_probs)
                blank = np.zeros((more, self.end + 1), dtype=np.float32)
                self._log_probs = np.concatenate([self._log_probs, blank])
                self._next = np.concatenate([self._next, np.full(blank.shape, -1, dtype=np.int32)])
            self._log_probs[len(self._contexts) - len(new) : len(self._contexts)] = log_probs
        return [self._row_of[context] for context in contexts]

    def _expanded(self, length: int, key: int) -> _Doubles:
        """Return log-probabilities of all symbols in a context, backed off from the shortest."""
        row = np.full(self.end + 1, -np.log(self.end + 1.0))
        for size in range(length + 1):
            node = self._node(size, key % self._base**size)
            if node < 0:
                continue
            row -= float(self._backoffs[node]) * _BACKOFF_STEP
            first, count = int(self._firsts[node]), int(self.arrays["children"][node])
            symbols = self.arrays["symbols"][first : first + count]
            predicted = symbols <= self.end
            row[symbols[predicted]] = -_STEP * self.arrays["log_probs"][first : first + count][predicted]
        return row

    def symbol(self, character: str) -> int:
        """Return the symbol of a character in any case, with or without accents; -1 if there is none."""
        for form in (character.casefold(), _without_marks(character.casefold())):
            if form in self._ids:
                return self._ids[form]
        return -1

    def word_log_prob(self, word: str) -> float:
        """Return the log-probability of a word, in its image's order, with its end; -inf for unknown characters."""
        row, total = np.zeros(1, dtype=np.int32), 0.0
        for symbol in [self.symbol(character) for character in word]:
            if symbol < 0:
                return -np.inf
            total += float(self._log_probs[row, symbol][0])
            row = self.following(row, np.array([symbol]))
        return total + float(self._log_probs[row, self.end][0])

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write the language atomically and return the number of bytes."""
        metadata = {"format": _FORMAT, "format_version": _FORMAT_VERSION, "info": json.dumps(self.info)}
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        data = save(arrays, metadata={**metadata, "sha256": _digest(arrays, metadata)})
        if len(data) > _MAX_BYTES:
            raise DataError(
                f"{path}: takes {len(data):,} bytes; expected at most {_MAX_BYTES:,}. Make it of fewer words"
            )
        atomic_write(Path(path), data, error=DataError)
        return len(data)


def shipped_languages() -> list[str]:
    """Return the names of the languages in the package."""
    folder = importlib.resources.files("crnn") / "languages"
    return sorted(item.name.removesuffix(".lm") for item in folder.iterdir() if item.name.endswith(".lm"))


@checked_call
def load_language(name: str | os.PathLike[str]) -> Language:
    """Load a shipped language, such as ``en``, or a file of ``crnn lm``; ``DataError`` for any other file."""
    shown = os.fspath(name)
    path = Path(name)
    if shown in shipped_languages():
        path = _shipped(f"{shown}.lm")
    if not path.is_file():
        raise DataError(
            f"language {shown}: there is no such file; expected one of crnn lm, or {', '.join(shipped_languages())}"
        )
    return _read(path, shown)


@functools.cache
def load_numbers() -> Language:
    """Load the n-grams of numbers, prices, dates, codes and the like in any language, with 0 for each digit."""
    return _read(_shipped("numbers"), "numbers")


def train_numbers(tokens: Iterable[str], least: int = 1) -> Language:
    """Count the n-grams of tokens with digits: in lower case, 0 for each digit, forms that occur ``least`` times."""
    forms = Counter("".join("0" if c.isdecimal() else c for c in token.casefold()) for token in tokens)
    weights = {form: float(count) for form, count in forms.items() if count >= least}
    return _counted(weights, sorted(set("".join(weights))), "numbers", _NUMBERS_ORDER, lambda _: None)


def _shipped(file: str) -> Path:
    return Path(str(importlib.resources.files("crnn") / "languages" / file))


def _read(path: Path, shown: str) -> Language:
    if path.stat().st_size > _MAX_BYTES:
        raise DataError(f"language {shown}: has more than {_MAX_BYTES:,} bytes; expected fewer. Make it of fewer words")
    check_not_foreign(path, f"language {shown}", "a file of 'crnn lm'", DataError)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise DataError(
            f"language {shown}: not a safetensors file, or cut short ({error}); expected one written by 'crnn lm'"
        ) from error
    found = (metadata.get("format"), metadata.get("format_version"))
    if found != (_FORMAT, _FORMAT_VERSION):
        raise DataError(f"language {shown}: has format {found[0]!r}, version {found[1]}; upgrade crnn or remake it")
    expected = metadata.pop("sha256", None)
    if _digest(arrays, metadata) != expected:
        raise DataError(f"language {shown}: checksum does not fit, the file is damaged; make it again")
    try:
        return Language(**arrays, info=json.loads(metadata["info"]))
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:  # a DataError is a ValueError
        raise DataError(f"language {shown}: {error}. The file was changed; make it again with 'crnn lm'") from error


def _digest(arrays: dict[str, npt.NDArray[Any]], metadata: dict[str, str]) -> str:
    digest = hashlib.sha256()
    for key in sorted(metadata):
        digest.update(f"{key}={metadata[key]}\n".encode())
    for key in sorted(arrays):
        digest.update(f"{key} {arrays[key].dtype} {arrays[key].shape}\n".encode())
        digest.update(arrays[key].tobytes())
    return digest.hexdigest()


def _without_marks(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


@checked_call
def train_language(
    words: Iterable[tuple[str, float]],
    name: str,
    order: int = DEFAULT_ORDER,
    max_characters: int = 512,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> Language:
    """Count the n-grams of words.

    Args:
        words: Words with weights above 0; case is ignored, repeated words add up.
        name: Name of the language.
        order: Longest n-gram, with the marks of beginning and end; lowered until n-grams fit into 63 bits.
        max_characters: Characters to keep, by largest weight.
        progress: Called with 1 when the words are folded, and for each length of n-grams.

    Raises:
        ConfigError: The order is out of range.
        DataError: No word is left, or a weight is not a number above 0.
    """
    if not 1 <= order <= MAX_ORDER:
        raise ConfigError(f"order is {order}; expected 1 to {MAX_ORDER}")
    weights: dict[str, float] = {}
    for word, weight in words:
        if not 0.0 < weight < np.inf:
            raise DataError(f"word {word!r} has the weight {weight}; expected a number above 0")
        folded = unicodedata.normalize("NFC", word.casefold())
        plain = "".join(filter(str.isalnum, _without_marks(folded)))  # without accents and apostrophes
        for form in {reorder(folded), reorder(plain)}:  # searched from left to right
            if form and not any(c.isspace() for c in form):
                weights[form] = weights.get(form, 0.0) + weight
    if not weights:
        raise DataError("there is no word to learn from; expected at least one")
    by_character: dict[str, float] = {}
    for word, weight in weights.items():
        for character in set(word):
            by_character[character] = by_character.get(character, 0.0) + weight
    kept = sorted(heapq.nlargest(max_characters, by_character, key=by_character.__getitem__))
    while order > 1 and (len(kept) + 2) ** order >= 2**63:
        order -= 1
    weights = {word: weight for word, weight in weights.items() if set(kept) >= set(word)}
    progress(1)
    return _counted(weights, kept, name, order, progress)


def _counted(
    weights: dict[str, float], characters: Sequence[str], name: str, order: int, progress: Callable[[int], None]
) -> Language:
    """Return the n-grams of words as they are written; the characters are sorted."""
    ids = {character: symbol for symbol, character in enumerate(characters)}
    end, begin, base = len(ids), len(ids) + 1, len(ids) + 2
    lengths = np.fromiter(map(len, weights), dtype=np.int64, count=len(weights)) + 2
    flat = np.full(int(lengths.sum()), end, dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    inner = np.ones(flat.size, dtype=np.bool_)
    inner[starts] = inner[starts + lengths - 1] = False
    flat[starts] = begin
    flat[inner] = [ids[c] for c in "".join(weights)]
    places = np.arange(flat.size) - np.repeat(starts, lengths)  # in the word
    weight = np.repeat(np.fromiter(weights.values(), dtype=np.float64), lengths)

    keys: list[npt.NDArray[Any]] = [np.zeros(1, dtype=np.int64)]  # of the n-grams of each length
    sums: list[npt.NDArray[Any]] = [np.zeros(1)]
    number = np.zeros(flat.size, dtype=np.int64)
    for length in range(1, order + 1):
        here = np.flatnonzero(places >= length - 1)
        number[here] = (number[here - 1] if length > 1 else 0) * base + flat[here]
        found, which = np.unique(number[here], return_inverse=True)
        total = np.bincount(which, weight[here], minlength=found.size)
        if length == 1:
            total[found == begin] = 0.0  # the beginning of a word is never predicted
        keys.append(found)
        sums.append(total)
        progress(1)
    children: list[npt.NDArray[Any]] = []
    backoffs: list[_Doubles] = []
    probabilities = [np.full(1, 1.0 / (end + 1))]
    for length in range(order):
        parent = np.searchsorted(keys[length], keys[length + 1] // base)
        count = np.bincount(parent, minlength=keys[length].size)
        seen = np.bincount(parent, sums[length + 1], minlength=keys[length].size)
        kinds = np.bincount(parent, sums[length + 1] > 0, minlength=keys[length].size)
        both = np.maximum(seen + kinds, 1e-300)
        left = np.where(seen > 0, kinds / both, 1.0)
        # Every end of an n-gram was counted with it.
        shorter = probabilities[length][np.searchsorted(keys[length], keys[length + 1] % base**length)]
        probabilities.append(sums[length + 1] / both[parent] + left[parent] * shorter)
        children.append(count)
        backoffs.append(left[count > 0])
    children.append(np.zeros(keys[order].size, dtype=np.int64))
    info = {"name": name, "characters": "".join(ids), "order": order, "words": len(weights), "best": []}
    language = Language(
        _small(np.concatenate([level % base for level in keys[1:]])),
        _in_a_byte(np.maximum(np.concatenate(probabilities[1:]), 1e-30), _STEP),
        _in_a_byte(np.concatenate(backoffs), _BACKOFF_STEP),
        _small(np.concatenate(children)),
        info,
    )
    likeliest: dict[int, str] = {}
    for word in sorted(weights, key=lambda w: weights[w]):
        likeliest[len(word)] = word
    best = [-np.inf if n not in likeliest else language.word_log_prob(likeliest[n]) for n in range(1, _LONGEST + 1)]
    floor = min(value for value in best if value > -np.inf)
    info["best"] = [round(max(value, floor), 3) for value in best]
    return Language(**language.arrays, info=info)


def _small(numbers: npt.NDArray[Any]) -> npt.NDArray[np.unsignedinteger[Any]]:
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def _in_a_byte(probabilities: _Doubles, step: float) -> npt.NDArray[np.uint8]:
    return np.clip(np.rint(-np.log(probabilities) / step), 0, 255).astype(np.uint8)
