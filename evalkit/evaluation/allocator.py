"""Settings of the C library for memory that torch frees on the CPU."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""M_TRIM_THRESHOLD and M_MMAP_MAX of glibc's malloc.h, for mallopt(3)."""


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks for the next tensor instead of returning large ones to the kernel.

    By default each tensor of 32 MiB or more gets newly mapped and zeroed pages, which takes up to half of the time of a CNN
    at larger batches (experiments/cost/allocator.py). In return the process keeps its peak memory until it ends.
    Returns whether glibc accepted the settings; without glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
