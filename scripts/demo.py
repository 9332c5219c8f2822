"""From nothing to a reader in a few minutes: draw words, train on them, evaluate on unseen words, read pictures.

Everything happens in ``demo/``. The pictures are drawn with the one face that Pillow carries, so this shows that the
parts work together, not what the network can do; for real pictures see the README.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import track

DEMO = Path("demo")
TRAIN_WORDS, UNSEEN_WORDS = 4000, 300

_ONSETS = [*"bcdfghjklmnprstvwxz", "st", "tr", "pl", "gr", "ch", "qu"]
_VOWELS = [*"aeiouy", "ai", "ou", "ea"]


def make_word(rng: random.Random) -> str:
    """A word that can be pronounced, a number, or both: 2 to 8 of the 36 characters."""
    kind = rng.random()
    if kind < 0.15:
        return str(rng.randint(10, 99999))
    syllables = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.randint(1, 3)))
    word = syllables + rng.choice(["", "", "n", "r", "s", "t"])
    if kind < 0.25:
        word += str(rng.randint(0, 99))
    return word[:8]


def draw(text: str, rng: random.Random) -> Image.Image:
    """``text`` in grey on grey: another size, place, slope, case, contrast and noise each time."""
    shown = rng.choice([text, text.upper(), text.capitalize()])
    font = ImageFont.load_default(rng.randint(20, 30))
    left, top, right, bottom = font.getbbox(shown)
    margin = rng.randint(3, 9)
    size = (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin)
    ground, ink = rng.randint(150, 255), rng.randint(0, 90)
    if rng.random() < 0.3:
        ground, ink = ink, ground
    picture = Image.new("L", size, ground)
    ImageDraw.Draw(picture).text((margin - left, margin - top), shown, fill=ink, font=font)
    picture = picture.rotate(rng.uniform(-4, 4), Image.Resampling.BILINEAR, fillcolor=ground)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0.0, rng.uniform(0.0, 10.0), (size[1], size[0]))
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def draw_set(folder: Path, words: list[str], rng: random.Random) -> None:
    """A list file and its pictures, as one's own crops would be kept: ``path<TAB>label`` per line."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for number, word in enumerate(track(words, f"drawing {folder}", console=Console(file=sys.stderr)), start=1):
        draw(word, rng).save(folder / "images" / f"{number}.png")
        lines.append(f"images/{number}.png\t{word}\n")
    (folder / "labels.tsv").write_text("".join(lines), encoding="utf-8")


def crnn(*arguments: str) -> None:
    """Run a ``crnn`` command and show it as one would type it."""
    print(f"\n$ crnn {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "crnn", *arguments], check=True)


def main() -> None:
    """The whole demo."""
    start = time.perf_counter()
    rng = random.Random(7)
    words = sorted({make_word(rng) for _ in range(20 * TRAIN_WORDS)})
    rng.shuffle(words)
    draw_set(DEMO / "words", words[UNSEEN_WORDS : UNSEEN_WORDS + TRAIN_WORDS], rng)
    draw_set(DEMO / "unseen", words[:UNSEEN_WORDS], rng)
    shutil.rmtree(DEMO / "run", ignore_errors=True)

    run = str(DEMO / "run")
    crnn(
        *("train", "tiny", "--data.train", str(DEMO / "words"), "--data.validation", str(DEMO / "unseen")),
        *("--checkpoint.save_checkpoint_path", run),
    )
    crnn("evaluate", run, str(DEMO / "unseen"), "--report", str(DEMO / "report.html"))
    crnn("read", *(str(DEMO / "unseen" / "images" / f"{number}.png") for number in range(1, 7)), "--model", run)
    print("\nWhat the pictures say:", ", ".join(words[:6]))
    print(f"{time.perf_counter() - start:.0f} s. The pictures, the run and report.html are in {DEMO}/")


if __name__ == "__main__":
    main()
