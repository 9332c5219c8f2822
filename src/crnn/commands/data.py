"""``crnn data ...``: from published files to stores.

Part of the command line (see ``crnn.cli``): parses, calls one function of the package, prints. Nothing heavy is
imported before it is needed.
"""

from __future__ import annotations

import json as json_module
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from crnn.commands.inspect import inspect_command, lexicon_command
from crnn.data.formats.registry import FORMATS, FormatName
from crnn.errors import ConfigError
from crnn.signals import signals_collected

if TYPE_CHECKING:
    from crnn.data.formats.record import Reader

__all__ = ["convert_command", "data_command"]

Parse = Callable[[Callable[..., int], Sequence[str], str], int]
"""Parses arguments for a function and calls it; the last argument is the program's name for messages."""


def data_command(arguments: Sequence[str], parse: Parse) -> int:
    """``crnn data convert FORMAT SRC ... DST``, ``crnn data inspect DATA``, ``crnn data lexicon DATA ... OUT.txt``.

    Args:
        arguments: What follows ``data``.
        parse: The command line's own way of parsing.

    Returns:
        The exit status.
    """
    commands: dict[str, tuple[str, Callable[..., int]]] = {
        "convert": ("published files to an LMDB store or a list", convert_command),
        "inspect": ("what is in a set and what is wrong with it", inspect_command),
        "lexicon": ("the full lexicon of a set", lexicon_command),
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: crnn data COMMAND ...\n")
        print("\n".join(f"  {name:<10} {line}" for name, (line, _) in commands.items()))
        print("\nFormats of 'crnn data convert':\n")
        print("\n".join(f"  {name:<10} {form.summary}" for name, form in FORMATS.items()))
        return 0
    if arguments[0] not in commands:
        raise ConfigError(f"command 'data {arguments[0]}' is unknown; expected one of: {', '.join(commands)}")
    return parse(commands[arguments[0]][1], arguments[1:], f"crnn data {arguments[0]}")


def convert_command(
    format: Annotated[tyro.conf.Positional[FormatName], tyro.conf.arg(metavar="FORMAT")],  # noqa: A002
    paths: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SRC [SRC ...] DST")],
    to: Literal["lmdb", "list"] = "lmdb",
    split: Literal["train", "val", "test", "all"] | None = None,
    variant: str = "",
    like: str = "",
    share: str = "",
    check: Literal["header", "full"] = "header",
    max_height: int | None = None,
    encoding: Literal["auto", "png", "jpeg"] = "auto",
    quality: int = 95,
    crop: Literal["quad", "box"] | None = None,
    margin: float | None = None,
    labels: Literal["lexicon", "name"] | None = None,
    kind: Literal["scene", "word"] | None = None,
    pictures: str | None = None,
    upright: bool = False,
    root: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    workers: int | None = None,
    max_bad_share: float = 0.1,
    restart: bool = False,
    json: bool = False,
) -> int:
    """Bring published files into an LMDB store, or into a folder with a list.

    What was stopped goes on when the same command is given again. In Python: ``crnn.data.convert.convert``.

    Args:
        format: What SRC is: mjsynth, synthtext, ic03, ic13, ic15, iiit5k, svt, list, csv, folder, names or lmdb.
        paths: The set as it is published (several are put one after the other), and the folder to write.
        to: An LMDB store, or pictures with labels.tsv.
        split: Part of the set (mjsynth: train; others: test).
        variant: Filtered variant: IC03_867, IC13_857, IC13_1015, ...
        like: An LMDB whose samples to take; needed for IC15_1811 and IC03_860.
        share: START:STOP, a share of the pictures chosen by chance, the same each time; 0:0.9 and 0.9:1 are apart.
        check: Decode every picture (full), or only those that look cut short.
        max_height: Make higher pictures smaller, to this number of pixels.
        encoding: Of what is cut out or made smaller; auto: png, for synthtext jpeg.
        quality: Of jpeg.
        crop: synthtext: words straightened (quad) or the box around them.
        margin: synthtext: around a box, as a part of its size.
        labels: mjsynth: words in lower case, from lexicon.txt, or as drawn, from the names.
        kind: ic03: words cut out of scenes, or the set of words.
        pictures: ic13, ic15: the folder of the pictures, where it is another one.
        upright: ic15: cut words out by coords.txt.
        root: list, csv: the folder that paths are relative to.
        path_column: csv: column of the paths.
        label_column: csv: column of the labels.
        workers: Processes; default: one per core.
        max_bad_share: Share of unusable samples that is an error.
        restart: Begin anew instead of going on.
        json: Print one JSON object.
    """
    from crnn.data.prepare import PictureSettings

    if len(paths) < 2:
        raise ConfigError(f"{' '.join(paths) or 'no path'}: expected SRC and DST, the set and the folder to write")
    *sources, destination = paths
    options = {
        "split": split, "crop": crop, "margin": margin, "labels": labels, "kind": kind, "pictures": pictures,
        "upright": upright or None, "root": root, "path_column": path_column, "label_column": label_column,
    }  # fmt: skip
    selection = {"variant": variant, "like": like, "share": share}
    chosen = {name: value for name, value in {**options, **selection}.items() if value not in (None, "")}
    encoding = FORMATS[format].encoding if encoding == "auto" else encoding
    return _convert(
        [_open(format, source, options, **selection) for source in sources],
        destination,
        as_json=json,
        to=to,
        pictures=PictureSettings(check=check, max_height=max_height, encoding=encoding, quality=quality),
        origin={"format": format, "source": ", ".join(str(Path(source).absolute()) for source in sources), **chosen},
        expected=_expected(format, sources, destination, split, selection),
        workers=workers,
        max_bad_share=max_bad_share,
        restart=restart,
    )


def _convert(readers: Sequence[Reader], destination: str, *, as_json: bool, **settings: Any) -> int:
    """Convert until done or stopped, and say which."""
    from crnn.data.convert import convert
    from crnn.data.tally import summary
    from crnn.progress import counting_bar

    for reader in readers:
        for note in getattr(reader, "notes", ()):
            print(f"crnn data convert: {note}", file=sys.stderr)
    total = sum(len(reader) for reader in readers)
    with signals_collected() as caught, counting_bar("converting", total) as progress:
        done = convert(readers, destination, progress=progress, stop=lambda: caught, **settings)
    if as_json:
        print(json_module.dumps(done.as_dict(), ensure_ascii=False))
    elif done.complete:
        print(summary(done))
    if not done.complete:
        print(
            f"crnn data convert: stopped; {done.written} samples are in {destination}.partial, and the same command "
            "goes on with them",
            file=sys.stderr,
        )
        return 128 + caught[0]
    return 0


def _open(name: FormatName, source: str, options: dict[str, Any], *, variant: str, like: str, share: str) -> Reader:
    from crnn.data.formats.registry import open_reader
    from crnn.data.formats.share import ShareReader, parse_share

    reader = open_reader(name, source, options)
    if variant or like:
        from crnn.data.formats.variants import LikeReader, VariantReader

        reader = VariantReader(reader, variant, like=like or None) if variant else LikeReader(reader, like)
    return ShareReader(reader, *parse_share(share)) if share else reader


def _expected(
    name: FormatName, sources: Sequence[str], destination: str, split: str | None, selection: dict[str, str]
) -> int | None:
    """Samples that the published set has: by the variant, by the format, or by the name of what is written."""
    from crnn.data.formats.registry import published_count
    from crnn.evaluation.protocol import expected_count

    if len(sources) > 1 or selection["share"]:
        return None
    if selection["variant"]:
        from crnn.data.formats.variants import find_variant

        return find_variant(selection["variant"]).num_samples
    if selection["like"]:
        return None
    by_name = expected_count(os.path.basename(os.path.normpath(destination)))  # noqa: PTH119 - as it was typed
    return published_count(name, sources[0], split) or by_name
