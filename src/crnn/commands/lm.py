"""``crnn lm``: a character model for the beam, from word lists and from the labels of sets.

Part of the command line (see ``crnn.cli``): parses, calls functions of the package, prints.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import tyro

from crnn.commands.terminal import check_writable
from crnn.decoding.ngram_counts import DEFAULT_ORDER
from crnn.errors import ConfigError, DataError

if TYPE_CHECKING:
    from crnn.charset import Charset

__all__ = ["lm_command"]

_NUM_NUMBERS = 20_000
_LONGEST_NUMBER = 6


def lm_command(
    paths: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="OUT [WORDS ...]")] = (),
    labels: Annotated[tuple[str, ...], tyro.conf.arg(metavar="DATA ...")] = (),
    charset: str = "36",
    order: int = DEFAULT_ORDER,
    numbers: float = 0.05,
    frequencies: bool = True,
) -> int:
    """Learn which characters follow which, for 'crnn read --lm OUT'.

    In Python: ``crnn.decoding.language_model.CharacterModel.train``.

    Args:
        paths: The file to write, and word lists: 'shipped', or a file with a word on each line, or word, tab and
            frequency.
        labels: LMDB folders and list files whose labels are words to learn from, too.
        charset: What the network writes: 36, 62, 94, 95, or the characters.
        order: Longest sequence of characters that is counted, the marks of beginning and end included.
        numbers: Share of random numbers of one to six digits among what is learned; word lists have none, and without
            them every number is found unlikely.
        frequencies: Whether words count as often as the list says, and not once.
    """
    from crnn.charset import Charset
    from crnn.decoding.language_model import CharacterModel
    from crnn.decoding.language_model_file import save_language_model
    from crnn.decoding.ngram_counts import count_ngrams

    if not paths:
        raise ConfigError("no path is given; expected OUT, the file to write, and word lists behind it")
    destination, *lists = paths
    if not lists and not labels:
        raise ConfigError(
            f"{destination}: nothing to learn from is given; expected word lists behind it ('shipped' is one), or "
            "--labels"
        )
    if not 0.0 <= numbers < 1.0:
        raise ConfigError(f"--numbers is {numbers}; expected a share from 0 to less than 1")
    check_writable("OUT", destination, "words.lm")
    if destination == "shipped" or destination in lists:
        raise ConfigError(f"OUT {destination}: is a word list as well; expected the file to write first")
    characters = Charset(charset)
    read, unreadable = _labels(labels)
    words = [*_listed(lists, frequencies), *read]
    counts, skipped = count_ngrams([*words, *_numbers(characters, numbers, words)], characters, order)
    model = CharacterModel(counts)
    size = save_language_model(model, destination)
    if unreadable:
        skipped["unreadable_record"] = unreadable
    left_out = "".join(f"\n  left out {count}: {reason}" for reason, count in skipped.items())
    print(
        f"{destination}: order {order}, {len(words)} words, {counts.symbols.size} sequences, "
        f"{model.num_states} states, {size / 1e6:.1f} MB{left_out}"
    )
    return 0


def _listed(lists: Sequence[str], frequencies: bool) -> Iterator[tuple[str, float]]:
    """Words of lists, in each of which the mean of the weights is 1, so that every list counts as its length."""
    from crnn.synth.word_list import read_word_list

    for name in lists:
        found = read_word_list(name)
        words = found.text.split("\n")[:-1]
        weights = found.frequencies / found.frequencies.mean() if frequencies else found.frequencies * 0.0 + 1.0
        yield from zip(words, weights.tolist(), strict=True)


def _labels(sets: Sequence[str]) -> tuple[list[tuple[str, float]], int]:
    """Labels of sets, and how many records have none that can be read."""
    from crnn.data.source import open_source

    found, unreadable = [], 0
    for path in sets:
        with open_source(path) as store:
            for index in range(len(store)):
                try:
                    found.append((store.label(index), 1.0))
                except DataError:
                    unreadable += 1
    return found, unreadable


def _numbers(charset: Charset, share: float, words: Sequence[tuple[str, float]]) -> Iterator[tuple[str, float]]:
    """Numbers that have so large a share in all weights; none where the charset lacks a digit."""
    if share == 0.0 or any(digit not in charset for digit in string.digits):
        return
    total = sum(weight for _, weight in words)
    weight = share / (1.0 - share) * total / _NUM_NUMBERS
    draw = random.Random(0)
    for _ in range(_NUM_NUMBERS if total else 0):
        yield "".join(draw.choices(string.digits, k=draw.randint(1, _LONGEST_NUMBER))), weight
