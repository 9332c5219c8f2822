"""Draw words in looks that training does not have: arcs, tilted words, web addresses, neon and relief.

    python tools/hard_words.py hard/ [--count 200] [--fonts FOLDER] [--seed 0]
    crnn evaluate crnn-small hard/*.tsv --charset 36

Letters are Pillow's, and nothing of ``crnn.synth`` draws them: arcs and angles go beyond those of training, glow and
embossing are of no kind that it has. By default with the faces that ship; with ``--fonts`` others can be asked about.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.resources
import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

KINDS = ("arc", "tilted", "web", "neon", "relief")
_SIZE = 48  # pixels of the letters; readers see 32 rows
_COMMONEST = 20_000  # words of the shipped list

Color = tuple[int, int, int]


def words() -> list[str]:
    """Return the commonest words of the shipped list, of 3 to 10 letters."""
    packed = (importlib.resources.files("crnn.synth") / "words.txt.gz").read_bytes()
    lines = [line.split("\t") for line in gzip.decompress(packed).decode().splitlines()]
    lines.sort(key=lambda line: (-float(line[1]), line[0]))
    found = [word for word, _ in lines[:_COMMONEST] if word.isascii() and word.isalpha()]
    return [word for word in found if 3 <= len(word) <= 10]


def drawn(text: str, font: ImageFont.FreeTypeFont, margin: int = 12) -> Image.Image:
    """Return the coverage of a text, 0 to 255."""
    left, top, right, bottom = font.getbbox(text)
    size = (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin)
    image = Image.new("L", size)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, fill=255, font=font)
    return image


def bent(coverage: Image.Image, degrees: float) -> Image.Image:
    """Bend a text around an arc of so many degrees; below 0 downwards."""
    width, height = coverage.size
    radius = width / np.radians(abs(degrees))
    half = np.radians(abs(degrees)) / 2.0
    outer, inner = radius + height / 2.0, radius - height / 2.0
    across = int(2.0 * outer * np.sin(min(half, np.pi / 2.0))) + 2
    down = int(outer - inner * np.cos(half)) + 2
    y, x = np.mgrid[0:down, 0:across].astype(np.float64)
    dx, dy = x - across / 2.0, outer - y
    column = (np.arctan2(dx, dy) / (2.0 * half) + 0.5) * width
    row = outer - np.hypot(dx, dy)
    image = Image.fromarray(_sampled(np.asarray(coverage, np.float64), column, row).astype(np.uint8))
    return image if degrees > 0 else _turned_over(coverage, -degrees)


def _turned_over(coverage: Image.Image, degrees: float) -> Image.Image:
    """Bend downwards: the text upside down, bent upwards, and the whole turned back."""
    return bent(coverage.transpose(Image.Transpose.ROTATE_180), degrees).transpose(Image.Transpose.ROTATE_180)


def _sampled(
    pixels: npt.NDArray[np.float64], column: npt.NDArray[np.float64], row: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return pixels at places by bilinear interpolation, 0 outside."""
    height, width = pixels.shape
    inside = (column >= 0) & (column <= width - 1.001) & (row >= 0) & (row <= height - 1.001)
    column, row = np.where(inside, column, 0), np.where(inside, row, 0)
    x, y = column.astype(int), row.astype(int)
    u, v = column - x, row - y
    above = pixels[y, x] * (1 - u) + pixels[y, x + 1] * u
    below = pixels[y + 1, x] * (1 - u) + pixels[y + 1, x + 1] * u
    return np.where(inside, above * (1 - v) + below * v, 0.0)


def ground(rng: random.Random, size: tuple[int, int], color: Color, roughness: float) -> Image.Image:
    """Return a surface: a color with grain and large spots."""
    noise = np.random.default_rng(rng.randrange(2**32))
    width, height = size
    grain = noise.normal(0.0, roughness, (height, width, 1))
    coarse = Image.fromarray(noise.integers(0, 256, (max(height // 16, 2), max(width // 16, 2)), dtype=np.uint8))
    spots = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.float64)[..., None] - 128.0
    return Image.fromarray(np.clip(np.array(color) + grain + spots * roughness / 40.0, 0, 255).astype(np.uint8))


def painted(rng: random.Random, coverage: Image.Image) -> Image.Image:
    """Paint a text in one color on a surface of another."""
    dark = tuple(rng.randrange(0, 100) for _ in range(3))
    light = tuple(rng.randrange(150, 256) for _ in range(3))
    ink, paper = (dark, light) if rng.random() < 0.7 else (light, dark)
    image = ground(rng, coverage.size, paper, 6.0)  # type: ignore[arg-type]
    image.paste(ink, (0, 0), coverage)
    return image


def neon(rng: random.Random, coverage: Image.Image) -> Image.Image:
    """Light a text up: a white tube along the rims of its letters, and the glow of a color on a dark wall."""
    color = rng.choice(((255, 40, 90), (60, 140, 255), (60, 255, 140), (255, 160, 40), (230, 80, 255)))
    wall = ground(rng, coverage.size, (rng.randrange(10, 45),) * 3, 10.0)
    rims = ImageChops.subtract(coverage.filter(ImageFilter.MaxFilter(3)), coverage.filter(ImageFilter.MinFilter(5)))
    tube = rims if rng.random() < 0.5 else coverage
    for radius, strength in ((rng.uniform(8, 14), 1.6), (4, 1.0), (1.5, 0.9)):
        glow = np.asarray(tube.filter(ImageFilter.GaussianBlur(radius)), np.float64)[..., None] / 255.0
        lit = np.asarray(wall, np.float64) + strength * glow * np.array(color)
        wall = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
    wall.paste((255, 250, 245), (0, 0), tube.filter(ImageFilter.MinFilter(3)) if tube is coverage else tube)
    return wall


def relief(rng: random.Random, coverage: Image.Image) -> Image.Image:
    """Emboss a text in its surface: its color is that of the ground, and light from a side alone shows it."""
    color = rng.choice(((150, 145, 135), (176, 141, 87), (120, 125, 130), (90, 70, 60), (200, 195, 185)))
    surface = np.asarray(ground(rng, coverage.size, color, rng.uniform(4.0, 10.0)), np.float64)
    height = np.asarray(coverage.filter(ImageFilter.GaussianBlur(rng.uniform(0.8, 1.8))), np.float64)
    down, right = np.gradient(height)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    light = (np.cos(angle) * right + np.sin(angle) * down) * rng.uniform(0.8, 1.6)
    return Image.fromarray(np.clip(surface + light[..., None], 0, 255).astype(np.uint8))


def sample(
    kind: str, rng: random.Random, font: ImageFont.FreeTypeFont, vocabulary: list[str]
) -> tuple[Image.Image, str]:
    """Return an image of a kind and its label."""
    word = rng.choice(vocabulary)
    if kind == "web":
        name = "".join(rng.sample(vocabulary, rng.choice((1, 2)))).lower()
        ending = rng.choice((".com", ".org", ".net", ".de", ".co.uk", ".io", ".com/" + word.lower()))
        text = rng.choice(("www." + name + ending, name + ending, word.lower() + "@" + name + ending.split("/")[0]))
        image = painted(rng, drawn(text, font))
        small = (max(image.width * 20 // image.height, 1), 20)  # as small as on a photo of a van
        return image.resize(small, Image.Resampling.LANCZOS), text
    text = rng.choice((word, word.upper(), word.capitalize()))
    coverage = drawn(text, font, 24 if kind == "neon" else 12)
    if kind == "arc":
        return painted(rng, bent(coverage, rng.choice((-1, 1)) * rng.uniform(60.0, 130.0))), text
    if kind == "tilted":
        angle = rng.choice((-1, 1)) * rng.uniform(12.0, 30.0)
        return painted(rng, coverage.rotate(angle, Image.Resampling.BICUBIC, expand=True)), text
    return (neon if kind == "neon" else relief)(rng, coverage), text


def write(folder: Path, count: int, fonts: list[Path], seed: int) -> None:
    """Write ``count`` images of each kind, and a list file for each."""
    vocabulary = words()
    for kind in KINDS:
        rng = random.Random(f"{seed} {kind}")
        (folder / kind).mkdir(parents=True, exist_ok=True)
        lines = []
        for number in range(count):
            font = ImageFont.truetype(rng.choice(fonts), _SIZE)
            image, text = sample(kind, rng, font, vocabulary)
            image.save(folder / kind / f"{number:04}.png")
            lines.append(f"{kind}/{number:04}.png\t{text}\n")
        (folder / f"{kind}.tsv").write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Write the five sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200, help="of each kind; default: 200")
    parser.add_argument("--fonts", type=Path, help="folder of fonts; default: those that ship")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shipped = Path(str(importlib.resources.files("crnn.synth") / "faces"))
    fonts = sorted(p for p in (options.fonts or shipped).rglob("*") if p.suffix.lower() in (".ttf", ".otf"))
    if options.count < 1:
        parser.error(f"--count is {options.count}; expected 1 or more")
    for path in fonts:  # before anything is written
        try:
            ImageFont.truetype(str(path), _SIZE)
        except OSError as error:
            parser.error(f"{path}: {error}; expected fonts that can be opened")
    if not fonts:
        parser.error(f"{options.fonts}: no .ttf or .otf there")
    write(options.folder, options.count, fonts, options.seed)


if __name__ == "__main__":
    main()
