"""Lexicons: words in the form of labels, each once and in their order, with a trie for the search."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crnn.charset import Charset, LabelRules, LabelSkip
from crnn.config.model import CharsetConfig
from crnn.errors import DataError
from crnn.files import MAX_WORDS, not_utf8, text_lines

_LONGEST_WORD = 256  # characters where the rules set no limit; longer ones come from files that are no word lists
_MOST_CHARACTERS = 1 << 26  # of all words; the trie takes up to some 30 bytes each
_NUM_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class WordTrie:
    """Prefixes of all words, breadth first: node 0 is the empty one, and children of a node are neighbors."""

    characters: npt.NDArray[np.unsignedinteger[Any]]  # (nodes,) class id of each prefix's last character; 0 for node 0
    children: npt.NDArray[np.int32]  # (nodes + 1,); those of node i are children[i] to children[i + 1] - 1
    words: npt.NDArray[np.int32]  # (nodes,) index of the word that ends in a node, or -1

    def __len__(self) -> int:
        return len(self.words)


class Lexicon:
    """Words in the order given, as labels, each once; made by ``from_words`` or ``load``.

    ``skipped`` has the number of skipped words by reason, and the first few as given: the reasons of ``LabelSkip``, and
    ``duplicate``, as a label, of an earlier word.
    """

    def __init__(self, words: list[str], charset: Charset, skipped: dict[str, tuple[int, tuple[str, ...]]]) -> None:
        self.words, self.charset, self.skipped = words, charset, skipped

    @classmethod
    def from_words(
        cls, words: Iterable[str], charset: Charset, *, rules: LabelRules | None = None, name: str = "the lexicon"
    ) -> Lexicon:
        """Make a lexicon of words as people write them, in the charset of the network; ``name`` is for errors.

        The label rules never cut a word. By default they are the charset's own for case, Unicode and white space
        (``CharsetConfig``), and words of other characters are skipped.

        Raises:
            DataError: No word is left, or there are too many.
            CharsetError: A character is unknown, and the rules say ``error``.
        """
        if isinstance(words, str):
            raise DataError(
                f"words are the text {words[:40]!r}; expected a list of words, or use Lexicon.load for a file"
            )
        rules = _default_rules(charset) if rules is None else replace(rules, truncate=False)
        labels: dict[str, None] = {}
        total = 0  # characters
        skipped: dict[str, tuple[int, tuple[str, ...]]] = {}

        def skip(reason: str, word: str) -> None:
            number, examples = skipped.get(reason, (0, ()))
            skipped[reason] = number + 1, (*examples, word)[:_NUM_EXAMPLES]

        for word in words:
            if not isinstance(word, str):
                raise DataError(f"{name} has {word!r:.100}; expected words, each a text")
            try:
                label = rules.apply(word, charset)
            except LabelSkip as reason:
                skip(reason.reason, word)
                continue
            if label in labels:
                skip("duplicate", label)
                continue
            labels[label] = None
            total += len(label)
            if total > _MOST_CHARACTERS:
                raise DataError(f"{name} has {total:,} characters; expected at most {_MOST_CHARACTERS:,}. Shorten it")
        if not labels:
            found = "; ".join(f"{r}: {n:,} ({', '.join(map(repr, examples))})" for r, (n, examples) in skipped.items())
            raise DataError(f"{name} has no word in the characters {charset.characters!r} ({found or 'it is empty'})")
        return cls(list(labels), charset, skipped)

    @classmethod
    def load(cls, path: str | os.PathLike[str], charset: Charset, *, rules: LabelRules | None = None) -> Lexicon:
        """Load a UTF-8 file with one word per line, plain or gzipped; what follows a tab is not read."""
        name = f"lexicon {os.fspath(path)}"
        return cls.from_words(_words_of_file(name, Path(path)), charset, rules=rules, name=name)

    def __len__(self) -> int:
        return len(self.words)

    def ids(self, index: int) -> tuple[int, ...]:
        """Return class ids of a word."""
        return tuple(self.charset.encode(self.words[index]))

    @functools.cached_property
    def trie(self) -> WordTrie:
        """The prefixes of the words."""
        num_characters = self.charset.blank
        every_id = itertools.chain.from_iterable(map(self.charset.encode, self.words))
        ids = np.fromiter(every_id, dtype=np.min_scalar_type(num_characters))
        lengths = np.fromiter(map(len, self.words), dtype=np.int64, count=len(self.words))
        starts = np.cumsum(lengths) - lengths
        words = np.arange(len(self.words), dtype=np.int32)  # those not shorter than the depth
        nodes = np.zeros(len(words), dtype=np.int64)  # their prefixes of that length, numbered in the depth
        characters, num_children, ends = [np.zeros(1, dtype=ids.dtype)], [], []
        for depth in range(int(lengths.max()) + 1):
            size = len(characters[-1])
            here = np.full(size, -1, dtype=np.int32)
            longer = lengths[words] > depth
            here[nodes[~longer]] = words[~longer]
            ends.append(here)
            words, nodes = words[longer], nodes[longer]
            keys, nodes = np.unique(nodes * num_characters + ids[starts[words] + depth], return_inverse=True)
            num_children.append(np.bincount(keys // num_characters, minlength=size))
            characters.append((keys % num_characters).astype(ids.dtype))
        children = np.cumsum(np.concatenate([np.ones(1, dtype=np.int64), *num_children]), dtype=np.int32)
        return WordTrie(np.concatenate(characters), children, np.concatenate(ends))


@functools.lru_cache(maxsize=16)
def _default_rules(charset: Charset) -> LabelRules:
    rules = CharsetConfig(characters=charset.characters, unknown="drop_sample").rules()
    return replace(rules, max_length=_LONGEST_WORD)


def _words_of_file(name: str, path: Path) -> Iterator[str]:
    for line in text_lines(path, name, MAX_WORDS):
        if not_utf8(line):
            raise DataError(f"{name}: is not text in UTF-8; expected one word per line. Save it as UTF-8")
        yield line.rstrip("\r\n").partition("\t")[0]
