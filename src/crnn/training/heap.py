"""Memory that a process gives back and asks for again costs time; a training step does it thousands of times.

glibc's allocator returns large blocks to the system when they are freed, so that the activations of every step come as
fresh pages, which the system has to clear first: a hundred page faults a picture. Told to keep them, it hands the same
pages out again.
"""

from __future__ import annotations

import ctypes
import logging

__all__ = ["keep_freed_memory"]

_log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Names of the options in glibc's ``malloc.h``."""

_NEVER = -1
_LARGEST_BLOCK = 1 << 30
"""Blocks from this size on, in bytes, still come from the system and go back to it."""


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, up to blocks of 1 GiB, for as long as it lives.

    It changes the whole process and cannot be taken back. Where the allocator is not glibc's, nothing happens.

    Returns:
        Whether the allocator took it.

    Reference: mallopt(3). Measured: docs/log/experiments.md.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    taken = bool(mallopt(_M_TRIM_THRESHOLD, _NEVER)) and bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK))
    if not taken:
        _log.debug("the allocator does not keep freed memory: mallopt refused")
    return taken
