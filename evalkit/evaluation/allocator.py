"""What the C library does with memory that torch gives back on the CPU."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Names of glibc's malloc.h, for mallopt(3)."""


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks for the next tensor instead of handing each large one back to the kernel.

    By default each tensor of 32 MiB or more is mapped anew and its pages are cleared again, which costs a CNN at larger
    batches up to half its time (experiments/allocator.py). The price is that the process holds its peak until it ends.
    Returns whether there was a glibc to tell; elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
