"""Programs in several processes, as torchrun starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from checks.launching import free_port, variables_of


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it said."""

    code: int
    output: str
    errors: str


def start_processes(
    program: str, arguments: Sequence[object], size: int, folder: Path, each: Mapping[int, Mapping[str, str]]
) -> list[subprocess.Popen[str]]:
    """Start ``size`` processes of a Python program, each with a home of its own, ``folder``/home-0, … .

    Args:
        each: more variables of the environment of some, by rank.
    """
    port, started = free_port(), []
    for rank in range(size):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            **variables_of(rank, size, port),
            "DPVISION_HOME": str(folder / f"home-{rank}"),
            **each.get(rank, {}),
        }
        command = [sys.executable, "-c", program, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, text=True, env=environment, **pipes))  # type: ignore[call-overload]
    return started


def wait_for(processes: Sequence[subprocess.Popen[str]], seconds: float = 120) -> list[Ended]:
    """Wait until all have ended; those that have not by then are killed, and fail the test."""
    ended = []
    try:
        for process in processes:
            output, errors = process.communicate(timeout=seconds)
            ended.append(Ended(process.returncode, output, errors))
    finally:
        for process in processes:
            process.kill()
    return ended


def in_processes(
    program: str,
    *arguments: object,
    size: int = 2,
    folder: Path,
    each: Mapping[int, Mapping[str, str]] | None = None,
) -> list[Ended]:
    """Run a Python program in ``size`` processes to their end."""
    return wait_for(start_processes(program, arguments, size, folder, each or {}))
