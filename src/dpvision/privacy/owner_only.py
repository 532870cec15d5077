"""Files that only their owner may read."""

from __future__ import annotations

import os


def for_the_owner(path: str, flags: int) -> int:
    """Open a file that only its owner may read and write: an ``opener`` for :func:`open`."""
    descriptor = os.open(path, flags, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # whatever the umask, and if it was there before
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
