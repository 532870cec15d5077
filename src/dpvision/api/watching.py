"""Write down how a run went, step by step."""

from __future__ import annotations

import os
from pathlib import Path

from dpvision.privacy.errors import InputError
from dpvision.runs.places import check_run

NOTICE = "private: no noise covers what the steps saw of the private images; do not publish"


def curves(run: str | os.PathLike[str]) -> Path:
    """Write the curves of a run into RUN/private/curves.csv, while it works or later: loss, gradient norm,
    clipped share, batch size, learning rate, seconds and the ε so far, a row for each step. Private: no noise
    covers them. Spends nothing.

    A step that was taken again after an interruption has one row, of the last time; its ε counts both. In
    runs of more than 100 steps ε is computed for a hundred of them, and is nowhere too small.

    Args:
        run: its directory.

    Returns:
        The path of the file.

    Raises:
        InputError: there is no such run, or it has taken no step.
    """
    check_run(run)
    from dpvision.api.config import RunConfig  # here: it takes seconds to import
    from dpvision.runs import RunDirectory
    from dpvision.runs.curves import write_curves

    directory = RunDirectory.open(run)
    config = RunConfig.from_json(directory.config)
    if config.budget is None:
        raise InputError(f"{run} was made of an earlier release and took no step; give the run of that")
    budget, stages = config.spending
    return write_curves(directory.private_path, stages.events, budget)
