"""``crnn data ...``: convert and inspect datasets."""

import dataclasses
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from PIL import Image

from crnn.cli.inspection_text import inspection_text, sample_sheet
from crnn.config.model import ReaderConfig, parse_reader_config
from crnn.config.run import load_config
from crnn.contact_sheet import load_font
from crnn.data.convert import convert as convert_readers
from crnn.data.convert import summary
from crnn.data.crops import CropOptions
from crnn.data.formats import FORMATS, open_reader, published_count
from crnn.data.formats.records import Reader
from crnn.data.formats.subsets import find_variant, samples_like, share_of, variant_of
from crnn.data.inspection import InspectionSettings, check_destination, inspect_store, write_clean
from crnn.data.source import open_source
from crnn.errors import ConfigError, DataError
from crnn.evaluation.lexicons import full_lexicon, write_lexicon
from crnn.evaluation.protocol import expected_count
from crnn.terminal import (
    IMAGES,
    check_writable,
    counting_bar,
    print_json,
    save_image,
    say,
    show,
    signals_collected,
)

HELP = "Convert and inspect datasets.\n\n\b\nFormats that can be converted:\n" + "\n".join(
    f"  {name:<10}{entry.summary}" for name, entry in FORMATS.items()
)


def inspect(
    data: Annotated[str, typer.Argument(metavar="DATA")],
    against: Annotated[list[str] | None, typer.Option(metavar="OTHER")] = None,
    config: str = "",
    charset: str | None = None,
    max_text_length: int | None = None,
    resize: Literal["squash", "keep_ratio"] | None = None,
    image_width: int | None = None,
    tiny_below: int = 8,
    huge_above: int = 2000,
    max_fault_share: float = 0.01,
    write: str = "",
    to: Literal["lmdb", "list"] = "lmdb",
    sheet: str = "",
    sheet_samples: Annotated[int, typer.Option(min=1)] = 96,
    sheet_font: str = "",
    seed: int = 0,
    workers: int | None = None,
    json: bool = False,
) -> int:
    """Report the contents and the faults of a set.

    Every image is decoded. A fault is what training leaves a sample out for, an equal image with another label, or an
    image that is in OTHER too. Exit status 1 when the share of faulty samples is above --max-fault-share. In Python:
    ``crnn.data.inspection.inspect_store``.

    Args:
        data: An LMDB folder or a list file.
        against: Other sets, of which DATA should have no image: a test set's training set. Once for each.
        config: Settings to measure by: a preset or a TOML file.
        charset: charset.characters instead of the config's: 36, 62, 94, 95, or the characters.
        max_text_length: charset.max_text_length instead of the config's.
        resize: image.resize instead of the config's.
        image_width: image.image_width instead of the config's.
        tiny_below: Remark images with a side of fewer pixels.
        huge_above: Remark images with a side of more pixels.
        max_fault_share: Larger shares of faulty samples are a bad result.
        write: Write the set without its faulty samples; a folder that does not exist yet.
        to: What to write: an LMDB store, or images with labels.tsv.
        sheet: Write a sheet of random samples with their labels and sizes, faulty ones in red.
        sheet_samples: Samples on it.
        sheet_font: Font file for its labels, where they are not Latin.
        seed: Another one draws other samples.
        workers: Processes; default: one per core.
        json: Print one JSON object.
    """
    if not 0 <= max_fault_share <= 1:
        raise ConfigError(f"--max-fault-share is {max_fault_share}; expected a share from 0 to 1")
    measured = _measured_by(
        config,
        image={"resize": resize, "image_width": image_width},
        charset={"characters": charset, "max_text_length": max_text_length},
    )
    settings = InspectionSettings(
        image=measured.image, charset=measured.charset, pooling=measured.model.pooling, tiny_below=tiny_below,
        huge_above=huge_above,
    )  # fmt: skip
    check_writable("--sheet", sheet, "samples.png", IMAGES)
    if sheet:
        load_font(sheet_font or None, 12)  # raises its errors now, and not at the end
    if write:
        check_destination(write)
    store = open_source(data)
    others = [open_source(other) for other in against or ()]
    written = None
    try:
        with counting_bar("inspecting", sum(map(len, (store, *others)))) as progress:
            found = inspect_store(store, settings, against=others, workers=workers, progress=progress)
        if sheet:
            pixels = sample_sheet(store, found, sheet_samples, seed=seed, font_path=sheet_font or None)
            save_image(sheet, Image.fromarray(pixels))
        if write:
            with counting_bar("writing", len(store)) as progress:
                written = write_clean(store, found, write, to=to, workers=workers, progress=progress)
    except KeyboardInterrupt:
        say("data inspect", "stopped before the end; nothing is kept")
        return 128 + signal.SIGINT
    if json:
        print_json({**found.as_dict(), "written": None if written is None else asdict(written)})
    else:
        bar = "█" if "utf" in (sys.stdout.encoding or "utf-8").lower() else "#"
        print(inspection_text(found, bar))
        if written is not None:
            print(f"\n{summary(written)}")
    if found.fault_share > max_fault_share:
        share = f"{found.faulty} of {found.samples} samples have faults"
        say("data inspect", f"{data}: {share}, a larger share than --max-fault-share {max_fault_share}")
        return 1
    return 0


def lexicon(
    paths: Annotated[list[str], typer.Argument(metavar="DATA ... OUT.txt")],
    words_from: Annotated[Literal["labels", "kept", "both"], typer.Option("--from")] = "both",
    charset: str = "36",
) -> int:
    """Write the full lexicon of one or more sets.

    Every word once, one a line, sorted. In Python: ``crnn.evaluation.lexicons.full_lexicon``.

    Args:
        paths: LMDB folders and list files, and the file to write.
        words_from: The labels, the lexicons that are kept with samples, or both.
        charset: What words are written in: 36, 62, 94, 95, or the characters; labels are brought into it as for
            training.
    """
    if len(paths) < 2:
        raise ConfigError(f"{' '.join(paths) or 'no path'}: expected DATA and OUT.txt, the set and the file to write")
    *data, destination = paths
    check_writable("OUT.txt", destination, "words.txt")
    if Path(destination).exists():
        raise DataError(f"{destination}: exists already; expected a new file. Choose another, or remove it")
    characters = _measured_by("", charset={"characters": charset}).charset
    rules = dataclasses.replace(characters.rules(), max_length=None, truncate=False)
    stores = [open_source(path) for path in data]
    with counting_bar("collecting words", sum(map(len, stores))) as progress:
        found = full_lexicon(stores, characters.charset(), rules, words_from=words_from, progress=progress)
    write_lexicon(destination, found.words)
    left_out = [f"  left out {count}: {reason}" for reason, count in found.left_out.items()]
    taken = [f"{found.labels} labels"] if words_from != "kept" else []
    taken += [f"{found.kept} words of lexicons"] if words_from != "labels" else []
    show(f"{destination}: {len(found.words)} words from {' and '.join(taken)}", *left_out)
    return 0


def _measured_by(config: str, **flags: dict[str, Any]) -> ReaderConfig:
    """Return the sections that samples are measured by, with flags on top of a preset or a file."""
    # Only two sections: a preset's model.class_num would contradict another charset, and plays no part here.
    values = load_config(config).model_dump(include={"image", "charset"}) if config else {}
    for section, given in flags.items():
        values.setdefault(section, {}).update((key, value) for key, value in given.items() if value is not None)
    return parse_reader_config(values, source="flags")


def convert(
    format: Annotated[str, typer.Argument(metavar="FORMAT", autocompletion=lambda: list(FORMATS))],  # noqa: A002
    paths: Annotated[list[str], typer.Argument(metavar="SRC ... DST")],
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
    images: str | None = None,
    upright: bool = False,
    root: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    workers: int | None = None,
    max_bad_share: float = 0.1,
    restart: bool = False,
    json: bool = False,
) -> int:
    """Convert published files to an LMDB store or a list.

    A run that was stopped resumes when the same command is given again. In Python: ``crnn.data.convert.convert``.

    Args:
        format: What SRC is: a format of 'crnn data --help'.
        paths: The set as it is published (several are put one after the other), and the folder to write.
        to: An LMDB store, or images with labels.tsv.
        split: Part of the set (mjsynth: train; others: test).
        variant: Filtered variant: IC03_867, IC13_857, IC13_1015, ...
        like: An LMDB whose samples to take; needed for IC15_1811 and IC03_860.
        share: START:STOP, a share of the images chosen by chance, the same each time; 0:0.9 and 0.9:1 are apart.
        check: Decode every image (full), or only those that look cut short.
        max_height: Make higher images smaller, to this number of pixels.
        encoding: Of what is cut out or made smaller; auto: png, for synthtext jpeg.
        quality: Of jpeg.
        crop: synthtext: words straightened (quad) or the box around them.
        margin: synthtext: around a box, as a part of its size.
        labels: mjsynth: words in lower case, from lexicon.txt, or as drawn, from the names.
        kind: ic03: words cut out of scenes, or the set of words.
        images: ic13, ic15: the folder of the images, where it is another one.
        upright: ic15: cut words out by coords.txt.
        root: list, csv: the folder that paths are relative to.
        path_column: csv: column of the paths.
        label_column: csv: column of the labels.
        workers: Processes; default: one per core.
        max_bad_share: Share of unusable samples that is an error.
        restart: Begin anew instead of going on.
        json: Print one JSON object.
    """
    if len(paths) < 2:
        raise ConfigError(f"{' '.join(paths) or 'no path'}: expected SRC and DST, the set and the folder to write")
    *sources, destination = paths
    options = {
        "split": split, "crop": crop, "margin": margin, "labels": labels, "kind": kind, "images": images,
        "upright": upright or None, "root": root, "path_column": path_column, "label_column": label_column,
    }  # fmt: skip
    selection = {"variant": variant, "like": like, "share": share}
    chosen = {name: value for name, value in {**options, **selection}.items() if value not in (None, "")}
    readers = [_reader(format, source, options, **selection) for source in sources]
    for note in (note for reader in readers for note in reader.notes):
        say("data convert", note)
    expected = None
    if variant:
        expected = find_variant(variant).num_samples
    elif not like:
        expected = published_count(format, sources[0], split) or expected_count(Path(destination).name)
    crops = CropOptions(
        check=check,
        max_height=max_height,
        encoding=FORMATS[format].encoding if encoding == "auto" else encoding,
        quality=quality,
    )
    with signals_collected() as caught, counting_bar("converting", sum(map(len, readers))) as progress:
        done = convert_readers(
            readers,
            destination,
            to=to,
            images=crops,
            origin={
                "format": format,
                "source": ", ".join(str(Path(source).absolute()) for source in sources),
                **chosen,
            },
            expected=None if share or len(sources) > 1 else expected,
            workers=workers,
            max_bad_share=max_bad_share,
            restart=restart,
            progress=progress,
            stop=lambda: caught,
        )
    if json:
        print_json(asdict(done))
    elif done.complete:
        print(summary(done))
    if not done.complete:
        where = f"{done.written} samples are in {destination}.partial"
        say("data convert", f"stopped; {where}, and the same command goes on with them")
        return 128 + caught[0]
    return 0


def _reader(name: str, source: str, options: dict[str, Any], *, variant: str, like: str, share: str) -> Reader:
    reader = open_reader(name, source, options)
    if variant:
        reader = variant_of(reader, variant, like=like or None)
    elif like:
        reader = samples_like(reader, like)
    return share_of(reader, share) if share else reader
