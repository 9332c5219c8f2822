"""Find usable fonts and choose one for a text."""

import dataclasses
import fnmatch
import itertools
import os
import reprlib
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from crnn.config.synth import FontConfig
from crnn.errors import ConfigError, DataError
from crnn.synth.font_check import Font, scan_files, shipped_folder

T = TypeVar("T")

_SUFFIXES = {".ttf", ".otf", ".ttc", ".otc"}
_TRIES = 4  # families drawn blindly before those with the characters are listed


class FontSet:
    """Fonts to choose from, grouped by family, in an order independent of folders.

    ``skipped`` counts unused files and fonts by reason; ``characters`` are those that at least one font can write.
    """

    def __init__(self, fonts: Iterable[Font], skipped: Mapping[str, int] | None = None) -> None:
        self.fonts = tuple(sorted(fonts, key=_order))
        self.skipped = Counter(skipped)
        self._groups = [list(group) for _, group in itertools.groupby(self.fonts, key=lambda font: font.family)]
        self.families = tuple(group[0].family for group in self._groups)
        self.characters = frozenset[str]().union(*(font.characters for font in self.fonts))

    def __len__(self) -> int:
        return len(self.fonts)

    @property
    def digest(self) -> str:
        """Checksum of the fonts and their characters, independent of folders."""
        text = "\n".join(f"{Path(f.path).name} {f.index} {f.axes} {''.join(sorted(f.characters))}" for f in self.fonts)
        return f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"

    def pick(self, rng: np.random.Generator, text: str) -> Font | None:
        """Draw uniformly a family that can write ``text``, then such a font of it; ``None`` where there is none.

        So families with many styles are not seen more often.
        """
        needed = frozenset(text)
        if not needed <= self.characters:
            return None
        # Most families can write most texts, and drawing until one can is as fair as listing them all first.
        for _ in range(_TRIES):
            able = [font for font in _pick(rng, self._groups) if needed <= font.characters]
            if able:
                return _pick(rng, able)
        groups = [able for group in self._groups if (able := [font for font in group if needed <= font.characters])]
        return _pick(rng, _pick(rng, groups)) if groups else None


def find_fonts(
    config: FontConfig, characters: Iterable[str], *, case_matters: bool = False, workers: int | None = None,
    quiet: bool = False,
) -> FontSet:  # fmt: skip
    """Return the fonts that can write at least a part of ``characters``.

    ``case_matters``, for charsets with both cases: lower-case letters of fonts that draw them as capitals are dropped.
    ``workers`` as for ``scan_files``.
    """
    needed = frozenset(characters)
    paths = _font_files(config)
    checked = scan_files(paths, "".join(sorted(needed)), workers=workers, quiet=quiet)
    left_out: defaultdict[str, list[str]] = defaultdict(list)
    fonts: dict[tuple[object, ...], Font] = {}
    for path, result in zip(paths, checked, strict=True):
        for reason, detail in result.problems:
            left_out[reason].append(f"{path}: {detail}")
        for found in result.fonts:
            characters = needed & found.characters
            if case_matters and found.one_case:
                characters = frozenset(c for c in characters if c == c.upper())
            font = dataclasses.replace(found, characters=characters)
            why = _why_not(font, config, len(needed))
            if why is None and _order(font)[:-2] in fonts:
                why = "duplicate"
            if why is not None:
                left_out[why].append(f"{path}: {font.family} {font.style}")
            else:
                fonts[_order(font)[:-2]] = font
    if not fonts:
        raise DataError(_nothing_usable(config, left_out, "".join(sorted(needed))))
    return FontSet(fonts.values(), {reason: len(found) for reason, found in left_out.items()})


def system_folders() -> list[Path]:
    """Return the existing font folders of the system and the user."""
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
        folders += [mine / "fonts", home / ".fonts"]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """Draw an item uniformly; four times faster than by ``rng.integers``."""
    return items[int(rng.random() * len(items))]


def _order(font: Font) -> tuple[object, ...]:
    # Everything but the folder, so that the same files elsewhere give the same images.
    return (
        font.family.casefold(), font.family, font.weight, font.italic, font.style, font.axes,
        Path(font.path).name, font.index,
    )  # fmt: skip


def _font_files(config: FontConfig) -> list[Path]:
    """Return all font files of the folders, each once, in a fixed order."""
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
                    f'fonts.folders: {name!r} does not exist; expected folders with fonts, "shipped" or "system"'
                )
            roots.append(folder)
    files: dict[Path, None] = {}
    for root in roots:
        inside = [root] if root.is_file() else sorted(root.rglob("*"), key=lambda path: path.relative_to(root).parts)
        for path in inside:
            if path.suffix.lower() in _SUFFIXES and path.is_file():
                files[path.resolve()] = None
    return list(files)


def _why_not(font: Font, config: FontConfig, num_needed: int) -> str | None:
    """Return the reason to leave a font out, in a word or two, or ``None``."""
    family = font.family.casefold()

    def matches(patterns: tuple[str, ...]) -> bool:
        return any(fnmatch.fnmatchcase(family, pattern.casefold()) for pattern in patterns)

    if not matches(config.families) or matches(config.exclude):
        return "excluded"
    if (font.italic and not config.italics) or not config.min_weight <= font.weight <= config.max_weight:
        return "other_style"
    if not font.characters or len(font.characters) < config.min_coverage * num_needed:
        return "too_few_characters"
    if font.readable < config.min_readable:
        return "unlike_letters"
    return None


def _nothing_usable(config: FontConfig, left_out: Mapping[str, Sequence[str]], characters: str) -> str:
    """Return an error message: files found, their problems, the remedy."""
    where = ", ".join(map(repr, config.folders))
    if set(left_out) == {"excluded"}:
        return (
            f"fonts.families {list(config.families)} and fonts.exclude {list(config.exclude)} leave no font of {where}"
        )
    if not left_out:
        return f"fonts.folders: no font file (.ttf, .otf, .ttc, .otc) in {where}; give folders that have some"
    reasons = ", ".join(f"{len(found)} {reason}, such as {found[0]}" for reason, found in left_out.items())
    return (
        f"fonts.folders: no font in {where} can be used for {len(characters)} characters, {reprlib.repr(characters)}: "
        f"{reasons}. Add folders with fonts for these characters, or change fonts.families, exclude or min_coverage"
    )
