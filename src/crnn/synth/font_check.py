"""Check font files: characters that are mapped, drawn, told apart, and look like themselves.

Maps from characters to glyphs (cmap) do not suffice: symbol fonts map letters to images, some fonts draw a box for
missing characters. So every character is drawn once, and letters and digits are compared with the shipped fonts.
``scan_files`` runs this module as a program, so that a font on which FreeType dies ends no run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import signal
import string
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from crnn.errors import MissingExtraError
from crnn.files import atomic_write
from crnn.parallel import ordered_map, usable_cores
from crnn.terminal import counting_bar

if TYPE_CHECKING:
    from fontTools.ttLib import TTFont

ALNUM = string.digits + string.ascii_letters

_EM = 64  # pixels per em of the checked glyphs
_CANVAS = 4 * _EM
_ORIGIN = (_EM + _EM // 2, 2 * _EM + _EM // 2)
_SIDE = 16  # pixels of a normalized glyph
_MIN_LETTERS = 20  # of ALNUM, to judge a font by them
_MIN_LIKENESS = 0.6  # cosine between a letter and a reference, for a letter to count as recognised
_SAME = 0.985  # cosine between two drawings of one outline
_MAX_TWINS = 4  # different characters with one image; I, l and | may look the same
_MISSING = "\U0010fffd"  # mapped by no font: its image is that of missing characters
_MAX_STYLES = 4  # of a variable font
_CHECK_VERSION = 3  # Raised when the check changes, to void older caches
_MAX_FILE_BYTES = 30 << 20
_SECONDS_PER_FILE = 120
_FEW_FILES = 24  # are checked here: starting a process takes longer than checking that many
_FILES_PER_PROCESS = 100
_CRASHED = (("crashed", "the process that drew it died"),)


def shipped_folder() -> Path:
    """Return the folder of the shipped fonts."""
    return Path(__file__).parent / "faces"


class Glyphs:
    """Images of some characters in one font; ``characters`` lacks those whose image many others share."""

    def __init__(self, path: Path, index: int, axes: Sequence[float], characters: str) -> None:
        self._font = ImageFont.truetype(str(path), _EM, index=index, layout_engine=ImageFont.Layout.BASIC)
        if axes:
            self._font.set_variation_by_axes(list(axes))
        self._images: dict[str, Image.Image] = {}
        self._heights: dict[str, int] = {}
        for character in characters:
            try:
                self._add(character)
            except OSError:  # this outline is broken ("raster overflow"); the others may be well
                continue
        twins = Counter(image for image, _ in {(image.tobytes(), c.casefold()) for c, image in self._images.items()})
        self._add(_MISSING)
        missing = self._images.pop(_MISSING, None)
        alike = [
            c
            for c, image in self._images.items()
            if twins[image.tobytes()] > _MAX_TWINS or (missing and _is_same(image, missing))
        ]
        # Spaces and joiners leave no ink.
        empty = [c for c in characters if c not in self._images and unicodedata.category(c) in ("Zs", "Cf")]
        for character in alike:
            del self._images[character]
        self.characters = "".join(c for c in characters if c in self._images or c in empty)

    def _add(self, character: str) -> None:
        image = Image.new("L", (_CANVAS, _CANVAS))
        ImageDraw.Draw(image).text(_ORIGIN, character, fill=255, font=self._font, anchor="ls")
        box = image.getbbox()
        if box is not None:
            self._heights[character] = _ORIGIN[1] - box[1]
            self._images[character] = image.crop(box)

    def cap_height(self) -> float:
        """Height of capitals, or digits, in ems."""
        for group in (string.ascii_uppercase, string.digits):
            heights = [self._heights[c] for c in group if c in self._images]
            if heights:
                return round(float(np.median(heights)) / _EM, 4)
        return 0.0

    def vectors(self, characters: str, *, hollow: bool = False) -> npt.NDArray[np.float32]:
        """Return ``(K, D)`` float32 unit vectors, one for each character, or for its outline."""
        images = [self._images[c] for c in characters]
        return np.stack([_unit_vector(_outline(image) if hollow else image) for image in images])

    def readable(self) -> float:
        """Return the share of letters and digits whose most similar reference is the same one in either case."""
        own = "".join(c for c in ALNUM if c in self._images)
        if len(own) < _MIN_LETTERS:
            return 1.0
        names, references = _references()
        likeness = self.vectors(own) @ references.T
        hits = [
            _LOOKALIKES[names[row.argmax()]] == _LOOKALIKES[c] and row.max() > _MIN_LIKENESS
            for row, c in zip(likeness, own, strict=True)
        ]
        return round(sum(map(bool, hits)) / len(hits), 4)

    def one_case(self) -> bool:
        """Return whether letters whose two cases usually differ have one form."""
        pairs = "".join(c for c in "abdeghmnqrt" if c in self._images and c.upper() in self._images)
        if len(pairs) < 6:
            return False
        return bool(np.median((self.vectors(pairs) * self.vectors(pairs.upper())).sum(axis=1)) > 0.9)


def _is_same(one: Image.Image, other: Image.Image) -> bool:
    """Return whether two glyphs have one outline; not bit for bit, as hinting treats letters differently."""
    if abs(one.width - other.width) > 1 or abs(one.height - other.height) > 1:
        return False
    return float((_unit_vector(one) * _unit_vector(other)).sum()) > _SAME


def _unit_vector(image: Image.Image) -> npt.NDArray[np.float32]:
    """Return a glyph as a unit vector: scaled to a square (thin ones stay thin) and softened."""
    width, height = image.size
    wide = max(3, round(_SIDE * min(1.0, 1.6 * width / height)))
    high = max(3, round(_SIDE * min(1.0, 1.6 * height / width)))
    square = np.zeros((_SIDE + 2, _SIDE + 2), np.float32)
    left, top = (_SIDE - wide) // 2 + 1, (_SIDE - high) // 2 + 1
    square[top : top + high, left : left + wide] = np.asarray(image.resize((wide, high), Image.Resampling.BOX))
    # Strokes of other weights and places shall overlap.
    soft = square[:-2] + 2 * square[1:-1] + square[2:]
    soft = soft[:, :-2] + 2 * soft[:, 1:-1] + soft[:, 2:]
    flat = soft.reshape(-1) - soft.mean()
    norm = float(np.sqrt((flat * flat).sum()))
    return np.asarray(flat / norm if norm else flat, dtype=np.float32)


def _outline(image: Image.Image) -> Image.Image:
    """Return the edge of a glyph, as open fonts draw it."""
    solid = ImageOps.expand(image, 4)
    inner = np.asarray(solid.filter(ImageFilter.MinFilter(5)))
    return Image.fromarray(np.asarray(solid) - inner).crop((4, 4, 4 + image.width, 4 + image.height))


# Characters that many fonts draw alike once their size is gone.
_GROUPS = ("0oOQD", "1iIlLjJ", "2zZ", "5sS", "6bG", "8B", "9qg", "uvUV", "4A", "yY")
_LOOKALIKES = {c: c.casefold() for c in ALNUM} | {c: group[0] for group in _GROUPS for c in group}


@lru_cache(maxsize=1)
def _references() -> tuple[str, npt.NDArray[np.float32]]:
    """Return letters and digits of the shipped fonts, solid and hollow, and their ``(K, D)`` unit vectors."""
    fonts = [Glyphs(path, 0, (), ALNUM) for path in sorted(shipped_folder().rglob("*.ttf"))]
    vectors = [font.vectors(ALNUM, hollow=hollow) for font in fonts for hollow in (False, True)]
    return len(vectors) * ALNUM, np.concatenate(vectors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Font:
    """A font, or one style of a variable font, and its characters."""

    path: str  # The font file
    index: int  # Its number in a collection (.ttc), else 0
    # Positions on a variable font's axes, for ``FreeTypeFont.set_variation_by_axes``; empty elsewhere
    axes: tuple[float, ...]
    family: str  # Typographic family, as the file names it
    style: str  # Style within the family
    weight: int  # 1 to 1000; 400 is regular, 700 bold
    italic: bool  # Italic or oblique
    one_case: bool  # Lower-case letters are drawn as capitals
    cap_height: float  # Height of its capitals (of digits where it has none) in ems; 0 where it has neither
    characters: frozenset[str]  # Needed characters that it has and draws
    readable: float = 1.0  # Share of letters and digits that are most like the same one in a shipped font


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedFile:
    """The usable fonts of a file, and the problems of the file or its other fonts."""

    fonts: tuple[Font, ...] = ()
    problems: tuple[tuple[str, str], ...] = ()  # (reason, detail); the reasons are counted


def _from_json(values: Any) -> CheckedFile:
    fonts = (
        Font(**{**font, "axes": tuple(font["axes"]), "characters": frozenset(font["characters"])})
        for font in values["fonts"]
    )
    return CheckedFile(fonts=tuple(fonts), problems=tuple((reason, detail) for reason, detail in values["problems"]))


def check_file(path: Path, characters: str) -> CheckedFile:
    """Check the fonts of a file for ``characters``."""
    try:
        from fontTools.ttLib import TTLibError
    except ImportError:
        raise MissingExtraError("fonttools", "read", "choosing fonts") from None
    try:
        found = list(_fonts_of(path, characters))
    except Exception as error:
        # Font files are programs and tables of offsets; damaged ones raise anything in either library (struct.error,
        # AssertionError, IndexError ... were met). None of it may end a run.
        reason = "not_a_font" if isinstance(error, TTLibError) else "broken"
        found = [(reason, " ".join(f"{type(error).__name__}: {error}".split())[:160])]
    return CheckedFile(
        fonts=tuple(font for font in found if isinstance(font, Font)),
        problems=tuple(problem for problem in found if not isinstance(problem, Font)),
    )


def _fonts_of(path: Path, characters: str) -> Iterator[Font | tuple[str, str]]:
    size = path.stat().st_size
    if size > _MAX_FILE_BYTES:
        yield "too_large", f"{size / 2**20:.0f} MB, at most {_MAX_FILE_BYTES >> 20}"
        return
    with path.open("rb") as file:
        head = file.read(12)
    count = int.from_bytes(head[8:12], "big") if head[:4] == b"ttcf" else 1  # of a collection
    for index in range(count):
        yield from _styles_of_font(path, index, characters)


def _styles_of_font(path: Path, index: int, characters: str) -> Iterator[Font | tuple[str, str]]:
    """Yield a font, its styles if it is variable, or why it cannot be used."""
    from fontTools.ttLib import TTFont

    # Opened here, as TTFont leaves a file open in which it finds no font.
    with path.open("rb") as file, TTFont(file, fontNumber=index, lazy=True) as opened:
        if any(table in opened for table in ("CBDT", "sbix", "COLR")):
            yield "colour", f"font {index} has glyphs in colour"
            return
        if not any(table in opened for table in ("glyf", "CFF ", "CFF2")):
            yield "bitmap_only", f"font {index} has no outlines"
            return
        mapped = opened.getBestCmap() or {}
        present = "".join(c for c in characters if mapped.get(ord(c), ".notdef") != ".notdef")
        if not present:
            yield "none_of_the_characters", f"font {index} maps none of them"
            return
        family, style = _names(opened, path)
        styles = _variable_styles(opened) or [((), _default_style(opened, style))]
    for axes, (style, weight, italic) in styles:
        # All styles of a variable font draw the same characters.
        glyphs = Glyphs(path, index, axes, present)
        present = glyphs.characters
        if not present:
            yield "draws_nothing", f"{family} {style}: empty or one box for all"
            continue
        yield Font(
            path=str(path), index=index, axes=axes, family=family, style=style, weight=weight, italic=italic,
            one_case=glyphs.one_case(), cap_height=glyphs.cap_height(), characters=frozenset(present),
            readable=glyphs.readable(),
        )  # fmt: skip


# Added to a family's name by files with the four-style names alone.
_WEIGHT_WORDS = re.compile(
    r"(?<=\w)(?:[ -](?:thin|hairline|(?:extra|ultra|semi|demi)?[ -]?(?:light|bold)|book|regular|medium|heavy|black))+$",
    re.I,
)


def _names(opened: TTFont, path: Path) -> tuple[str, str]:
    """Return family and style: the typographic names, if any, else those of the four-style families."""
    table: Any = opened.get("name")

    def name(*ids: int) -> str:
        for number in ids:
            value = table.getDebugName(number) if table is not None else None
            if value and value.strip("\0 "):
                return " ".join(str(value).replace("\0", "").split())
        return ""

    family = name(16) or _WEIGHT_WORDS.sub("", name(1)) or name(1)
    return family or path.stem, name(17, 2) or "Regular"


def _default_style(opened: TTFont, style: str) -> tuple[str, int, bool]:
    """Return style, weight and slant of a font with one style."""
    lowered = style.lower()
    weight = 700 if "bold" in lowered else 400
    italic = "italic" in lowered or "oblique" in lowered
    if "OS/2" in opened:
        table: Any = opened["OS/2"]
        given = int(table.usWeightClass)
        # Some old files count the weights from 1 to 9.
        weight = given * 100 if 1 <= given <= 9 else min(max(given, 1), 1000)
        italic = italic or bool(table.fsSelection & 1)
    return style, weight, italic


def _variable_styles(opened: TTFont) -> list[tuple[tuple[float, ...], tuple[str, int, bool]]]:
    """Return some named styles of a variable font, spread over their weights; none for other fonts."""
    if "fvar" not in opened:
        return []
    table: Any = opened["fvar"]
    defaults = {axis.axisTag: float(axis.defaultValue) for axis in table.axes}
    styles = {}
    for instance in table.instances:
        place = {**defaults, **{tag: float(value) for tag, value in instance.coordinates.items()}}
        style = opened["name"].getDebugName(instance.subfamilyNameID) or "Regular"
        italic = place.get("ital", 0) > 0.5 or abs(place.get("slnt", 0)) > 4 or "italic" in style.lower()
        styles[tuple(place[tag] for tag in defaults)] = (style, int(place.get("wght", 400)), italic)
    if not styles:
        styles[tuple(defaults.values())] = _default_style(opened, "Regular")
    ordered = sorted(styles.items(), key=lambda item: (item[1][1], item[0]))
    chosen = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), _MAX_STYLES)).round().astype(int))
    return [ordered[position] for position in chosen]


def scan_files(
    paths: Sequence[Path], characters: str, *, workers: int | None = None, quiet: bool = False
) -> list[CheckedFile]:
    """Check font files, in order, in ``workers`` processes (default: one per core; 0: this one) or from the cache."""
    wanted = "".join(sorted({*characters, *ALNUM}))  # fonts are judged by letters and digits
    code = hashlib.sha256(f"{_CHECK_VERSION} {wanted}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
    cache = cache_folder() / f"fonts-{code}.json"
    known = _read(cache)
    keys = [_key(path) for path in paths]
    todo = {key: path for key, path in zip(keys, paths, strict=True) if key not in known}
    if todo:
        fresh = {}
        with counting_bar("checking fonts", len(todo), enabled=not quiet) as advance:
            for key, checked in zip(todo, _check(list(todo.values()), wanted, workers), strict=True):
                fresh[key] = checked
                advance(1)
        known |= fresh
        # What crashed may have been the machine's fault, and is tried again. Others may have saved in between.
        saved = _read(cache) | {key: checked for key, checked in fresh.items() if checked.problems != _CRASHED}
        text = json.dumps({key: dataclasses.asdict(checked) for key, checked in saved.items()}, default=sorted)
        # A folder that cannot be written costs time, nothing else.
        with contextlib.suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(cache, text.encode())
    return [known[key] for key in keys]


def cache_folder() -> Path:
    """Return the user's cache folder."""
    root = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    if sys.platform == "darwin":
        root = "~/Library/Caches"
    return Path(os.path.expanduser(root or "~/.cache")) / "crnn"  # noqa: PTH111 - leaves "~" where there is no home


def _key(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return f"{path}|missing"
    return f"{path}|{stat.st_size}|{stat.st_mtime_ns}"


def _read(cache: Path) -> dict[str, CheckedFile]:
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
        return {key: _from_json(values) for key, values in known.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # none yet, not readable, or damaged: everything is checked again


def _check(paths: list[Path], characters: str, workers: int | None) -> Iterator[CheckedFile]:
    ours = shipped_folder()
    if workers == 0 or (len(paths) <= _FEW_FILES and all(ours in path.parents for path in paths)):
        yield from (check_file(path, characters) for path in paths)
        return
    parts = [paths[start : start + _FILES_PER_PROCESS] for start in range(0, len(paths), _FILES_PER_PROCESS)]
    workers = workers or usable_cores()
    for part in ordered_map(lambda part: _in_processes(part, characters), parts, workers=workers, ahead=workers):
        yield from part


def _in_processes(paths: list[Path], characters: str) -> list[CheckedFile]:
    """Run ``main`` on files, again after each file that ends it."""
    checked: list[CheckedFile] = []
    # One thread each: there are as many processes as cores already.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    while len(checked) < len(paths):
        done = subprocess.run(
            [sys.executable, "-m", "crnn.synth.font_check"],
            input=json.dumps({"characters": characters, "files": [str(path) for path in paths[len(checked) :]]}),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # FreeType's and fontTools' complaints are not for the user
            text=True,
            env=environment,
            check=False,
        )
        lines = done.stdout.splitlines(keepends=True)
        checked += [_from_json(json.loads(line)) for line in lines if line.endswith("\n")]
        if len(checked) < len(paths):
            checked.append(CheckedFile(problems=_CRASHED))
    return checked


def main() -> None:
    """Check the ``files`` of a JSON object on stdin for its ``characters``; print a JSON line for each."""
    request = json.load(sys.stdin)
    for name in request["files"]:
        if hasattr(signal, "alarm"):
            # A font in which FreeType never ends: the default action ends this process, in C code too.
            signal.alarm(_SECONDS_PER_FILE)
        checked = check_file(Path(name), request["characters"])
        print(json.dumps(dataclasses.asdict(checked), default=sorted), flush=True)


if __name__ == "__main__":
    main()
