"""Several files as one string of bytes, which is what a fuzzer changes."""

from __future__ import annotations

from collections.abc import Sequence


def pack(parts: Sequence[bytes]) -> bytes:
    """The files, each after its length in four bytes."""
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def unpack(data: bytes, count: int) -> list[bytes]:
    """So many files of any bytes at all: what is cut off is missing, and the last one has the rest."""
    parts = []
    for index in range(count):
        length = int.from_bytes(data[:4], "little")
        last = index == count - 1
        parts.append(data[4:] if last else data[4 : 4 + length])
        data = data[4 + length :]
    return parts
