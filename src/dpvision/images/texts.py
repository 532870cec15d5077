"""Many texts, such as the names of images, that are not held in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from torch import Tensor

from dpvision.images.store_files import Content, load_array, new_file, save_array

TEXTS_AT_ONCE = 4096


class Texts(Sequence[str]):
    """Texts in two files, their bytes and where each ends, of which those are read that are asked for.

    Args:
        folder: where they were saved.
        name: of the files.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._ends = load_array(folder / f"{name}.npy")
        self._content = Content(folder / f"{name}.txt")

    @staticmethod
    def save(folder: Path, name: str, texts: Iterable[str]) -> None:
        """Write texts. Names of files may be no Unicode, and come back as they are."""
        ends = array("q")
        with new_file(folder / f"{name}.txt") as file:
            for text in texts:
                file.write(text.encode(errors="surrogatepass"))
                ends.append(file.tell())
        save_array(folder / f"{name}.npy", np.frombuffer(ends, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self._between(place, place + 1)[0]

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), TEXTS_AT_ONCE):
            yield from self._between(first, min(first + TEXTS_AT_ONCE, len(self)))

    def _between(self, first: int, last: int) -> list[str]:
        begin = int(self._ends[first - 1]) if first else 0
        ends = (self._ends[first:last] - begin).tolist()
        content = bytearray(ends[-1])
        self._content.read_into(memoryview(content), begin)
        return [
            content[start:end].decode(errors="surrogatepass")
            for start, end in zip([0, *ends], ends, strict=False)
        ]


class Picked(Sequence[str]):
    """Some texts of a sequence, of which none is copied.

    Args:
        texts: the sequence.
        places: int64 [n], which of them.
    """

    def __init__(self, texts: Sequence[str], places: Tensor) -> None:
        self._texts, self._places = texts, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return Picked(self._texts, self._places[index])
        return self._texts[int(self._places[index])]


def picked(texts: Sequence[str], places: Tensor) -> Sequence[str]:
    """Return some texts of a sequence: a tuple of a tuple, and else what holds none of them."""
    if isinstance(texts, tuple):
        return tuple(texts[place] for place in places.tolist())
    return Picked(texts, places)
