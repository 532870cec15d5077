"""Write what every step saw, as JSON lines: private, for whoever looks after the run."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpvision.images.files import reading
from dpvision.privacy.account import Account
from dpvision.privacy.errors import InputError
from dpvision.privacy.owner_only import for_the_owner
from dpvision.runs.files import writing
from dpvision.runs.tensorboard import EventFiles
from dpvision.training import StepStatistics

LAST_STEPS = 10
"""The number of last steps over which the loss at the end of training is taken."""

FILE = "metrics.jsonl"


class Metrics:
    """Appends to the file ``metrics.jsonl`` of a folder, one line per step, each with the seconds spent
    training so far, and how many releases of each planned kind were paid for. Where the folder has one for
    TensorBoard (`EventFiles`), the same goes there.

    The clock runs from the object's making. A step whose result was lost with an interrupted process has two
    lines.

    Raises:
        InputError: there is such a file, and it cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._losses: deque[float] = deque(maxlen=LAST_STEPS)
        self._seconds_before = _last_seconds(self.path)
        self._started = time.monotonic()
        self._events = EventFiles.of(folder)

    @property
    def seconds(self) -> float:
        """The seconds spent training so far, over all the processes that worked on the run."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def last_loss(self) -> float | None:
        """The mean loss over the last few batches that this process saw: private. None without any."""
        return statistics.fmean(self._losses) if self._losses else None

    def append(self, step: StepStatistics, account: Account) -> None:
        """Write down one step, which the account has paid for.

        Raises:
            InputError: the file system refuses.
        """
        if step.batch_size:
            self._losses.append(step.mean_loss)
        releases = [event.count - account.left(event) for event in account.planned]
        line = {**asdict(step), "seconds": round(self.seconds, 3), "releases": releases}
        with writing(self.path), open(self.path, "ab", opener=for_the_owner) as file:
            file.write(json.dumps(line).encode() + b"\n")
        if self._events:
            self._events.append(step, account)

    def close(self) -> None:
        """Write down what is still held back."""
        if self._events:
            self._events.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's ``metrics.jsonl``, in the order of the steps: each step once, as it was
    taken last. A torn last line, which is being written or was left by a killed process, is no line.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = folder / FILE
    with reading(str(path)):
        whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    try:
        steps = {int(line["step"]): line for line in map(json.loads, whole.splitlines())}
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise InputError(f"{path} was changed or damaged; restore it from a copy") from error
    if not steps:
        raise InputError(f"{folder.parent} has taken no step yet, or is of a method that takes none")
    return [steps[step] for step in sorted(steps)]


def steps_taken(path: Path) -> int | None:
    """Return how many steps the lines of a run's file are of, by the last whole one; None where none says."""
    try:
        whole, _, _ = path.read_bytes().rpartition(b"\n")
        return int(json.loads(whole.rpartition(b"\n")[2])["step"]) + 1
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


def _last_seconds(path: Path) -> float:
    """Return the time on the last line; 0 without one. The torn line of a killed process is cut off.

    Raises:
        InputError: the last line is something else, or the file system refuses.
    """
    with writing(path):
        if not path.exists():
            return 0.0
        lines = path.read_bytes()
        whole, newline, torn = lines.rpartition(b"\n")
        if torn:
            os.truncate(path, len(whole) + len(newline))
    try:
        return float(json.loads(whole.rpartition(b"\n")[2])["seconds"]) if whole else 0.0
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise InputError(f"{path} was changed or damaged; restore it from a copy, or delete it") from error
