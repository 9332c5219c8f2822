"""Results of ``crnn data inspect`` as text and as a sheet of samples."""

import contextlib
import io
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.table import Table

from crnn.config.model import time_steps
from crnn.contact_sheet import contact_sheet
from crnn.data.inspection import Finding, Groups, Histogram, Inspection, InspectionSettings, Member, Overlap
from crnn.data.source import SampleStore
from crnn.errors import DataError, printable
from crnn.image import load_image

_BAR = 20
_LINE = 100
_MAX_CHARACTERS = 60
_MAX_KEY = 60


def inspection_text(found: Inspection, bar: str) -> str:
    """Format what ``inspect_store`` found in lines of about 100 characters; ``bar`` is what bars are drawn with."""
    lengths = _histogram("label length, characters", found.label_lengths, bar)
    grid = Table.grid(padding=(0, 2, 1, 0))
    grid.add_row(lengths, _histogram("width / height", found.ratios, bar))
    grid.add_row(_histogram("width, pixels", found.widths, bar), _histogram("height, pixels", found.heights, bar))
    captured = io.StringIO()
    Console(file=captured, width=_LINE, markup=False, emoji=False, highlight=False).print(grid)
    share = f"{_number(found.faulty, 'sample')}, {100 * found.fault_share:.2f} %" if found.faulty else "none"
    remarks = [
        *_findings(found.remarks, found.settings),
        *_duplicates("files are equal", found.same_bytes),
        *_duplicates("pixels are equal, files are not", found.same_pixels),
    ]
    lines = [
        f"{found.path}: {_number(found.samples, 'sample')}; measured by {_measure(found.settings)}",
        "",
        *captured.getvalue().splitlines(),
        *_characters(f"{len(found.characters)} different characters in the labels:", found.characters),
        *_characters(f"{len(found.outside_charset)} outside the charset:", found.outside_charset),
        *_wrapped(f"{len(found.unseen)} of the charset in no label:", map(_shown_character, found.unseen)),
        "",
        f"faults: {share}",
        *_findings(found.faults, found.settings),
        *(["remarks", *remarks] if remarks else []),
        *_contradictions(found.contradictions),
        *(line for overlap in found.overlaps for line in _overlap(overlap)),
    ]
    return "\n".join(printable(line.rstrip()) for line in lines)


def _measure(settings: InspectionSettings) -> str:
    image, charset = settings.image, settings.charset
    if image.resize == "squash":
        size = f"a width of {image.image_width} pixels ({time_steps(image.image_width, settings.pooling)} time steps)"
    else:
        size = f"ratios kept, {image.min_width} to {image.max_width} pixels wide"
    return f"{len(charset.charset().characters)} characters, {size}, labels of up to {charset.max_text_length}"


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _histogram(title: str, spread: Histogram, bar: str) -> Table:
    if spread.counts:
        title += f": {spread.minimum:g} to {spread.maximum:g}, median {spread.median:g}"
    table = Table(box=None, show_header=False, title=title, title_justify="left", title_style="", padding=(0, 0, 0, 2))
    table.add_column(justify="right")
    table.add_column(min_width=_BAR)
    table.add_column(justify="right", min_width=9)
    if not spread.counts:
        table.add_row("none")
    for name, count in zip(_bin_names(spread), spread.counts, strict=True):
        table.add_row(name, bar * -(-count * _BAR // max(spread.counts)), f"{count:,}")  # one at least
    return table


def _bin_names(spread: Histogram) -> Iterator[str]:
    for low, high in zip(spread.edges, spread.edges[1:], strict=False):
        if high - low > spread.edges[1] - spread.edges[0] + spread.unit / 2:
            yield f"{low:g} or more"
        elif high - low > 1.5 * spread.unit:
            yield f"{low:g} - {round(high - spread.unit, 1):g}"
        else:
            yield f"{low:g}"


def _characters(title: str, counts: Mapping[str, int]) -> list[str]:
    shown = [f"{_shown_character(character)} {count:,}" for character, count in [*counts.items()][:_MAX_CHARACTERS]]
    if len(counts) > len(shown):
        shown.append(f"and {len(counts) - len(shown):,} more")
    return _wrapped(title, shown)


def _wrapped(title: str, items: Iterable[str]) -> list[str]:
    """Wrap a title and items into lines between the items; none without items."""
    line = "  ".join([title, *(item.replace(" ", "\xa0") for item in items)])
    lines = textwrap.wrap(line, _LINE, subsequent_indent=" " * 3, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\xa0", " ") for line in lines if line != title]


def _shown_character(character: str) -> str:
    if character == " ":
        return "space"
    if not character.isprintable() or unicodedata.category(character)[0] in "MZC":
        return f"U+{ord(character):04X}"
    return character


def _findings(found: Mapping[str, Finding], settings: InspectionSettings) -> Iterator[str]:
    meanings = {
        "changed_label": " (training drops characters of it)",
        "tiny": f" (a side below {settings.tiny_below} pixels)",
        "huge": f" (a side above {settings.huge_above} pixels)",
        "wrong_stored_size": " (wh- is not the size of the image)",
        "beyond_num_samples": " (there are more records than num-samples says; they are not read)",
    }
    for name, finding in found.items():
        keys = _dotted(map(_key, finding.examples), finding.count)
        yield f"  {finding.count:>9,}  {name}{meanings.get(name, '')}: {', '.join(keys)}"


def _dotted(examples: Iterable[str], count: int, dots: str = "...") -> list[str]:
    """Add dots to examples that are not all there are."""
    shown = [*examples]
    return [*shown, *[dots] * (count > len(shown))]


def _key(key: str) -> str:
    return key if len(key) <= _MAX_KEY else f"...{key[3 - _MAX_KEY :]}"


def _member(member: Member) -> str:
    return f"{_key(member.key)} {_key(member.label)!r}"


def _duplicates(title: str, found: Groups) -> Iterator[str]:
    if found.groups:
        examples = _dotted((" = ".join(_key(m.key) for m in members) for members in found.examples), found.groups)
        yield f"  {found.samples:>9,}  in {_number(found.groups, 'group')} whose {title}: {'; '.join(examples)}"


def _contradictions(found: Groups) -> list[str]:
    if not found.groups:
        return []
    title = f"contradictions: {_number(found.groups, 'group')} of equal images with different labels"
    examples = (f"  {' = '.join(map(_member, members))}" for members in found.examples)
    return [title, *_dotted(examples, found.groups, "  ...")]


def _overlap(found: Overlap) -> list[str]:
    title = f"overlap with {found.path} ({_number(found.samples, 'sample')}"
    title += f", {found.unreadable:,} of them unreadable)" if found.unreadable else ")"
    if not found.same_pixels:
        return [f"{title}: none"]
    title += f": {_number(found.same_pixels, 'sample')} here, {found.same_bytes:,} of them byte by byte"
    examples = (f"  {_member(here)} = {_member(there)} there" for here, there in found.examples)
    return [title, *_dotted(examples, found.same_pixels, "  ...")]


_COLUMNS = 8
_CELL = (184, 118)


def sample_sheet(
    store: SampleStore, inspection: Inspection, count: int, *, seed: int, font_path: str | None
) -> npt.NDArray[np.uint8]:
    """Draw a contact sheet ``(H, W, 3)`` of random samples, in their order, with the faulty ones in red."""
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(len(store), min(count, len(store)), replace=False, shuffle=False))
    images: list[npt.NDArray[np.uint8] | None] = []
    captions = []
    for index in map(int, drawn):
        member, pixels, facts = Member.of(store, index), None, []
        with contextlib.suppress(DataError):
            pixels = load_image(store.image_bytes(index), 3)
            facts.append(f"{pixels.shape[1]} x {pixels.shape[0]}")
        facts += filter(None, [inspection.fault(index)])
        lines = (member.label, "  ".join(facts), member.key.rpartition("/")[2])
        # A line break in a label is no line of the caption.
        captions.append("\n".join(line.replace("\n", "\\n") for line in lines))
        images.append(None if pixels is None else _reduced(pixels))
    marked = [place for place, index in enumerate(drawn) if inspection.fault(int(index))]
    return contact_sheet(images, captions, columns=_COLUMNS, cell=_CELL, marked=marked, font_path=font_path)


def _reduced(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Shrink an image to about the size of its cell: a hundred photographs must not be in memory at once."""
    height, width, _ = pixels.shape
    factor = min(width, height, max(width // (2 * _CELL[0]), height // (2 * _CELL[1])))
    return np.asarray(Image.fromarray(pixels).reduce(factor)) if factor > 1 else pixels
