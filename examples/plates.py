#!/usr/bin/env python3
"""Makes up number plates after the patterns of sixteen European countries, to render and to learn from.

::

    python examples/plates.py plates.txt --count 100000 --seed 1
    python examples/plates.py held_plates.txt --count 2000 --seed 2 --without plates.txt

One plate a line, each once, as ``corpus.words`` takes them; docs/finetune.md trains with them. For plates of one
country, or other things that follow a pattern, change ``PATTERNS``.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
UMLAUTS = "ÄÖÜ"

UMLAUT_SHARE = 0.2
"""Of the letters of German districts; far more than on roads, so that 100,000 plates have each umlaut often."""

PATTERNS = {
    "A": ("AA 199AA", "A 19999A"),
    "B": ("1-AAA-999",),
    "CH": ("AA 199999", "AA 19999"),
    "CZ": ("1A9 9999", "1AA 9999"),
    "D": (
        *("U A 1999", "U AA 199", "U AA 1999", "UU A 199", "UU A 1999", "UU AA 19", "UU AA 199", "UU AA 1999"),
        *("UUU A 19", "UUU A 199", "UUU A 1999", "UUU AA 19", "UUU AA 199", "UU-AA 199", "UUU-A 199", "U-AA 1999"),
    ),
    "DK": ("AA 99 999",),
    "E": ("9999 AAA",),
    "F": ("AA-999-AA",),
    "FIN": ("AAA-199", "AAA-19"),
    "GB": ("AA99 AAA",),
    "H": ("AA AA-999",),
    "I": ("AA 999AA",),
    "N": ("AA 19999",),
    "NL": ("99-AAA-9", "AA-999-A", "9-AAA-99", "A-999-AA"),
    "PL": ("AA 99999", "AAA 9999A", "AAA 99AA"),
    "S": ("AAA 999", "AAA 99A"),
}
"""By country; A is a letter, U a letter that may have an umlaut, 9 a digit, 1 one that is not 0, the rest is itself."""

GERMAN_SHARE = 0.35
"""The only plates here with umlauts."""


def plate(rng: random.Random) -> str:
    """One plate: a country, one of its patterns, letters and digits all alike."""
    country = "D" if rng.random() < GERMAN_SHARE else rng.choice([name for name in PATTERNS if name != "D"])
    return "".join(_filled(place, rng) for place in rng.choice(PATTERNS[country]))


def _filled(place: str, rng: random.Random) -> str:
    if place == "U" and rng.random() < UMLAUT_SHARE:
        return rng.choice(UMLAUTS)
    choices = {"A": LETTERS, "U": LETTERS, "9": "0123456789", "1": "123456789"}
    return rng.choice(choices.get(place, place))


def plates(count: int, seed: int, without: frozenset[str] = frozenset()) -> list[str]:
    """So many different plates.

    Args:
        count: Plates; there are hundreds of millions.
        seed: The same seed gives the same plates.
        without: Plates that shall not be among them.
    """
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        made = plate(rng)
        if made not in without:
            found[made] = None
    return list(found)


def main(arguments: list[str] | None = None) -> int:
    """Write the file that the command line asks for."""
    parser = argparse.ArgumentParser(description="Makes up number plates, one a line.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without", type=Path, metavar="FILE", help="plates that shall not be among them")
    options = parser.parse_args(arguments)
    if not 0 < options.count <= 10_000_000:
        parser.error(f"--count is {options.count}; expected 1 to 10,000,000")
    try:
        without = options.without.read_text(encoding="utf-8").splitlines() if options.without else []
        made = plates(options.count, options.seed, frozenset(without))
        options.out.write_text("".join(f"{text}\n" for text in made), encoding="utf-8")
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
