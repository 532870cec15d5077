"""What a process does with the index: a run from `Account.open` to `close`, a limit, or a use as public."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from dpvision.privacy import Account, Budget, BudgetExceeded, InputError, Ledger, epsilon, gaussian_event
from dpvision.privacy.image_index import ImageIndex, IndexedImages

UNIT = gaussian_event(8.0, 1.0)
"""The one release that all runs are made of, so that what an image has cost is a count of them."""
DELTA = 1e-6
MOST_UNITS = 60
"""That the runs on one image plan together."""
REFUSED = 3
"""The exit code of a process whose run was not admitted."""


@cache
def digest_of(number: int) -> bytes:
    """Of an image, which is a number here."""
    return hashlib.sha256(b"image %d" % number).digest()


@cache
def epsilon_of(units: int) -> float:
    return epsilon([UNIT.times(units)], DELTA)


def limit_of(room: int) -> Budget:
    """With room for so many units, and not for one more."""
    return Budget((epsilon_of(room) + epsilon_of(room + 1)) / 2, DELTA)


def prepare_epsilons() -> None:
    """Compute every ε that may be asked for, so that the processes that are forked from this one need not."""
    for units in range(1, MOST_UNITS + 2):
        epsilon_of(units)


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images by number, and the ledger that is kept for them, as a path from the home on."""

    ledger: str
    images: np.ndarray

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.images.tobytes()).hexdigest()


@dataclass(eq=False)
class Job:
    """What one process is to do, over all its attempts, and what it said that it has done.

    Attributes:
        kind: "run" opens a run, records releases and, if it ``closes``, closes it; "limit" sets a limit and
            lets it cover the data set; "public" notes that the images were taken for public ones.
        name: of the run, or of the use.
        planned: units that the run reserves; of a limit, those that it has room for.
        spends: units that it records.
        said: how often each of "open", "spent", "closed", "covered", "noted" was done, and was on the
            disk.
        kills: of its attempts.
    """

    kind: Literal["run", "limit", "public"]
    name: str
    data: DataSet
    planned: int = 1
    spends: int = 0
    closes: bool = False
    said: Counter[str] = field(default_factory=Counter)
    kills: int = 0

    def name_in(self, home: Path) -> str:
        """What stands for it in the index."""
        if self.kind == "limit":
            return f"limit {home / self.data.ledger}"
        return f"public {self.name}" if self.kind == "public" else self.name

    def go(self, home: Path, log: Path) -> int:
        """Do it, in a process of its own, and write to ``log`` what is done. Return the exit code."""
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            for done in self._steps(home):
                os.write(descriptor, done.encode() + b"\n")
        except BudgetExceeded as error:
            print(error)
            return REFUSED
        except InputError as error:
            print(error)
            return 2
        return 0

    def listen(self, log: Path) -> None:
        """Take in what an attempt wrote, and begin anew."""
        if log.exists():
            self.said.update(log.read_text().splitlines())
            log.unlink()

    def _steps(self, home: Path) -> Iterator[str]:
        """Do one thing after the other; what is done."""
        index = ImageIndex(home / "images")
        identities = index.identities(map(digest_of, self.data.images.tolist()))
        if self.kind == "public":
            index.note_public(self.name, identities)
            yield "noted"
            return
        ledger = Ledger.for_dataset(home / self.data.ledger, self.data.digest, len(identities))
        if self.kind == "limit":
            ledger.set_limit(limit_of(self.planned))
            index.cover(ledger, IndexedImages(index, identities))
            yield "covered"
            return
        account = Account(
            Budget(100.0, DELTA),
            ledger,
            self.name,
            [UNIT.times(self.planned)],
            IndexedImages(index, identities),
        )
        account.open()
        yield "open"
        while self.planned - account.left(UNIT) < self.spends:
            account.record(UNIT)
            yield "spent"
        if self.closes:
            account.close()
            yield "closed"
