"""dpvision pool: public images that DP-Mix mixes private ones with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dpvision.cli.interruption import repeatable
from dpvision.cli.options import AsJson, Device, checks
from dpvision.cli.output import command_line, show
from dpvision.cli.progress import work_bars
from dpvision.images.places import check_exists
from dpvision.privacy.errors import InputError

app = typer.Typer(
    help="Pools of public images, which private ones are mixed with.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

MODEL, PROCESS = "Of a text-to-image model", "Of random processes"  # panels of options


@app.command()
@checks(classes_of=check_exists)
def make(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to write PNG files to.")],
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of the images in pixels (default: as the model makes them; 32 of processes)."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all randomness. The images are public.")] = 0,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="A name on the Hugging Face hub, or a folder.", rich_help_panel=MODEL
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="With {class} where a class's name goes (default: a photo of a {class}).",
            rich_help_panel=MODEL,
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME", help="A class. Repeat for more.", rich_help_panel=MODEL),
    ] = None,
    classes_of: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="The classes of this data set, in place of --class. Of its images nothing is used.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    per_class: Annotated[
        int | None, typer.Option(help="Images of each class (default: 500).", rich_help_panel=MODEL)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images made at once (default: 8).", rich_help_panel=MODEL)
    ] = None,
    inference_steps: Annotated[
        int | None, typer.Option(help="Denoising steps (default: the model's).", rich_help_panel=MODEL)
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option(help="Of classifier-free guidance (default: the model's).", rich_help_panel=MODEL),
    ] = None,
    device: Device = None,
    process: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A random process; see `prior processes`. Repeat for more.",
            rich_help_panel=PROCESS,
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="How many images (default: 5000).", rich_help_panel=PROCESS)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a pool. An interrupted run goes on where it ended.

    Examples:

        dpvision pool make --model MODEL --classes-of photos --size 32 --out pool

        dpvision pool make --process dead-leaves-mixed --count 5000 --size 32 --out pool
    """
    if (model is None) == (not process):
        raise InputError("give either --model, or --process once or more")
    of_models = {
        "prompt": prompt,
        "per_class": per_class,
        "batch_size": batch_size,
        "inference_steps": inference_steps,
        "guidance_scale": guidance_scale,
        "device": device,
    }
    of_both = {"size": size, "seed": seed, "command": command_line()}
    if model is not None:
        _refuse({"count": count}, "--model")
        if (classes is None) == (classes_of is None):
            raise InputError("give the names of the classes, either by --class or by --classes-of")
    else:
        _refuse(of_models | {"class": classes, "classes_of": classes_of}, "--process")
    from dpvision.api.pools import make_pool, make_process_pool

    with repeatable(), work_bars() as progress:
        if model is not None:
            names = tuple(classes or ()) if classes_of is None else _classes_of(classes_of)
            make_pool(model, names, out, progress=progress, **_given(of_models | of_both))
        else:
            given = _given({"count": count} | of_both)
            make_process_pool(process or (), out, progress=progress, **given)
    show({"pool": str(out)}, as_json, f"the pool is in {out}")


@app.command("show")
@checks(pool=check_exists)
def show_pool(
    pool: Annotated[str, typer.Argument(metavar="POOL", help="Images, as for train; labels may be missing.")],
    as_json: AsJson = False,
) -> None:
    """Say what a pool holds, and how it was made."""
    from dpvision.api.pools import describe_pool

    fields = describe_pool(pool)
    rows = {
        "images": fields["images"],
        "sizes": ", ".join(fields["sizes"]),
        "classes": "none" if fields["classes"] is None else len(fields["classes"]),
        **{f"  {name}": count for name, count in (fields["classes"] or {}).items()},
    }
    provenance = {name: value for name, value in fields["provenance"].items() if name not in rows}
    show(fields, as_json, rows | provenance)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given; the others have their defaults in `dpvision.api.pools`."""
    return {name: value for name, value in options.items() if value is not None}


def _refuse(options: dict[str, Any], kind: str) -> None:
    for name in _given(options):
        raise InputError(f"--{name.replace('_', '-')} does not go with {kind}; leave it out")


def _classes_of(data: str) -> tuple[str, ...]:
    from dpvision.images import available_splits, open_images

    # Images of any shapes can be read together at one, and no pixel matters.
    return open_images(data, available_splits(data)[0], size=1, channels=3, unit="image").class_names
