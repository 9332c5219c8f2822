"""Freed memory stays in the process, which saves page faults."""

import resource
import subprocess
import sys

import pytest

from crnn.training.loop import _keep_freed_memory

SCRIPT = """
import resource, sys
import numpy as np
from crnn.train import _keep_freed_memory
if sys.argv[1] == "keep" and not _keep_freed_memory():
    sys.exit(3)
def blocks():
    return [np.ones(8_000_000) for _ in range(3)]  # 64 MB each
blocks(), blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    blocks()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    ended = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=False)
    if ended.returncode == 3:
        pytest.skip("the allocator is not glibc's")
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)


def test_kept_memory_is_handed_out_again_without_page_faults() -> None:
    """Fifteen arrays of 64 MB: a fault for each of their pages, or for next to none."""
    pages = 15 * 64_000_000 // resource.getpagesize()
    assert page_faults("keep") < pages // 100
    # Huge pages make the faults fewer, not few; without that there would be nothing to save.
    assert page_faults("give back") > 2 * page_faults("keep")


def test_an_allocator_without_the_option_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crnn.training.loop.ctypes.CDLL", lambda _: object())
    assert _keep_freed_memory() is False
