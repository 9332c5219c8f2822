"""``crnn data inspect`` and ``crnn data lexicon``: looks at a set, and what can be taken from it.

Part of the command line (see ``crnn.cli`` and ``crnn.commands.data``): parses, calls functions of the package, prints.
"""

from __future__ import annotations

import io
import json as json_module
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from crnn.commands.terminal import check_writable
from crnn.errors import ConfigError, DataError
from crnn.whole_file import write_whole

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from crnn.data.inspection import Inspection
    from crnn.data.tally import Conversion
    from crnn.reader_config import CharsetConfig, ImageConfig

__all__ = ["inspect_command", "lexicon_command"]


def inspect_command(
    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")] = "",
    against: Annotated[tuple[str, ...], tyro.conf.arg(metavar="OTHER ...")] = (),
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
    sheet_samples: int = 96,
    sheet_font: str = "",
    seed: int = 0,
    workers: Annotated[int | None, tyro.conf.arg(aliases=["--processes"])] = None,
    json: bool = False,
) -> int:
    """Say what is in a set and what is wrong with it; every picture is decoded.

    A fault is what training leaves a sample out for, an equal picture with another label, or a picture that is in OTHER
    too. Exit status 1 when the share of faulty samples is above --max-fault-share. In Python:
    ``crnn.data.inspection.inspect_store``.

    Args:
        data: An LMDB folder or a list file.
        against: Other sets, of which DATA should have no picture: a test set's training set.
        config: Settings to measure by: a preset or a TOML file.
        charset: charset.characters instead of the config's: 36, 62, 94, 95, or the characters.
        max_text_length: charset.max_text_length instead of the config's.
        resize: image.resize instead of the config's.
        image_width: image.image_width instead of the config's.
        tiny_below: Remark pictures with a side of fewer pixels.
        huge_above: Remark pictures with a side of more pixels.
        max_fault_share: Larger shares of faulty samples are a bad result.
        write: Write the set without its faulty samples; a folder that does not exist yet.
        to: What to write: an LMDB store, or pictures with labels.tsv.
        sheet: Write a sheet of random samples with their labels and sizes (OUT.png), faulty ones in red.
        sheet_samples: Samples on it.
        sheet_font: Font file for its labels, where they are not Latin.
        seed: Another one draws other samples.
        workers: Processes; default: one per core.
        json: Print one JSON object.
    """
    from crnn.contact_sheet import contact_sheet
    from crnn.data.clean import check_destination, write_clean
    from crnn.data.examine import InspectionSettings
    from crnn.data.inspection import inspect_store
    from crnn.data.sample_sheet import sample_sheet
    from crnn.data.source import open_source
    from crnn.progress import counting_bar

    if not data:
        raise ConfigError("no data is given; expected an LMDB folder or a list file")
    if not 0 <= max_fault_share <= 1:
        raise ConfigError(f"--max-fault-share is {max_fault_share}; expected a share from 0 to 1")
    if sheet_samples < 1:
        raise ConfigError(f"--sheet-samples is {sheet_samples}; expected at least 1")
    image, characters = _measured_by(
        config, {"resize": resize, "image_width": image_width}, charset, {"max_text_length": max_text_length}
    )
    settings = InspectionSettings(image=image, charset=characters, tiny_below=tiny_below, huge_above=huge_above)
    check_writable("--sheet", sheet, "sheet.png")
    contact_sheet([], [], font_path=sheet_font or None)  # a face that cannot be read is told of now, and not at the end
    if write:
        check_destination(write)
    store = open_source(data)
    others = [open_source(other) for other in against]
    written = None
    try:
        with counting_bar("inspecting", sum(map(len, (store, *others)))) as progress:
            found = inspect_store(store, settings, against=others, workers=workers, progress=progress)
        if sheet:
            drawn = sample_sheet(store, found, sheet_samples, seed=seed, font_path=sheet_font or None)
            _write_png(sheet, drawn)
        if write:
            with counting_bar("writing", len(store)) as progress:
                written = write_clean(store, found, write, to=to, workers=workers, progress=progress)
    except KeyboardInterrupt:
        print("crnn data inspect: stopped before the end; nothing is kept", file=sys.stderr)
        return 128 + signal.SIGINT
    _print(found, written, json=json)
    if found.fault_share > max_fault_share:
        print(
            f"crnn data inspect: {data}: {found.faulty} of {found.samples} samples have faults, a larger share than "
            f"--max-fault-share {max_fault_share}",
            file=sys.stderr,
        )
        return 1
    return 0


def lexicon_command(
    paths: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATA [DATA ...] OUT.txt")] = (),
    words_from: Annotated[Literal["labels", "kept", "both"], tyro.conf.arg(name="from")] = "both",
    charset: str = "36",
) -> int:
    """Write the full lexicon of one or more sets: every word once, one a line, sorted.

    In Python: ``crnn.data.full_lexicon.full_lexicon``.

    Args:
        paths: LMDB folders and list files, and the file to write.
        words_from: The labels, the lexicons that are kept with samples, or both.
        charset: What words are written in: 36, 62, 94, 95, or the characters; labels are brought into it as for
            training.
    """
    import dataclasses

    from crnn.data.full_lexicon import full_lexicon, write_lexicon
    from crnn.data.source import open_source
    from crnn.progress import counting_bar

    if len(paths) < 2:
        raise ConfigError(f"{' '.join(paths) or 'no path'}: expected DATA and OUT.txt, the set and the file to write")
    *data, destination = paths
    check_writable("OUT.txt", destination, "words.txt")
    if Path(destination).exists():
        raise DataError(f"{destination}: exists already; expected a new file. Choose another, or remove it")
    characters = _measured_by("", {}, charset, {})[1]
    rules = dataclasses.replace(characters.rules(), max_length=None, truncate=False)
    stores = [open_source(path) for path in data]
    with counting_bar("collecting words", sum(map(len, stores))) as progress:
        found = full_lexicon(stores, characters.charset(), rules, words_from=words_from, progress=progress)
    write_lexicon(destination, found.words)
    left_out = "".join(f"\n  left out {count}: {reason}" for reason, count in found.left_out.items())
    taken = [f"{found.labels} labels"] if words_from != "kept" else []
    taken += [f"{found.kept} words of lexicons"] if words_from != "labels" else []
    print(f"{destination}: {len(found.words)} words from {' and '.join(taken)}{left_out}")
    return 0


def _measured_by(
    config: str, image: dict[str, Any], charset: str | None, rules: dict[str, Any]
) -> tuple[ImageConfig, CharsetConfig]:
    """The two sections of the settings that samples are measured by, with flags on top of a preset or a file."""
    from crnn.config_file import load_config
    from crnn.reader_config import parse_reader_config

    # Only two sections: a preset's model.class_num would contradict another charset, and plays no part here.
    base = load_config(config).model_dump(include={"image", "charset"}) if config else {"image": {}, "charset": {}}
    given = {"image": image, "charset": {**rules, "characters": charset}}
    merged = {
        section: {**base[section], **{key: value for key, value in values.items() if value is not None}}
        for section, values in given.items()
    }
    settings = parse_reader_config(merged, source="flags")
    return settings.image, settings.charset


def _write_png(path: str, pixels: npt.NDArray[np.uint8]) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    try:
        write_whole(Path(path), buffer.getvalue())
    except OSError as error:
        raise DataError(f"--sheet {path}: cannot be written: {error.strerror}. Choose another file") from error


def _print(found: Inspection, written: Conversion | None, *, json: bool) -> None:
    from crnn.data.inspection_text import inspection_text
    from crnn.data.tally import summary

    if json:
        values = {**found.as_dict(), "written": None if written is None else written.as_dict()}
        # Keys may have halves of surrogate pairs, which only escapes can show.
        print(json_module.dumps(values, allow_nan=False))
        return
    try:
        "█".encode(sys.stdout.encoding or "utf-8")
        bar = "█"
    except UnicodeEncodeError:
        bar = "#"
    print(inspection_text(found, bar=bar))
    if written is not None:
        print(f"\n{summary(written)}")
