"""A tree of pictures in MJSynth's layout, to measure with: as many files as are asked for, the same each time.

``annotation_train.txt``, ``lexicon.txt``, ``2425/1/115_Lube_45484.jpg``. The pictures are words on shaded ground with
noise, 32 pixels high and about as large as MJSynth's (1.3 kB with their comments). Some thousand different ones are
drawn, and each file is one of them with its own number in a comment: no two files are alike, and what is measured with
them depends on files, bytes and headers, not on what is seen.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from crnn.progress import counting_bar

_VERSION = 1
_NUM_WORDS = 88_172  # of MJSynth's lexicon
_NUM_DIFFERENT = 4_000
_PER_LEAF, _LEAVES = 320, 7  # as in MJSynth: 4,000 folders of 7, with 8.9 million pictures
_COMMENT_AT = 20  # behind the start of a JPEG and its APP0

_Item = TypeVar("_Item")


def make_tree(folder: Path, count: int, processes: int) -> Path:
    """The tree of ``count`` pictures below ``folder``, made if it is not there yet."""
    root = folder / f"mjsynth-{count}"
    made = {"version": _VERSION, "pictures": count}
    done = root / "made.json"
    if done.is_file() and json.loads(done.read_text(encoding="utf-8")) == made:
        return root
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    words = _lexicon()
    (root / "lexicon.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    jobs = [(root, leaf, min(_PER_LEAF, count - leaf * _PER_LEAF)) for leaf in range(-(-count // _PER_LEAF))]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        numbers = random.Random(1).sample(range(_NUM_WORDS), min(_NUM_DIFFERENT, count))
        drawn = counted("drawing", pool.map(draw, numbers, [words[n] for n in numbers], chunksize=50), len(numbers))
        pictures = list(drawn)
    with ProcessPoolExecutor(processes, get_context("spawn"), _keep, (pictures,)) as pool:
        lines = list(counted("writing", itertools.chain.from_iterable(pool.map(write_leaf, jobs, chunksize=4)), count))
    (root / "annotation_train.txt").write_text("".join(lines), encoding="utf-8")
    done.write_text(json.dumps(made), encoding="utf-8")
    return root


def _lexicon() -> list[str]:
    """Words of letters, as many and as long as those of MJSynth, in alphabetical order."""
    rng = random.Random(0)
    words: set[str] = set()
    while len(words) < _NUM_WORDS:
        length = min(max(round(rng.gauss(8.3, 2.4)), 2), 20)
        words.add("".join(rng.choices("etaoinshrdlcumwfgypbvkjxqz", range(52, 0, -2), k=length)))
    return sorted(words)


def draw(number: int, word: str) -> tuple[int, str, bytes]:
    """A word of the lexicon, with the capitals it is drawn in, as a JPEG of 32 pixels height."""
    rng = np.random.default_rng(number)
    shown = (word, word.capitalize(), word.upper())[number % 3]
    font = ImageFont.load_default(int(rng.integers(18, 27)))
    left, top, right, bottom = font.getbbox(shown)
    size = (int(right - left) + 12, 32)
    paper, ink = (int(value) for value in rng.permutation([rng.integers(20, 90), rng.integers(150, 240)]))
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).text((6 - left, 16 - (top + bottom) / 2), shown, fill=255, font=font)
    coverage = np.asarray(mask.rotate(float(rng.uniform(-3, 3)), Image.Resampling.BICUBIC), np.float64) / 255
    ground = paper + rng.uniform(-25, 25) * np.linspace(-1, 1, size[0]) + rng.normal(0, 4, (32, size[0]))
    tints = rng.uniform(0.85, 1.0, 3)
    pixels = (ground + (ink - ground) * coverage)[:, :, None] * tints
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=50)
    return number, shown, file.getvalue()


_pictures: list[tuple[int, str, bytes]] = []


def _keep(pictures: list[tuple[int, str, bytes]]) -> None:
    _pictures.extend(pictures)


def write_leaf(job: tuple[Path, int, int]) -> list[str]:
    """Write the pictures of one of the lowest folders; the lines of the annotation."""
    root, leaf, count = job
    name = f"{leaf // _LEAVES + 1}/{leaf % _LEAVES + 1}"
    (root / name).mkdir(parents=True)
    lines = []
    rng = random.Random(leaf)
    for place in range(count):
        number, word, picture = rng.choice(_pictures)
        comment = b"crnn benchmark %012d" % (leaf * _PER_LEAF + place)
        marker = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big")
        path = f"{name}/{count - place}_{word}_{number}.jpg"
        (root / path).write_bytes(picture[:_COMMENT_AT] + marker + comment + picture[_COMMENT_AT:])
        lines.append(f"./{path} {number}\n")
    return lines


def counted(title: str, items: Iterable[_Item], total: int) -> Iterator[_Item]:
    """The items, with a progress bar."""
    with counting_bar(title, total) as progress:
        for item in items:
            yield item
            progress(1)
