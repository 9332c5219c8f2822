"""Lexicons: words in the form of labels, kept compactly, with a trie for ``crnn.decoding.lexicon_search``.

Words pass the label rules of the charset; what is left out is counted by reason. They keep their order: of equally
likely ones the first wins. Memory: one byte per character (two or four above 255 characters), four per word, and nine
per node of the trie, of which a word has two to four: 30 to 60 bytes a word, 35 for the shipped English list. Ten
million random words take 0.5 GB, and 1.6 GB while they are read.
"""

from __future__ import annotations

import codecs
import functools
import gzip
import itertools
import os
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from crnn.charset import Charset, LabelRules
from crnn.config.model import CharsetConfig
from crnn.errors import DataError

_BLOCK_BYTES = 1 << 22
_BLOCK_WORDS = 1 << 18


_Ids = npt.NDArray[np.unsignedinteger[Any]]
_Ints = npt.NDArray[np.int32]
_Codes = npt.NDArray[np.uint8] | npt.NDArray[np.uint32]
_Ends = npt.NDArray[np.int32]
_Mask = npt.NDArray[np.bool_]
# characters of a word where the rules set no limit; longer ones come from files that are no word lists
_LONGEST_WORD = 256

_MOST_CHARACTERS = 1 << 28  # of all words, some 30 million, so that int32 can number their nodes

_SPACES = (
    "\t\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)  # white space but the line feed; one by one is ten times as fast as a regular expression

_FEW_WORDS = 10_000  # so many are looked up in a dictionary in less time than a trie takes
_NUM_EXAMPLES = 5


def lines_of_words(words: Iterable[str]) -> Iterator[str]:
    """Yield blocks of lines, one word each; a line feed in a word becomes other white space."""
    rest = iter(words)
    while some := list(itertools.islice(rest, _BLOCK_WORDS)):
        text = "\n".join(some)
        if text.count("\n") >= len(some):
            text = "\n".join(word.replace("\n", "\x1e") for word in some)
        yield text + "\n"


def lines_of_file(name: str, path: Path) -> Iterator[str]:
    """Yield blocks of whole lines of a UTF-8 file, plain or gzipped, without what follows a tab.

    Raises:
        DataError: It cannot be read, or is not UTF-8 text in lines. ``name`` is what the message calls it.
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


@dataclass(frozen=True, slots=True)
class WordTrie:
    """Prefixes of all words, breadth first: node 0 is the empty one, and children of a node are neighbours.

    Attributes:
        characters: ``(nodes,)`` class id of each prefix's last character; 0 for node 0.
        children: ``(nodes + 1,)``; those of node i are ``children[i]`` to ``children[i + 1] - 1``.
        words: ``(nodes,)`` index of the word that ends in a node, or -1.
    """

    characters: _Ids
    children: _Ints
    words: _Ints

    def __len__(self) -> int:
        return len(self.words)

    @property
    def num_bytes(self) -> int:
        """Memory of the arrays."""
        return self.characters.nbytes + self.children.nbytes + self.words.nbytes


def build_trie(ids: _Ids, ends: _Ints, num_characters: int) -> tuple[WordTrie, npt.NDArray[np.bool_]]:
    """Build the trie of words.

    Args:
        ids: Class ids of all words, joined.
        ends: ``(words + 1,)`` end of each word in ``ids``, after a 0.
        num_characters: Number of class ids.

    Returns:
        The trie, in which equal words have the index of the first, and ``(words,)``, true for repeated words.
    """
    # Words are sorted by as many characters at a time as fit into one integer behind the number of their prefix.
    words = np.arange(len(ends) - 1, dtype=np.int32)  # those not shorter than the depth, by their prefixes
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


class SkippedWords(NamedTuple):
    """Number of words left out for one reason, and the first few as given."""

    number: int
    examples: tuple[str, ...]


class Lexicon:
    """Words in the order given, each once; made by ``from_words`` or ``load``.

    Attributes:
        charset: Charset of the words.
        skipped: Words left out, by reason: those of ``LabelSkip`` (``unknown_character``, ``too_long``,
            ``empty_label``), and ``duplicate``, under the label rules, of an earlier one.
    """

    def __init__(self, charset: Charset, ids: _Ids, ends: _Ends, skipped: dict[str, SkippedWords]):
        self.charset = charset
        self.skipped = skipped
        self._ids = ids
        self._ends = ends  # (words + 1,), the first of them 0

    @classmethod
    def from_words(
        cls, words: Iterable[str], charset: Charset, *, rules: LabelRules | None = None, keep_empty: bool = False
    ) -> Lexicon:
        """Make a lexicon of words.

        Args:
            words: Words as people write them.
            charset: Charset of the network.
            rules: Label rules; words are never cut. Default: the charset's own for case, Unicode and white space
                (``CharsetConfig``), with words of other characters left out.
            keep_empty: Keep the empty text if it is among ``words``.

        Raises:
            DataError: No word is left; the message says why.
            CharsetError: A character is unknown, and the rules say ``error``.
        """
        if isinstance(words, str):
            raise DataError(
                f"words are the text {words[:40]!r}; expected a list of words, or use Lexicon.load for a file"
            )
        return cls._from_blocks("the lexicon", lines_of_words(words), charset, rules, keep_empty)

    @classmethod
    def load(cls, path: str | os.PathLike[str], charset: Charset, *, rules: LabelRules | None = None) -> Lexicon:
        """Load a UTF-8 file with one word per line, plain or gzipped (``.gz``); what follows a tab is not read.

        Raises:
            DataError: The file cannot be read, is not UTF-8 text, is too large, or has no word for the charset.
            CharsetError: A character is unknown, and the rules say ``error``.
        """
        name = f"lexicon {os.fspath(path)}"
        return cls._from_blocks(name, lines_of_file(name, Path(path)), charset, rules, keep_empty=False)

    @classmethod
    def _from_blocks(
        cls, name: str, blocks: Iterable[str], charset: Charset, rules: LabelRules | None, keep_empty: bool
    ) -> Lexicon:
        collected = _Collected(name, charset, _default_rules(charset) if rules is None else rules, keep_empty)
        for block in blocks:
            collected.add(block)
        ids, ends = collected.joined()
        trie: WordTrie | None = None
        if len(ends) - 1 <= _FEW_WORDS:
            repeated = _repeated(ids, ends)
        else:
            trie, repeated = build_trie(ids, ends, charset.blank)
        if repeated.any():
            every = cls(charset, ids, ends, {})
            collected.skip("duplicate", repeated, every.text)  # as labels: which lines they came from is not kept
            ids, ends = ids[np.repeat(~repeated, every.lengths)], _ends(every.lengths[~repeated])
            if trie is not None:
                index = np.cumsum(~repeated, dtype=np.int32) - np.int32(1)
                trie = replace(trie, words=np.where(trie.words < 0, trie.words, index[trie.words]))
        if len(ends) == 1:
            raise DataError(_why_none(name, collected.skipped, charset))
        lexicon = cls(charset, ids, ends, collected.skipped)
        if trie is not None:
            lexicon.__dict__["trie"] = trie
        return lexicon

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __repr__(self) -> str:
        return f"Lexicon of {len(self):,} words in {self.charset!r}"

    @property
    def words(self) -> list[str]:
        """All words, as labels."""
        text = self.charset.decode(self._ids.tolist())
        return [text[start:end] for start, end in itertools.pairwise(self._ends.tolist())]

    def text(self, index: int) -> str:
        """Return a word, as a label."""
        return self.charset.decode(self.ids(index))

    def ids(self, index: int) -> tuple[int, ...]:
        """Return class ids of a word."""
        if not 0 <= index < len(self):
            raise IndexError(f"word {index} of a lexicon of {len(self)}")
        return tuple(self._ids[self._ends[index] : self._ends[index + 1]].tolist())

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Characters of each word, ``(words,)``."""
        return np.diff(self._ends)

    @property
    def num_bytes(self) -> int:
        """Memory of the words, and of the trie once it is made."""
        trie: WordTrie | None = self.__dict__.get("trie")
        return self._ids.nbytes + self._ends.nbytes + (trie.num_bytes if trie else 0)

    @functools.cached_property
    def trie(self) -> WordTrie:
        """The prefixes of the words."""
        return build_trie(self._ids, self._ends, self.charset.blank)[0]


@functools.lru_cache(maxsize=16)
def _default_rules(charset: Charset) -> LabelRules:
    rules = CharsetConfig(characters=charset.characters, unknown="drop_sample").rules()
    return replace(rules, max_length=_LONGEST_WORD)


class _Collected:
    """Class ids of words, taken block by block."""

    def __init__(self, name: str, charset: Charset, rules: LabelRules, keep_empty: bool) -> None:
        self.skipped: dict[str, SkippedWords] = {}
        self._name = name
        self._charset = charset
        self._rules = rules
        self._keep_empty = keep_empty
        codes = [ord(character) for character in charset.characters]
        self._table = np.full(max(*codes, ord("\n")) + 2, -1, dtype=np.int32)  # the last place is for all others
        self._table[codes] = np.arange(charset.blank)
        self._outside = re.compile(f"[^\n{re.escape(charset.characters)}]+")
        self._ids = [np.empty(0, dtype=np.min_scalar_type(charset.blank))]
        self._lengths = [np.empty(0, dtype=np.int64)]
        self._num_characters = 0

    def add(self, block: str) -> None:
        """Add the words of a block of lines."""
        lines: list[str] = []

        def given(line: int) -> str:
            lines.extend(() if lines else block.split("\n"))  # once, where it is needed at all
            return lines[line]

        text, measured = self._formed(block)
        codes = _code_points(text)
        ends = np.flatnonzero(codes == ord("\n"))
        lengths = np.diff(ends, prepend=-1) - 1
        ids = self._table.take(codes, mode="clip")
        left_out = np.zeros(len(ends), dtype=np.bool_)
        if self._rules.max_length is not None:
            if len(measured) != len(text):
                ends_before = np.flatnonzero(_code_points(measured) == ord("\n"))
            else:  # no step between the two makes one line shorter and another one longer
                ends_before = ends
            left_out |= self.skip("too_long", np.diff(ends_before, prepend=-1) > self._rules.max_length + 1, given)
        unknown = np.zeros(len(ends), dtype=np.bool_)
        unknown[np.searchsorted(ends, np.flatnonzero((ids < 0) & (codes != ord("\n"))))] = True
        unknown &= ~left_out
        if self._rules.unknown == "error" and unknown.any():
            self._charset.encode(text.split("\n")[unknown.argmax()])  # raises, naming the characters
        left_out |= self.skip("unknown_character", unknown, given)
        if not self._keep_empty:
            left_out |= self.skip("empty_label", (lengths == 0) & ~left_out, given)
        kept = np.repeat(~left_out, lengths + 1)
        kept[ends] = False
        self._ids.append(ids[kept].astype(self._ids[0].dtype))
        self._lengths.append(lengths[~left_out])
        self._num_characters += self._ids[-1].size
        if self._num_characters > _MOST_CHARACTERS:
            raise DataError(
                f"{self._name} has more than {_MOST_CHARACTERS:,} characters; expected fewer. Leave out the words that "
                "are not needed, or read without a lexicon"
            )

    def skip(self, reason: str, which: _Mask, name_of: Callable[[int], str]) -> _Mask:
        """Count words that are left out, and keep the first few."""
        count = int(np.count_nonzero(which))
        if count:
            before, examples = self.skipped.get(reason, SkippedWords(0, ()))
            first = np.flatnonzero(which)[: _NUM_EXAMPLES - len(examples)].tolist()
            self.skipped[reason] = SkippedWords(before + count, (*examples, *map(name_of, first)))
        return which

    def joined(self) -> tuple[_Ids, _Ends]:
        """Return class ids of all words, and the ends of words."""
        return np.concatenate(self._ids), _ends(np.concatenate(self._lengths))

    def _formed(self, block: str) -> tuple[str, str]:
        """Return the lines after ``LabelRules.apply``, and as measured for their length."""
        rules, text = self._rules, block
        if rules.whitespace == "remove":
            text = _without_spaces(text, "")
        elif rules.whitespace == "collapse":
            text = _collapsed(text)
        if rules.unicode != "keep" and not text.isascii():
            text = unicodedata.normalize("NFKD" if rules.unicode == "ascii" else rules.unicode, text)
            text = text.encode("ascii", "ignore").decode("ascii") if rules.unicode == "ascii" else text
        measured = text
        if rules.case != "keep":
            text = text.lower() if rules.case == "lower" else text.upper()
        if rules.unknown == "drop_character":
            text = self._outside.sub("", text)
        return _collapsed(text) if rules.whitespace == "collapse" else text, measured


def _without_spaces(text: str, instead: str) -> str:
    for space in _SPACES:
        if space in text:
            text = text.replace(space, instead)
    return text


def _collapsed(text: str) -> str:
    text = _without_spaces(text, " ")
    while "  " in text:
        text = text.replace("  ", " ")
    return text.replace(" \n", "\n").replace("\n ", "\n").removeprefix(" ")


def _code_points(text: str) -> _Codes:
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _why_none(name: str, skipped: dict[str, SkippedWords], charset: Charset) -> str:
    found = "; ".join(
        f"{reason}: {count:,} ({', '.join(map(repr, examples))})" for reason, (count, examples) in skipped.items()
    )
    return (
        f"{name} has no word that can be read ({found or 'it is empty'}); expected words in the characters "
        f"{charset.characters!r}"
    )


def _ends(lengths: npt.NDArray[np.integer[Any]]) -> _Ends:
    return np.concatenate([np.zeros(1, dtype=np.int32), np.cumsum(lengths, dtype=np.int32)])


def _repeated(ids: _Ids, ends: _Ends) -> _Mask:
    data, size = ids.tobytes(), ids.itemsize
    words = [data[start * size : end * size] for start, end in itertools.pairwise(ends.tolist())]
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(word, index) != index for index, word in enumerate(words)], dtype=np.bool_)
