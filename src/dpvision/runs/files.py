"""The files of a run: written whole or not at all, and what cannot be written or read said in a sentence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from dpvision.images.atomic import replacing
from dpvision.images.files import read_json
from dpvision.privacy.errors import InputError
from dpvision.privacy.owner_only import for_the_owner

__all__ = [
    "check_room",
    "json_bytes",
    "read_json",
    "write_atomically",
    "write_folder",
    "writing",
    "writing_whole",
]


def write_atomically(path: Path, content: bytes, *, public: bool = False) -> None:
    """Write under another name, flush to the disk, rename.

    Only the owner may read the file, whatever the umask, unless it is public: then the umask decides.

    Raises:
        InputError: the file system refuses.
    """
    with writing_whole(path, public=public) as file:
        file.write(content)


@contextmanager
def writing_whole(path: Path, *, public: bool = False) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of ``path`` once the block is left: whole, or not at all. Who may
    read it, and errors, are as for `write_atomically`.
    """
    with (
        writing(path),
        replacing(path) as partial,
        open(partial, "wb", opener=None if public else for_the_owner) as file,
    ):
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into one sentence.

    Raises:
        InputError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def write_folder(out: Path, files: Mapping[str, bytes], *, mode: int = 0o700) -> None:
    """Write all files of a new folder, by their names, or none.

    Args:
        out: its path, where there is nothing yet, or an empty folder.
        files: their contents. Names may have folders in them.
        mode: who may enter the folder; by default only the owner.

    Raises:
        InputError: the file system refuses.
    """
    partial = out.with_name(f".{out.name}.partial")
    with writing(out):
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(mode=mode, parents=True)
            for name, content in files.items():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).write_bytes(content)
            with suppress(FileNotFoundError):
                out.rmdir()
            partial.rename(out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def check_room(path: Path, size: int) -> None:
    """Write so many bytes beside ``path`` and take them away, so that a full disk is noticed beforehand.

    Raises:
        InputError: the file system refuses.
    """
    trial = path.with_name(f".{path.name}.trial")
    with writing(trial):
        try:
            write_atomically(trial, bytes(size))
        finally:
            trial.unlink(missing_ok=True)


def json_bytes(fields: dict[str, Any]) -> bytes:
    """Return indented JSON, as people read it."""
    return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode()
