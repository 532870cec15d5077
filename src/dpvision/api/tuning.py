"""Train a private classifier with settings that are tuned on the private images, within one budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack, cast

from dpvision.api.options import TuneOptions, takes

if TYPE_CHECKING:
    from dpvision.api.keywords import TuneKeywords
    from dpvision.api.publishing import Result
    from dpvision.api.sources import Source
    from dpvision.runs import Progress


@takes(TuneOptions)
def tune(data: Source, *, progress: Progress | None = None, **options: Unpack[TuneKeywords]) -> Result:
    """Tune the settings of a classifier on its training images and release the best, all within (ε, δ).

    A random number of trials are trained, each with settings that are drawn from the candidates. The one that
    has the most training images right, by a count with noise, is released, and nothing of the others.

    Args:
        data: the private images: a spec for `open_images` or an `ImageSet`.
        {options}
        progress: see `Progress`.

    Raises:
        InputError: an option or the data cannot be used, or the owner's limit does not allow the run. Nothing
            was spent and nothing is left behind.
        KeyboardInterrupt: passed on; `resume` continues the run.
    """
    given = TuneOptions.of(options, data)
    from dpvision.api.run import whole_run  # here: it takes seconds to import

    return cast("Result", whole_run(data, given, "a classifier", progress))
