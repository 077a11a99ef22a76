"""Memory handled for speed, in a command that works through much data and then ends."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_ARRAY_BYTES = 32 << 20  # the most that glibc takes
_KEPT_BYTES = 64 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h


def keep_freed_memory() -> None:
    """From now on the C library keeps up to 64 MB that were freed.

    Else it returns large arrays to the system, which clears their pages when it lends them again: a tenth of the time.
    Does nothing where the C library is not glibc.
    """
    with suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(_M_MMAP_THRESHOLD, _ARRAY_BYTES)
        set_option(_M_TRIM_THRESHOLD, _KEPT_BYTES)
