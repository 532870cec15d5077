"""Files that are whole or not there at all, whatever happens to the process that writes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """Yield where to write a file that takes the place of ``path`` once the block is left.

    An exception leaves ``path`` as it was, and no other file behind. A process that is killed may leave
    ``partial``, which is a name of the file's own beside it unless one is given.

    Raises:
        OSError: the file system refuses.
    """
    partial = partial or path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
