"""What reading a file must not do, whatever is in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checks.fuzzing.bundles import unpack
from checks.fuzzing.targets import Target
from dpvision.images.files import FREE_BYTES, most_unpacked
from dpvision.privacy.errors import InputError

MOST_SECONDS = 20.0
"""Of the processor, for one input. Most take a ten-thousandth."""

RUNS_CODE = frozenset(
    (
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.system",
        "pickle.find_class",
        "socket.connect",
        "subprocess.Popen",
    )
)
"""Events of Python's audit hooks (PEP 578) that no file may bring about."""

WRITES = {"os.mkdir": 0, "os.remove": 0, "os.rename": 1, "os.rmdir": 0, "os.symlink": 1, "os.truncate": 0}
"""Events that change files, with the position of the path among their arguments."""


@dataclass(frozen=True)
class Found:
    """What one input led to.

    Attributes:
        refused: whether it was by an InputError that it ended.
        peak_bytes: of memory, beyond what the process held before.
        violation: what must not be, in words; None where all was as it should.
    """

    refused: bool
    peak_bytes: int
    violation: str | None


def bound(target: Target, stored: int) -> int:
    """Bytes of memory that a target may take for files of so many bytes: docs/guarantee/hostile-input.md."""
    if target.of_images:
        return 2**30 + 2 * most_unpacked(stored)
    return FREE_BYTES + 8 * stored


class Watch:
    """Gives inputs to a target, in a folder of their own, and sees what comes of it.

    Args:
        target: what reads them.
        folder: everything that is written has to be in it.
    """

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self._folder = folder
        self._seen: list[str] = []

    def give(self, data: bytes) -> Found:
        """Lets the target read an input."""
        parts = unpack(data, len(self.target.kinds))
        place = self._folder / "input"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        self.target.write(place, parts)
        stored = sum(file.lstat().st_size for file in place.rglob("*") if file.is_file())
        before, started = reset_peak(), time.process_time()
        self._seen.clear()
        violation, refused = None, False
        with _audited(self._audit):
            try:
                self.target.read(place)
            except InputError as error:
                refused = True
                if (deepest := _causes_memory_error(error)) is not None:
                    violation = f"MemoryError, said to be bad input: {deepest}"
                elif "\n" in str(error) or len(str(error)) > 10_000:
                    violation = f"not one sentence: {str(error)[:200]!r}"
            except Exception:
                violation = traceback.format_exc(limit=-6)
        peak, seconds = peak_bytes() - before, time.process_time() - started
        if violation is None and self._seen:
            violation = self._seen[0]
        if violation is None and peak > bound(self.target, stored):
            violation = f"{peak >> 20} MiB of memory for {stored} bytes"
        if violation is None and seconds > MOST_SECONDS:
            violation = f"{seconds:.0f} s"
        return Found(refused, peak, violation)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in RUNS_CODE:
            self._seen.append(f"{event} {arguments!r:.200}")
        elif event == "open":
            path, mode, flags = arguments
            writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT
            )
            if writes and isinstance(path, str | bytes) and not self._is_inside(path):
                self._seen.append(f"opens {path!r} to write")
        elif event in WRITES and not self._is_inside(arguments[WRITES[event]]):
            self._seen.append(f"{event} {arguments!r:.200}")

    def _is_inside(self, path: Any) -> bool:
        with contextlib.suppress(TypeError, ValueError):
            return Path(os.path.realpath(os.fsdecode(path))).is_relative_to(self._folder.resolve())
        return False


_listener: list[Callable[[str, tuple[Any, ...]], None]] = []
_hooked = False


@contextlib.contextmanager
def _audited(listener: Callable[[str, tuple[Any, ...]], None]) -> Iterator[None]:
    """The listener hears of audit events meanwhile. A hook cannot be taken away, so there is one."""
    global _hooked
    if not _hooked:
        sys.addaudithook(lambda event, arguments: _listener[0](event, arguments) if _listener else None)
        _hooked = True
    _listener.append(listener)
    try:
        yield
    finally:
        _listener.clear()


def _causes_memory_error(error: BaseException) -> str | None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return repr(cause)
        cause = cause.__cause__
    return None


def reset_peak() -> int:
    """Linux forgets the process's peak of resident memory; the bytes that are resident now.

    What the process takes again of memory that it freed before, and kept, is not seen.
    """
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_bytes() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"this system does not say {field}")
