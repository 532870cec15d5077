"""A run's directory: what it was asked to do, what it may publish, and what it may not.

RUN/config.json   everything resolved, enough to take the run up again
RUN/release/      what the guarantee covers, written when all is done: may be published
RUN/private/      everything else: never to be published
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dpvision.images.files import reading
from dpvision.privacy.errors import InputError
from dpvision.privacy.ledger import sync_folder
from dpvision.runs.files import json_bytes, read_json, write_atomically, writing
from dpvision.runs.places import check_free, check_run

_SEAL = "seal"
_PARTIAL_RELEASE = ".release."


class RunDirectory:
    """The directory at ``path``, made by `create` or found by `open`.

    Attributes:
        path: the path of the directory.
        config: what config.json holds.
        private: what private/run.json holds: the data's digest and that of its pixels, the ledger's path, the
            run's id.
        seal: the SHA-256 of both, which identifies the run. private/run.json holds it too, and tells by it
            when either was changed.
    """

    def __init__(self, path: Path, config: dict[str, Any], private: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self.private = private
        self.seal = hashlib.sha256(json.dumps([config, private]).encode()).hexdigest()
        self._made_parents: list[Path] = []

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], config: dict[str, Any], private: dict[str, Any]
    ) -> RunDirectory:
        """Make a new run's directory, and its missing parents.

        Raises:
            InputError: as `check_free`, or the place cannot be written. Nothing is left behind.
        """
        check_free(path)
        run = cls(Path(path), config, private)
        # Everything is first written beside the place, so that a run directory is never half made.
        partial: Path | None = None
        try:
            with writing(run.path):
                run._made_parents = _make_parents(run.path)
                partial = Path(tempfile.mkdtemp(prefix=f".{run.path.name}.", dir=run.path.parent))
                partial.chmod(0o755)
                (partial / "private").mkdir()
                (partial / "private").chmod(0o700)  # whatever the umask
                write_atomically(partial / "config.json", json_bytes(config))
                write_atomically(partial / "private" / "run.json", json_bytes({**private, _SEAL: run.seal}))
                os.rename(partial, run.path)  # also onto an empty directory
        except BaseException:
            if partial:
                shutil.rmtree(partial, ignore_errors=True)
            run._remove_parents()
            raise
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDirectory:
        """Open the directory of a run that was begun earlier.

        Raises:
            InputError: there is none at ``path``, or its records are damaged.
        """
        path = Path(path)
        check_run(path)
        private = read_json(path / "private" / "run.json")
        seal = private.pop(_SEAL, None)
        run = cls(path, read_json(path / "config.json"), private)
        if run.seal != seal:
            raise InputError(
                f"{path / 'config.json'} or private/run.json beside it was changed or damaged; "
                "restore them from a copy, or start a new run"
            )
        return run

    def discard(self) -> None:
        """Take back `create`: for a run that could not begin. Parents that it made go too.

        Raises:
            InputError: the file system refuses.
        """
        with writing(self.path):
            shutil.rmtree(self.path)
            self._remove_parents()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run, for one process at a time to work on it.

        Raises:
            InputError: another process does, or the file system refuses.
        """
        record = self.private_path / "run.json"
        with reading(str(record)):
            file = record.open("rb")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"another process is working on {self.path}; wait for it") from error
            except OSError as error:
                raise InputError(
                    f"{record} cannot be locked: {error.strerror or error}; keep runs on a file system with "
                    "locks, as a local disk or NFS 4"
                ) from error
            yield

    @property
    def is_worked_on(self) -> bool:
        """True while a process works on the run, as far as that can be told without one's own lock."""
        try:
            with (self.private_path / "run.json").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # of a file system without locks, or that refuses
            return False
        return False

    def of_account(self, name: str) -> str:
        """Return an entry of private/run.json: "run_id", "digest" or "ledger".

        Raises:
            InputError: it is not there.
        """
        value = self.private.get(name)
        if not isinstance(value, str):
            raise InputError(
                f"{self.private_path / 'run.json'} does not say '{name}'; it was changed or damaged"
            )
        return value

    @property
    def private_path(self) -> Path:
        """The folder RUN/private."""
        return self.path / "private"

    @property
    def checkpoint_path(self) -> Path:
        """The file that an interrupted run goes on from, as long as it learns from private images."""
        return self.private_path / "checkpoint.safetensors"

    @property
    def finishing_path(self) -> Path:
        """The file that an interrupted run goes on from, once it has learned."""
        return self.private_path / "finishing.safetensors"

    @property
    def learned_path(self) -> Path:
        """The file of what was learned from private images: all that the release is made of."""
        return self.private_path / "learned.safetensors"

    @property
    def test_path(self) -> Path:
        """The file of all figures on the test images, of which the release has the accuracy alone."""
        return self.private_path / "test.json"

    @property
    def samples_path(self) -> Path:
        """The folder RUN/samples: sheets of what a generator draws while it is made, of releases alone."""
        return self.path / "samples"

    @property
    def release_path(self) -> Path:
        """The folder RUN/release, which exists once the run is complete."""
        return self.path / "release"

    @property
    def is_released(self) -> bool:
        """True if the release is written. What exists of one is complete."""
        return self.release_path.is_dir()

    def release(self, files: Mapping[str, bytes]) -> None:
        """Write the release: all of it, or nothing. Names may have folders in them.

        Guarantee: whenever the process or the machine stops, RUN/release is missing or complete; what it
        holds is what was given. That this follows from releases of mechanisms and from public facts alone is
        the caller's promise, which ``tests/testing/test_methods.py`` tries byte by byte on every method, and
        ``python -m checks.kill`` kills runs while they write.

        Raises:
            InputError: the file system refuses.
        """
        with writing(self.release_path):
            for left in self.path.glob(f"{_PARTIAL_RELEASE}*"):  # by a process that was killed
                shutil.rmtree(left)
            partial = Path(tempfile.mkdtemp(prefix=_PARTIAL_RELEASE, dir=self.path))
            try:
                partial.chmod(0o755)
                for name, content in files.items():
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(partial / name, content, public=True)
                os.rename(partial, self.release_path)
                sync_folder(self.path)  # before the ledger says that the run is complete
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    def _remove_parents(self) -> None:
        for parent in reversed(self._made_parents):
            parent.rmdir()
        self._made_parents = []


def _make_parents(path: Path) -> list[Path]:
    """Make the missing parents of ``path``; those made, outermost first."""
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    return missing[::-1]
