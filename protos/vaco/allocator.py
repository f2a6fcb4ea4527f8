"""Memory that is freed and needed again, without a visit to the kernel each time.

Fragments and batches are a few MiB each, allocated and freed many times a second. glibc gives such
memory back to the kernel when it is freed, and gets it again page by page, zeroed: on a virtual
machine that can cost more than everything else that happens to a fragment.
"""

import ctypes
from typing import Final

KEPT_BYTES: Final = 512 << 20
# glibc refuses a larger one.
LARGEST_BYTES: Final = 32 << 20

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def keep_freed_memory() -> bool:
    """Have this process keep up to `KEPT_BYTES` of what it frees, of blocks up to `LARGEST_BYTES`.

    To be called once, by the main module of a program that moves fragments.

    Returns:
        Whether the C library can do it; glibc can.

    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    kept = mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGEST_BYTES) and kept)
