"""The prefixes of many words as arrays: built without a loop over words, walked breadth first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["WordTrie", "build_trie"]

_Ids = npt.NDArray[np.unsignedinteger[Any]]
_Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class WordTrie:
    """The prefixes of all words, breadth first: node 0 is the empty one, and the children of a node are neighbours.

    Attributes:
        characters: ``(nodes,)`` class id of the last character of each prefix; 0 for node 0.
        children: ``(nodes + 1,)`` those of node i are ``children[i]`` up to, without, ``children[i + 1]``.
        words: ``(nodes,)`` index of the word that ends in a node, or -1.
    """

    characters: _Ids
    children: _Ints
    words: _Ints

    def __len__(self) -> int:
        return len(self.words)

    @property
    def num_bytes(self) -> int:
        """Memory that the arrays take."""
        return self.characters.nbytes + self.children.nbytes + self.words.nbytes


def build_trie(ids: _Ids, ends: _Ints, num_characters: int) -> tuple[WordTrie, npt.NDArray[np.bool_]]:
    """The trie of words.

    Words are sorted by some characters at a time, as many as fit into one integer behind the number of their prefix.

    Args:
        ids: Class ids of all words, one word behind the other.
        ends: ``(words + 1,)`` where each word ends in ``ids``, behind a 0.
        num_characters: Class ids are below it.

    Returns:
        The trie, in which equal words have the index of the first of them, and ``(words,)``: which words are equal to
        an earlier one.
    """
    words = np.arange(len(ends) - 1, dtype=np.int32)  # those that are not shorter than the depth, by their prefixes
    nodes = np.zeros(len(words), dtype=np.int64)  # which of the prefixes of that depth they have
    ends_in = np.zeros(len(words), dtype=np.int32)
    characters, num_children = [np.zeros(1, dtype=ids.dtype)], []
    bits = num_characters.bit_length()
    first, size, depth, packed = 0, 1, 0, 0
    while len(words):
        if not packed:
            packed = (63 - size.bit_length()) // bits
            keys = nodes << (bits * packed)
            for ahead in range(packed):
                at = ends[words] + depth + ahead
                found = ids.take(at, mode="clip") + np.int64(1) if len(ids) else 0
                keys |= np.where(at < ends[words + 1], found, 0) << (bits * (packed - 1 - ahead))
            order = np.argsort(keys)
            keys, words, nodes = keys[order], words[order], nodes[order]
        packed -= 1
        prefixes = keys >> (bits * packed)
        last = prefixes & ((1 << bits) - 1)
        longer = last > 0
        ends_in[words[~longer]] = first + nodes[~longer]
        keys, words, nodes, prefixes = keys[longer], words[longer], nodes[longer], prefixes[longer]
        is_new = np.ones(len(prefixes), dtype=np.bool_)
        np.not_equal(prefixes[1:], prefixes[:-1], out=is_new[1:])
        num_children.append(np.bincount(nodes[is_new], minlength=size))
        characters.append((last[longer][is_new] - 1).astype(ids.dtype))
        nodes = np.cumsum(is_new) - 1
        first, size, depth = first + size, len(characters[-1]), depth + 1
    children = np.cumsum(np.concatenate([np.ones(1, dtype=np.int64), *num_children]), dtype=np.int32)
    ending = np.full(len(children) - 1, -1, dtype=np.int32)
    ending[ends_in[::-1]] = np.arange(len(ends_in) - 1, -1, -1, dtype=np.int32)  # the first word is written last
    repeated = ending[ends_in] != np.arange(len(ends_in))
    return WordTrie(np.concatenate(characters), children, ending), repeated
