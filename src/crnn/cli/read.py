"""``crnn read``: images in, a line for each out."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from PIL import Image

from crnn.cli.arguments import EngineOptions
from crnn.contact_sheet import load_font
from crnn.decoding.decoder import DecodingOptions
from crnn.errors import ConfigError, ImageError, printable
from crnn.image import IMAGE_SUFFIXES, advice
from crnn.model.weights import DEFAULT_MODEL
from crnn.terminal import IMAGES, check_writable, counting_bar, print_json, save_image, say

if TYPE_CHECKING:
    from crnn.page import Page, PageReader
    from crnn.recognizer import Reading, Recognizer

_MAX_EXPLAINED = 16  # images in one file of --explain, or --sheet


def read(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE|FOLDER|-")],
    model: str = DEFAULT_MODEL,
    *,
    detect: Literal["none", "rapidocr"] = "none",
    sheet: str = "",
    decoding: DecodingOptions,
    explain: str = "",
    explain_font: str = "",
    engine: EngineOptions,
    json: bool = False,
) -> int:
    """Read images of words and short lines.

    Prints ``path<TAB>text<TAB>confidence`` for each, in order. In Python: ``crnn.load(model).read(images)``. With
    --detect, images are whole photos, and there is such a line for each of theirs.

    Args:
        images: Files, folders (all images in them, sorted), or - for a list of paths on stdin.
        model: Name of weights that ship, hf://OWNER/NAME, a weights file, a run folder, or an exported file.
        detect: What finds the lines of whole photos, each of which gets a line of output; needs crnn[detect].
        sheet: Write an image with the boxes of the lines and, beside them, their texts.
        decoding: How texts are found.
        explain: Write an image that shows how the readings come about.
        explain_font: Font file for it; default: one that has the characters.
        engine: The engine.
        json: One JSON object a line: image, text, score, confidence, warning, characters; or image, error. With
            --detect: image, width, height, lines.
    """
    from crnn.recognizer import Reading, load

    check_writable("--explain", explain, "explained.png", IMAGES, images)
    check_writable("--sheet", sheet, "sheet.png", IMAGES, images)
    if detect != "none" and (explain or decoding.n_best > 1):
        flag = "--explain" if explain else "--n-best"
        raise ConfigError(f"{flag} is for images of one line; expected it without --detect")
    if explain:
        load_font(explain_font or None, 12)  # raises its errors now, and not at the end
    reader = load(model, **asdict(engine), **asdict(decoding))
    if decoding.n_best > 1 and not json:
        say("read", "the texts of --n-best are part of --json; without it only the best is shown")
    if (lexicon := reader.decoder.lexicon) is not None:
        skipped = [(reason, words) for reason, words in lexicon.skipped.items() if reason != "duplicate"]
        told = "; ".join(f"{reason}: {n} ({', '.join(map(repr, words))})" for reason, (n, words) in skipped)
        if told:
            say("read", f"lexicon {decoding.lexicon}: {len(lexicon)} words; left out {told}")
    pages: PageReader | None = None
    if detect != "none":
        from crnn.page import PageReader

        pages = PageReader(reader, detect, threads=engine.threads)
    keep = _MAX_EXPLAINED + 1 if explain or sheet else 0
    count, bad, kept = _read_all(pages or reader, images, json=json, n_best=decoding.n_best, keep=keep)
    if not count:
        raise ConfigError(
            f"{', '.join(images)}: no image there; expected image files, folders with some, or - and paths on stdin"
        )
    if explain:
        _explain(reader, [path for path, _ in kept], explain, explain_font or None)
    if sheet:
        sheets = [page.draw(path) for path, page in kept[:_MAX_EXPLAINED] if not isinstance(page, Reading)]
        _save_below(sheet, sheets, "drawn", len(kept))
    return 1 if bad else 0


def _read_all(
    reader: Recognizer | PageReader, images: list[str], *, json: bool, n_best: int, keep: int
) -> tuple[int, int, list[tuple[str, Reading | Page]]]:
    """Read and print; return the number of images, the number of unreadable ones, and the first readable ones."""
    from crnn.recognizer import Reading

    closed: list[str] = []  # folders that cannot be opened
    paths: Iterable[str] = _expand(images, closed)
    shows_bar = not sys.stdout.isatty()  # on a terminal results are the progress
    total = None
    if shows_bar and sys.stderr.isatty() and "-" not in images:
        paths = list(paths)
        total = len(paths)
    count = bad = 0
    kept: list[tuple[str, Reading | Page]] = []
    paths, names = itertools.tee(paths)
    with counting_bar("reading", total, enabled=shows_bar) as advance:
        for found, path in zip(reader.stream(paths), names, strict=True):
            count += 1
            advance(1)
            if isinstance(found, ImageError):
                bad += 1
                if json:
                    print_json({"image": path, "error": str(found)})
                else:
                    say("read", str(found))
                continue
            lines = (found,) if isinstance(found, Reading) else found.lines
            if isinstance(found, Reading) and found.warning is not None:
                say("read", f"{path}: {advice(found.warning, found.turned)}")
            if len(kept) < keep:
                kept.append((path, found))
            if json:
                more = {"with_alternatives": n_best > 1} if isinstance(found, Reading) else {}
                print_json({"image": path, **found.as_dict(**more)})
                continue
            if not lines:
                say("read", f"{path}: no text found")
            for line in lines:
                print(f"{printable(path, sys.maxsize)}\t{line.text}\t{line.confidence:.3f}", flush=True)
    return count, bad + len(closed), kept


def _explain(reader: Recognizer, paths: list[str], target: str, font: str | None) -> None:
    from crnn.explanation import explain

    _save_below(target, [explain(reader, path).draw(font) for path in paths[:_MAX_EXPLAINED]], "explained", len(paths))


def _save_below(target: str, sheets: list[Image.Image], done: str, count: int) -> None:
    """Write images below one another, and say so."""
    if not sheets:
        say("read", f"{target} is not written: no image could be read")
        return
    whole = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), "white")
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    save_image(target, whole)
    more = f", the first {_MAX_EXPLAINED} images" if count > _MAX_EXPLAINED else ""
    say("read", f"{done} in {target}{more}")


def _expand(images: Iterable[str], closed: list[str]) -> Iterator[str]:
    """Yield paths of images from files, folders and ``-``; folders that cannot be opened are added to ``closed``."""
    for image in images:
        if image == "-":
            # As bytes: paths are not always text in the encoding of the terminal.
            for number, line in enumerate(sys.stdin.buffer):
                if number == 0 and (b"\0" in line or line.startswith((b"\x89PNG", b"\xff\xd8\xff"))):
                    raise ConfigError(
                        "stdin holds no paths; expected one on each line, or the image's path in place of -"
                    )
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
                if line.strip():
                    yield os.fsdecode(line.rstrip(b"\r\n"))
        elif os.path.isdir(image):  # noqa: PTH112 - Path raises for names that are too long or may not be seen
            yield from _images_in(image, closed)
        else:
            yield image


def _images_in(folder: str, closed: list[str]) -> Iterator[str]:
    def unreadable(error: OSError) -> None:
        closed.append(os.fsdecode(error.filename))
        say("read", f"{closed[-1]}: folder cannot be opened ({error.strerror}); left out")

    others, linked, found = [], [], []
    for at, folders, names in os.walk(folder, onerror=unreadable):
        linked += [name for name in folders if Path(at, name).is_symlink()]
        found += [Path(at, name) for name in names]
    for path in sorted(found):
        # A link to nothing is an image that is missing; a pipe would be waited for.
        # What macOS writes beside a file on other disks (._NAME) is none, whatever its suffix.
        is_image = path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("._")
        if is_image and (os.path.isfile(path) or not os.path.exists(path)):  # noqa: PTH110, PTH113 - as above
            yield str(path)
        else:
            others.append(path.name)
    for skipped, kind in ((others, "files passed over, not images"), (linked, "linked folders passed over")):
        if skipped:
            shown = ", ".join(skipped[:3]) + (", ..." if len(skipped) > 3 else "")
            say("read", f"{folder}: {len(skipped)} {kind}: {shown}")
