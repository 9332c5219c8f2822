"""With which fonts words are written: which there are, what they can write, and the choice of one for a text.

``find_fonts`` looks through folders, has each file checked (``crnn.synth.font_check``) and gives a ``FontSet``, whose
``pick`` draws a family, then one of its fonts: a family with forty styles is not seen forty times as often.
"""

from __future__ import annotations

import fnmatch
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crnn.config.synth import FontConfig
from crnn.errors import ConfigError, DataError
from crnn.synth.font_check import CheckedFile, CheckedFont, scan_files, shipped_folder

_SUFFIXES = {".ttf", ".otf", ".ttc", ".otc"}
_EXAMPLES = 5  # of each reason for leaving something out
_TRIES = 4  # families that are drawn blindly before those with the characters are listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Font:
    """A font and what it can write.

    Attributes:
        path: The font file.
        index: Its number in a collection (.ttc), else 0.
        axes: Positions on a variable font's axes, for ``FreeTypeFont.set_variation_by_axes``; empty elsewhere.
        family: Typographic family.
        style: Style within the family.
        weight: 1 to 1000; 400 is regular, 700 bold.
        italic: Whether the letters lean.
        one_case: Lower-case letters are drawn as capitals.
        cap_height: Height of its capitals (of digits where it has none) in ems; 0 where it has neither.
        characters: Those of the needed characters that it has and draws.
    """

    path: str
    index: int
    axes: tuple[float, ...]
    family: str
    style: str
    weight: int
    italic: bool
    one_case: bool
    cap_height: float
    characters: frozenset[str]


class FontSet:
    """Fonts to choose from, grouped by family; the same order wherever the files are.

    Args:
        fonts: At least one.
        skipped: How many files or fonts were left out, by reason.
        examples: A few of each reason: path or font, and what was wrong.

    Attributes:
        fonts: All fonts, by family, weight and style.
        families: Names of the families, sorted.
        skipped: As given.
        examples: As given.
        characters: All that at least one font can write.
    """

    def __init__(
        self,
        fonts: Sequence[Font],
        skipped: Counter[str] | None = None,
        examples: dict[str, list[str]] | None = None,
    ) -> None:
        if not fonts:
            raise DataError("a set of fonts needs at least one font")
        self.fonts = tuple(sorted(fonts, key=_order))
        self.skipped: Counter[str] = Counter(skipped or ())
        self.examples = dict(examples or {})
        self._groups: list[list[Font]] = []
        for font in self.fonts:
            if not self._groups or self._groups[-1][0].family != font.family:
                self._groups.append([])
            self._groups[-1].append(font)
        self.families = tuple(group[0].family for group in self._groups)
        self.characters = frozenset[str]().union(*(font.characters for font in self.fonts))

    def __len__(self) -> int:
        return len(self.fonts)

    def __repr__(self) -> str:
        return f"FontSet({len(self.fonts)} fonts of {len(self.families)} families, {self.skipped.total()} left out)"

    @property
    def digest(self) -> str:
        """A short code that is the same for the same fonts with the same characters, wherever their files are."""
        text = "\n".join(f"{Path(f.path).name} {f.index} {f.axes} {''.join(sorted(f.characters))}" for f in self.fonts)
        return f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"

    def pick(self, rng: np.random.Generator, text: str) -> Font | None:
        """A font that has every character of ``text``; ``None`` where there is none.

        Every family that has such a font is as likely as any other, and so is each such font within it.

        Args:
            rng: Where the choice comes from; how much is taken from it depends on the text.
            text: What is to be written.
        """
        needed = frozenset(text)
        if not needed <= self.characters:
            return None
        # Most families can write most texts, and drawing again until one can is as fair as listing them all first.
        for _ in range(_TRIES):
            able = [f for f in self._groups[_below(rng, len(self._groups))] if needed <= f.characters]
            if able:
                return able[_below(rng, len(able))]
        groups = [able for group in self._groups if (able := [f for f in group if needed <= f.characters])]
        if not groups:
            return None
        able = groups[_below(rng, len(groups))]
        return able[_below(rng, len(able))]


def find_fonts(
    config: FontConfig, characters: Iterable[str], *, case_matters: bool = False, workers: int | None = None,
    quiet: bool = False,
) -> FontSet:  # fmt: skip
    """The fonts of some folders that can write at least a part of ``characters``.

    Args:
        config: Where to look and what to use.
        characters: All characters that may have to be written.
        case_matters: Take the lower-case letters away from fonts that draw them as capitals, as what is written with
            them would be labelled wrongly by a charset with both cases.
        workers: Processes that check files not seen before. Default: one per core. 0: none.
        quiet: No progress bar.

    Raises:
        ConfigError: A folder does not exist.
        DataError: No font can be used.
        MissingExtraError: fontTools is not installed.
    """
    needed = frozenset(characters)
    paths = _font_files(config)
    checked = scan_files(paths, "".join(sorted(needed)), workers=workers, quiet=quiet)
    left_out = _LeftOut()
    fonts: dict[tuple[object, ...], Font] = {}
    for path, result in zip(paths, checked, strict=True):
        for reason, detail in result.problems:
            left_out.add(reason, f"{path}: {detail}")
        for found in result.fonts:
            font = _restricted(path, found, needed, case_matters)
            why = _why_not(found, font, config, len(needed))
            if why is None and _order(font)[:-2] in fonts:
                why = "duplicate"
            if why is not None:
                left_out.add(why, f"{path}: {font.family} {font.style}")
            else:
                fonts[_order(font)[:-2]] = font
    if not fonts:
        raise DataError(_nothing_usable(config, paths, checked, left_out, needed))
    return FontSet(list(fonts.values()), left_out.counts, left_out.examples)


def system_folders() -> list[Path]:
    """The folders in which the system and the user keep fonts, those of them that exist."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - leaves "~" where there is no home, no exception
    if sys.platform == "win32":
        folders = [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"]
        folders.append(Path(os.environ.get("LOCALAPPDATA", home)) / "Microsoft/Windows/Fonts")
    elif sys.platform == "darwin":
        folders = [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    else:
        shares = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
        mine = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
        folders = [Path(share) / "fonts" for share in [*shares.split(":"), "/usr/local/share", "/usr/share"] if share]
        folders += [mine / "fonts", home / ".fonts", *_fontconfig_folders(mine, home)]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _below(rng: np.random.Generator, count: int) -> int:
    """A whole number in [0, count); four times faster than ``rng.integers`` for one number."""
    return int(rng.random() * count)


def _order(font: Font) -> tuple[object, ...]:
    # Everything but the folder, so that another place of the same files gives the same images.
    return (
        font.family.casefold(), font.family, font.weight, font.italic, font.style, font.axes,
        Path(font.path).name, font.index,
    )  # fmt: skip


def _font_files(config: FontConfig) -> list[Path]:
    """All font files of the folders, each once, in a fixed order."""
    roots: list[Path] = []
    for name in config.folders:
        if name == "shipped":
            roots.append(shipped_folder())
        elif name == "system":
            roots += system_folders()
        else:
            folder = Path(name).expanduser()
            if not folder.exists():
                raise ConfigError(
                    f"fonts.folders: {name!r} does not exist; give folders with fonts, "
                    '"shipped" for those of the package or "system" for the installed ones'
                )
            roots.append(folder)
    files: dict[Path, None] = {}
    for root in roots:
        inside = [root] if root.is_file() else sorted(root.rglob("*"), key=lambda path: path.relative_to(root).parts)
        for path in inside:
            if path.suffix.lower() in _SUFFIXES and path.is_file():
                files[path.resolve()] = None
    return list(files)


def _fontconfig_folders(mine: Path, home: Path) -> list[Path]:
    """The folders that fontconfig's own settings name."""
    try:
        text = Path("/etc/fonts/fonts.conf").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    folders = []
    for prefix, name in re.findall(r"<dir(?:\s+prefix=\"(\w+)\")?[^>]*>([^<]+)</dir>", text):
        place = name.strip()
        if prefix == "xdg":
            folders.append(mine / place)
        else:
            folders.append(home / place[2:] if place.startswith("~/") else Path(place))
    return folders


def _restricted(path: Path, found: CheckedFont, needed: frozenset[str], case_matters: bool) -> Font:
    characters = needed & frozenset(found.characters)
    if case_matters and found.one_case:
        characters = frozenset(c for c in characters if c == c.upper())
    return Font(
        path=str(path), index=found.index, axes=found.axes, family=found.family, style=found.style,
        weight=found.weight, italic=found.italic, one_case=found.one_case, cap_height=found.cap_height,
        characters=characters,
    )  # fmt: skip


def _why_not(found: CheckedFont, font: Font, config: FontConfig, num_needed: int) -> str | None:
    """Why a font is left out, in a word or two; ``None`` for one that is used."""
    family = font.family.casefold()

    def matches(patterns: tuple[str, ...]) -> bool:
        return any(fnmatch.fnmatchcase(family, pattern.casefold()) for pattern in patterns)

    if not matches(config.families) or matches(config.exclude):
        return "excluded"
    if (font.italic and not config.italics) or not config.min_weight <= font.weight <= config.max_weight:
        return "other_style"
    if not font.characters or len(font.characters) < config.min_coverage * num_needed:
        return "too_few_characters"
    if found.readable < config.min_readable:
        return "unlike_letters"
    return None


class _LeftOut:
    """Counts what is left out, and keeps a few examples."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, example: str) -> None:
        self.counts[reason] += 1
        if self.counts[reason] <= _EXAMPLES:
            self.examples.setdefault(reason, []).append(example)


def _nothing_usable(
    config: FontConfig, paths: list[Path], checked: list[CheckedFile], left_out: _LeftOut, needed: frozenset[str]
) -> str:
    """One line: what was looked at, what became of it, what to do."""
    where = ", ".join(repr(folder) for folder in config.folders)
    if not paths:
        return f"fonts.folders: no font file (.ttf, .otf, .ttc, .otc) in {where}; give folders that have some"
    num_fonts = sum(len(result.fonts) for result in checked)
    if num_fonts and left_out.counts["excluded"] == num_fonts:
        families = sorted({font.family for result in checked for font in result.fonts})
        shown = ", ".join(families[:_EXAMPLES]) + (", ..." if len(families) > _EXAMPLES else "")
        return (
            f"fonts.families {list(config.families)} and fonts.exclude {list(config.exclude)} leave none of the "
            f"{len(families)} families in {where} ({shown}); expected names of some, * stands for anything"
        )
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.counts.most_common())
    first = next(iter(left_out.examples.values()))[0] if left_out.examples else ""
    wanted = "".join(sorted(needed))
    shown = wanted if len(wanted) <= 40 else f"{wanted[:40]}..."
    return (
        f"fonts.folders: none of {len(paths)} font files ({num_fonts} fonts) in {where} can be used for the "
        f"{len(needed)} characters {shown!r}: {reasons}; for example {first}. Add folders with fonts for these "
        "characters, or lower fonts.min_coverage"
    )
