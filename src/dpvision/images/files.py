"""What every reader does with files it cannot trust: bound what they claim, and name the broken one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from dpvision.privacy.errors import InputError

SPLITS = ("train", "val", "test")

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "t10k": "test",
}
"""The words that data sets use for their splits, and which of SPLITS each means."""


class NoLabelsError(InputError):
    """Labels were asked for where there are none, and where the images alone can be read."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turns whatever a parser raises about broken input into one sentence that names the input.

    Enclose nothing but the parser's own calls. Everything is caught because parsers document no closed set: a
    few changed bytes draw OSError, SyntaxError, struct.error, IndexError and more from Pillow alone.

    Raises:
        InputError: in place of any other exception.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise InputError(
            f"{what} cannot be read ({reason}); it may be damaged: replace or remove it"
        ) from error


def check_fits_memory(num_bytes: int, what: str) -> None:
    """Raises InputError if what would take more bytes than this machine has memory.

    The bound on a whole data set: a header or a well-packed archive can claim any size in a few bytes.
    """
    if num_bytes > (memory := physical_memory()):
        raise InputError(
            f"{what} would take {num_bytes / 2**30:.1f} GiB, more than the {memory / 2**30:.1f} GiB of "
            "memory here; use fewer or smaller images"
        )


def physical_memory() -> int:
    """Bytes of memory in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
