"""The ModelZoo's convert_svt.py: words cut out of the scenes of Street View Text.

    python examples/modelzoo/convert_svt.py -d svt1 -x test.xml -o processed

Writes a folder with the crops and their list, ``labels.tsv`` (``path<TAB>label``). It is ``crnn data convert svt`` by
another name, and takes the flags of that command too: ``--to lmdb`` writes a store, which keeps the
lexicons of 50 words.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from crnn.cli import main as crnn


def main(arguments: Sequence[str] | None = None) -> int:
    """The ModelZoo's arguments to those of ``crnn data convert``."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Further flags are those of: crnn data convert svt"
    )
    parser.add_argument("-d", "--dataset_dir", default=".", help="folder of the set, with its images")
    parser.add_argument("-x", "--xml_file", default="test.xml", help="annotation, in that folder")
    parser.add_argument("-o", "--output_dir", default="processed", help="folder to write")
    given, rest = parser.parse_known_args(arguments)
    annotation = Path(given.dataset_dir, given.xml_file)
    if not annotation.exists():
        annotation = Path(given.xml_file)
    if annotation.resolve().parent != Path(given.dataset_dir).resolve():
        parser.error(
            f"--xml_file {given.xml_file} is not in --dataset_dir {given.dataset_dir}, as the set is published"
        )
    return crnn(["data", "convert", "svt", str(annotation), given.output_dir, "--to", "list", *rest])


if __name__ == "__main__":
    sys.exit(main())
