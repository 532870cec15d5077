"""Find the runs in a folder: what each was asked for, what came of it, and whether what it cost is in an
account.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dpvision.api.options import check_sort
from dpvision.images.files import MAX_NESTING, reading
from dpvision.images.places import is_release
from dpvision.privacy import InputError, Ledger
from dpvision.reports.guarantee_file import FIXED_SEED, is_unpaid
from dpvision.runs import RunDirectory
from dpvision.runs.files import read_json
from dpvision.runs.metrics import steps_taken
from dpvision.runs.places import check_folder, is_run

logger = logging.getLogger("dpvision")

State = Literal["finished", "running", "interrupted", "damaged"]
Cost = Literal["paid", "unpaid", "free", "unknown"]
"""Whether what a run has cost is in a ledger. Free is what is made of an earlier run's release; of a release
without its run it cannot be told.
"""

_NOT_PRIVATE, PUBLIC = "not private: {}", "its images were said to be public"
"""Why a run is not paid."""


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """What is known of a run without reading an image. Private, but for what its card says.

    Attributes:
        name: its path below the folder that was searched.
        path: its path.
        state: how far it is.
        problem: what is wrong with one that is damaged; of that little else is known.
        method: what learned.
        data: what the card calls the private images, or else where they were, if not in memory.
        epsilon: what the card of a finished run states.
        target_epsilon: the budget's ε.
        delta, neighboring_relation, unit: what ε is stated for.
        is_private: whether that guarantee holds; None where no card or configuration says so.
        not_private_because: why not.
        step, steps: how many steps an interrupted run has taken, and of how many, where that is written.
        has_learned: whether all that takes private images is done.
        test_accuracy, test_interval_95, test_total: the share of the test images that is right, its exact
            95 % interval, and how many images there are; None without.
        auc, auc_interval_95: the area under the ROC curve on them, which is in RUN/private and on no card.
        images: how many images were released, if it makes images.
        cost: see `Cost`.
        cost_because: why it is not paid.
        started: when it began, in UTC; of a release alone the day.
        seconds: how long it learned, or made images, as the card has it.
        run_id, digest, ledger: the run in its ledger, and what identifies its images; None of a release.
    """

    name: str
    path: str
    state: State
    problem: str | None = None
    method: str | None = None
    data: str | None = None
    epsilon: float | None = None
    target_epsilon: float | None = None
    delta: float | None = None
    neighboring_relation: str | None = None
    unit: str | None = None
    is_private: bool | None = None
    not_private_because: tuple[str, ...] = ()
    step: int | None = None
    steps: int | None = None
    has_learned: bool = False
    test_accuracy: float | None = None
    test_interval_95: tuple[float, float] | None = None
    test_total: int | None = None
    auc: float | None = None
    auc_interval_95: tuple[float, float] | None = None
    images: int | None = None
    cost: Cost = "unknown"
    cost_because: str = ""
    started: str | None = None
    seconds: float | None = None
    run_id: str | None = None
    digest: str | None = None
    ledger: str | None = None

    def figure(self, name: str) -> tuple[float, float, float] | None:
        """Return "accuracy" or "auc" on the test images, and the ends of its 95 % interval; None without."""
        value, interval = self.test_accuracy, self.test_interval_95
        if name == "auc":
            value, interval = self.auc, self.auc_interval_95
        return None if value is None or interval is None else (value, *interval)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON types."""
        return asdict(self)


def _by_name(row: RunRow) -> tuple[Any, ...]:
    """Sort numbers within names as numbers: run2 is before run10."""
    parts = re.split(r"(\d+(?:\.\d+)?)", row.name)
    return tuple((float(part), "") if index % 2 else (0.0, part) for index, part in enumerate(parts))


_KEYS: dict[str, Callable[[RunRow], Any]] = {
    "name": _by_name,
    "method": lambda row: (row.method or "", row.target_epsilon or 0.0, _by_name(row)),
    "epsilon": lambda row: (row.target_epsilon or 0.0, _by_name(row)),
    "accuracy": lambda row: (math.inf if row.test_accuracy is None else -row.test_accuracy, _by_name(row)),
    "started": lambda row: (row.started or "", _by_name(row)),
}
"""How to sort by each of `SORTS`."""


def find_rows(folder: Path, sort: str = "name") -> list[RunRow]:
    """Return a row for each run in a folder and below, sorted.

    Raises:
        InputError: there is no such folder, or it cannot be read. What is wrong with a run is in its row.
    """
    check_sort(sort)
    with reading(str(folder)):
        check_folder(folder)
        found = list(_places(folder))
    ledgers = _Ledgers()
    rows = [_row(path, str(path.relative_to(folder)), ledgers) for path in found]
    return sorted(rows, key=_KEYS[sort])


class _Ledgers:
    """Ledgers, each read once; of one that cannot be read, why."""

    def __init__(self) -> None:
        self._runs: dict[str, frozenset[str] | str] = {}

    def cost_of(self, path: str, run_id: str) -> tuple[Cost, str]:
        """Say whether what a run cost is in a ledger, and if not, why."""
        if path not in self._runs:
            try:
                there = os.path.exists(path)
                self._runs[path] = (
                    frozenset(Ledger(path).counted()) if there else f"there is no ledger {path}"
                )
            except InputError as error:
                self._runs[path] = str(error)
        known = self._runs[path]
        if isinstance(known, str):
            return "unknown" if os.path.exists(path) else "unpaid", known
        return ("paid", "") if run_id in known else ("unpaid", f"the ledger {path} does not have it")


def _places(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Yield the runs and releases at a folder or below. Links are not followed, nor is what begins with a
    dot: such are the folders of runs that are just being made.
    """
    if depth > MAX_NESTING:
        logger.warning(f"{folder} is {MAX_NESTING} folders deep, and what is below is left out")
        return
    if is_run(folder) or is_release(folder) or _was_run(folder):
        yield folder
        return
    for below in sorted(folder.iterdir()):
        if below.is_dir() and not below.is_symlink() and not below.name.startswith("."):
            try:
                yield from _places(below, depth + 1)
            except PermissionError:
                logger.warning(f"{below} may not be read, and is left out")


def _was_run(folder: Path) -> bool:
    """Say whether a run's directory is there whose private record is gone, or hidden from who asks."""
    return (folder / "config.json").is_file() and ((folder / "private").is_dir() or _has_release(folder))


def _has_release(folder: Path) -> bool:
    return is_release(folder / "release")


def _row(path: Path, name: str, ledgers: _Ledgers) -> RunRow:
    if not is_run(path) and (is_release(path) or _has_release(path)):
        release = path if is_release(path) else path / "release"
        return _guarded(path, name, lambda: _of_release(release))
    return _guarded(path, name, lambda: _of_run(RunDirectory.open(path), ledgers))


def _guarded(path: Path, name: str, find: Callable[[], Mapping[str, Any]]) -> RunRow:
    """Return the row of what is found, or that of a damaged run."""
    place: dict[str, Any] = {"name": name, "path": str(path)}
    try:
        with reading(str(path)):
            return RunRow(**place, **find())
    except InputError as error:
        because = "it is damaged"
        return RunRow(**place, state="damaged", problem=str(error), cost_because=because)


def _of_run(run: RunDirectory, ledgers: _Ledgers) -> dict[str, Any]:
    """Return what is known of a run, from its configuration, its card and its ledger."""
    config, facts = run.config, run.config["facts"]
    budget = config["budget"] or {}
    found: dict[str, Any] = {
        "method": str(config["method"]),
        "data": config.get("data_name") or (config["data"] or {}).get("spec"),
        "target_epsilon": budget.get("epsilon"),
        "delta": budget.get("delta"),
        "neighboring_relation": budget.get("neighboring_relation"),
        "unit": facts.get("unit", "image"),
        "started": config.get("started"),
    }
    if run.is_released:
        found |= _of_card(run.release_path) | {"started": config.get("started")} | _of_test(run)
        found |= {"state": "finished", "has_learned": True}
    else:
        found |= _how_far(run)
    found |= {name: run.private.get(name) for name in ("run_id", "digest", "ledger")}
    cost, because = _cost(run, ledgers, found.get("not_private_because", ()))
    return {**found, "cost": cost, "cost_because": because}


def _how_far(run: RunDirectory) -> dict[str, Any]:
    """Return what is known of a run that is not finished."""
    config = run.config
    not_private = [*([FIXED_SEED] if config["seed"] is not None else []), *config["overlaps"]]
    steps, step = config["config"].get("steps"), steps_taken(run.private_path / "metrics.jsonl")
    has_learned = run.learned_path.exists()
    known = step is not None and isinstance(steps, int) and step <= steps and not has_learned
    return {
        "state": "running" if run.is_worked_on else "interrupted",
        "is_private": not not_private,
        "not_private_because": tuple(map(str, not_private)),
        "has_learned": has_learned,
        "step": step if known else None,
        "steps": steps if known else None,
    }


def _of_card(release: Path) -> dict[str, Any]:
    """Return what the card of a release says. It may be a stranger's: what is not as it must be raises."""
    card = read_json(release / "card.json")
    test, images = card.get("test"), card.get("images")
    seconds = card.get("training_seconds", card.get("fitting_seconds"))
    made = card.get("made") or {}
    found: dict[str, Any] = {
        "method": str(card["method"]),
        "epsilon": _number(card["epsilon"]),
        "target_epsilon": _number(card["target_epsilon"]),
        "delta": _number(card["delta"]),
        "neighboring_relation": str(card["neighboring_relation"]),
        "unit": str(card["unit"]),
        "is_private": card["is_private"] is True,
        "not_private_because": tuple(map(str, card["not_private_because"])),
        "images": int(images["count"]) if images else None,
        "seconds": None if seconds is None else _number(seconds),
    }
    for name, said in (("data", made.get("data_name")), ("started", made.get("began"))):
        if said is not None:
            found[name] = str(said)
    if test:
        low, high = map(_number, test["interval_95"])
        accuracy, total = _number(test["accuracy"]), int(test["total"])
        if not (0 <= low <= accuracy <= high <= 1 and 1 <= total < 2**53):
            raise ValueError("its test accuracy is none")
        found |= {"test_accuracy": accuracy, "test_interval_95": (low, high), "test_total": total}
    return found


def _of_test(run: RunDirectory) -> dict[str, Any]:
    """Return of the figures in RUN/private what no card has."""
    auc = read_json(run.test_path).get("auc") if run.test_path.exists() else None
    if auc is None or auc["value"] is None:  # of one class alone
        return {}
    low, high = map(_number, auc["interval_95"])
    return {"auc": _number(auc["value"]), "auc_interval_95": (low, high)}


def _number(value: Any) -> float:
    """Return a number that JSON knows. ValueError or TypeError where it is none."""
    if not math.isfinite(number := float(value)):
        raise ValueError(f"{number} is no finite number")
    return number


def _of_release(release: Path) -> dict[str, Any]:
    """Return what is known of a release whose run is not there."""
    found = _of_card(release)
    cost: Cost = "unknown"
    because = "which ledger it is in is known to its run alone"
    if found["not_private_because"]:
        cost, because = "unpaid", _NOT_PRIVATE.format("; ".join(found["not_private_because"]))
    elif is_unpaid(read_json(release / "card.json")):
        cost, because = "unpaid", PUBLIC
    return {"state": "finished", "has_learned": True, **found, "cost": cost, "cost_because": because}


def _cost(run: RunDirectory, ledgers: _Ledgers, not_private: Sequence[str]) -> tuple[Cost, str]:
    """Say whether what a run has cost is in a ledger, and if not, why."""
    if run.config["budget"] is None:
        return "free", "it was made of an earlier release"
    if not_private:
        return "unpaid", _NOT_PRIVATE.format("; ".join(not_private))
    if run.config.get("unpaid"):
        return "unpaid", PUBLIC
    return ledgers.cost_of(run.of_account("ledger"), run.of_account("run_id"))
