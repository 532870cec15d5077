"""Set how the command's process keeps its memory."""

from __future__ import annotations

import ctypes

# Names and numbers of <malloc.h> in the GNU C library.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def keep_freed_memory() -> None:
    """Reuse freed memory, where the C library is GNU's, instead of handing it back to the system at once.

    Training frees and allocates the same large tensors at every step. Handed back, each of their pages is
    faulted in and zeroed again, which takes longer than an elementwise operation on it. This is a setting of
    the whole process, so it is for the command to make and not for the library.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)
