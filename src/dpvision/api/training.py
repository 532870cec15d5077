"""Train a private classifier, and go on with a run that was interrupted."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from dpvision.api.accounts import close_account, private_record
from dpvision.api.options import TrainOptions, takes
from dpvision.api.publishing import Result, Synthesis, published
from dpvision.api.run import Run, prepare
from dpvision.api.sources import Source
from dpvision.images import Images
from dpvision.methods import Makes
from dpvision.networks import register_network
from dpvision.runs import Progress, RunDirectory


@takes(TrainOptions)
def train(data: Source, *, progress: Progress | None = None, **options: Any) -> Result:
    """Train a classifier that is (ε, δ)-differentially private in its training images, and release it.

    Args:
        data: the private images: a spec for `open_images`, or `Images`.
        {options}
        progress: see `Progress`.

    Raises:
        InputError: an option or the data cannot be used, or the owner's limit does not allow the run. Nothing
            was spent and nothing is left behind.
        KeyboardInterrupt: passed on; `resume` continues the run.
    """
    return cast("Result", whole_run(data, TrainOptions.of(options), "a classifier", progress))


def whole_run(data: Source, given: Any, makes: Makes, progress: Progress | None) -> Result | Synthesis:
    """Prepare a run, begin it and work on it to its end.

    Args:
        data: the private images.
        given: the options of the run, among them where it is to be.
        makes: what the method is to make.
        progress: see `Progress`.
    """
    config, sources = prepare(data, given, makes)
    record = private_record(sources.images, given.ledger, datetime.now(UTC))
    run = Run.begin(config, given.out, record)
    with run.directory.locked():
        run.learn(sources, progress, is_new=True)
        return run.finish(sources.test, progress)


def resume(
    run: str | os.PathLike[str],
    *,
    data: Images | None = None,
    test: Images | None = None,
    network: Any = None,
    progress: Progress | None = None,
) -> Result | Synthesis:
    """Go on with a run that was interrupted. Of one that is complete, the result.

    Args:
        run: its directory.
        data, test: the images, if they were given in memory.
        network: the run's own, if it was given one, where this process does not know it.
        progress: see `Progress`.

    Raises:
        InputError: there is no such run, another process works on it, its data have changed, or its ledger
            does not have it as open.
        KeyboardInterrupt: passed on.
    """
    if network is not None:
        register_network(network)
    directory = RunDirectory.open(Path(run))
    with directory.locked():
        if directory.is_released:
            close_account(directory)
            return published(directory)
        taken_up = Run.take_up(directory)
        if taken_up.has_learned:
            taken_up.settle()
            return taken_up.finish(taken_up.config.opened_test(test), progress)
        sources = taken_up.config.opened(data, test)
        taken_up.learn(sources, progress)
        return taken_up.finish(sources.test, progress)
