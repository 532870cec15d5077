"""dpvision synthesize."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpvision.api.options import FROM_EMBEDDING, SynthesisOptions
from dpvision.cli.options import command, flag_of, require
from dpvision.cli.output import interruptible, show, show_messages, table, work_bars
from dpvision.privacy.errors import InputError

if TYPE_CHECKING:
    from dpvision.api import Synthesis


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
    show_messages()
    from dpvision import api

    with interruptible(found["out"]), work_bars() as progress:
        if from_embedding is None:
            result = api.synthesize(found.pop("data"), **found, progress=progress)
        else:
            result = api.synthesize_from(from_embedding, **found, progress=progress)
    show_synthesis(result, as_json)


def _check_use_with_embedding(found: dict[str, Any]) -> None:
    """Raise InputError for what is of no use beside --from-embedding, and where --out is missing."""
    for name in found.keys() - FROM_EMBEDDING:
        raise InputError(f"{flag_of(SynthesisOptions, name)} has no use with --from-embedding; leave it out")
    if "out" not in found:
        raise InputError("--out is missing; name a new directory for the run")


def show_synthesis(result: Synthesis, as_json: bool) -> None:
    """Show the result of a run that makes images."""
    fields = {
        "epsilon": result.epsilon,
        "delta": result.delta,
        "count": result.count,
        "release": str(result.release),
    }
    rows: dict[str, object] = {
        "epsilon": f"{result.epsilon:.6g} at delta {result.delta:g}",
        "images": result.count,
        "release": f"{result.release} (card: {result.release / 'card.md'})",
    }
    show(fields, as_json, table(rows))
