"""The convertible formats by the names that users type; readers are imported on demand."""

import inspect
import os
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from crnn.data.formats.records import Reader
from crnn.errors import ConfigError

__all__ = ["FORMATS", "Format", "open_reader", "published_count"]


@dataclass(frozen=True, slots=True)
class Format:
    """Reader of a format."""

    reader: str  # module below ``crnn.data.formats`` and class, whose arguments behind the source are the options
    summary: str  # of what it reads, for the help
    encoding: Literal["png", "jpeg"] = "png"  # default of crops
    counts: Mapping[str, int] = field(default_factory=dict)  # published samples by split
    default_split: str | None = None  # of the reader; ``None``: files' and folders' names tell the split

    def reader_class(self) -> type[Reader]:
        """Import the reader."""
        found: type[Reader] = pkgutil.resolve_name(f"crnn.data.formats.{self.reader}")
        return found


FORMATS = {
    "mjsynth": Format(
        "mjsynth:MjsynthReader",
        "90kDICT32px with annotation_*.txt and lexicon.txt",
        counts={"train": 7_224_612, "val": 802_734, "test": 891_927, "all": 8_919_273},
        default_split="train",
    ),
    "synthtext": Format(
        "synthtext:SynthTextReader",
        "gt.mat and its scenes, each word cut out",
        encoding="jpeg",  # seven million crops: as PNG they would be three times as large as the scenes
        counts={"all": 7_266_866},
        default_split="all",
    ),
    "ic03": Format("tagged_xml:Ic03Reader", "words.xml with scenes, or word.xml with words"),
    "ic13": Format("icdar:IcdarReader", "word images with gt.txt", counts={"train": 848, "test": 1095}),
    "ic15": Format("icdar:IcdarReader", "word images with gt.txt", counts={"train": 4468, "test": 2077}),
    "iiit5k": Format(
        "iiit5k:Iiit5kReader",
        "traindata.mat, testdata.mat with their lexicons",
        counts={"train": 2000, "test": 3000},
        default_split="test",
    ),
    "svt": Format(
        "tagged_xml:SvtReader",
        "train.xml, test.xml with scenes and lexicons",
        counts={"train": 257, "test": 647},
        default_split="test",
    ),
    "list": Format("files:ListReader", "path<TAB>label lines"),
    "csv": Format("files:CsvReader", "a table with a header"),
    "folder": Format("files:FolderReader", "images with a .txt or .gt.txt each"),
    "names": Format("files:LabelledNamesReader", "images named NUMBER_LABEL_NUMBER"),
    "lmdb": Format("lmdb:StoreReader", "an LMDB store: to copy, merge, filter or re-encode it"),
}


def open_reader(name: str, source: str | os.PathLike[str], options: Mapping[str, object] | None = None) -> Reader:
    """Open the reader of a set; options that are ``None`` were not chosen."""
    if name not in FORMATS:
        raise ConfigError(f"format {name!r} is unknown; expected one of: {', '.join(FORMATS)}")
    reader = FORMATS[name].reader_class()
    chosen = {option: value for option, value in (options or {}).items() if value is not None}
    for option in chosen.keys() - _options(reader):
        known = [other for other, entry in FORMATS.items() if option in _options(entry.reader_class())]
        raise ConfigError(
            f"--{option.replace('_', '-')} {chosen[option]} does not go with {name}; it is for {', '.join(known)}"
        )
    return reader(source, **chosen)  # type: ignore[call-arg]


def _options(reader: type[Reader]) -> set[str]:
    return set(inspect.signature(reader).parameters) - {"source"}


def published_count(name: str, source: str | os.PathLike[str], split: str | None) -> int | None:
    """Return the number of published samples, where known; ``split`` ``None`` is the reader's default."""
    form, path = FORMATS[name], Path(source)
    # Challenge4_Test_Task3_GT.txt; ch4_training_word_images_gt, or gt.txt in it; train.xml.
    places = (path.name, path.absolute().parent.name) if path.is_file() else (path.name,)
    named = next((part for place in places for part in form.counts if part in place.lower()), None)
    if form.default_split is not None and not (named and path.is_file()):
        named = split or form.default_split
    return form.counts.get(named or "")
