"""What the C library does with memory that is freed."""

from __future__ import annotations

import ctypes

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # glibc's names, malloc.h
LARGEST = 1 << 30


def keep_freed_memory() -> bool:
    """Whether freed blocks now stay with the process; False where the C library is not glibc.

    By default glibc hands large blocks back to the kernel after every layer and gets them anew, page by page, for the
    next one. Kept, networks run faster on the CPU; the process holds what it needed at its peak.
    """
    try:
        adjust = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(adjust(MMAP_THRESHOLD, LARGEST) and adjust(TRIM_THRESHOLD, LARGEST))
