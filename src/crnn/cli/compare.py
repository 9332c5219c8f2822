"""``crnn compare``: the readings of two programs on the same images, as a table, JSON or an image."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image

from crnn.config.training import ProtocolName
from crnn.errors import CrnnError, printable
from crnn.terminal import IMAGES, check_writable, counting_bar, print_json, save_image, say

if TYPE_CHECKING:
    from crnn.evaluation.compare import ComparedSet, Comparison, PairedCounts, PairedSample

_SHOWN = 10  # samples of each kind in the table
_ON_SHEET = 200  # samples in the image, in 40 rows
_KINDS = {"a": "only A is right", "b": "only B is right", "neither": "neither is right"}


def compare(
    a: Annotated[str, typer.Argument(metavar="A")],
    b: Annotated[str, typer.Argument(metavar="B")],
    data: Annotated[list[str], typer.Argument(metavar="[NAME=]DATA ...")],
    protocol: ProtocolName = "parseq",
    charset: Literal["auto", "36", "62", "94"] = "auto",
    max_bad_share: Annotated[float, typer.Option(min=0, max=1)] = 0.1,
    *,
    like: Annotated[str, typer.Option(metavar="MODEL")] = "",
    sheet: str = "",
    tsv: Annotated[str, typer.Option(metavar="OUT.tsv")] = "",
    json: bool = False,
) -> int:
    """Compare the readings of two programs, sample by sample, with a test of the difference.

    The files are as those of crnn evaluate --readings. In Python: ``crnn.evaluation.compare.compare``.

    Args:
        a: File of readings.
        b: Another one, of the same images.
        data: LMDB folders and list files.
        protocol: Rules for labels and readings; lines: whole texts with case folded, marks and spaces counted.
        charset: Characters that are compared; auto: 36, or those of --like where they are no set of the field.
        max_bad_share: A larger share of unreadable images, at least ten, is an error.
        like: Compare by the characters and label rules of this model.
        sheet: Write an image of the samples that are read differently (the first 200).
        tsv: Write all samples that are read differently, with label and both texts.
        json: Print one JSON object, with all of them.
    """
    from crnn.engines.loading import charset_of
    from crnn.evaluation.compare import compare as run

    check_writable("--sheet", sheet, "differing.png", IMAGES)
    check_writable("--tsv", tsv, "differing.tsv", (".tsv",))
    with counting_bar("scoring") as progress:
        found = run(
            a,
            b,
            data,
            protocol=protocol,
            charset=charset,
            like=charset_of(like) if like else None,
            max_bad_share=max_bad_share,
            progress=progress,
        )
    if json:
        print_json(found.as_dict())
    else:
        _print_tables(found)
    for line in found.warnings:
        say("compare", line)
    if tsv:
        found.write_table(tsv)
        say("compare", f"samples that are read differently written to {tsv}")
    if sheet:
        _write_sheet(sheet, found)
        say("compare", f"sheet written to {sheet}")
    return 0 if all(dataset.counts.samples for dataset in found.datasets) else 1


def _print_tables(found: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    rules = "; ".join(dict.fromkeys(dataset.title for dataset in found.datasets))
    title = "\n".join(map(printable, (f"A: {found.a}", f"B: {found.b}", rules)))
    table = Table(title=title, title_justify="left")
    for heading in ("dataset", "A", "B", "B - A", "95 %", "p", "both right", "only A", "only B", "neither", "samples"):
        table.add_column(heading, justify="left" if heading == "dataset" else "right")
    for x in found.datasets:
        table.add_row(printable(x.name), _percent(x.a.accuracy), _percent(x.b.accuracy), *_cells(x.counts))
    if len(found.datasets) > 1:
        total = found.counts
        table.add_section()
        shares = [
            (total.both + only) / total.samples if total.samples else math.nan for only in (total.only_a, total.only_b)
        ]
        table.add_row("combined", *map(_percent, shares), *_cells(total))
    samples = Table(title="Read differently", title_justify="left")
    for heading in ("", "image", "label", "A", "B"):
        samples.add_column(heading, overflow="fold")
    left_out = 0
    for kind, words in _KINDS.items():
        of_kind = [(x, s) for x in found.datasets for s in x.differing if s.right == kind]
        left_out += len(of_kind[_SHOWN:])
        for x, s in of_kind[:_SHOWN]:
            place = s.key if len(found.datasets) == 1 else f"{x.name}={s.key}"
            samples.add_row(words, *(printable(text, 100) for text in (place, s.label, s.a, s.b)))
        samples.add_section()
    console = Console(markup=False, emoji=False, highlight=False)
    console.width = max(console.width, 130)
    with console.capture() as captured:
        console.print(table)
        if samples.rows:
            console.print(samples)
    print(captured.get(), end="", flush=True)
    if left_out:
        print(f"and {left_out} more: --json, --tsv and --sheet have them")


def _cells(counts: PairedCounts) -> list[str]:
    low, high = counts.interval
    p = f"{counts.p_value:.4f}" if counts.p_value >= 0.0001 else "< 0.0001"
    numbers = (counts.both, counts.only_a, counts.only_b, counts.neither, counts.samples)
    shares = (_percent(counts.difference, "+"), f"{_percent(low, '+')} to {_percent(high, '+')}", p)
    return [*(shares if counts.samples else ("-", "-", "-")), *map(str, numbers)]


def _percent(share: float, sign: str = "") -> str:
    return "-" if math.isnan(share) else f"{100 * share:{sign}.2f}"


def _write_sheet(path: str, found: Comparison) -> None:
    from crnn.contact_sheet import contact_sheet
    from crnn.data.source import open_source
    from crnn.image import load_image

    chosen: list[tuple[ComparedSet, PairedSample]] = [(x, s) for x in found.datasets for s in x.differing][:_ON_SHEET]
    stores = {x.path: open_source(x.path) for x, _ in chosen}
    images: list[npt.NDArray[np.uint8] | None] = []
    captions = []
    for x, s in chosen:
        images.append(None)
        with contextlib.suppress(CrnnError):
            images[-1] = load_image(stores[x.path].image_bytes(s.index), 3)
        texts = (f"{'=' if text == s.label else 'x'} {name}: {text}" for name, text in (("A", s.a), ("B", s.b)))
        captions.append("\n".join((f"   {s.label}", *map(printable, texts))))
    save_image(path, Image.fromarray(contact_sheet(images, captions, columns=5, cell=(220, 110))))
