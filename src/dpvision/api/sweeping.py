"""Train by several methods at several ε, a few times each, and compare what comes of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from dpvision.api.options import OneClassifier, takes
from dpvision.api.sweep_plan import OF_EACH_RUN, RECORD, Job, Plan
from dpvision.privacy.errors import InputError
from dpvision.runs.places import check_free, is_run

if TYPE_CHECKING:
    from dpvision.api.comparing import Runs
    from dpvision.api.keywords import SweepKeywords
    from dpvision.api.publishing import Result
    from dpvision.api.sources import Source
    from dpvision.runs import Progress

logger = logging.getLogger("dpvision")

CHART = "sweep.svg"
"""The file of the chart, beside the runs."""

RUNS = "runs of the sweep"
"""What progress is told of, beside what each run tells it."""


@dataclass(frozen=True)
class Sweep:
    """The outcome of a sweep. Private, but for what the cards say.

    Attributes:
        runs: the runs in its folder.
        failed: why runs failed, by their names; the others went on.
        chart: the file of the chart; None where no run has a test accuracy.
    """

    runs: Runs
    failed: Mapping[str, str]
    chart: Path | None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON types."""
        chart = None if self.chart is None else str(self.chart)
        return {**self.runs.to_json(), "failed": dict(self.failed), "chart": chart}


@takes(OneClassifier, without=OF_EACH_RUN)
def sweep(
    data: Source,
    *,
    methods: Sequence[str],
    epsilons: Sequence[float],
    out: str | os.PathLike[str],
    seeds: int = 1,
    unpaid: bool = False,
    progress: Progress | None = None,
    **options: Unpack[SweepKeywords],
) -> Sweep:
    """Train a classifier by each method at each ε, so many times, and compare them.

    The same call goes on after an interruption, and with more methods, ε or seeds. A run that fails is
    reported, and the others go on.

    Args:
        data: the private images: a spec for `open_images` or an `ImageSet`.
        methods: the names of the methods.
        epsilons: the ε of the runs.
        out: the folder of the runs, METHOD-epsE-run1 and so on, with sweep.json and sweep.svg beside them.
        seeds: how many runs there are of each, every one with its own noise, from the system's entropy.
        unpaid: the images are public, as those of benchmarks: what the runs cost is in a ledger in ``out``
            and in no account of theirs, and the cards say so.
        {options}
        progress: see `Progress`.

    In ``config``, the name of a method may stand for a table of settings for that method alone.

    Raises:
        InputError: an option or the data cannot be used by any run; nothing was spent.
        KeyboardInterrupt: passed on; the same call goes on.
    """
    plan = Plan(data, methods, epsilons, Path(out), seeds, unpaid, options)
    plan.check_places()
    plan.check_methods()
    from dpvision.api.comparing import runs_in

    _begin(plan)
    failed: dict[str, str] = {}
    said_once = _SaidOnce()
    for number, one in enumerate(plan.jobs, start=1):
        told = f"{one.name} ({number} of {len(plan.jobs)})"
        logger.info(told)
        if progress is not None:
            progress(RUNS, number - 1, len(plan.jobs))
        try:
            with said_once:
                result = _work(one, plan, progress)
            logger.info(f"  test accuracy {result.test_accuracy or 'not measured'}")
        except Exception as error:  # of a method, or of the machine: the others may do
            failed[one.name] = (
                str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            )
            logger.warning(f"  failed: {failed[one.name]}")
    runs = runs_in(out)
    done = Sweep(runs, failed, _write_chart(runs, Path(out)))
    _write_record(plan, done.to_json())
    return done


def _work(job: Job, plan: Plan, progress: Progress | None) -> Result:
    """Do a run, or what is left of it."""
    from dpvision.api.run import whole_run
    from dpvision.api.training import resume
    from dpvision.images import ImageSet

    out = plan.out / job.name
    if is_run(out):
        test = job.options.test
        in_memory = {
            "data": plan.data if isinstance(plan.data, ImageSet) else None,
            "test": test if isinstance(test, ImageSet) else None,
        }
        return cast("Result", resume(out, **in_memory, network=job.options.network, progress=progress))
    check_free(out)
    return cast("Result", whole_run(plan.data, job.options, "a classifier", progress))


class _SaidOnce(logging.Filter):
    """Within it, what one run has announced of the images the others do not announce again."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether something is said for the first time, or is a warning."""
        if record.levelno > logging.INFO:
            return True
        message = record.getMessage()
        is_new = message not in self._said
        self._said.add(message)
        return is_new

    def __enter__(self) -> None:
        logger.addFilter(self)

    def __exit__(self, *_: object) -> None:
        logger.removeFilter(self)


def _begin(plan: Plan) -> None:
    """Write what the runs are made with, before the first: other runs may not come beside them."""
    from dpvision.runs.files import writing

    with writing(plan.out):
        plan.out.mkdir(parents=True, exist_ok=True)
    _write_record(plan, {})


def _write_record(plan: Plan, found: Mapping[str, Any]) -> None:
    from dpvision.runs.files import json_bytes, write_atomically

    write_atomically(plan.out / RECORD, json_bytes({"made_with": plan.made_with(), **found}))


def _write_chart(runs: Runs, out: Path) -> Path | None:
    """Write the chart of a sweep, if there is something to draw."""
    if not any(row.test_accuracy is not None for row in runs.rows):
        return None
    from dpvision.api.run_chart import write_chart

    path = out / CHART
    write_chart(runs, path)
    return path
