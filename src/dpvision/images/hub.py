"""Repositories of the Hugging Face Hub, ``hf:OWNER/NAME[/FOLDER][@REVISION]``, as folders on this machine.

Each commit is downloaded once, below ``$DPVISION_HOME/hub``, into a folder that only its owner may enter, and
is then read as any other folder: no code of a repository is run, nothing is unpickled, and the libraries of
Hugging Face write no copy of their own. ``tests/images/test_hub.py`` puts a stand-in in place of the network.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from dpvision.images.extras import import_extra
from dpvision.images.text import listing, written_out
from dpvision.privacy.errors import InputError, reason_of

logger = logging.getLogger("dpvision")

Kind = Literal["dataset", "model"]

PREFIX = "hf:"
FORM = "hf:OWNER/NAME, hf:OWNER/NAME/FOLDER or hf:OWNER/NAME@REVISION"
COMMIT = re.compile("[0-9a-f]{40}")
_NAME = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}"
REPOSITORY = re.compile(f"(?!(?:dataset|model|space)s/){_NAME}/{_NAME}")
"""What a repository may be called: OWNER/NAME."""
_PARTS = re.compile(
    rf"(?:(dataset|model)s/)?({REPOSITORY.pattern})((?:/[\w .=-]+)*)(?:@([A-Za-z0-9_./-]{{1,200}}))?"
)
SAID_OF_ALL = ("card.json", "config.json", "guarantee.json", "pool.json")
"""The files of a repository that come with any folder or file of it: they say what is guaranteed of synthetic
images.
"""
_LONGEST = 1000
"""Bytes of a spec; of a name in it 255, as file systems have it."""
_LOCAL = ("/", "./", "../", "~")


def _home() -> Path:
    """Return the folder of all downloads: beside the ledgers and the stores."""
    from dpvision.privacy.image_index import default_index_folder  # here: it takes seconds to import

    return default_index_folder().with_name("hub")


@dataclass(frozen=True)
class Repository:
    """What of a repository is meant.

    Attributes:
        kind: of images, or of a model.
        name: OWNER/NAME.
        within: the path of a folder or file in it, "" for all.
        revision: a branch, a tag or a commit.
    """

    kind: Kind
    name: str
    within: str
    revision: str

    def __str__(self) -> str:
        within = f"/{self.within}" if self.within else ""
        return f"{PREFIX}{self.kind}s/{self.name}{within}@{self.revision}"

    @property
    def folder(self) -> Path:
        """Where its commits are downloaded to."""
        return _home() / f"{self.kind}s" / self.name

    @property
    def mark(self) -> Path:
        """The file that is there once what is meant of a commit is downloaded whole."""
        return self.folder / f"{self.revision}.{hashlib.sha256(self.within.encode()).hexdigest()[:16]}"


def is_hub(spec: str | os.PathLike[str]) -> bool:
    """Say whether a spec begins as those of the hub do."""
    return os.fspath(spec).startswith(PREFIX)


def repository_of(spec: str | os.PathLike[str], kind: Kind) -> Repository | None:
    """Return what a spec means of the hub; None where it is a path, also one after ``hf:``.

    Args:
        spec: as it was given.
        kind: of what a spec without ``datasets/`` or ``models/`` is meant.

    Raises:
        InputError: it begins with ``hf:``, and is of another form.
    """
    rest = os.fspath(spec).removeprefix(PREFIX)
    if not is_hub(spec) or rest.startswith(_LOCAL):
        return None
    found = _PARTS.fullmatch(rest)
    within = (found[3] if found else "").strip("/")
    is_bounded = len(os.fsencode(rest)) <= _LONGEST and all(
        len(os.fsencode(part)) <= 255 for part in within.split("/")
    )
    if not found or not is_bounded or any(set(part) <= {"."} for part in within.split("/") if part):
        shown = listing(written_out(os.fspath(spec)), "", 300)
        raise InputError(f"{shown} names nothing on the Hugging Face Hub; write {FORM}, or hf: and a path")
    of_kind: Any = found[1] or kind
    return Repository(of_kind, found[2], within, found[4] or "main")


def pinned(spec: str | os.PathLike[str], kind: Kind = "dataset") -> str:
    """Return a spec that means the same commit for ever, or the same path from any folder.

    Raises:
        InputError: as :func:`placed`.
    """
    repository = repository_of(spec, kind)
    if repository is not None:
        return str(_at_commit(repository))
    # It stays one after hf:, which is read as the hub's are.
    return f"{PREFIX if is_hub(spec) else ''}{local_path(spec).absolute()}"


def placed(spec: str | os.PathLike[str], kind: Kind = "dataset") -> Path:
    """Return the path of what a spec means: a path as it is; what is on the hub where it was downloaded to,
    which is done here if it was not.

    A revision that is no commit is looked up once in a process.

    Raises:
        InputError: it is not on the hub, or may not be read; or huggingface_hub or the network is needed and
            is not there.
    """
    repository = repository_of(spec, kind)
    if repository is None:
        return local_path(spec)
    repository = _at_commit(repository)
    if not repository.mark.exists():
        _download(repository)
    return repository.folder / repository.revision / repository.within


def check_spec(spec: str | os.PathLike[str], kind: Kind = "dataset") -> bool:
    """Say whether a spec is one of the hub. Nothing is looked up.

    Raises:
        InputError: as :func:`repository_of`; or huggingface_hub is needed and is not installed.
    """
    repository = repository_of(spec, kind)
    if repository is not None and not repository.mark.exists():
        _library()
    return repository is not None


def local_path(spec: str | os.PathLike[str]) -> Path:
    """Return the path that a spec is which is none of the hub's, without the ``hf:`` before it.

    Raises:
        InputError: it is in the home of a user that there is not.
    """
    if not is_hub(spec):
        return Path(spec)
    try:
        return Path(os.fspath(spec).removeprefix(PREFIX)).expanduser()
    except RuntimeError as error:
        raise InputError(f"{written_out(os.fspath(spec))} is no path: {error}") from error


def downloaded(spec: str | os.PathLike[str]) -> list[Path]:
    """Return all that was downloaded of a repository; of a path, that."""
    repository = repository_of(spec, "dataset")
    if repository is None:
        return [local_path(spec)]
    marks = sorted(mark for mark in repository.folder.glob("*.*") if mark.is_file())
    return [mark.with_suffix("") / mark.read_text() for mark in marks]


def forget_downloads(spec: str | os.PathLike[str]) -> int:
    """Remove all that was downloaded of a repository, and return how many bytes it took.

    Raises:
        InputError: something cannot be removed.
    """
    repository = repository_of(spec, "dataset")
    if repository is None or not repository.folder.is_dir():
        return 0
    size = sum(file.stat().st_size for file in repository.folder.rglob("*") if file.is_file())
    try:
        shutil.rmtree(repository.folder)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be removed: {error.strerror or error}") from error
    return size


def _at_commit(repository: Repository) -> Repository:
    if COMMIT.fullmatch(repository.revision):
        return repository
    found = replace(repository, revision=_commit(repository))
    logger.info(f"{repository} is at the commit {found.revision}")
    return found


@cache
def _commit(repository: Repository) -> str:
    """Ask the hub for the commit that a branch or tag is at."""
    with _asking(repository):
        info = (
            _library()
            .HfApi()
            .repo_info(repository.name, repo_type=repository.kind, revision=repository.revision)
        )
        if not COMMIT.fullmatch(info.sha or ""):
            raise ValueError("it has no commit")
        return str(info.sha)


def _download(repository: Repository) -> None:
    """Download a commit, or the folder or file that is meant of it. What was begun before is gone on with."""
    folder, within = repository.folder / repository.revision, repository.within
    with _asking(repository):
        folder.mkdir(parents=True, exist_ok=True)
        _home().chmod(0o700)
        _library().snapshot_download(
            repository.name,
            repo_type=repository.kind,
            revision=repository.revision,
            local_dir=folder,
            allow_patterns=[within, f"{within}/*", *SAID_OF_ALL] if within else None,
        )
        if not (folder / within).exists():
            raise FileNotFoundError(f"there is no {within} in it")
        repository.mark.write_text(within)
    logger.info(f"{repository} was downloaded to {folder} (private); dpvision data … --forget removes it")


@contextmanager
def _asking(repository: Repository) -> Iterator[None]:
    """Turn what the hub, the network or the disk refuses into one sentence. What their libraries raise is no
    closed set.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = reason_of(error)
        commits = {mark.stem for mark in repository.folder.glob("*.*")}
        known = f", or name a commit that was downloaded: {listing(sorted(commits))}" if commits else ""
        raise InputError(
            f"{repository} cannot be had from the Hugging Face Hub ({reason}); look at "
            f"its name and the network, sign in with `hf auth login` if it is not public{known}"
        ) from error


def _library() -> Any:
    return import_extra("huggingface_hub", "what is on the Hugging Face Hub", extra="hub")
