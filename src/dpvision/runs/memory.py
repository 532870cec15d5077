"""How much memory this process holds, and those that it has started."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROCESSES = Path("/proc")


def forget_peak() -> None:
    """Let the memory that this process once held not count in `peak_bytes`, where the system can forget."""
    with suppress(OSError):
        (PROCESSES / "self" / "clear_refs").write_text("5")


def peak_bytes() -> int:
    """Return the most memory that this process has held, in bytes."""
    try:
        lines = (PROCESSES / "self" / "status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def held_bytes() -> int | None:
    """Return the memory that this process and all that come of it hold now, in bytes; None where the system
    does not say. What several of them share counts for each.
    """
    try:
        own = _resident(os.getpid())
    except OSError:
        return None
    others = 0
    for process in _descendants(os.getpid()):
        with suppress(OSError):  # it has ended meanwhile
            others += _resident(process)
    return own + others


def gpu_bytes() -> tuple[int, int] | None:
    """Return the memory of GPUs that this process' allocator holds, and the most that it held, in bytes; None
    where it has used none. It neither imports torch nor starts CUDA.
    """
    cuda = sys.modules.get("torch.cuda")
    # Another thread may be importing it.
    if cuda is None or not getattr(cuda, "is_initialized", bool)():
        return None
    devices = range(cuda.device_count())
    return sum(map(cuda.memory_reserved, devices)), sum(map(cuda.max_memory_reserved, devices))


def _resident(process: int) -> int:
    """Return the resident memory of a process in bytes. OSError where there is none, or no /proc."""
    pages = (PROCESSES / str(process) / "statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _descendants(process: int) -> Iterator[int]:
    """Yield the processes that one has started, those that these have, and so on; any may end meanwhile."""
    children = list[int]()
    with suppress(OSError):
        for thread in (PROCESSES / str(process) / "task").iterdir():
            children += map(int, (thread / "children").read_text().split())
    for child in children:
        yield child
        yield from _descendants(child)
