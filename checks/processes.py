"""Run every method in several processes: the release must be that of one; kill some again and again.

    python -m checks.processes --kills 50 --seed 1

First every method runs in one process, and at the same seed in two and in four: the table shows the greatest
difference of a released number, as a share of the greatest number of its tensor. Sums in float64 are added in
another order, so that a last bit of a float32 may differ.

Then runs in two to four processes are killed, each up to three times: one process, drawn at random, at a time
drawn at random, by SIGKILL, or is stopped (SIGSTOP), as if its machine hung. After each:

* all others have ended within a minute;
* the ledger can be read, and holds at least as many releases as were made, each written before its noise was
  drawn; no noise was drawn twice, nor by another process than the first;
* there is a release only if it is whole.

Then the run goes on by `resume`, with another number of processes, until it is complete. Exit code 1 if
anything of this does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic, sleep

os.environ["OMP_NUM_THREADS"] = "1"  # a process with more threads cannot be forked safely

from checks.launching import free_port, variables_of
from checks.points import install
from checks.trials import JOBS, LOST, SEED, Ended, Trial, make_pool, prepare_here, start
from dpvision.cli.main import run as run_command
from dpvision.parallel.start import peers

SIZES = (2, 4)
MOST_APART = 1e-5
"""Of a released number: rounding to float32 at each of some steps."""
KILLS_OF_A_RUN = 3
SHARE_STOPPED = 0.1
"""Of the kills: each takes half a minute, until it is noticed."""
MINUTE = 60.0
LONGEST = 300.0
"""Seconds after which processes of which none was killed are taken to hang."""


def run_in_processes(
    trial: Trial, size: int, befall: Callable[[list[int]], None] = lambda processes: None
) -> list[Ended]:
    """Do a trial's command in so many processes, until all have ended.

    Args:
        befall: is given the processes' numbers once they have begun, and may do something to them.
    """
    trial.home.mkdir(parents=True, exist_ok=True)
    port, command = free_port(), trial.command()

    def work(rank: int) -> int:
        peers.cache_clear()  # this one was forked from one that is alone
        os.environ.update(variables_of(rank, size, port))
        home = trial.home if rank == 0 else trial.folder / f"home-{rank}"
        os.environ["DPVISION_HOME"] = str(home)
        log = trial.log if rank == 0 else trial.folder / f"noise-{rank}.jsonl"
        install(trial.home, lambda name, moment: None, log)
        return run_command(command)

    outputs = [trial.folder / f"output-{rank}" for rank in range(size)]
    processes = [start(partial(work, rank), output) for rank, output in enumerate(outputs)]
    befall(processes)
    return [
        Ended(code, output.read_text(errors="replace"))
        for code, output in zip(_codes(processes, LONGEST), outputs, strict=True)
    ]


def _codes(processes: list[int], seconds: float) -> list[int]:
    """Wait for processes to end; kill those that have not by then, whose code is then −SIGKILL."""
    codes: dict[int, int] = {}
    deadline = monotonic() + seconds
    while len(codes) < len(processes):
        for process in processes:
            if process not in codes:
                number, status = os.waitpid(process, os.WNOHANG)
                if number:
                    codes[process] = os.waitstatus_to_exitcode(status)
                elif monotonic() > deadline:
                    os.kill(process, signal.SIGKILL)
        sleep(0.01)
    return [codes[process] for process in processes]


def faults_of(trial: Trial) -> list[str]:
    """Say what is wrong with the files of the first process, and whether others have any, or made noise."""
    others = [path.name for path in trial.folder.glob("home-*")]
    drawn = [path.name for path in trial.folder.glob("noise-*.jsonl") if path.stat().st_size]
    return [*trial.faults(), *(f"another process has {name}" for name in (*others, *drawn))]


def difference(trial: Trial, other: Trial) -> float:
    """Return how far apart two releases are, as a share of each tensor's greatest number."""
    one, two = trial.released(), other.released()
    assert one.keys() == two.keys()
    apart = 0.0
    for name, tensor in one.items():
        if tensor.numel():
            greatest = max(float(tensor.abs().max()), 1e-30)
            apart = max(apart, float((tensor.double() - two[name].double()).abs().max()) / greatest)
    return apart


@dataclass
class Kills:
    """What came of the kills."""

    killed: int = 0
    stopped: int = 0
    leaders: int = 0
    longest: float = 0.0
    resumed: int = 0
    lost_releases: int = 0
    faults: list[str] = field(default_factory=list)


class Killer:
    """Kills processes of runs of all methods in turn."""

    def __init__(self, folder: Path, pool: Path, seconds: dict[str, float], seed: int) -> None:
        self.folder, self.pool, self.seconds = folder, pool, seconds
        self.random, self.found, self.runs = random.Random(seed), Kills(), 0

    def work(self, kills: int) -> Kills:
        """Until so many were killed."""
        while self.found.killed + self.found.stopped < kills and not self.found.faults:
            method = list(JOBS)[self.runs % len(JOBS)]
            self.runs += 1
            # Every third run has noise from the system.
            trial = Trial(
                self.folder / f"killed-{self.runs}", method, None if self.runs % 3 == 0 else SEED, self.pool
            )
            trial.folder.mkdir()
            self._run(trial)
        return self.found

    def _run(self, trial: Trial) -> None:
        for attempt in range(KILLS_OF_A_RUN + 1):
            size = self.random.randint(2, 4)
            befall = self._kill if attempt < KILLS_OF_A_RUN else lambda processes: None
            began = monotonic()
            ended = run_in_processes(trial, size, partial(befall))
            said = f"run {self.runs} ({trial.method}, {size} processes)"
            self.found.faults += [f"{said}: {fault}" for fault in faults_of(trial)]
            if ended[0].code == 2 and LOST in ended[0].output:
                self.found.lost_releases += 1
                return
            if all(one.code == 0 for one in ended):
                self.found.resumed += attempt > 0
                return
            if attempt == KILLS_OF_A_RUN:
                seconds = monotonic() - began
                self.found.faults.append(
                    f"{said}: did not go on, {seconds:.0f} s: {[one.output[-300:] for one in ended]}"
                )

    def _kill(self, processes: list[int]) -> None:
        """Kill one at a random time, and see how long the others take to end."""
        victim = self.random.choice(processes)
        sleep(self.random.uniform(0.1, 1.2) * self.random.choice(list(self.seconds.values())))
        stops = self.random.random() < SHARE_STOPPED
        try:
            if os.waitid(os.P_PID, victim, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return  # it was faster
            os.kill(victim, signal.SIGSTOP if stops else signal.SIGKILL)
        except ProcessLookupError:
            return
        began = monotonic()
        others = [process for process in processes if process != victim]
        while monotonic() - began < 2 * MINUTE:
            if all(os.waitid(os.P_PID, p, os.WEXITED | os.WNOHANG | os.WNOWAIT) for p in others):
                break
            sleep(0.05)
        took = monotonic() - began
        os.kill(victim, signal.SIGKILL)  # one that was stopped
        self.found.longest = max(self.found.longest, took)
        self.found.leaders += victim == processes[0]
        self.found.stopped += stops
        self.found.killed += not stops
        if took > MINUTE:
            self.found.faults.append(f"run {self.runs}: the others took {took:.0f} s to end")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pool, seconds = make_pool(folder), dict[str, float]()
        print(f"{'method':12} {'processes':>9} {'difference':>11} {'seconds':>8}")
        for method in JOBS:
            found: dict[int, Trial] = {}
            for size in (1, *SIZES):
                trial = found[size] = Trial(folder / f"{method}-{size}", method, SEED, pool)
                trial.folder.mkdir()
                if size == 1:
                    prepare_here(trial)
                began = monotonic()
                ended = run_in_processes(trial, size)
                seconds[method] = monotonic() - began
                if any(one.code for one in ended):
                    print(f"{method} in {size} processes: {[one.output[-500:] for one in ended]}")
                    return 1
                apart, faults = difference(found[1], trial), faults_of(trial)
                failed |= apart > MOST_APART or bool(faults)
                print(f"{method:12} {size:9} {apart:11.1e} {seconds[method]:8.1f} {'; '.join(faults)}")
                sys.stdout.flush()
        kills = Killer(folder, pool, seconds, arguments.seed).work(arguments.kills)
    print(json.dumps({**vars(kills), "longest": round(kills.longest, 1)}))
    return 1 if failed or kills.faults else 0


if __name__ == "__main__":
    sys.exit(main())
