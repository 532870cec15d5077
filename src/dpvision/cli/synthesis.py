"""dpvision synthesize and sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from dpvision import api
from dpvision.api.options import FROM_RELEASE, FinishOptions, SynthesisOptions, check_seed
from dpvision.cli.interruption import interruptible
from dpvision.cli.options import AsJson, Run, checks, command, flag_of, help_of, named_counts, require
from dpvision.cli.output import show
from dpvision.cli.progress import work_bars
from dpvision.cli.training import show_result
from dpvision.privacy.errors import InputError
from dpvision.runs.places import check_free, check_released, find_release


@command(SynthesisOptions)
def synthesize(
    found: dict[str, Any],
    as_json: bool,
    from_release: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="An earlier run of synthesize, its release, or the file of what it released, in place of "
            "DATA and ε: another generator is made of that, free of cost.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Release synthetic images in place of private ones, with the generator that draws them.

    Examples:

        dpvision synthesize photos/ --epsilon 1 --out runs/synthetic

        dpvision synthesize mnist/ --epsilon 1 --count 60000 --format npz --out runs/mnist

        dpvision synthesize --from-release runs/mnist --set rank=100 --out again

    RUN/release may be published: images, generator, what it was made of and the release card. RUN/private
    may not. RUN/samples shows what the generator draws.
    """
    if from_release is None:
        require(SynthesisOptions, found)
    else:
        _check_use_with_release(found)
        check_released(from_release)
    with interruptible(run=found["out"]), work_bars() as progress:
        if from_release is None:
            result = api.synthesize(found.pop("data"), **found, progress=progress)
        else:
            result = api.synthesize_from(from_release, **found, progress=progress)
    show_result(result, as_json)


@checks(run=find_release, out=check_free, seed=check_seed)
def sample(
    run: Run,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="A new folder, for the images.", show_default=False)
    ],
    count: Annotated[
        int | None, typer.Option(help="How many images; give this, or of which classes.", show_default=False)
    ] = None,
    class_counts: Annotated[
        list[str] | None,
        typer.Option(
            "--class-count",
            metavar="CLASS=COUNT",
            help="How many images of a class, in place of --count. Repeat for more classes.",
        ),
    ] = None,
    balanced: Annotated[bool, typer.Option("--balanced", help=help_of(SynthesisOptions, "balanced"))] = False,
    format: Annotated[str, typer.Option(help="png, npz or parquet.")] = "png",
    seed: Annotated[
        int | None, typer.Option(help="For images that can be made again.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make more images by the generator that a run released; free of cost, however many.

    Examples:

        dpvision sample runs/synthetic --count 10000 --out more

        dpvision sample runs/synthetic --class-count cat=500 --class-count dog=50 --format npz --out more
    """
    counts = named_counts(class_counts) if class_counts else None
    FinishOptions(count=count, balanced=balanced, class_counts=counts).check_counts()
    images = api.sample(
        run,
        out=out,
        count=count,
        class_counts=counts,
        balanced=balanced,
        format=cast(Any, format),
        seed=seed,
    )
    found = images.summary()["class_counts"]
    rows: dict[str, object] = {"images": len(images), **{f"  {n}": c for n, c in (found or {}).items()}}
    show({"count": len(images), "class_counts": found, "out": str(out)}, as_json, rows | {"out": str(out)})


def _check_use_with_release(found: dict[str, Any]) -> None:
    """Raise InputError for what is of no use beside --from-release, and where --out is missing or taken."""
    for name in found.keys() - FROM_RELEASE:
        raise InputError(f"{flag_of(SynthesisOptions, name)} has no use with --from-release; leave it out")
    if "out" not in found:
        raise InputError("--out is missing; name a new directory for the run")
    check_free(found["out"])
