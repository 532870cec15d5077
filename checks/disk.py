"""Let every operation on the disk fail, one after the other, and check that a run ends in a sentence.

    python -m checks.disk --every 1

A run of each method is begun once for each of its operations on files (`checks.points`), which then fails, in
each of these ways:

* "once": this one operation fails, with an input/output error;
* "full": there is no space left, from this operation on: what needs some fails;
* "read-only": from this operation on, all that changes a file fails;
* "quota": from this operation on there is no space left, as over NFS: writing seems to succeed, and it is
  flushing and closing a file that fail;
* "stale": from this operation on every one fails, as when a server has lost a file's handle;
* "no locks": from this operation on no file can be locked.

And by the operating system itself: "tmpfs", a small disk that is full (needs root); "limit", files that may
not become longer than so much; and "folders", those of the run and of its ledger that may not be written to,
by a user who is not root.

In each case the command ends with exit code 2 and one sentence, or goes on; what must hold of its files
(`checks.trials`) holds; the same command, or `dpvision resume` where there is a run, completes once the fault
is gone, with the weights of a run that nothing befell; and no run that is not this one holds a part of the
budget.
"""

from __future__ import annotations

import argparse
import codecs
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a process with more threads cannot be forked safely

from checks.points import Reach
from checks.trials import JOBS, LOST, NEED_A_RELEASE, SEED, Ended, Trial, make_pool, reference_of
from dpvision.privacy import Ledger

TAKE_SPACE = ("open", "write", "fsync", "mkdir", "link")
CHANGE_FILES = (*TAKE_SPACE, "rename", "truncate", "remove")
LASTING = {
    "full": (errno.ENOSPC, TAKE_SPACE),
    "read-only": (errno.EROFS, CHANGE_FILES),
    "quota": (errno.EDQUOT, ("fsync", "close", "mkdir", "link")),
    "stale": (errno.ESTALE, (*CHANGE_FILES, "close", "lock")),
    "no locks": (errno.ENOLCK, ("lock",)),
}
"""The error, and the operations that fail with it, of faults that last."""
KINDS = ("once", *LASTING, "tmpfs", "limit", "folders")
FOLDERS = (".", "ledgers", "run", "run/private")
"""Which are closed, one at a time, below what a run writes to."""
NOBODY = 65534
SMALL_DISK = 4 << 20  # bytes
BY_THE_SYSTEM = 20
"""Sizes that are tried of a disk, and of a file."""


@dataclass
class Row:
    """What came of one kind of fault in one method's runs."""

    method: str
    kind: str
    cases: int = 0
    sentences: int = 0
    went_on: int = 0
    lost_steps: int = 0
    lost_releases: int = 0
    skipped: bool = False
    faults: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return vars(self)


def failing(kind: str, at: int) -> Reach:
    """What lets operations fail, the one of number ``at`` first."""
    reached = 0

    def reach(name: str, moment: str) -> None:
        nonlocal reached
        if moment == "after" or name == "draw":
            return
        reached += 1
        if kind == "once" and reached == at + 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if kind in LASTING and reached > at and name in LASTING[kind][1]:
            raise OSError(LASTING[kind][0], os.strerror(LASTING[kind][0]))

    return reach


def be_nobody() -> None:
    """Root may write anywhere."""
    if os.getuid() == 0:
        codecs.lookup("unicode-escape")  # is loaded late, from a place that nobody may be unable to read
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def operations_of(trial: Trial) -> int:
    """How many operations may fail in a run."""
    counted = trial.folder / "operations"

    def count(name: str, moment: str) -> None:
        if moment != "after" and name != "draw":
            with counted.open("ab") as file:
                file.write(b".")

    ended = trial.go(count)
    assert ended.code == 0, ended.output
    return counted.stat().st_size


class Disk:
    """Tries all faults on runs of some methods."""

    def __init__(self, folder: Path, methods: list[str], every: int) -> None:
        self.folder, self.every = folder, every
        self.pool = make_pool(folder)
        self.references = {method: reference_of(method, folder, self.pool)[0] for method in methods}
        self.rows: list[Row] = []

    def work(self, kinds: list[str]) -> None:
        for method in self.references:
            operations = operations_of(self._trial(method))
            for kind in kinds:
                row = Row(method, kind)
                self.rows.append(row)
                if kind == "tmpfs":
                    self._fill_disks(row)
                elif kind == "folders":
                    for name in FOLDERS:
                        self._close(row, name, operations // 2)
                elif kind == "limit":
                    for case in range(0, BY_THE_SYSTEM, self.every):
                        self._try(row, f"files of {64 << case // 2} bytes", limited=64 << case // 2)
                else:
                    for at in range(len(self.rows) % self.every, operations, self.every):
                        self._try(row, f"operation {at}", failing(kind, at))

    def _trial(self, method: str) -> Trial:
        folder = self.folder / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return Trial(folder, method, SEED, self.pool)

    def _try(self, row: Row, case: str, reach: Reach | None = None, limited: int | None = None) -> None:
        trial = self._trial(row.method)
        if reach is not None:
            ended = trial.go(reach)
        else:
            ended = trial.go(prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limited, limited)))
        self._judge(row, case, trial, ended)

    def _fill_disks(self, row: Row) -> None:
        """Runs on a small disk with less and less of it left."""
        for case in range(0, BY_THE_SYSTEM, self.every):
            trial = self._trial(row.method)
            trial.home.mkdir()
            options = ["-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", str(trial.home)]
            if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
                row.skipped = True
                return
            try:
                left = 2048 << case // 2 if case else 0
                filler = trial.home / "filler"
                filler.write_bytes(bytes(SMALL_DISK - left))
                ended = trial.go()
                self._judge(row, f"{left} bytes left", trial, ended, filler.unlink)
            finally:
                subprocess.run(["umount", str(trial.home)], check=True)

    def _close(self, row: Row, name: str, interrupted: int) -> None:
        """A run that may not write to a folder; one that has begun, where that folder is its own."""
        trial = self._trial(row.method)
        (trial.home / "ledgers").mkdir(parents=True)
        if name.startswith("run"):
            trial.go(failing("full", interrupted))
        closed = trial.home / name
        if not closed.exists():  # it was interrupted before it began
            return
        inside = [closed, *(path for path in closed.iterdir() if path.is_file())]
        modes = {path: path.stat().st_mode for path in inside}
        if os.getuid() == 0:
            for path in (trial.home, *trial.home.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
        for path, mode in modes.items():
            path.chmod(mode & 0o555)

        def open_again() -> None:
            for path, mode in modes.items():
                if path.exists():
                    path.chmod(mode)

        self._judge(row, f"{name} closed", trial, trial.go(prepare=be_nobody), open_again)

    def _judge(
        self, row: Row, case: str, trial: Trial, ended: Ended, mend: Callable[[], None] = lambda: None
    ) -> None:
        row.cases += 1
        if ended.is_one_sentence:
            row.sentences += 1
        elif ended.code == 0:
            row.went_on += 1
        else:
            row.faults.append(f"{case}: ended with {ended.code}: {ended.output.strip()[-2000:]}")
        row.faults += [f"{case}: {fault}" for fault in trial.faults()]
        mend()
        ended = trial.go()
        row.faults += [f"{case}, later: {fault}" for fault in trial.faults()]
        if ended.code == 2 and LOST in ended.output and row.method in NEED_A_RELEASE:
            row.lost_releases += 1
            return
        if ended.code:
            row.faults.append(f"{case}: did not go on: {ended.output.strip()[-2000:]}")
            return
        row.lost_steps += sum(trial.lost())
        if not trial.is_as_uninterrupted(self.references[row.method]):
            row.faults.append(f"{case}: other weights, lost {trial.lost()}")
        (ledger,) = (trial.home / "ledgers").glob("*.jsonl")
        runs = Ledger(ledger).summary()["runs"]
        if any(run["open"] for run in runs) or sum(run["epsilon_spent"] > 0 for run in runs) != 1:
            row.faults.append(f"{case}: the ledger has {runs}")


def table(rows: list[Row]) -> str:
    """A line for each method and kind of fault, and what was wrong."""
    lines = [
        f"{'method':12} {'fault':10} {'cases':>6} {'sentences':>10} {'went on':>8} "
        f"{'steps lost':>11} {'releases lost':>14} faults"
    ]
    for row in rows:
        lines.append(
            f"{row.method:12} {row.kind:10} {row.cases:6} {row.sentences:10} {row.went_on:8} "
            f"{row.lost_steps:11} {row.lost_releases:14} {len(row.faults):6}"
            + (" (skipped: only root can mount a disk)" if row.skipped else "")
        )
    lines += [f"FAULT {row.method} {row.kind}: {fault}" for row in rows for fault in row.faults]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=1, help="try one in so many operations")
    parser.add_argument("--methods", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    started = monotonic()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        disk = Disk(Path(folder), options.methods, options.every)
        disk.work(options.kinds)
    print(table(disk.rows))
    seconds = monotonic() - started
    print(f"{sum(row.cases for row in disk.rows)} cases in {seconds:.0f} s")
    if options.json:
        print(json.dumps({"seconds": seconds, "rows": [row.to_json() for row in disk.rows]}))
    return 1 if any(row.faults for row in disk.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
