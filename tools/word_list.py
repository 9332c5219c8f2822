#!/usr/bin/env python3
"""Builds the word list that ships, ``src/crnn/synth/words.txt.gz``, from SCOWL as Debian packs it.

Needs no root and nothing but the Debian package::

    apt-get download scowl && dpkg-deb -x scowl_*.deb scowl
    python tools/word_list.py scowl/usr/share

Writes the list (one ``word<TAB>frequency`` per line, sorted, the same bytes each time) and beside it the notice that
SCOWL's licence asks for, ``words.LICENSE.txt``.

Reference: Kevin Atkinson, SCOWL (Spell Checker Oriented Word Lists) and Friends, version 2020.12.07.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import sys
import unicodedata
from pathlib import Path

SIZES = (10, 20, 35, 40, 50, 55, 60, 70)
"""SCOWL's size classes up to "large"; the larger ones hold words that most dictionaries lack."""

SPELLINGS = ("english", "american", "british")
CATEGORIES = ("words", "upper", "proper-names", "abbreviations", "contractions")

POSSESSIVES_UP_TO = 50
"""Size class up to which ``word's`` is kept; it is a fifth of SCOWL's forms, and rarer on signs and products."""

POSSESSIVE_FREQUENCY = 0.02
"""Frequency of ``word's`` relative to other forms of its size class."""

ABBREVIATION_FREQUENCY = 0.1
"""Frequency of abbreviations relative to words: they are most of SCOWL's short entries, and few of the short words that
are read on signs."""

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "crnn" / "synth"

NOTICE = """\
words.txt.gz is a modified version of SCOWL: its size classes 10 to 70 for American and British English (words, upper,
proper-names, abbreviations, contractions), put together by tools/word_list.py, each word with a frequency that was
estimated from its size class. What follows is the part of SCOWL's README on its copyright, sources and credits, to the
letter.

-----------------------------------------------------------------------------------------------------------------------

"""


def size_words(folder: Path, size: int, categories: tuple[str, ...] = CATEGORIES) -> set[str]:
    """The words of one size class."""
    words: set[str] = set()
    for spelling, category in itertools.product(SPELLINGS, categories):
        path = folder / f"{spelling}-{category}.{size}"
        if path.is_file():
            words.update(unicodedata.normalize("NFC", path.read_text(encoding="utf-8")).split())
    return words


def frequencies(folder: Path) -> dict[str, float]:
    """Every word with its estimated frequency, where 1 is a word of the rarest class.

    The size class stands for a rank: the middle one of the class in a list sorted by frequency. Frequency goes with
    the inverse of the rank (Zipf's law).
    """
    ranks: dict[str, float] = {}
    for size in SIZES:
        new = size_words(folder, size) - ranks.keys()
        middle = len(ranks) + len(new) / 2
        ranks.update(dict.fromkeys(new, middle))
    rarest = max(ranks.values())
    abbreviations = set().union(*(size_words(folder, size, ("abbreviations",)) for size in SIZES))
    kept = set().union(*(size_words(folder, size) for size in SIZES if size <= POSSESSIVES_UP_TO))
    result = {}
    for word, rank in ranks.items():
        frequency = rarest / rank
        if word.endswith("'s") and word.removesuffix("'s") in ranks:
            if word not in kept:
                continue
            frequency *= POSSESSIVE_FREQUENCY
        elif word in abbreviations:
            frequency *= ABBREVIATION_FREQUENCY
        result[word] = frequency
    return result


def notice(readme: Path) -> str:
    """The part of SCOWL's README that must go with every copy."""
    text = gzip.decompress(readme.read_bytes()).decode("utf-8")
    start = text.index("COPYRIGHT, SOURCES, and CREDITS:")
    return NOTICE + text[start : text.index("FUTURE PLANS:", start)].rstrip() + "\n"


def main() -> int:
    """Entry point of the script."""
    parser = argparse.ArgumentParser(description="Build the shipped word list from Debian's package scowl.")
    parser.add_argument("share", type=Path, help="usr/share of the unpacked package")
    share = parser.parse_args().share
    folder = share / "dict" / "scowl"
    if not folder.is_dir():
        print(f"{folder} is no folder; expected usr/share of Debian's package scowl, unpacked", file=sys.stderr)
        return 2
    words = frequencies(folder)
    lines = "".join(f"{word}\t{frequency:.3g}\n" for word, frequency in sorted(words.items()))
    # No time and no name inside, so that the same words give the same bytes.
    packed = gzip.compress(lines.encode("utf-8"), compresslevel=9, mtime=0)
    (PACKAGE / "words.txt.gz").write_bytes(packed)
    (PACKAGE / "words.LICENSE.txt").write_text(notice(share / "doc" / "scowl" / "README.gz"), encoding="utf-8")
    print(f"{len(words):,} words, {len(packed):,} bytes", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
