"""The moments at which a process can be killed while it uses the index.

Operations on files are those of `checks.points`. SQLite writes its files itself, so its moments are those
before each statement of SQL, named by what it does to which table, and "within" it: a random time after it
was begun, when SQLite is at work and Python is not.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Any

from checks import points

_TABLE = re.compile(r"(?:^UPDATE|INTO|FROM|TABLE(?: IF NOT EXISTS)?)\s+(\w+)")


@dataclass(frozen=True)
class Strike:
    """A kill: at which occurrence of which moment, and how many seconds after it."""

    place: str
    occurrence: int
    seconds: float = 0.0


@dataclass
class Stretch:
    """A place that is reached again and again, with at most one other in between.

    Attributes:
        first: how often it was reached before.
        count: how often it is reached in this stretch.
        seconds: how long it takes, all in all, until the next place is reached.
    """

    place: str
    first: int
    count: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Profile:
    """All moments of a job that nothing befell, in their order, and how many seconds it took."""

    stretches: list[Stretch]
    total: float

    def draw(self, random: Random) -> Strike:
        """One of the moments, half of the time of those after the index was first changed. Those of a stretch
        are together as likely as one that is alone.
        """
        begun = [stretch.place for stretch in self.stretches].index("before INSERT runs")
        of = random.choice(self.stretches[begun if random.random() < 0.5 else 0 :])
        within = random.uniform(0, of.seconds / of.count) if of.place.startswith("within ") else 0.0
        return Strike(of.place, of.first + random.randrange(of.count), within)

    @classmethod
    def read(cls, path: Path) -> Profile:
        found = json.loads(path.read_text())
        return cls([Stretch(**fields) for fields in found["stretches"]], found["total"])


def strike_here(home: Path, strike: Strike, where: Path) -> None:
    """From here on in this process, kill it at this moment, having written the place to ``where``."""
    reached = 0

    def end() -> None:
        where.write_text(strike.place)
        os.kill(os.getpid(), signal.SIGKILL)

    def later() -> None:
        sleep(strike.seconds)
        end()

    def reach(place: str) -> None:
        nonlocal reached
        if place != strike.place:
            return
        if reached == strike.occurrence:
            threading.Thread(target=later, daemon=True).start() if strike.seconds else end()
        reached += 1

    _watch(home, reach)


class Profiler:
    """Notes the moments of this process, from when it is made."""

    def __init__(self, home: Path) -> None:
        self._reached: Counter[str] = Counter()
        self._stretches: list[Stretch] = []
        self._last: Stretch | None = None
        self._begun = self._since = monotonic()
        _watch(home, self._reach)

    def _reach(self, place: str) -> None:
        self._pass_time()
        for stretch in self._stretches[-2:]:
            if stretch.place == place:
                break
        else:
            stretch = Stretch(place, self._reached[place])
            self._stretches.append(stretch)
        self._reached[place] += 1
        stretch.count += 1
        self._last = stretch

    def _pass_time(self) -> None:
        now = monotonic()
        if self._last is not None:
            self._last.seconds += now - self._since
        self._since = now

    def write(self, path: Path) -> None:
        """For `Profile.read`."""
        self._pass_time()
        stretches = [vars(stretch) for stretch in self._stretches]
        path.write_text(json.dumps({"stretches": stretches, "total": monotonic() - self._begun}))


def _watch(home: Path, reach: Any) -> None:
    points.install(home, lambda name, moment: reach(f"{moment} {name}"), home.parent / "noise")
    real = sqlite3.connect

    def told(statement: str) -> None:
        statement = statement.strip()
        table = _TABLE.search(statement)
        name = " ".join([statement.split()[0], *(table.groups() if table else ())])
        reach(f"before {name}")
        reach(f"within {name}")

    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        found = real(*args, **kwargs)
        found.set_trace_callback(told)
        return found

    sqlite3.connect = connect  # type: ignore[assignment]
