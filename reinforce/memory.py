"""Memory: keep freed memory in this process instead of returning it to the kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_NEVER = -1
_OLD_LIMIT = 1 << 25
"""Largest threshold that older glibc takes (half of its HEAP_MAX_SIZE); a larger one is refused there."""

Mallopt = Callable[[int, int], int]
"""C's `mallopt(option, value)`: 1 where the value was taken, 0 where it was refused."""


def keep_freed_memory(largest: int = 1 << 30) -> int:
    """Let this process reuse the memory that it freed, instead of returning it to the kernel and getting it again page by page.

    By default, glibc returns freed blocks above 32 MB to the kernel at once, and free memory above 128 kB at the end of its
    heap. Activations of a batch exceed the first limit, views of an image the second: a MobileNetV2 on two cores spent three
    quarters of its time on clearing pages. For whole programs, not for libraries: it changes the whole process. Without
    glibc it does nothing.

    Args:
        largest: Blocks of at least this many bytes are still returned to the kernel.

    Returns:
        Bytes of a block up to which memory is kept from now on: `largest`; less where the C library takes no more; 0 where it
        refuses or has no such options.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl and macOS have none
        return 0
    return set_thresholds(mallopt, largest)


def set_thresholds(mallopt: Mallopt, largest: int) -> int:
    """Set both thresholds of malloc, or none; what `keep_freed_memory` returns."""
    # The first threshold goes first: to set the other one stops glibc from adapting the first, which then stays at 128 kB, and
    # every larger block would go back to the kernel at once.
    kept = next((size for size in (largest, min(largest, _OLD_LIMIT)) if mallopt(_M_MMAP_THRESHOLD, size)), 0)
    return kept if kept and mallopt(_M_TRIM_THRESHOLD, _NEVER) else 0
