"""The notebook of examples/: it runs from top to bottom, and is saved with small results that name no machine."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[1] / "examples" / "crnn.ipynb"
CELLS = [cell for cell in json.loads(PATH.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    cells = ["".join(cell["source"]) for cell in CELLS]
    program = (
        "import json, sys\nfor cell in json.loads(sys.argv[1]):\n    exec(compile(cell, 'cell', 'exec'), globals())"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, json.dumps(cells)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    before, after = map(int, re.search(r"right: (\d+)% before, (\d+)% after", done.stdout).groups())
    assert 20 < before <= after
    assert "codes.onnx: 5.6 MB, 0 texts differ" in done.stdout


def test_the_notebook_is_saved_as_it_ran():
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    assert all(cell["outputs"] for cell in CELLS if re.search(r"^print|^\w.*\)$", cell["source"][-1]))
    assert PATH.stat().st_size < 200_000
    text = re.sub(r'"image/png": "[^"]*"', "", PATH.read_text(encoding="utf-8"))
    assert not re.search(r"/(?:home|Users|root|tmp|src)/", text)
