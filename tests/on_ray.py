"""Reads images on two Ray nodes of this machine, as examples/read_with_ray.py does: python on_ray.py FOLDER.

FOLDER has ``crops``. One of the two readers kills itself, once. What was read is written to ``FOLDER/rows.json``; the
same of images in Parquet files, to ``packed.json``.
"""

import json
import os
import runpy
import signal
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import ray
from ray.cluster_utils import Cluster

FOLDER = Path(sys.argv[1])
EXAMPLE = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "read_with_ray.py"))
MEMORY = 2**30  # bytes for images on their way; with much less ray hands out no work


class KilledOnce(EXAMPLE["Reader"]):  # type: ignore[misc]
    """A reader that is killed in the middle of its work, the first time that one of them gets any."""

    def __call__(self, batch):
        try:
            (FOLDER / "killed").touch(exist_ok=False)
        except FileExistsError:
            return super().__call__(batch)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("killed")


def read(crops, readings, *options, reader=EXAMPLE["Reader"]):
    """What the example writes, as dictionaries."""
    EXAMPLE["main"]([str(crops), str(readings), "--readers", "2", *options], reader)
    nodes = {node["NodeManagerAddress"] for node in ray.nodes()}
    assert nodes == {"127.0.0.1"}, nodes
    assert len(ray.nodes()) == 2
    return pyarrow.parquet.read_table(readings).to_pylist()


def pack(paths, folder):
    """Images into two Parquet files."""
    folder.mkdir()
    for number in range(2):
        some = paths[number::2]
        columns = {"path": [path.name for path in some], "bytes": [path.read_bytes() for path in some]}
        pyarrow.parquet.write_table(pa.table(columns), folder / f"{number}.parquet")


def main():
    """Both ways."""
    head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": MEMORY}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
        os.environ["RAY_ADDRESS"] = cluster.address
        rows = read(FOLDER / "crops", FOLDER / "readings", "--batch-size", "4", reader=KilledOnce)
        (FOLDER / "rows.json").write_text(json.dumps(rows))

        pack(sorted((FOLDER / "crops").iterdir()), FOLDER / "packed")
        (FOLDER / "packed.json").write_text(json.dumps(read(FOLDER / "packed", FOLDER / "from_packed", "--packed")))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
