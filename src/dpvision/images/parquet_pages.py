"""Find out what the pages of a Parquet file say they unpack to, before anything is unpacked.

The reader believes the header of each page, which may claim 2 GiB in a few bytes and, with a strong codec,
hold them. Footer and headers are Thrift structures in the compact protocol (github.com/apache/thrift,
doc/specs/thrift-compact-protocol.md), FileMetaData and PageHeader of github.com/apache/parquet-format,
parquet.thrift. pyarrow would show the footer too, but of some damaged ones it ends the process.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any

DICTIONARY_PAGE = 2

TRUE, FALSE = 1, 2  # types of fields that are their own values

LONGEST = 2**24  # bytes of a text; pyarrow's own bound on the header of a page

DEEPEST = 12  # structures and lists in each other; a footer has eight


def page_sizes(path: Path, column: str) -> tuple[int, int]:
    """Return the bytes that all pages of a column unpack to, and those of its largest dictionary.

    Args:
        path: the path of the file.
        column: its name, or that of a part of it, such as "image.bytes". Whatever else pyarrow would read
            under that name counts too.

    Raises:
        ValueError, KeyError, …: footer or pages are damaged, or pages are said to be in another file.
    """
    total, largest_dictionary = 0, 0
    with path.open("rb") as file:
        for start, end in _chunks(file, column.encode()):
            while start < end:
                file.seek(start)
                header = _structure(file, DEEPEST)
                kind, unpacked, packed = header[1], header[2], header[3]
                if unpacked < 0 or packed < 0:
                    raise ValueError("a page has a negative size")
                total += unpacked
                if kind == DICTIONARY_PAGE:
                    largest_dictionary = max(largest_dictionary, unpacked)
                start = file.tell() + packed
    return total, largest_dictionary


def _chunks(file: IO[bytes], name: bytes) -> list[tuple[int, int]]:
    """Return where in the file the pages of a column begin and end, in bytes, in every group of rows."""
    file.seek(-8, io.SEEK_END)
    length = int.from_bytes(file.read(4), "little")
    file.seek(-8 - length, io.SEEK_END)
    footer = _structure(io.BytesIO(file.read(length)), DEEPEST)
    found = []
    for row_group in footer[4]:
        for chunk in row_group[1]:
            if 1 in chunk:
                raise ValueError("its columns are in another file")
            column = chunk[3]
            if (b".".join(column[3]) + b".").startswith(name + b"."):
                start = column[9]
                if 0 < column.get(11, 0) < start:  # the dictionary
                    start = column[11]
                found.append((start, start + column[7]))
    return found


def _structure(file: IO[bytes], deepest: int) -> dict[int, Any]:
    """Read the fields of a structure, by their numbers."""
    fields: dict[int, Any] = {}
    number = 0
    while head := _byte(file):  # zero ends it
        kind = head & 15
        number = number + (head >> 4) if head >> 4 else _signed(file)
        fields[number] = kind == TRUE if kind in (TRUE, FALSE) else _value(file, kind, deepest)
    return fields


def _value(file: IO[bytes], kind: int, deepest: int) -> Any:
    if deepest == 0:
        raise ValueError("it is nested too deeply")
    match kind:
        case 1 | 2 | 3:  # a truth value in a list, or a byte
            return _byte(file)
        case 4 | 5 | 6:  # whole numbers of 16, 32 and 64 bits
            return _signed(file)
        case 7:  # a double
            return file.read(8)
        case 8:  # bytes or text
            length = _varint(file)
            if length > LONGEST:
                raise ValueError("a text in it is too long")
            return file.read(length)
        case 9 | 10:  # a list or a set
            head = _byte(file)
            count = _varint(file) if head >> 4 == 15 else head >> 4
            return [_value(file, head & 15, deepest - 1) for _ in range(count)]
        case 12:
            return _structure(file, deepest - 1)
    raise ValueError(f"there is no value of type {kind} in Parquet")


def _signed(file: IO[bytes]) -> int:
    """Read a zigzag number."""
    value = _varint(file)
    return value >> 1 ^ -(value & 1)


def _varint(file: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = _byte(file)
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError("a number is too long")


def _byte(file: IO[bytes]) -> int:
    byte = file.read(1)
    if not byte:
        raise EOFError("it is cut off")
    return byte[0]
