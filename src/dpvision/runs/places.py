"""Say whether a place has a run or a release, or can have one. It imports nothing that takes seconds."""

from __future__ import annotations

import os
from pathlib import Path

from dpvision.images.hub import placed
from dpvision.images.places import is_release
from dpvision.privacy.errors import InputError, named_option


def check_free(path: str | os.PathLike[str]) -> None:
    """Refuse a place where a directory cannot be made because something is there, or within a release.

    Raises:
        InputError: ``path`` is a file, a directory with something in it, or within a release.
    """
    path = _nameable(path)
    try:
        if any(map(is_release, path.resolve().parents)):
            raise InputError(f"{path} is within a release, whose files are fixed; name another place")
        if not path.exists():
            return
        if not path.is_dir():
            raise InputError(f"{path} is a file; name a new directory")
        is_empty = not any(path.iterdir())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not is_empty:
        resume = "resume the run in it, or " if is_run(path) else ""
        raise InputError(f"{path} is not empty; {resume}name another directory")


def _nameable(path: str | os.PathLike[str]) -> Path:
    """Return a path. InputError where no file may be called so."""
    if "\0" in os.fspath(path):
        raise InputError(f"{os.fspath(path)!r} has a zero in it, which no name may have; name another place")
    return Path(path)


def is_run(path: str | os.PathLike[str]) -> bool:
    """Say whether a run's directory is there, and no release alone."""
    return os.path.isfile(Path(path, "private", "run.json"))


def check_run(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless a run's directory is there."""
    if not (is_run(path) and os.path.isfile(Path(path, "config.json"))):
        raise InputError(f"{path} is no run directory; give the --out of an earlier run")


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless a folder is there."""
    if not os.path.isdir(path):
        raise InputError(f"{path} is no folder; give one that has runs in it")


def check_chart(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless the name of a file says in which form a chart is to be written."""
    if Path(path).suffix.lower() not in (".svg", ".png"):
        raise InputError(f"{path} must end in .svg or .png, for a chart is written as either")


def check_onnx(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless an ONNX file can be made at a place."""
    path = _nameable(path)
    if path.suffix.lower() != ".onnx":
        raise InputError(f"{path} must be called *.onnx, or it would not be known again")
    if os.path.lexists(path):
        raise InputError(f"{path} exists already; remove it, or name another file")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} to write {path.name} to; make it first")


def check_export(onnx: str | os.PathLike[str] | None, torch: str | os.PathLike[str] | None) -> None:
    """Raise InputError unless a model is to be exported to one place or both, and can be made there."""
    if onnx is None and torch is None:
        forms = f"{named_option('onnx', 'FILE.onnx')}, {named_option('torch', 'FOLDER')}"
        raise InputError(f"say what to export to: {forms}, or both")
    if onnx is not None:
        check_onnx(onnx)
    if torch is not None:
        check_free(torch)


def check_outside(path: str | os.PathLike[str], release: Path) -> None:
    """Raise InputError if a place is within a release, or the run that it is of: verification would find a
    file that is not its own, or what may be given away would lie among what is private.
    """
    place, release = Path(path).resolve(), release.resolve()
    if place.is_relative_to(release):
        raise InputError(f"{path} is within a release, whose files are fixed; name another place")
    if is_run(release.parent) and place.is_relative_to(release.parent):
        raise InputError(f"{path} is within the run's directory; name another place")


def check_release(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless a release directory is there."""
    config = Path(path, "config.json")
    if not os.path.isfile(config):
        raise InputError(f"{config} is missing; give the release directory of a run that is complete")


def find_release(path: str | os.PathLike[str]) -> Path:
    """Return the release directory of a run, or ``path`` itself where it is no run's. A release on the
    Hugging Face Hub, "hf:OWNER/NAME@REVISION", is downloaded unless it was; see :mod:`dpvision.images.hub`.

    Raises:
        InputError: the run is not complete, or there is no release.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"give a run's directory or release directory, not {path!r}")
    path = placed(path, "model")
    if is_run(path):
        path = path / "release"
        if not path.is_dir():
            raise InputError(f"{path.parent} is not complete; resume it first")
    check_release(path)
    return path


def check_released(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless a file is there, which may be what a run released, or a run or its release."""
    if not os.path.exists(path):
        raise InputError(
            f"{path} does not exist; give an earlier run of synthesize, its release, or the file of what it "
            "released"
        )
    if not os.path.isfile(path):
        find_release(path)
