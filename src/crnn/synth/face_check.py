"""What a font file can really write: characters that are mapped, drawn, told apart, and look like themselves.

A map from characters to glyphs (cmap) says little: symbol fonts map letters to pictures, some fonts draw a box for
whatever they lack, others nothing at all. So every character is drawn once, and letters and digits are compared with
those of the faces that ship: a face in which few of them are most like the same character elsewhere is no text face.

``python -m crnn.synth.face_check`` checks the files that it is told on stdin and prints one JSON line for each; see
``crnn.synth.face_scan``, which runs it, so that a font on which FreeType dies ends no run.
"""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crnn.errors import MissingExtraError
from crnn.synth.face_glyphs import ALNUM, Glyphs

if TYPE_CHECKING:
    from fontTools.ttLib import TTFont

__all__ = ["CHECK_VERSION", "CheckedFace", "CheckedFile", "check_file", "checked_characters"]

CHECK_VERSION = 3
"""Raised when the check changes, so that nothing remembered from an older one is used."""

MAX_FILE_BYTES = 30 << 20
SECONDS_PER_FILE = 120

_MAX_STYLES = 4  # of a variable font


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedFace:
    """One face of a file and what it can write.

    Attributes:
        index: Its number in a collection (.ttc), else 0.
        axes: Positions on a variable font's axes, in their order; empty elsewhere.
        family: Typographic family, as the file names it.
        style: Style within the family.
        weight: 1 to 1000; 400 is regular, 700 bold.
        italic: Whether the letters lean.
        characters: Those of the asked ones that it can write, sorted.
        cap_height: Height of capitals (of digits where it has none) in ems; 0 where it has neither.
        readable: Share of its letters and digits that are like the same one in a face that ships, and more so than like
            any other, whatever the case; 1 where there are too few to judge.
        one_case: Lower-case letters are drawn as capitals.
    """

    index: int
    axes: tuple[float, ...]
    family: str
    style: str
    weight: int
    italic: bool
    characters: str
    cap_height: float
    readable: float
    one_case: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedFile:
    """What is in a font file.

    Attributes:
        faces: The faces that can write something.
        problems: Why the file, or a face of it, cannot be used: ``(reason, detail)``; the reasons are counted.
    """

    faces: tuple[CheckedFace, ...] = ()
    problems: tuple[tuple[str, str], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """This as plain lists and dictionaries."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> CheckedFile:
        """The inverse of ``as_json``; raises ``KeyError``, ``TypeError`` or ``ValueError`` for anything else."""
        faces = tuple(CheckedFace(**{**face, "axes": tuple(face["axes"])}) for face in values["faces"])
        if not all(isinstance(face.characters, str) and isinstance(face.index, int) for face in faces):
            raise ValueError("a face without its characters")
        return cls(faces=faces, problems=tuple((str(reason), str(detail)) for reason, detail in values["problems"]))


def checked_characters(characters: Iterable[str]) -> str:
    """What a file is checked for: ``characters``, and letters and digits, by which a face is judged."""
    return "".join(sorted({*characters, *ALNUM}))


def check_file(path: Path, characters: str, *, compare: bool = True) -> CheckedFile:
    """What the faces of ``path`` can write.

    Args:
        path: A font file: .ttf, .otf, .ttc or .otc.
        characters: What to look for, from ``checked_characters``.
        compare: Compare letters with those of the faces that ship.

    Raises:
        MissingExtraError: fontTools is not installed.
    """
    try:
        from fontTools.ttLib import TTLibError
    except ImportError:
        raise MissingExtraError("fonttools", "synth", "choosing faces") from None
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            return _unusable("too_large", f"{size / 2**20:.0f} MB, at most {MAX_FILE_BYTES >> 20}")
        faces: list[CheckedFace] = []
        problems: list[tuple[str, str]] = []
        for index in range(_num_fonts(path)):
            for face in _faces_of_font(path, index, characters, compare):
                if isinstance(face, CheckedFace):
                    faces.append(face)
                else:
                    problems.append(face)
        return CheckedFile(faces=tuple(faces), problems=tuple(problems))
    except TTLibError as error:
        return _unusable("not_a_font", _one_line(error))
    except Exception as error:
        # Font files are programs and tables of offsets; what a damaged one raises in either library is anyone's guess
        # (struct.error, AssertionError, IndexError ... were met). None of it may end a run.
        return _unusable("broken", _one_line(error))


def _unusable(reason: str, detail: str) -> CheckedFile:
    return CheckedFile(problems=((reason, detail),))


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def _num_fonts(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(12)
    return int.from_bytes(head[8:12], "big") if head[:4] == b"ttcf" else 1


def _faces_of_font(path: Path, index: int, characters: str, compare: bool) -> list[CheckedFace | tuple[str, str]]:
    from fontTools.ttLib import TTFont

    # Opened here, as TTFont leaves a file open in which it finds no font.
    with path.open("rb") as file, TTFont(file, fontNumber=index, lazy=True) as font:
        if any(table in font for table in ("CBDT", "sbix", "COLR")):
            return [("colour", f"font {index} has glyphs in colour")]
        if not any(table in font for table in ("glyf", "CFF ", "CFF2")):
            return [("bitmap_only", f"font {index} has no outlines")]
        mapped = font.getBestCmap() or {}
        present = "".join(c for c in characters if mapped.get(ord(c), ".notdef") != ".notdef")
        if not present:
            return [("none_of_the_characters", f"font {index} maps none of them")]
        family, names = _names(font, path)
        default = _default_style(font, names)
        styles = _variable_styles(font) or [((), default)]
    found: list[CheckedFace | tuple[str, str]] = []
    drawn: str | None = None
    for axes, (style, weight, italic) in styles:
        # What is drawn at all is the same all over a variable font.
        glyphs = Glyphs(path, index, axes, present if drawn is None else drawn)
        usable = glyphs.usable()
        drawn = usable
        if not usable:
            found.append(("draws_nothing", f"{family} {style}: empty or one box for all"))
            continue
        found.append(
            CheckedFace(
                index=index, axes=axes, family=family, style=style, weight=weight, italic=italic,
                characters=usable, cap_height=glyphs.cap_height(usable),
                readable=glyphs.readable(usable) if compare else 1.0, one_case=glyphs.one_case(usable),
            )
        )  # fmt: skip
    return found


# --- names and styles -------------------------------------------------------------------------------------------------

# What files with the four-style names alone add to a family's name.
_WEIGHT_WORDS = re.compile(
    r"(?<=\w)(?:[ -](?:thin|hairline|(?:extra|ultra|semi|demi)?[ -]?(?:light|bold)|book|regular|medium|heavy|black))+$",
    re.I,
)


def _names(font: TTFont, path: Path) -> tuple[str, str]:
    """Family and style: the typographic names where there are any, else those of the four-style families."""
    table: Any = font.get("name")

    def name(*ids: int) -> str:
        for number in ids:
            value = table.getDebugName(number) if table is not None else None
            if value and value.strip("\0 "):
                return " ".join(str(value).replace("\0", "").split())
        return ""

    family = name(16) or _WEIGHT_WORDS.sub("", name(1)) or name(1)
    return family or path.stem, name(17, 2) or "Regular"


def _default_style(font: TTFont, style: str) -> tuple[str, int, bool]:
    """Style, weight and slant of a font that has one style."""
    lowered = style.lower()
    weight = 700 if "bold" in lowered else 400
    italic = "italic" in lowered or "oblique" in lowered
    if "OS/2" in font:
        table: Any = font["OS/2"]
        given = int(table.usWeightClass)
        # Some old files count the weights from 1 to 9.
        weight = given * 100 if 1 <= given <= 9 else min(max(given, 1), 1000)
        italic = italic or bool(table.fsSelection & 1)
    return style, weight, italic


def _variable_styles(font: TTFont) -> list[tuple[tuple[float, ...], tuple[str, int, bool]]]:
    """Some named styles of a variable font, spread over their weights; none for other fonts."""
    if "fvar" not in font:
        return []
    table: Any = font["fvar"]
    order = [axis.axisTag for axis in table.axes]
    defaults = {axis.axisTag: float(axis.defaultValue) for axis in table.axes}
    styles = {}
    for instance in table.instances:
        place = {**defaults, **{tag: float(value) for tag, value in instance.coordinates.items()}}
        style = font["name"].getDebugName(instance.subfamilyNameID) or "Regular"
        italic = place.get("ital", 0) > 0.5 or abs(place.get("slnt", 0)) > 4 or "italic" in style.lower()
        styles[tuple(place[tag] for tag in order)] = (style, int(place.get("wght", 400)), italic)
    if not styles:
        style, weight, italic = _default_style(font, "Regular")
        return [(tuple(defaults[tag] for tag in order), (style, weight, italic))]
    ordered = sorted(styles.items(), key=lambda item: (item[1][1], item[0]))
    chosen = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), _MAX_STYLES)).round().astype(int))
    return [ordered[position] for position in chosen]


def main() -> None:
    """Check what a JSON object on stdin names: ``characters``, ``compare`` and ``files``; a JSON line for each."""
    request = json.load(sys.stdin)
    for name in request["files"]:
        if hasattr(signal, "alarm"):
            # A font in which FreeType never ends: the default action ends this process, in C code too.
            signal.alarm(SECONDS_PER_FILE)
        checked = check_file(Path(name), request["characters"], compare=request["compare"])
        sys.stdout.write(json.dumps(checked.as_json()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
