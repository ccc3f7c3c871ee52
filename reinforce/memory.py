"""Memory: how this process keeps what it has freed."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_NEVER = -1


def keep_freed_memory(largest: int = 1 << 30) -> None:
    """Have freed memory reused by this process instead of given back to the kernel and fetched again, page by page.

    glibc gives blocks above 32 MB back at once, and what lies free at its end above 128 kB. Activations of a batch are above
    the one, views of an image above the other: a MobileNetV2 on two cores spent three quarters of its time on clearing pages.
    For whole programs, not for libraries: it holds for all of the process. Elsewhere than on glibc nothing happens.

    Args:
        largest: Bytes of a block from which on it is given back all the same.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
    mallopt(_M_MMAP_THRESHOLD, largest)
