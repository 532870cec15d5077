"""Start one script again and again, as a scheduler does, until its run is complete.

    python -m checks.requeue --runs 4 --seed 1

The script is that of the guide (docs/guide/long-runs.md). At a random time after it was started it is ended
by SIGTERM or, every other time, by SIGKILL, up to six times; then it is let go on. What must hold:

* after every end, what must always hold of a run's files (`checks.trials`);
* SIGTERM ends it with the code 143 and a line that says so, within `GRACE` seconds, and loses no
  release that was paid for;
* at the end the release is there, the ledger has one run, which is closed, and as many releases as planned;
* the script once more, on what is complete, succeeds and spends nothing.
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

from checks.points import spends
from checks.trials import LOST, NEED_A_RELEASE, Ended, Trial
from dpvision.api.config import RunConfig
from dpvision.privacy import Ledger
from dpvision.runs import RunDirectory

SCRIPT = """\
if [ -e "$RUN/private/run.json" ]; then set -- resume "$RUN"; else set -- {train} --out "$RUN"; fi
exec {dpvision} "$@"
"""
"""Begins the run, or goes on with it, or shows what it came to."""

JOBS = {
    "dp-sgd": "train bundled:digits --epsilon 2 --device cpu --method dp-sgd --set network=linear "
    "--set steps=300 --set expected_batch_size=32",
    "dp-randp": "train bundled:digits --epsilon 2 --device cpu --method dp-randp --phase-iii full "
    "--set encoder=pixels --set steps=200 --set phase_ii_share=0.5 --set expected_batch_size=32",
    "dp-ridge": "train bundled:digits --epsilon 2 --device cpu --method dp-ridge --set encoder=pixels",
    "dp-mepf": "synthesize bundled:digits --epsilon 2 --device cpu --method dp-mepf --count 20 "
    "--set steps=300 --set batch_size=20 --set encoder_options.products=false --set network_width=128",
}
"""Commands that work for a second or two, by method, without --out."""

MOST_ENDS = 6
GRACE = 30
SECONDS = 120
"""After which a script that was not ended is taken to hang."""


@dataclass
class Row:
    """What came of one method's runs."""

    method: str
    runs: int = 0
    terminated: int = 0
    killed: int = 0
    began: int = 0
    lost_steps: int = 0
    lost_releases: int = 0
    slowest: float = 0.0  # seconds from SIGTERM to the end
    faults: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return vars(self)


class Scheduler:
    """Starts, ends and starts again the script of one run.

    Args:
        trial: its folder, and its method.
        row: what comes of it is added to that.
        chance: draws the moments.
        seconds: how long the script takes where nothing befalls it.
    """

    def __init__(self, trial: Trial, row: Row, chance: random.Random, seconds: float = 0.0) -> None:
        self.trial, self.row, self.chance, self.seconds = trial, row, chance, seconds
        words = [sys.executable, "-m", "checks.kill", "--one", str(trial.folder)]
        self.script = SCRIPT.format(train=JOBS[trial.method], dpvision=" ".join(words))
        self.environment = {
            **os.environ,
            "RUN": str(trial.out),
            "DPVISION_HOME": str(trial.home),
            "OMP_NUM_THREADS": "1",
        }
        trial.home.mkdir(parents=True)

    def work(self) -> list[str]:
        """Until the run is complete; what is wrong."""
        killed = 0
        for end in range(self.chance.randint(1, MOST_ENDS)):
            number = (signal.SIGTERM, signal.SIGKILL)[end % 2]
            ended, seconds = self._start(number)
            faults = self._judge(ended, number, seconds)
            if faults:
                return faults
            if ended.code == 0 or self._has_lost_all(ended):
                break
            killed += number == signal.SIGKILL
        return self._at_the_end(killed)

    def time(self) -> float:
        """How many seconds the script takes, without a signal."""
        started = monotonic()
        ended, _ = self._start()
        assert ended.code == 0, ended.output
        return monotonic() - started

    def _start(self, number: signal.Signals | None = None) -> tuple[Ended, float]:
        """Start the script and send it a signal, if any; how it ended, and how long after the signal."""
        output = self.trial.folder / "output"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["sh", "-c", self.script], stdout=file, stderr=subprocess.STDOUT, env=self.environment
            )
            try:
                process.wait(self.chance.uniform(0, self.seconds) if number else SECONDS)
                sent = monotonic()
            except subprocess.TimeoutExpired:
                sent = monotonic()
                process.send_signal(number or signal.SIGKILL)
            code = process.wait(SECONDS)
        return Ended(code, output.read_text(errors="replace")), monotonic() - sent

    def _judge(self, ended: Ended, number: signal.Signals, seconds: float) -> list[str]:
        """What is wrong with how a script ended that was sent a signal."""
        faults = self.trial.faults()
        self.row.began += self.trial.out.exists()
        if ended.code == 0 or self._has_lost_all(ended):
            return faults
        if number == signal.SIGKILL:
            self.row.killed += 1
            return faults if ended.killed else [*faults, f"killed, it ended with {ended.code}"]
        self.row.terminated += 1
        self.row.slowest = max(self.row.slowest, seconds)
        # Before its handlers are there, and once all is said, the signal ends Python as any program.
        if ended.code not in (128 + signal.SIGTERM, -signal.SIGTERM):
            faults.append(f"terminated, it ended with {ended.code}: {ended.output.strip()[-2000:]}")
        elif ended.code > 0 and not ended.output.splitlines()[-1].startswith("terminated"):
            faults.append(f"terminated, it said {ended.output.strip()[-2000:]}")
        if seconds > GRACE:
            faults.append(f"terminated, it ended after {seconds:.0f} s")
        return faults

    def _has_lost_all(self, ended: Ended) -> bool:
        return ended.code == 2 and LOST in ended.output and self.trial.method in NEED_A_RELEASE

    def _at_the_end(self, killed: int) -> list[str]:
        """What is wrong with a run that is let go on, and with one more start of its script."""
        ended, _ = self._start()
        faults = self.trial.faults()
        if self._has_lost_all(ended):
            self.row.lost_releases += 1
            return faults if killed else [*faults, "the release was lost without a kill"]
        if ended.code != 0:
            return [*faults, f"did not go on: {ended.output.strip()[-2000:]}"]
        lost, spent = sum(self.trial.lost()), len(spends(self.trial.home))
        self.row.lost_steps += lost
        if lost and not killed:
            faults.append(f"{lost} steps were lost without a kill")
        planned = RunConfig.from_json(RunDirectory.open(self.trial.out).config).spending[1].num_releases
        if spent != planned:
            faults.append(f"{spent} releases of {planned} that were planned")
        (ledger,) = (self.trial.home / "ledgers").glob("*.jsonl")
        runs = Ledger(ledger).summary()["runs"]
        if len(runs) != 1 or runs[0]["open"]:
            faults.append(f"the ledger has {runs}")
        again, _ = self._start()
        if again.code != 0 or len(spends(self.trial.home)) != spent:
            faults.append(f"once more, it ended with {again.code}: {again.output.strip()[-2000:]}")
        return faults


def table(rows: list[Row]) -> str:
    """A line for each method, and what was wrong."""
    lines = [
        f"{'method':10} {'runs':>5} {'terminated':>11} {'killed':>7} {'begun by then':>14} "
        f"{'steps lost':>11} {'releases lost':>14} {'longest end':>12} faults"
    ]
    for row in rows:
        lines.append(
            f"{row.method:10} {row.runs:5} {row.terminated:11} {row.killed:7} {row.began:14} "
            f"{row.lost_steps:11} {row.lost_releases:14} {row.slowest:10.1f} s {len(row.faults):6}"
        )
    lines += [f"FAULT {row.method}: {fault}" for row in rows for fault in row.faults]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=4, help="of each method")
    parser.add_argument("--methods", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    started, chance = monotonic(), random.Random(options.seed)
    rows = {method: Row(method) for method in options.methods}
    with tempfile.TemporaryDirectory() as folder:
        for method, row in rows.items():
            trials = [
                Trial(Path(folder) / f"{method}-{run}", method, None, Path(folder))
                for run in range(options.runs + 1)
            ]
            seconds = Scheduler(trials[0], row, chance).time()
            for run, trial in enumerate(trials[1:]):
                row.runs += 1
                faults = Scheduler(trial, row, chance, seconds).work()
                row.faults += [f"run {run}: {fault}" for fault in faults]
    print(table(list(rows.values())))
    ends = Counter(terminated=0, killed=0)
    for row in rows.values():
        ends.update(terminated=row.terminated, killed=row.killed)
    seconds = monotonic() - started
    print(f"{ends['terminated']} times terminated and {ends['killed']} killed in {seconds:.0f} s")
    if options.json:
        print(json.dumps({"seconds": seconds, "rows": [row.to_json() for row in rows.values()]}))
    return 1 if any(row.faults for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
