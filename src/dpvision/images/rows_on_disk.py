"""Rows of numbers, such as the features of all images, that may be more than memory should hold."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from dpvision.images.files import physical_memory
from dpvision.privacy.errors import InputError

PARTS_OF_MEMORY = 4
"""Rows that would take more than one of so many parts of the memory are kept in a file."""


class RowsOnDisk:
    """Rows ``[N, …]`` in a file, of which only some are held at a time: what a trainer may learn from.

    The file is in TMPDIR, or else in /var/tmp, for /tmp may be memory. It has no name, so that it is gone
    with the object or the process, however that ends; and only the owner may open it meanwhile.

    Args:
        parts: the rows, ``[n, …]`` each, N in all.
        count: N.
        like: one of the parts.
        tell: is given how many rows are there.

    Attributes:
        shape: of one row.
        device: on which rows are handed out: that of the parts.

    Raises:
        InputError: there is no room for the file, or it cannot be written.
    """

    def __init__(
        self,
        parts: Iterable[Tensor],
        count: int,
        like: Tensor,
        tell: Callable[[int], None] | None = None,
    ) -> None:
        self.shape, self.device = tuple(like.shape[1:]), like.device
        self._count, self._type = count, like.dtype
        self._row = like.dtype.itemsize * math.prod(self.shape)
        self._folder = _folder()
        _check_room(self._folder, count * self._row)
        with self._being("written"):
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (closed by the next line)
        weakref.finalize(self, self._file.close)
        done = 0
        for part in parts:
            self._append(part)
            done += len(part)
            if tell:
                tell(done)

    def __len__(self) -> int:
        return self._count

    def take(self, indices: Tensor) -> Tensor:
        """Return the rows at indices, int64 ``[n]``, in this order. InputError: they cannot be read."""
        found = torch.empty(len(indices), *self.shape, dtype=self._type)
        into, places = _bytes(found), indices.cpu().numpy()
        begins = np.flatnonzero(np.diff(places, prepend=places[:1] - 2) != 1)  # of consecutive rows
        for begin, end in itertools.pairwise([*begins.tolist(), len(places)]):
            self._read(int(places[begin]) * self._row, into[begin * self._row : end * self._row])
        return found.to(self.device)

    def take_each(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the rows of each block of indices. They are mostly in order, and the system reads ahead."""
        return map(self.take, blocks)

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all rows in their order, ``[n, …]`` with n = size, or fewer in the last part."""
        begins = range(0, self._count, size)
        return self.take_each(torch.arange(begin, min(begin + size, self._count)) for begin in begins)

    def _append(self, part: Tensor) -> None:
        with self._being("written"):
            self._file.write(_bytes(part.cpu()))
            self._file.flush()

    def _read(self, offset: int, into: memoryview) -> None:
        """Fill ``into`` with the bytes of the file from ``offset`` on."""
        with self._being("read"):
            while len(into):
                count = os.preadv(self._file.fileno(), [into], offset)
                if not count:
                    raise OSError("it ends too early")
                offset, into = offset + count, into[count:]

    @contextmanager
    def _being(self, done: str) -> Iterator[None]:
        """Turn what the file system refuses into one sentence."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"the file of features in {self._folder} cannot be {done}: {error.strerror or error}; mend "
                "that, or name another folder as TMPDIR"
            ) from error


def kept_rows(
    parts: Iterable[Tensor],
    count: int,
    tell: Callable[[int], None] | None = None,
    most: int | None = None,
) -> Tensor | RowsOnDisk:
    """Return the rows of all ``parts``, of which there is one at least: in one tensor, or where that would be
    large, in a file.

    Args:
        parts: the rows, ``[n, …]`` each.
        count: how many rows there are in all.
        tell: is given how many are there.
        most: the largest number of bytes for a tensor, by default those that `fit_memory`.
    """
    rest = iter(parts)
    first = next(rest)
    everything, size = itertools.chain([first], rest), count * first[:1].nbytes
    if fit_memory(size, first.device) if most is None else size <= most:
        return gathered(everything, count, tell)
    return RowsOnDisk(everything, count, first, tell)


def gathered(
    parts: Iterable[Tensor],
    count: int,
    tell: Callable[[int], None] | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the rows of all ``parts``, ``count`` in all, in one tensor. It is made at the first, for parts
    that are kept until they are joined take the memory twice. ``tell`` is given how many are there.
    """
    found, done = torch.empty(0), 0
    for part in parts:
        if not done:
            found = part.new_empty(count, *part.shape[1:], dtype=dtype or part.dtype)
        found[done : done + len(part)] = part
        done += len(part)
        if tell:
            tell(done)
    return found


def rows_at(rows: Tensor | RowsOnDisk, indices: Tensor) -> Tensor:
    """Return the rows at indices, int64 ``[n]``, in this order."""
    return rows[indices] if isinstance(rows, Tensor) else rows.take(indices)


def fit_memory(size: int, device: torch.device) -> bool:
    """Say whether rows of so many bytes are kept in the memory of a device."""
    on_gpu = device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory if on_gpu else physical_memory()
    return size <= memory // PARTS_OF_MEMORY


def _folder() -> str:
    """Return the folder for the file."""
    wanted = (os.environ.get("TMPDIR", ""), "/var/tmp")
    return next((name for name in wanted if os.access(name, os.W_OK | os.X_OK)), tempfile.gettempdir())


def _check_room(folder: str, size: int) -> None:
    """Raise InputError where a folder has no room for a file of so many bytes."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"the features of all images take {size / 2**30:.1f} GiB, too much for the memory here, and "
            f"{folder} has room for {free / 2**30:.1f} GiB; make room, or name another folder as TMPDIR"
        )


def _bytes(rows: Tensor) -> memoryview:
    """Return the bytes of rows on the CPU; where they are contiguous, of those themselves."""
    return rows.contiguous().flatten().view(torch.uint8).numpy().data
