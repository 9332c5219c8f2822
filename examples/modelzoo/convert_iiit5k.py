"""The ModelZoo's convert_iiit5k.py: the words of IIIT 5K-Word with the labels from its Matlab file.

    python examples/modelzoo/convert_iiit5k.py -m IIIT5K/testdata.mat -o processed

Writes a folder with the images and their list, ``labels.tsv`` (``path<TAB>label``). It is ``crnn data convert
iiit5k`` by another name, and takes the flags of that command too: ``--to lmdb`` writes a store, which keeps the
lexicons of 50 and 1,000 words.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from crnn.cli import main as crnn


def main(arguments: Sequence[str] | None = None) -> int:
    """The ModelZoo's arguments to those of ``crnn data convert``."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Further flags are those of: crnn data convert iiit5k"
    )
    parser.add_argument("-m", "--mat_file", default="testdata.mat", help="annotation, in the folder of the set")
    parser.add_argument("-o", "--output_dir", default="processed", help="folder to write")
    given, rest = parser.parse_known_args(arguments)
    return crnn(["data", "convert", "iiit5k", given.mat_file, given.output_dir, "--to", "list", *rest])


if __name__ == "__main__":
    sys.exit(main())
