"""The convertible formats by the names that users type; readers are imported on demand."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, cast

from crnn.data.formats.records import Reader
from crnn.errors import ConfigError

__all__ = ["FORMATS", "Format", "FormatName", "open_reader", "published_count"]


FormatName: TypeAlias = Literal[
    "mjsynth", "synthtext", "ic03", "ic13", "ic15", "iiit5k", "svt", "list", "csv", "folder", "names", "lmdb"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """Reader of a format.

    Attributes:
        module: Module below ``crnn.data.formats``.
        reader: Its class there.
        options: Reader's arguments besides the source, by the names that users know.
        encoding: Default encoding of crops.
        counts: Published samples by split. The first split is the default of formats with the option ``split``; of
            others the names of files and folders tell the split.
    """

    module: str
    reader: str
    summary: str
    options: Mapping[str, str] = field(default_factory=dict)
    encoding: Literal["png", "jpeg"] = "png"
    counts: Mapping[str, int] = field(default_factory=dict)


_SPLIT = {"split": "split"}
_ICDAR = {"images": "images", "upright": "upright"}

FORMATS: dict[FormatName, Format] = {
    "mjsynth": Format(
        module="mjsynth",
        reader="MjsynthReader",
        summary="90kDICT32px with annotation_*.txt and lexicon.txt",
        options={"split": "split", "labels": "label"},
        counts={"train": 7_224_612, "val": 802_734, "test": 891_927, "all": 8_919_273},
    ),
    "synthtext": Format(
        module="synthtext",
        reader="SynthTextReader",
        summary="gt.mat and its scenes, each word cut out",
        options={"crop": "crop", "margin": "margin"},
        encoding="jpeg",  # seven million crops: as PNG they would be three times as large as the scenes
        counts={"": 7_266_866},
    ),
    "ic03": Format(
        module="icdar",
        reader="Ic03Reader",
        summary="words.xml with scenes, or word.xml with words",
        options={"split": "split", "kind": "variant"},
    ),
    "ic13": Format(
        module="icdar",
        reader="IcdarReader",
        summary="word images with gt.txt",
        options=_ICDAR,
        counts={"train": 848, "test": 1095},
    ),
    "ic15": Format(
        module="icdar",
        reader="IcdarReader",
        summary="word images with gt.txt",
        options=_ICDAR,
        counts={"train": 4468, "test": 2077},
    ),
    "iiit5k": Format(
        module="iiit5k",
        reader="Iiit5kReader",
        summary="traindata.mat, testdata.mat with their lexicons",
        options=_SPLIT,
        counts={"test": 3000, "train": 2000},
    ),
    "svt": Format(
        module="svt",
        reader="SvtReader",
        summary="train.xml, test.xml with scenes and lexicons",
        options=_SPLIT,
        counts={"test": 647, "train": 257},
    ),
    "list": Format(module="files", reader="ListReader", summary="path<TAB>label lines", options={"root": "root"}),
    "csv": Format(
        module="files",
        reader="CsvReader",
        summary="a table with a header",
        options={"root": "root", "path_column": "path_column", "label_column": "label_column"},
    ),
    "folder": Format(module="files", reader="FolderReader", summary="images with a .txt or .gt.txt each"),
    "names": Format(module="files", reader="LabelledNamesReader", summary="images named NUMBER_LABEL_NUMBER"),
    "lmdb": Format(
        module="lmdb", reader="StoreReader", summary="an LMDB store: to copy, merge, filter or re-encode it"
    ),
}


def open_reader(
    name: FormatName, source: str | os.PathLike[str], options: Mapping[str, object] | None = None
) -> Reader:
    """Open the reader of a set; options that are ``None`` were not chosen.

    Raises:
        ConfigError: The format, one of its options, or a value is unknown.
    """
    if name not in FORMATS:
        raise ConfigError(f"format {name!r} is unknown; expected one of: {', '.join(FORMATS)}")
    form = FORMATS[name]
    arguments = {}
    for option, value in (options or {}).items():
        if value is None:
            continue
        if option not in form.options:
            known = [other for other, entry in FORMATS.items() if option in entry.options]
            raise ConfigError(
                f"--{option.replace('_', '-')} {value} does not go with format {name}; it is for {', '.join(known)}. "
                "Leave it out"
            )
        arguments[form.options[option]] = value
    reader = getattr(importlib.import_module(f"crnn.data.formats.{form.module}"), form.reader)
    return cast("Reader", reader(source, **arguments))


def published_count(name: FormatName, source: str | os.PathLike[str], split: str | None) -> int | None:
    """Return the number of published samples, where known; ``split`` ``None`` is the reader's default."""
    form = FORMATS[name]
    path = Path(source)
    if "split" in form.options:
        if split is not None and not path.is_file():
            return form.counts.get(split)
        return form.counts.get(_split_in(path.name if path.is_file() else "", form) or next(iter(form.counts), ""))
    # Challenge4_Test_Task3_GT.txt; ch4_training_word_images_gt, or gt.txt in it.
    folder = path.absolute().parent.name if path.is_file() else ""
    return form.counts.get(_split_in(path.name, form) or _split_in(folder, form))


def _split_in(name: str, form: Format) -> str:
    """Return the split that a name contains, or an empty text."""
    return next((split for split in form.counts if split and split in name.lower()), "")
