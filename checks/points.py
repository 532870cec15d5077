"""Every moment at which a run touches its files, its ledger or its noise, and something to befall it there.

`install` puts itself between Python and the operating system, in a process of its own that runs one command.
It sees the operations on files below one folder, all by name: "open" (to write), "write", "fsync", "rename",
"mkdir", "truncate", "remove", "link", "lock", "close"; and "draw", each reading of the noise's keystream by a
mechanism.
"""

from __future__ import annotations

import builtins
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from dpvision.privacy.mechanisms import GaussianSumMechanism
from dpvision.privacy.noise import SecureRandom, SeededRandom

Moment = Literal["before", "half", "after"]
Reach = Callable[[str, Moment], None]
"""Called at every moment of every operation. It may return, raise, or end the process. A write has a moment
when half of it is done."""

_fsync, _write = os.fsync, os.write


def install(folder: Path, reach: Reach, log: Path) -> None:
    """From here on, tell ``reach`` of all operations below ``folder``; and ``log``, of every draw of noise.

    The log is a file of JSON lines, each on the disk before the noise is used: the release's number in this
    process, how many releases the ledgers below ``folder`` hold at that moment, whether all that was written
    to them is on the disk, and a hash of the bytes.
    """
    places = _Places(folder, reach)
    for module in (io, builtins):
        module.open = places.opened(io.open if module is io else builtins.open)  # type: ignore[attr-defined]
    for name, what in (
        ("rename", "rename"),
        ("replace", "rename"),
        ("mkdir", "mkdir"),
        ("link", "link"),
        ("truncate", "truncate"),
        ("unlink", "remove"),
        ("rmdir", "remove"),
    ):
        setattr(os, name, places.of_path(what, getattr(os, name)))
    os.fsync = places.of_descriptor("fsync", os.fsync)
    fcntl.flock = places.of_descriptor("lock", fcntl.flock)
    _watch_noise(folder, places, log)


class _Places:
    """Wraps operations so that they tell ``reach`` if they are on something below ``folder``."""

    def __init__(self, folder: Path, reach: Reach) -> None:
        self.prefix, self.reach = str(folder) + os.sep, reach
        self.unsynced: set[int] = set()  # descriptors of ledgers, written to since they were flushed

    def below(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(self.prefix)

    def opened(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def open_(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not self.below(file) or not set(mode) & set("wax+"):
                return real(file, mode, *args, **kwargs)
            self.reach("open", "before")
            found = real(file, mode, *args, **kwargs)
            self.reach("open", "after")
            return _File(found, self, "ledgers" in Path(file).parts)

        return open_

    def of_path(self, what: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            # shutil.rmtree names files by a folder's descriptor, and only ever works below `folder` here.
            if not self.below(path) and kwargs.get("dir_fd") is None:
                return real(path, *args, **kwargs)
            self.reach(what, "before")
            found = real(path, *args, **kwargs)
            self.reach(what, "after")
            return found

        return call

    def of_descriptor(self, what: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, *args: Any) -> Any:
            self.reach(what, "before")
            found = real(file, *args)
            if what == "fsync":
                self.unsynced.discard(file)
            self.reach(what, "after")
            return found

        return call


class _File:
    """A file that tells when it is written."""

    def __init__(self, file: Any, places: _Places, is_ledger: bool) -> None:
        self._file, self._places, self._is_ledger = file, places, is_ledger
        self._reach = places.reach

    def write(self, content: Any) -> int:
        self._reach("write", "before")
        if self._is_ledger:
            self._places.unsynced.add(self._file.fileno())
        middle = len(content) // 2
        written = self._file.write(content[:middle])
        self._file.flush()
        self._reach("write", "half")
        written += self._file.write(content[middle:])
        self._file.flush()
        self._reach("write", "after")
        return int(written)

    def truncate(self, size: int | None = None) -> int:
        self._reach("truncate", "before")
        found = self._file.truncate(size)
        self._reach("truncate", "after")
        return int(found)

    def close(self) -> None:
        try:
            self._reach("close", "before")
        finally:
            self._file.close()
        self._reach("close", "after")

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _watch_noise(folder: Path, places: _Places, log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    releases, releasing = 0, False
    real_release = GaussianSumMechanism.release

    def release(*args: Any, **kwargs: Any) -> Any:
        nonlocal releases, releasing
        releases, releasing = releases + 1, True
        try:
            return real_release(*args, **kwargs)
        finally:
            releasing = False

    def watched(real: Callable[..., bytes]) -> Callable[..., bytes]:
        def draw(self: Any, count: int) -> bytes:
            if not releasing:
                return real(self, count)
            places.reach("draw", "before")
            drawn = real(self, count)
            line = {
                "process": os.getpid(),
                "release": releases,
                "spent": len(spends(folder)),
                "synced": not places.unsynced,
                "hash": hashlib.sha256(drawn).hexdigest(),
            }
            _write(descriptor, json.dumps(line).encode() + b"\n")
            _fsync(descriptor)
            places.reach("draw", "after")
            return drawn

        return draw

    GaussianSumMechanism.release = release  # type: ignore[method-assign]
    for source in (SecureRandom, SeededRandom):
        source.bytes = watched(source.bytes)  # type: ignore[method-assign]


def _ledgers(folder: Path) -> list[Path]:
    """Return the ledgers in a folder, of which other processes may remove parts meanwhile."""
    while True:
        with suppress(FileNotFoundError):
            return sorted(folder.rglob("ledgers/*.jsonl"))


def spends(folder: Path) -> list[dict[str, Any]]:
    """All releases that the ledgers below ``folder`` hold, read without the code that is checked."""
    found = []
    for ledger in _ledgers(folder):
        whole, _, _ = ledger.read_bytes().rpartition(b"\n")
        entries = [json.loads(line) for line in whole.splitlines()]
        found += [entry for entry in entries if entry["kind"] == "spend"]
    return found
