"""Every fault of the table in docs/faults.md happens to a training, and what comes of it is what the table says.

``benchmarks/faults.py`` makes them, in processes of their own, each of which has a minute to end; it compares resumed
runs with one that was never disturbed, bit for bit.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

STATUS = {
    "killed_stored": -9, "killed_rendered": -9, "killed_stored_ranks": -9, "killed_rendered_ranks": -9,
    "terminated": 143, "interrupted": 130, "hung_up": 129, "stdout_closed": 141, "stderr_closed": 1,
    "worker_killed": 2, "worker_hangs": 2, "shared_memory_full": 2, "store_cut_short": 2, "workers_orphaned": -9,
    "truncated_allowed": 0, "truncated_refused": 2, "not_a_number": 2,
    "disk_full": 2, "disk_full_at_the_end": 2, "read_only": 2, "becomes_read_only": 2, "folder_vanishes": 2,
    "folder_replaced": 2, "second_run": 2, "checkpoint_flipped": 0,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are watched in /proc")
def test_every_fault_ends_as_the_table_says(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "faults.py"), "--json", "--kills", "2"]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path / "lab")], capture_output=True, text=True, timeout=1500, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    rows = {row["case"]: row for row in map(json.loads, done.stdout.splitlines())}
    tried = {name: row for name, row in rows.items() if "not_tried" not in row}
    assert [row for row in tried.values() if row["problem"]] == [], done.stderr
    assert done.returncode == 0, done.stderr
    assert list(rows) == list(STATUS)
    assert {name: row["status"] for name, row in tried.items()} == {name: STATUS[name] for name in tried}
    assert [row for row in tried.values() if row["seconds"] > row["limit"]] == []
    # Only small disks may be impossible here.
    assert rows.keys() - tried.keys() <= {
        "shared_memory_full", "disk_full", "disk_full_at_the_end", "read_only", "becomes_read_only",
    }  # fmt: skip

    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    said = re.findall(r"^\| ([^|]*) \| ([^|]*) \| (-?\d+) \| [\d.]+ \| (\d+) \|$", text, re.MULTILINE)
    assert said == [(row["fault"], row["outcome"], str(STATUS[n]), f"{row['limit']:g}") for n, row in rows.items()]
