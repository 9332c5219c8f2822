"""Decoding: every method on the same log-probabilities, on one thread.

    python benchmarks/decode.py [MODEL] [--data FOLDER] [--count 128] [--words 1000 90000]

The network runs once; then the methods decode its output in turns, as a reader does with long streams: eight batches
together. Lexicons hold the labels and words of the list that ships, drawn at random; making them is not part of the
time. Ratios are to greedy decoding.
"""

from __future__ import annotations

import functools
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common import Row, arguments, find_crops, measure, report, seconds
from crnn.errors import ImageError
from crnn.recognizer import NetworkOutput, Recognizer, load
from crnn.synth.word_list import SHIPPED, read_word_list

TOGETHER = 512
"""Images that are decoded together: eight batches of 64."""


class Kept:
    """What the network says of some images.

    Args:
        reader: Its network runs.
        paths: Of the images.

    Attributes:
        groups: Log-probabilities ``(N, T, V)`` of images with the same number of time steps.
        order: Places of the images, in the order of the groups.
    """

    def __init__(self, reader: Recognizer, paths: Sequence[str]) -> None:
        by_steps: dict[int, list[tuple[int, npt.NDArray[np.float32]]]] = {}

        def keep(output: NetworkOutput) -> list[None]:
            for place, log_probs in zip(output.places, output.log_probs, strict=True):
                by_steps.setdefault(len(log_probs), []).append((place, log_probs))
            return [None] * len(output.places)

        for result in reader.run(paths, keep):
            if isinstance(result, ImageError):
                raise result
        self.groups = [np.stack([log_probs for _, log_probs in members]) for members in by_steps.values()]
        self.order = [place for members in by_steps.values() for place, _ in members]

    def texts(self, reader: Recognizer) -> list[str]:
        """Return the texts that a reader finds, in the order of the groups."""
        decoded = reader.decoder.decode_groups(self.groups)
        return [reader.charset.decode(one.ids) for group in decoded for one in group]


def methods(model: str, labels: Sequence[str], words: Sequence[int], seed: int) -> dict[str, Recognizer]:
    """Return a reader for each method, by name."""
    options: dict[str, dict[str, Any]] = {
        "greedy": {"decode": "greedy"},
        "beam of 10": {"decode": "beam", "lm": "none"},
        "language": {},
        f"lexicon, the {len(set(labels)):,} labels": {"lexicon": sorted(set(labels))},
    }
    listed = list(read_word_list(SHIPPED).words)
    random.Random(seed).shuffle(listed)
    for count in words:
        options[f"lexicon, {count:,} words"] = {"lexicon": [*dict.fromkeys([*labels, *listed])][:count]}
    readers = {name: load(model, threads=1, **chosen) for name, chosen in options.items()}
    if not readers["language"].config.charset.language:
        del readers["language"]
    return readers


def main() -> None:
    """Print one table."""
    parser = arguments(__doc__, count=128, rounds=3)
    parser.add_argument("model", nargs="?", metavar="MODEL", default="crnn-small", help="default: crnn-small")
    parser.add_argument("--words", nargs="+", type=int, default=[1000, 90_000], help="of the lexicons")
    parser.add_argument("--seed", type=int, default=0, help="of the words")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        crops = find_crops(options, "crnn-small", Path(scratch))
        reader = load(options.model, threads=1)
        parts = [crops[first : first + TOGETHER] for first in range(0, len(crops), TOGETHER)]
        kept = [Kept(reader, [crop.path for crop in part]) for part in parts]
    rows: list[Row] = []
    for name, one in methods(options.model, [crop.label for crop in crops], options.words, options.seed).items():
        right = 0
        for part, output in zip(parts, kept, strict=True):
            texts = zip(output.order, output.texts(one), strict=True)
            right += sum(part[place].label.casefold() == text.casefold() for place, text in texts)

        def work(one: Recognizer = one) -> float:
            return 1e3 * seconds(lambda: [output.texts(one) for output in kept]) / len(crops)

        rows.append(Row(name, functools.partial(work, one), "greedy", {"right": f"{100 * right / len(crops):.1f} %"}))
    measure(rows, options.rounds)
    report(f"{len(crops)} crops, log-probabilities to texts, one thread", "ms/image", rows, options.json)


if __name__ == "__main__":
    main()
