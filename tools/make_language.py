#!/usr/bin/env python3
"""Make the language that ships, ``src/crnn/languages/en.lm``, from two lists with permissive licences.

    pip install symspellpy
    python tools/make_language.py

The words of SCOWL (``src/crnn/synth/words.txt.gz``, made by ``tools/word_list.py``) and symspellpy's English
dictionary (MIT; its frequencies are those of Google Books Ngrams, CC BY 3.0, its words SCOWL's): the likeliest of both.
"""

from __future__ import annotations

import importlib.resources
import sys
from pathlib import Path

from crnn.decoding.language import train_language
from crnn.synth.word_list import read_word_list

OUT = Path(__file__).resolve().parents[1] / "src" / "crnn" / "languages" / "en.lm"
SCOWL_SHARE, WORDS, POWER = 0.3, 90_000, 0.9
"""Weight of SCOWL's frequencies beside those of books, words that are kept, the power of frequencies. All are within
a crop of each other in the words read of 257; fewer words make the file smaller (docs/log/experiments.md,
2026-11-29)."""


def scowl() -> dict[str, float]:
    """Return the shipped words with the frequencies estimated from their size classes."""
    found = read_word_list("shipped")
    return dict(zip(found.words, found.frequencies.tolist(), strict=True))


def symspell() -> dict[str, float]:
    """Return symspellpy's words with their counts in books."""
    path = importlib.resources.files("symspellpy") / "frequency_dictionary_en_82_765.txt"
    pairs = (line.split() for line in path.read_text(encoding="utf-8-sig").splitlines())
    return {word: float(count) for word, count in pairs}


def shares(words: dict[str, float]) -> dict[str, float]:
    """Return the words in lower case with frequencies that add up to 1."""
    total = sum(words.values())
    folded: dict[str, float] = {}
    for word, frequency in words.items():
        folded[word.casefold()] = folded.get(word.casefold(), 0.0) + frequency / total
    return folded


def main() -> None:
    """Write the file."""
    first, second = shares(scowl()), shares(symspell())
    words = {
        word: SCOWL_SHARE * first.get(word, 0.0) + (1.0 - SCOWL_SHARE) * second.get(word, 0.0)
        for word in first | second
    }
    kept = sorted(words.items(), key=lambda pair: (-pair[1], pair[0]))[:WORDS]
    language = train_language([(word, (1e6 * share) ** POWER) for word, share in kept], "en")
    OUT.parent.mkdir(exist_ok=True)
    size = language.save(OUT)
    print(
        f"{OUT}: {language.num_words:,} words, {language.arrays['symbols'].size:,} n-grams, {size:,} bytes",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
