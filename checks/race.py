"""Let two processes work at once on one ledger, and on one run, and check that neither spends too much.

    python -m checks.race --rounds 10

In each round, for two methods against each other and against themselves:

* "room for both": the owner's limit allows two runs, and both complete;
* "room for one": it allows one, which completes, and the other ends in a sentence;
* "one directory": both are to begin a run in one directory, and only one does;
* "one run": both go on with a run that was killed, and only one does at a time.

The ledger then holds each release that was made once, and no more than its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a process with more threads cannot be forked safely

from checks.points import Reach, install, spends
from checks.trials import JOBS, SEED, Ended, Trial, prepare_here, start, wait
from dpvision.cli.main import run as run_command
from dpvision.images import open_images
from dpvision.privacy import Budget, Ledger, default_delta

PAIRS = (("dp-sgd", "dp-sgd"), ("dp-sgd", "dp-ridge"))
ROOM = {"room for both": 4.0, "room for one": 2.2}
"""The owner's limit on ε; a run takes 2."""
SENTENCES = {
    "room for one": ("owner's limit",),
    "one directory": ("is not empty", "another process", "cannot be written"),
    "one run": ("another process",),
}


@dataclass
class Row:
    """What came of one case."""

    case: str
    rounds: int = 0
    completed: int = 0
    sentences: int = 0
    faults: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return vars(self)


def nothing(name: str, moment: str) -> None:
    """Befalls a process that is let be."""


def killed_after(draws: int) -> Reach:
    """Ends the process within a step."""
    drawn = 0

    def reach(name: str, moment: str) -> None:
        nonlocal drawn
        drawn += name == "draw" and moment == "after"
        if drawn > draws:
            os.kill(os.getpid(), signal.SIGKILL)

    return reach


class Race:
    """Sets processes against each other in a folder that begins empty each time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder / "race", folder / "race" / "watched"
        for method in {method for pair in PAIRS for method in pair}:
            prepare_here(Trial(folder, method, SEED, folder))
        images = open_images("bundled:digits")
        self.digest, self.num_examples = images.digest, len(images)
        self.rows = {case: Row(case) for case in (*ROOM, "one directory", "one run")}

    def work(self, rounds: int) -> None:
        for _ in range(rounds):
            for pair in PAIRS:
                for case in ROOM:
                    self._limited(self.rows[case], pair)
            self._one_directory(self.rows["one directory"])
            self._one_run(self.rows["one run"])

    def _limited(self, row: Row, pair: Sequence[str]) -> None:
        ledger = self._fresh(row)
        ledger.set_limit(Budget(ROOM[row.case], default_delta(ledger.num_examples)))
        commands = [
            [*JOBS[method].split(), "--out", str(self.home / str(n))] for n, method in enumerate(pair)
        ]
        self._at_once(row, commands, completed=1 if row.case == "room for one" else 2)
        spent = Ledger(ledger.path).summary()["epsilon_spent"]
        if spent > ROOM[row.case]:
            row.faults.append(f"epsilon {spent} of {ROOM[row.case]}")

    def _one_directory(self, row: Row) -> None:
        self._fresh(row)
        self._at_once(row, [[*JOBS["dp-sgd"].split(), "--out", str(self.home / "run")]] * 2, completed=1)

    def _one_run(self, row: Row) -> None:
        self._fresh(row)
        out = str(self.home / "run")
        begun = self._go([*JOBS["dp-sgd"].split(), "--out", out], 0, killed_after(3))
        ended = wait(begun, self.folder / "0")
        assert ended.killed, ended.output
        # One that comes when the other is done finds the run complete.
        self._at_once(row, [["resume", out]] * 2, completed=1, or_more=True)

    def _fresh(self, row: Row) -> Ledger:
        row.rounds += 1
        shutil.rmtree(self.folder, ignore_errors=True)
        path = self.home / "ledgers" / f"{self.digest}.jsonl"
        return Ledger.for_dataset(path, self.digest, self.num_examples)

    def _go(self, command: list[str], number: int, reach: Reach = nothing) -> int:
        os.environ["DPVISION_HOME"] = str(self.home)

        def work() -> int:
            install(self.home, reach, self.folder / "noise.jsonl")
            return run_command(command)

        return start(work, self.folder / str(number))

    def _at_once(
        self, row: Row, commands: Sequence[list[str]], completed: int, or_more: bool = False
    ) -> None:
        """Run the commands at once, of which so many complete, and the others say why not."""
        children = [self._go(command, number) for number, command in enumerate(commands)]
        all_ended = [wait(child, self.folder / str(number)) for number, child in enumerate(children)]
        done = [ended for ended in all_ended if ended.code == 0]
        told = [ended for ended in all_ended if self._is_told(row, ended)]
        row.completed, row.sentences = row.completed + len(done), row.sentences + len(told)
        if len(done) + len(told) != len(all_ended):
            row.faults += [f"ended with {ended.code}: {ended.output.strip()}" for ended in all_ended]
        if len(done) != completed and not (or_more and len(done) > completed):
            row.faults.append(f"{len(done)} completed, not {completed}")
        lines = [json.loads(line) for line in (self.folder / "noise.jsonl").read_text().splitlines()]
        releases = {(line["process"], line["release"]) for line in lines}
        events = spends(self.home)
        if not (len(releases) <= len(events) <= len(releases) + (row.case == "one run")):
            row.faults.append(f"{len(releases)} releases, but the ledger holds {len(events)}")

    @staticmethod
    def _is_told(row: Row, ended: Ended) -> bool:
        return ended.is_one_sentence and any(text in ended.output for text in SENTENCES.get(row.case, ()))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    started = monotonic()
    with tempfile.TemporaryDirectory() as folder:
        race = Race(Path(folder))
        race.work(options.rounds)
    rows = list(race.rows.values())
    print(f"{'case':14} {'rounds':>7} {'completed':>10} {'sentences':>10} faults")
    for row in rows:
        print(f"{row.case:14} {row.rounds:7} {row.completed:10} {row.sentences:10} {len(row.faults):6}")
        for fault in row.faults:
            print(f"FAULT {row.case}: {fault}")
    seconds = monotonic() - started
    print(f"{sum(row.rounds for row in rows)} rounds in {seconds:.0f} s")
    if options.json:
        print(json.dumps({"seconds": seconds, "rows": [row.to_json() for row in rows]}))
    return 1 if any(row.faults for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
