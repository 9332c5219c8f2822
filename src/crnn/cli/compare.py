"""``crnn compare``: the readings of two programs on the same images, as a table, JSON or an image."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from PIL import Image

from crnn.config.training import ProtocolName
from crnn.errors import ConfigError, CrnnError, printable
from crnn.files import atomic_write
from crnn.terminal import IMAGES, check_writable, print_json, save_image, say

if TYPE_CHECKING:
    from crnn.evaluation.compare import ComparedSet, Comparison

_SHOWN = 10  # samples of each kind in the table
_ON_SHEET = 200  # samples in the image, in 40 rows
_KINDS = {"a": "only A is right", "b": "only B is right", "neither": "neither is right"}


def compare(
    a: Annotated[str, typer.Argument(metavar="READINGS_A")],
    b: Annotated[str, typer.Argument(metavar="READINGS_B")],
    data: Annotated[list[str], typer.Argument(metavar="[NAME=]DATA ...")],
    protocol: ProtocolName = "parseq",
    charset: Literal["auto", "36", "62", "94"] = "auto",
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
        like: Compare by the characters and label rules of this model.
        sheet: Write an image of the samples that are read differently (the first 200).
        tsv: Write all samples that are read differently, with label and both texts.
        json: Print one JSON object, with all of them.
    """
    from crnn.engines.loading import is_model
    from crnn.evaluation.compare import compare as run
    from crnn.recognizer import load

    for model in (a, b):
        if is_model(model):
            raise ConfigError(
                f"{model} is a model; expected a file of readings, which crnn evaluate {model} DATA --readings FILE "
                "writes"
            )
    folders = [spec.rpartition("=")[2] for spec in data]
    inputs = [a, b, *folders, *(os.path.join(folder, "labels.tsv") for folder in folders)]  # noqa: PTH118
    check_writable("--sheet", sheet, "differing.png", IMAGES, inputs)
    check_writable("--tsv", tsv, "differing.tsv", (".tsv",), inputs)
    found = run(a, b, data, protocol=protocol, charset=charset, like=load(like).config.charset if like else None)
    whole = found.combined
    if json:
        print_json(found.as_dict())
    else:
        _print_tables(found, whole)
    for line in found.warnings:
        say("compare", line)
    if tsv:
        rows = [("dataset", "image", "label", "a", "b", "right")]
        rows += [(s.dataset, s.key, s.label, s.a, s.b, s.right) for s in whole.differing]
        lines = ("\t".join(printable(cell, 1 << 20) for cell in row) + "\n" for row in rows)
        atomic_write(Path(tsv), "".join(lines).encode(), ConfigError)
    if sheet:
        _write_sheet(sheet, found, whole)
    return 0 if all(x.samples for x in found.datasets) else 1


def _print_tables(found: Comparison, whole: ComparedSet) -> None:
    from rich.console import Console
    from rich.table import Table

    title = "\n".join(map(printable, (f"A: {found.a}", f"B: {found.b}", whole.title)))
    table = Table(title=title, title_justify="left")
    for heading in ("dataset", "A", "B", "B - A", "95 %", "p", "both right", "only A", "only B", "neither", "samples"):
        table.add_column(heading, justify="left" if heading == "dataset" else "right")
    for x in (*found.datasets, whole)[: len(found.datasets) + (len(found.datasets) > 1)]:
        counts = x.counts
        interval = " to ".join(_percent(end, "+") for end in counts.interval)
        p = f"{counts.p_value:.4f}" if counts.p_value >= 0.0001 else "< 0.0001"
        shares = (*map(_percent, (sums.accuracy for sums in x.sums)), _percent(counts.difference, "+"), interval, p)
        numbers = (counts.both, counts.a, counts.b, counts.neither, counts.samples)
        table.add_row(printable(x.name), *shares, *map(str, numbers))
    samples = Table("", "image", "label", "A", "B", title="Read differently", title_justify="left")
    shown = 0
    for kind, words in _KINDS.items():
        for s in [s for s in whole.differing if s.right == kind][:_SHOWN]:
            shown += 1
            place = s.key if len(found.datasets) == 1 else f"{s.dataset}={s.key}"
            samples.add_row(words, *(printable(text, 100) for text in (place, s.label, s.a, s.b)))
        samples.add_section()
    console = Console(markup=False, emoji=False, highlight=False)
    console.width = max(console.width, 130)
    with console.capture() as captured:
        console.print(table, *[samples] * bool(shown))
    print(captured.get(), end="", flush=True)
    if shown < len(whole.differing):
        print(f"and {len(whole.differing) - shown} more: --json, --tsv and --sheet have them")


def _percent(share: float, sign: str = "") -> str:
    return "-" if math.isnan(share) else f"{100 * share:{sign}.2f}"


def _write_sheet(path: str, found: Comparison, whole: ComparedSet) -> None:
    from crnn.contact_sheet import contact_sheet
    from crnn.data.source import open_source
    from crnn.image import load_image

    stores = {x.name: open_source(x.path) for x in found.datasets}
    images: list[Any] = []
    captions = []
    for s in whole.differing[:_ON_SHEET]:
        images.append(None)
        with contextlib.suppress(CrnnError):
            images[-1] = load_image(stores[s.dataset].image_bytes(s.index), 3)
        texts = (f"{'=' if text == s.label else 'x'} {name}: {text}" for name, text in (("A", s.a), ("B", s.b)))
        captions.append("\n".join(map(printable, (s.label, *texts))))
    save_image(path, Image.fromarray(contact_sheet(images, captions, columns=5, cell=(220, 110))))
