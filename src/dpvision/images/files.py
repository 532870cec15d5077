"""Handle files that cannot be trusted, for every reader: bound what they claim, and name the broken one.

The bounds, of which docs/guarantee/hostile-input.md makes one statement, are the constants here and
`MAX_PIXELS`.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from dpvision.parallel.variables import are_several, number
from dpvision.privacy.errors import InputError, reason_of

FREE_BYTES = 2**28
"""Bytes that any file may unpack to, however small it is."""

MOST_EXPANSION = 2**8
"""Most bytes that a larger file may unpack to, per stored byte. Of real images the blankest come near it."""

MAX_TEXT_BYTES = 2**22
"""Largest JSON or TOML file that is parsed, in bytes. A parsed value takes some 30 times its text."""

MAX_GUARANTEE_BYTES = 2**23
"""Largest guarantee.json that is read, in bytes: it lists every file of a release. Parsed, its names and
digests take less than other values.
"""

MAX_NESTING = 32
"""Deepest nesting that is read, of JSON, of TOML and of folders. What is deeper is no file of ours, and
exhausts the stack of whoever goes through it.
"""

MAX_CLASSES = 2**16
"""Most classes that there may be: one stray label would make a classifier of any width."""

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
    """The error raised where labels were asked for, there are none, and the images alone can be read."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever a parser raises about broken input into one sentence that names the input.

    Enclose nothing but the parser's own calls. Everything is caught because parsers document no closed set: a
    few changed bytes draw OSError, SyntaxError, struct.error, IndexError and more from Pillow alone.

    Raises:
        InputError: in place of any other exception, but for mistakes of the program, which no input makes.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if _is_mistake(error):
            raise
        raise InputError(
            f"{what} cannot be read ({reason_of(error)}); it may be damaged: replace or remove it"
        ) from error


def _is_mistake(error: Exception) -> bool:
    """Say whether an error is there whatever the input is: a name that nothing has, or that no module has.
    Attributes of other objects may be missing for the type of a value that was read.
    """
    if isinstance(error, AttributeError):
        return isinstance(error.obj, ModuleType)
    return type(error) is NameError  # a local variable that is unbound may have followed from the input


def check_fits_memory(num_bytes: int, what: str) -> None:
    """Raise InputError if what would take more bytes than this machine has memory."""
    if num_bytes > (memory := physical_memory()):
        raise InputError(
            f"{what} would take {num_bytes / 2**30:.1f} GiB, more than the {memory / 2**30:.1f} GiB of "
            "memory here; use fewer or smaller images"
        )


def check_unpacks(num_bytes: int, stored: int, what: str) -> None:
    """Raise InputError if what is stored in so many bytes would unpack to more than it may, or than fits.

    The bound on a whole data set: a header or a well-packed archive can claim any size in a few bytes.
    """
    check_fits_memory(num_bytes, what)
    check_expands(num_bytes, stored, what)


def check_expands(num_bytes: int, stored: int, what: str) -> None:
    """Raise InputError if what is stored in so many bytes would unpack to more than it may."""
    if num_bytes > most_unpacked(stored):
        raise InputError(
            f"{what} would take {num_bytes / 2**30:.1f} GiB, more than {MOST_EXPANSION} times the {stored} "
            "bytes that hold it; if it is what it should be, store it with less compression"
        )


def most_unpacked(stored: int) -> int:
    """Return the bytes that a file, or a data set, of so many bytes may unpack to."""
    return max(FREE_BYTES, MOST_EXPANSION * stored)


def named(place: str | os.PathLike[str]) -> str:
    """Return what a place on this machine may be called in what is published: its last name alone. A name
    that is no place stays as it is.
    """
    text = os.fspath(place)
    return Path(text).name if os.sep in text and Path(text).parent.is_dir() else text


def check_regular(path: Path) -> None:
    """Raise InputError unless a regular file is there: a pipe would block for ever, a device never end."""
    with reading(str(path)):
        mode = path.stat().st_mode
    _check_mode(path, mode)


def _check_mode(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is not a regular file; remove it, or give a file in its place")


def read_text_file(path: Path, most: int = MAX_TEXT_BYTES) -> bytes:
    """Read the content of a file of JSON or TOML.

    Raises:
        InputError: it cannot be read, is no regular file, or is larger than ``most`` bytes.
    """
    try:
        # A pipe that nobody writes to is opened at once, and then refused.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            _check_mode(path, os.fstat(file.fileno()).st_mode)
            content = file.read(most + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > most:
        raise InputError(f"{path} is larger than the {most >> 20} MiB that are read; make it smaller")
    return content


def parse_json(text: bytes | str, most: int = MAX_TEXT_BYTES) -> Any:
    """Parse a JSON text and return its value.

    Raises:
        ValueError: it is none in UTF-8, has NaN or infinity or a name twice in an object, is longer than
            ``most`` or nested too deeply.
    """
    if len(text) > most:
        raise ValueError(f"it is longer than the {most >> 20} MiB that are read")
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_of_pairs)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    check_nesting(value)
    return value


def read_json(path: Path, most: int = MAX_TEXT_BYTES) -> dict[str, Any]:
    """Read a regular file that holds one JSON object.

    Raises:
        InputError: there is no such file, it is larger than ``most`` bytes, or it holds something else.
    """
    check_regular(path)
    content = read_text_file(path, most)
    try:
        fields = parse_json(content, most)
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); it was changed or damaged") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path} does not hold a JSON object; it was changed or damaged")
    return fields


def check_nesting(value: Any) -> None:
    """Raise ValueError where lists and dictionaries lie more than MAX_NESTING deep in each other."""
    level = [value]
    for _ in range(MAX_NESTING):
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
        level = [item for items in inner for item in items]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. ValueError where a name comes twice: people and programs might read either."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it has an object with a name twice")
    return found


def physical_memory() -> int:
    """Return the bytes of memory that this process may use: those of the machine, or of its control group,
    shared with the other processes of the run that are there.
    """
    there = min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits_of_groups()])
    return there // (number("LOCAL_WORLD_SIZE", 1) if are_several() else 1)


def _limits_of_groups() -> Iterator[int]:
    """Yield the limits of memory of this process's control group and those around it, as far as Linux says
    them (docs.kernel.org/admin-guide/cgroup-v2.html): a container is one.
    """
    with suppress(OSError, ValueError):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
        for group in (Path(own), *Path(own).parents):
            with suppress(OSError, ValueError):  # no limit is the text "max"
                yield int(Path(f"/sys/fs/cgroup{group}", "memory.max").read_text())
