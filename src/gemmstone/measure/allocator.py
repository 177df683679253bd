"""The C library's allocator, brought to the state of a process that has run for a while.

glibc maps blocks above a threshold afresh at every allocation, so that each page of them is a fault at its first touch: up to
eight times as long for a kernel that writes a new tensor. The threshold starts at 128 KiB and rises to the size of any mapped block
that is freed, up to 32 MiB (M_MMAP_THRESHOLD and M_TRIM_THRESHOLD in mallopt(3)). A model's first forward pass raises it
for all that follow; a call that is measured by itself would find it wherever the calls before have left it, once quick and
once slow.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

HIGHEST_BYTES = 32 << 20  # DEFAULT_MMAP_THRESHOLD_MAX of 64-bit systems
HEADER_BYTES = 64 << 10  # left for the block's header and the rounding to pages


@cache
def settle() -> None:
    """Raises the threshold as far as it goes, by freeing a block just below; nothing where another library allocates."""
    if not sys.platform.startswith("linux"):
        return
    try:
        library = ctypes.CDLL(None)
        library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    except (OSError, AttributeError):
        return
    library.free(library.malloc(HIGHEST_BYTES - HEADER_BYTES))
