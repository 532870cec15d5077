"""Kill runs of every method, again and again, and check that nothing but the lost steps tells of it.

    python -m checks.kill --kills 100 --seed 1

Every kill is a SIGKILL. Most strike at a moment drawn at random from all those of a run (`checks.points`:
before, within and after each operation on a file, and around each draw of noise), from within; the others,
from without, at a random time after the command was started. A run is killed up to four times, then goes on
to its end. After every kill and at the end:

* the ledger can be read, and holds at least as many releases as were made;
* each release has an event of its own there, which was written before it;
* no noise is drawn twice (in the runs without a seed: a seed means to draw the same again);
* there is a release only if it is whole;
* the run goes on, or, of a method with one release, says that this was lost;
* at the end (in the runs with a seed) the released weights are those of a run that was not interrupted, and,
  where steps were lost, of one that took so many fewer.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a process with more threads cannot be forked safely

from checks.points import install
from checks.trials import JOBS, LOST, NEED_A_RELEASE, SEED, Ended, Trial, make_pool, reference_of

KILLS_OF_A_RUN = 4
SHARE_TIMED = 0.2
"""Of the kills: they take seconds each, for the command is started from nothing."""
SECONDS = 120
"""After which a command that was not killed is taken to hang."""


@dataclass
class Row:
    """What came of one method's runs."""

    method: str
    runs: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    lost_steps: int = 0
    lost_releases: int = 0
    compared: int = 0
    equal: int = 0
    faults: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "kills": dict(self.kills.most_common()), "killed": self.kills.total()}


class Killer:
    """Kills and checks runs of some methods in turn."""

    def __init__(self, folder: Path, methods: list[str], seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.pool = make_pool(folder)
        found = {method: reference_of(method, folder, self.pool) for method in methods}
        self.references = {method: trial for method, (trial, _) in found.items()}
        self.moments = {method: moments for method, (_, moments) in found.items()}
        self.seconds = 0.0  # that a command takes from its start, once known
        self.rows = {method: Row(method) for method in methods}

    @property
    def kills(self) -> int:
        return sum(row.kills.total() for row in self.rows.values())

    def work(self, kills: int) -> None:
        """Until so many processes were killed."""
        while self.kills < kills:
            for method, row in self.rows.items():
                if self.kills >= kills:
                    return
                row.runs += 1
                # Every third run has noise from the system.
                seed = None if row.runs % 3 == 0 else SEED
                trial = Trial(self.folder / f"{method}-{row.runs}", method, seed, self.pool)
                trial.folder.mkdir()
                row.faults += [f"run {row.runs}: {fault}" for fault in self._run(trial, row, kills)]

    def _run(self, trial: Trial, row: Row, kills: int) -> list[str]:
        """One run, until it is complete."""
        for _ in range(self.random.randint(1, KILLS_OF_A_RUN)):
            if self.kills >= kills:
                break
            ended, where = self._strike(trial)
            faults = trial.faults()
            if faults:
                return faults
            if not ended.killed:
                return self._ended(trial, row, ended)
            row.kills[where] += 1
        return self._ended(trial, row, trial.go())

    def _strike(self, trial: Trial) -> tuple[Ended, str]:
        """Run the trial's command and kill it, if it lives so long; and where."""
        if self.random.random() < SHARE_TIMED:
            return self._at_a_time(trial), "at a time"
        at, place = self.random.randrange(self.moments[trial.method]), trial.folder / "place"
        reached = 0

        def strike(name: str, moment: str) -> None:
            nonlocal reached
            if reached == at:
                place.write_text(f"{moment} {name}")
                os.kill(os.getpid(), signal.SIGKILL)
            reached += 1

        ended = trial.go(strike)
        return ended, place.read_text() if ended.killed else ""

    def _at_a_time(self, trial: Trial) -> Ended:
        """The same command from nothing, as a user starts it."""
        trial.home.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "checks.kill", "--one", str(trial.folder), *trial.command()]
        after = self.random.uniform(0, self.seconds) if self.seconds else SECONDS
        started = monotonic()
        output = trial.folder / "output"
        with output.open("wb") as file:
            environment = {**os.environ, "DPVISION_HOME": str(trial.home)}
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
            try:
                process.wait(after)
            except subprocess.TimeoutExpired:
                process.kill()
            code = process.wait()
        if code == 0:
            self.seconds = monotonic() - started
        return Ended(code, output.read_text(errors="replace"))

    def _ended(self, trial: Trial, row: Row, ended: Ended) -> list[str]:
        """What is wrong with a run that was let go on."""
        faults = trial.faults()
        if ended.code == 2 and LOST in ended.output and trial.method in NEED_A_RELEASE:
            row.lost_releases += 1
            return faults
        if ended.code != 0:
            return [*faults, f"did not go on: {ended.output.strip()}"]
        row.lost_steps += sum(trial.lost())
        if trial.seed is not None:
            row.compared += 1
            if trial.is_as_uninterrupted(self.references[trial.method]):
                row.equal += 1
            else:
                faults.append(f"other weights than a run without an interruption, lost {trial.lost()}")
        return faults


def table(rows: list[Row]) -> str:
    """A line for each method, where the kills struck, and what was wrong."""
    lines = [
        f"{'method':12} {'runs':>5} {'kills':>6} {'steps lost':>11} {'releases lost':>14} {'equal':>9} faults"
    ]
    for row in rows:
        lines.append(
            f"{row.method:12} {row.runs:5} {row.kills.total():6} {row.lost_steps:11} {row.lost_releases:14} "
            f"{f'{row.equal} of {row.compared}':>9} {len(row.faults):6}"
        )
    places = sum((row.kills for row in rows), Counter[str]())
    lines.append("killed: " + ", ".join(f"{count} {where}" for where, count in places.most_common()))
    lines += [f"FAULT {row.method}: {fault}" for row in rows for fault in row.faults]
    return "\n".join(lines)


def run_one(folder: Path, command: list[str]) -> None:
    """A command whose noise is written down, and no more."""
    from dpvision.cli import main

    trial = Trial(folder, "", None, folder)
    install(trial.home, lambda name, moment: None, trial.log)
    sys.argv[1:] = command
    main.main()


def main() -> int:
    if sys.argv[1:2] == ["--one"]:
        run_one(Path(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--methods", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    started = monotonic()
    with tempfile.TemporaryDirectory() as folder:
        killer = Killer(Path(folder), options.methods, options.seed)
        killer.work(options.kills)
    rows = list(killer.rows.values())
    print(table(rows))
    seconds = monotonic() - started
    print(f"{killer.kills} kills in {seconds:.0f} s")
    if options.json:
        print(json.dumps({"kills": killer.kills, "seconds": seconds, "rows": [r.to_json() for r in rows]}))
    return 1 if any(row.faults for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
