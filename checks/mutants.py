"""Deliberate faults in what the privacy guarantee rests on, each of which the tests must notice.

    python -m checks.mutants                  # all of them, and a table of which test noticed
    python -m checks.mutants --only no-noise  # some
    python -m checks.mutants --table          # the table of docs/mutants.md; runs nothing

A mutant is a patch checks/mutants/NAME.patch to src/. What stands before the diff says which fault it is and
what it would cost, and after "Killed by:" the test that must notice. Each is applied to a copy of the
repository's tracked files, where that test is run, and then, if it passes, the fast tests until one fails.
Only a test that fails counts: an error of an import or of a fixture does not, nor one that takes too long.

Needs git and pytest. docs/mutants.md says how to add one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).resolve().parents[1]
OF_MUTANTS = "tests/checks/test_mutants.py"
"""The tests of this command, never run on a mutant: its patch is applied already, so that they would fail."""

ONE_TEST_SECONDS = 300
SUITE_SECONDS = 3600


class Unusable(Exception):  # noqa: N818 (reads as what happened)
    """A mutant, or a run of the tests, that says nothing about the tests."""


@dataclass(frozen=True)
class Mutant:
    """A fault: the ``patch``, what it is and costs, and the test ``killed_by`` that must notice it."""

    name: str
    fault: str
    killed_by: str
    patch: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: the tests that ``failed`` with it, or the ``error`` that kept them from it."""

    name: str
    fault: str
    killed_by: str
    failed: tuple[str, ...]
    seconds: float
    error: str = ""

    @property
    def is_killed(self) -> bool:
        return bool(self.failed)


def read_mutants(folder: Path) -> list[Mutant]:
    """The patches of a folder, by name. Unusable: one does not begin with its fault and "Killed by:"."""
    found = []
    for path in sorted(folder.glob("*.patch")):
        head = re.split(r"^(?:diff --git|---) ", path.read_text(encoding="utf-8"), maxsplit=1, flags=re.M)[0]
        fault, marker, killed_by = head.partition("Killed by:")
        if not (marker and fault.strip() and re.fullmatch(r"tests/\S+\.py::\w+", killed_by.strip())):
            raise Unusable(f"{path}: it must begin with the fault, and 'Killed by: tests/FILE.py::TEST'")
        found.append(Mutant(path.stem, " ".join(fault.split()), killed_by.strip(), path))
    return found


def table(mutants: Sequence[Mutant]) -> str:
    """In Markdown, as docs/mutants.md has it."""
    rows = [f"| `{m.name}` | {m.fault} | `{m.killed_by.removeprefix('tests/')}` |" for m in mutants]
    return "\n".join(["| mutant | the fault, and what it would cost | killed by |", "|---|---|---|", *rows])


@contextmanager
def copy_of(root: Path) -> Iterator[Path]:
    """A new folder with the tracked files of the repository at ``root``, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory(prefix="dpvision-mutant-") as folder:
        copy = Path(folder).resolve()
        for name in filter(None, listed.stdout.split("\0")):
            if (root / name).is_file():  # and not deleted since
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / name, copy / name)
        yield copy


def apply(mutant: Mutant, copy: Path) -> None:
    """Unusable: the patch does not apply to these files."""
    # git would take a folder inside some repository for a part of that one.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(copy.parent)}
    command = ["git", "apply", str(mutant.patch.resolve())]
    finished = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    if finished.returncode != 0:
        raise Unusable(f"the patch does not apply: {finished.stderr.strip()}")


def failing_tests(copy: Path, tests: Sequence[str], *, first: bool, seconds: float) -> tuple[str, ...]:
    """Which of the tests (all fast ones, if none are named) fail in a copy; or only the ``first`` of them.

    Unusable: pytest could not run them, they took too long, or what they would import is not the copy's.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(copy / "src"), os.environ.get("PYTHONPATH")])),
    }
    where = "import importlib.util; print(importlib.util.find_spec('dpvision').origin)"
    origin = subprocess.run([sys.executable, "-c", where], env=environment, capture_output=True, text=True)
    expected = copy / "src" / "dpvision" / "__init__.py"
    if origin.stdout.strip() != str(expected):
        raise Unusable(f"dpvision would be imported from {origin.stdout.strip()} and not from {expected}")
    options = ["-q", "-p", "no:cacheprovider", "--color=no", "--tb=no", "-rf", f"--ignore={OF_MUTANTS}"]
    command = [sys.executable, "-m", "pytest", *options, *(["-x"] if first else []), *tests]
    try:
        finished = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise Unusable(f"the tests took more than {seconds:g} s") from error
    failed = re.findall(r"^FAILED (\S+?\.py::\w+)", finished.stdout, flags=re.MULTILINE)
    if finished.returncode not in (0, 1) or (finished.returncode == 1) != bool(failed):
        last = "\n".join((finished.stdout + finished.stderr).strip().splitlines()[-5:])
        raise Unusable(f"pytest ended with {finished.returncode} and without a failed test:\n{last}")
    return tuple(dict.fromkeys(failed))  # of a test with parameters, once


def try_mutant(mutant: Mutant, root: Path, *, all_tests: bool) -> Outcome:
    """Whether the named test notices, or else any."""
    started = monotonic()
    failed: tuple[str, ...] = ()
    error = ""
    try:
        with copy_of(root) as copy:
            apply(mutant, copy)
            if not all_tests:
                failed = failing_tests(copy, [mutant.killed_by], first=True, seconds=ONE_TEST_SECONDS)
            if not failed:
                failed = failing_tests(copy, [], first=not all_tests, seconds=SUITE_SECONDS)
    except Unusable as reason:
        error = str(reason)
    seconds = round(monotonic() - started, 1)
    return Outcome(mutant.name, mutant.fault, mutant.killed_by, failed, seconds, error)


def check_unmutated(mutants: Sequence[Mutant], root: Path) -> None:
    """Unusable: a test that must notice a mutant fails without it too."""
    tests = sorted({mutant.killed_by for mutant in mutants})
    with copy_of(root) as copy:
        failed = failing_tests(copy, tests, first=False, seconds=SUITE_SECONDS)
    if failed:
        raise Unusable(f"without any mutant these fail: {', '.join(failed)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these mutants")
    parser.add_argument("--all-tests", action="store_true", help="list every fast test that notices")
    parser.add_argument("--table", action="store_true", help="print the table of docs/mutants.md and end")
    parser.add_argument("--json", action="store_true", help="the outcome on the last line of stdout")
    options = parser.parse_args()
    try:
        mutants = read_mutants(ROOT / "checks" / "mutants")
        unknown = set(options.only or ()) - {mutant.name for mutant in mutants}
        if unknown:
            raise Unusable(f"there is no mutant {min(unknown)}")
        mutants = [mutant for mutant in mutants if not options.only or mutant.name in options.only]
        if options.table:
            print(table(mutants))
            return
        check_unmutated(mutants, ROOT)
    except Unusable as error:
        sys.exit(str(error))
    print("| mutant | the fault, and what it would cost | killed by | seconds |\n|---|---|---|---|")
    outcomes = []
    for mutant in mutants:
        outcome = try_mutant(mutant, ROOT, all_tests=options.all_tests)
        outcomes.append(outcome)
        by = ", ".join(outcome.failed) or f"**nothing** {' '.join(outcome.error.split())}"
        print(f"| {outcome.name} | {outcome.fault} | {by} | {outcome.seconds:.0f} |", flush=True)
    killed = sum(outcome.is_killed for outcome in outcomes)
    named = sum(outcome.killed_by in outcome.failed for outcome in outcomes)
    print(f"\n{killed} of {len(outcomes)} mutants were killed, {named} by the test that their patch names.")
    if options.json:
        print(json.dumps({"outcomes": [asdict(outcome) for outcome in outcomes]}))
    if killed < len(outcomes):
        survivors = ", ".join(outcome.name for outcome in outcomes if not outcome.is_killed)
        sys.exit(f"these were not: {survivors}")


if __name__ == "__main__":
    main()
