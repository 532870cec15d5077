"""Release synthetic images in place of private ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack, cast

from dpvision.api.options import SynthesisOptions, takes

if TYPE_CHECKING:
    from dpvision.api.keywords import SynthesisKeywords
    from dpvision.api.publishing import Synthesis
    from dpvision.api.sources import Source
    from dpvision.runs import Progress


@takes(SynthesisOptions)
def synthesize(
    data: Source, *, progress: Progress | None = None, **options: Unpack[SynthesisKeywords]
) -> Synthesis:
    """Release synthetic images that are (ε, δ)-differentially private in the images they are made from.

    Args:
        data: the private images: a spec for `open_images` or an `ImageSet`.
        {options}
        progress: see `Progress`.

    Raises:
        InputError: an option or the data cannot be used, or the owner's limit does not allow the run. Nothing
            was spent and nothing is left behind.
        KeyboardInterrupt: passed on; `resume` continues the run.
    """
    given = SynthesisOptions.of(options, data)
    from dpvision.api.run import whole_run  # here: it takes seconds to import

    return cast("Synthesis", whole_run(data, given, "images", progress))
