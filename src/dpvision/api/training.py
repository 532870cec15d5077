"""Train a private classifier, and go on with a run that was interrupted."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Unpack, cast

from dpvision.api.options import TrainOptions, takes
from dpvision.parallel import follows
from dpvision.runs.places import check_run

if TYPE_CHECKING:
    from dpvision.api.keywords import TrainKeywords
    from dpvision.api.publishing import Result, Synthesis
    from dpvision.api.sources import Source
    from dpvision.images import ImageSet
    from dpvision.runs import Progress


@takes(TrainOptions)
def train(data: Source, *, progress: Progress | None = None, **options: Unpack[TrainKeywords]) -> Result:
    """Train a classifier that is (ε, δ)-differentially private in its training images, and release it.

    Args:
        data: the private images: a spec for `open_images` or an `ImageSet`. Each is of one class: soft labels
            of synthetic images are not read.
        {options}
        progress: see `Progress`.

    Raises:
        InputError: an option or the data cannot be used, or the owner's limit does not allow the run. Nothing
            was spent and nothing is left behind.
        KeyboardInterrupt: passed on; `resume` continues the run.

    Of several processes that torchrun has started, the first returns the result and the others None.
    """
    given = TrainOptions.of(options, data)
    from dpvision.api.run import whole_run  # here: it takes seconds to import

    return cast("Result", whole_run(data, given, "a classifier", progress))


def resume(
    run: str | os.PathLike[str],
    *,
    data: ImageSet | None = None,
    test: ImageSet | None = None,
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
    if not follows():  # which may not see the directory
        check_run(run)
    from dpvision.api.run import rest_of_run
    from dpvision.api.together import follow
    from dpvision.networks import register_network
    from dpvision.parallel import peers
    from dpvision.runs import RunDirectory

    if network is not None:
        register_network(network)
    if follows():
        follow(peers(), data)
        return cast("Result", None)
    return rest_of_run(RunDirectory.open(run), data, test, progress)
