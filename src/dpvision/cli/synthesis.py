"""dpvision synthesize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dpvision import api
from dpvision.api.options import FROM_EMBEDDING, SynthesisOptions
from dpvision.cli.interruption import interruptible
from dpvision.cli.options import command, flag_of, require
from dpvision.cli.progress import work_bars
from dpvision.cli.training import show_result
from dpvision.privacy.errors import InputError
from dpvision.runs.places import check_embedding, check_free


@command(SynthesisOptions)
def synthesize(
    found: dict[str, Any],
    as_json: bool,
    from_embedding: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An earlier run's release/embedding.safetensors, in place of DATA and ε; free of cost.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Release synthetic images in place of private ones, with the generator that draws them.

    Examples:

        dpvision synthesize photos/ --epsilon 1 --out runs/synthetic

        dpvision synthesize mnist/ --epsilon 1 --count 60000 --format npz --out runs/mnist

        dpvision synthesize --from-embedding runs/mnist/release/embedding.safetensors --out again

    RUN/release may be published: images, generator, embedding and the release card. RUN/private may not.
    RUN/samples shows how the generator learns.
    """
    if from_embedding is None:
        require(SynthesisOptions, found)
    else:
        _check_use_with_embedding(found)
        check_embedding(from_embedding)
    with interruptible(run=found["out"]), work_bars() as progress:
        if from_embedding is None:
            result = api.synthesize(found.pop("data"), **found, progress=progress)
        else:
            result = api.synthesize_from(from_embedding, **found, progress=progress)
    show_result(result, as_json)


def _check_use_with_embedding(found: dict[str, Any]) -> None:
    """Raise InputError for what is of no use beside --from-embedding, and where --out is missing or taken."""
    for name in found.keys() - FROM_EMBEDDING:
        raise InputError(f"{flag_of(SynthesisOptions, name)} has no use with --from-embedding; leave it out")
    if "out" not in found:
        raise InputError("--out is missing; name a new directory for the run")
    check_free(found["out"])
