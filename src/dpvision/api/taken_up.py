"""Find the earlier runs that runs have taken up: what these have released is part of what those release."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from dpvision.images.files import reading
from dpvision.methods.continued import TAKES_UP
from dpvision.privacy import Event, InputError, Ledger
from dpvision.runs import RunDirectory
from dpvision.runs.places import is_run


def with_taken_up(runs: Iterable[RunDirectory]) -> dict[str, RunDirectory]:
    """Return runs and all that they have taken up, each once, by what their ledgers call them.

    Raises:
        InputError: the directory of one is not where it was, so that it cannot be told which run it is.
    """
    found: dict[str, RunDirectory] = {}
    waiting = list(runs)
    while waiting:
        run = waiting.pop()
        if (run_id := run.of_account("run_id")) not in found:
            found[run_id] = run
            waiting += _earlier(run)
    return found


def spent_by(runs: Iterable[RunDirectory]) -> dict[str, tuple[Event, ...]]:
    """Return what the ledgers of runs have of them, and of all that they have taken up, by run.

    Raises:
        InputError: as `with_taken_up`, or a ledger cannot be read, or does not have a run.
    """
    ledgers: dict[str, Mapping[str, tuple[Event, ...]]] = {}
    spent = {}
    for run_id, run in with_taken_up(runs).items():
        path = run.of_account("ledger")
        if path not in ledgers:
            ledgers[path] = Ledger(path).counted()
        if run_id not in ledgers[path]:
            raise InputError(f"the ledger {path} does not have {run_id}")
        spent[run_id] = ledgers[path][run_id]
    return spent


def _earlier(run: RunDirectory) -> list[RunDirectory]:
    """Return the run that a run has taken up, if it has."""
    with reading(str(run.path)):
        settings = run.config["config"]
        places = [Path(settings[name]) for name in TAKES_UP if settings.get(name)]
    return [_run_at(place, run) for place in places]


def _run_at(place: Path, later: RunDirectory) -> RunDirectory:
    for home in (place, place.parent, place.parent.parent):
        if is_run(home) and (found := RunDirectory.open(home)).private:
            return found
    raise InputError(f"{later.path} has taken up {place}, whose run is not there")
