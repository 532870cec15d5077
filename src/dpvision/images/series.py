"""Numbered PNG files beside a record of how they are made: what one run began, another can complete."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpvision.images.atomic import replacing
from dpvision.images.encode import encode_png
from dpvision.images.files import check_regular, parse_json, read_text_file
from dpvision.privacy.errors import InputError

IMAGES_RECORD = "images.json"
POOL_RECORD = "pool.json"
RECORDS = (IMAGES_RECORD, POOL_RECORD)
"""The names of records. Whoever reads a folder of images passes over them."""

COMMAND = "command"
"""The one entry of a record in which the run that completes a series may differ from that which began it."""

PARTIAL = ".partial"
"""The name of a file until it is whole: all have this one, so that what a killed run left is known, and soon
replaced.
"""


@dataclass(frozen=True)
class Series:
    """Images that are, or will be, ``out/<folder>/000000.png``, ``000001.png``, … and ``out/<record_name>``.

    Attributes:
        out: the folder of everything; made where it does not exist.
        record_name: one of `RECORDS`.
        record: how the images are made, as JSON types.
        counts: how many images each folder is to hold. The folder "." is out itself.
    """

    out: Path
    record_name: str
    record: Mapping[str, Any]
    counts: Mapping[str, int]

    def written(self) -> dict[str, int]:
        """Count the images that each folder has already. Changes nothing.

        Raises:
            InputError: out holds anything but the beginning of these very images, or cannot be read.
        """
        with self._storing():
            names = _names(self.out)
            if names:
                self._check(names)
            return {folder: self._images_in(folder) for folder in self.counts}

    def begin(self) -> None:
        """Write the record where it is missing: afterwards out is the folder of these images.

        Raises:
            InputError: it cannot be written.
        """
        with self._storing():
            self.out.mkdir(parents=True, exist_ok=True)
            path = self.out / self.record_name
            if not path.exists():
                _write(path, (json.dumps(dict(self.record), indent=2) + "\n").encode())

    def write(self, folder: str, index: int, pixels: NDArray[np.uint8]) -> None:
        """Write one image, uint8 ``[3, H, W]``, whole or not at all.

        Raises:
            InputError: it cannot be written.
        """
        content = encode_png(pixels)
        with self._storing():
            path = self.out / folder / _name(index)
            path.parent.mkdir(exist_ok=True)
            _write(path, content)

    def _check(self, names: set[str]) -> None:
        path = self.out / self.record_name
        if self.record_name not in names:
            raise InputError(
                f"{self.out} holds something else ('{min(names)}'); give a new or an empty folder"
            )
        check_regular(path)
        content = read_text_file(path)
        try:
            found = parse_json(content)
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}); give another folder") from error
        if not isinstance(found, dict) or _identity(found) != _identity(self.record):
            raise InputError(
                f"{self.out} holds images made with other settings ({str(found)[:300]}); give another folder"
            )
        if "." not in self.counts and (others := names - {self.record_name, *self.counts}):
            raise InputError(
                f"{self.out} holds something else ('{min(others)}'); remove it, or give another folder"
            )

    def _images_in(self, folder: str) -> int:
        names = _names(self.out / folder)
        if folder == ".":
            names -= {self.record_name}
        expected = {_name(index) for index in range(min(len(names), self.counts[folder]))}
        if unexpected := names - expected:
            raise InputError(
                f"{self.out / folder / min(unexpected)} is not one of the images to come; remove it, "
                "or give another folder"
            )
        return len(names)

    @contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{error.filename or self.out} cannot be written: {error.strerror or error}"
            ) from error


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != COMMAND}


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} - {PARTIAL} if folder.exists() else set()


def _name(index: int) -> str:
    return f"{index:06d}.png"


def _write(path: Path, content: bytes) -> None:
    with replacing(path, path.with_name(PARTIAL)) as partial:
        partial.write_bytes(content)
