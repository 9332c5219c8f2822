"""Arguments of the ModelZoo's converters, for ``crnn data convert``."""

from __future__ import annotations

import argparse
from pathlib import Path

from crnn.cli import main as crnn


def main(form: str, annotation: str) -> int:
    """Convert to a folder with images and their list, ``labels.tsv``, unless ``--to lmdb`` is given."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=f"Further flags are those of: crnn data convert {form}"
    )
    if annotation.endswith(".xml"):
        parser.add_argument("-d", "--dataset_dir", default=".", help="folder of the set, with its images")
        parser.add_argument("-x", "--xml_file", dest="file", default=annotation, help="annotation, in that folder")
    else:
        parser.add_argument("-m", "--mat_file", dest="file", default=annotation, help="annotation, in the set's folder")
    parser.add_argument("-o", "--output_dir", default="processed", help="folder to write")
    given, rest = parser.parse_known_args()
    source = Path(given.file)
    if "dataset_dir" in given:
        folder = Path(given.dataset_dir)
        source = folder / source if (folder / source).exists() else source
        if source.resolve().parent != folder.resolve():
            parser.error(f"--xml_file {given.file} is not in --dataset_dir {folder}, as the set is published")
    return crnn(["data", "convert", form, str(source), given.output_dir, "--to", "list", *rest])
