"""Reads images on all machines of a Ray cluster: a row for each of them, in Parquet files.

    python examples/read_with_ray.py CROPS READINGS [--packed] [--readers N] [--model MODEL]

CROPS is a folder of images, here or in an object store (``s3://...``); with ``--packed`` it holds Parquet files with
the columns ``path`` and ``bytes`` instead. Without RAY_ADDRESS this machine is the cluster. docs/scale.md says what it
costs, and what happens when something goes wrong.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # ray reports to its makers unless told otherwise

import pyarrow as pa
import ray


class Reader:
    """One of many readers: a process of its own, with one thread."""

    def __init__(self, model: str) -> None:
        import crnn

        self.recognizer = crnn.load(model, threads=1, device="cpu")

    def __call__(self, batch: pa.Table) -> pa.Table:
        """``path`` and ``bytes`` -> ``path``, ``text``, ``score``, ``confidence`` and ``error``."""
        # What cannot be read comes as an exception in its place, and becomes a row like the others.
        found = list(self.recognizer.stream(image.as_py() for image in batch["bytes"]))
        columns: dict[str, Any] = {"path": batch["path"]}
        for name, kind in (("text", pa.string()), ("score", pa.float32()), ("confidence", pa.float32())):
            columns[name] = pa.array([getattr(reading, name, None) for reading in found], kind)
        errors = [str(reading) if isinstance(reading, Exception) else None for reading in found]
        return pa.table(columns | {"error": pa.array(errors, pa.string())})


def read_all(options: argparse.Namespace, reader: type[Reader]) -> None:
    """Read what ``CROPS`` holds and write it to ``READINGS``, block by block."""
    # A reader takes less than a core, reading and writing files little: else they wait for each other where readers
    # have taken all cores, as they do when a machine is lost.
    crops = (
        ray.data.read_parquet(options.crops, num_cpus=0.1).select_columns(["path", "bytes"])
        if options.packed
        else ray.data.read_binary_files(options.crops, include_paths=True, num_cpus=0.1)
    )
    # A reader that dies, or whose machine does, is started again elsewhere and gets its images once more.
    pool = (
        ray.data.ActorPoolStrategy(size=options.readers) if options.readers else ray.data.ActorPoolStrategy(min_size=1)
    )
    crops.map_batches(
        reader, batch_size=options.batch_size, batch_format="pyarrow", compute=pool, num_cpus=0.9,
        fn_constructor_args=[options.model],
    ).write_parquet(options.readings, ray_remote_args={"num_cpus": 0.1})  # fmt: skip


def main(arguments: Sequence[str] | None = None, reader: type[Reader] = Reader) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("crops")
    parser.add_argument("readings")
    parser.add_argument("--packed", action="store_true")
    parser.add_argument("--readers", type=int, help="fewer than cores; default: as many as find work")
    parser.add_argument("--batch-size", type=int, default=512, help="images that are handed to a reader at a time")
    parser.add_argument("--model", default="crnn-small")
    options = parser.parse_args(arguments)
    ray.init(ignore_reinit_error=True)
    read_all(options, reader)


if __name__ == "__main__":
    main()
