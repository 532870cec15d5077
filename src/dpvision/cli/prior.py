"""dpvision prior: images of random processes, and encoders learned from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpvision.cli.interruption import repeatable
from dpvision.cli.options import AsJson, Device, checks
from dpvision.cli.output import command_line, show
from dpvision.cli.progress import work_bars
from dpvision.images.places import check_exists
from dpvision.priors.phase_one.places import check_new_prior, find_prior
from dpvision.privacy.errors import InputError

app = typer.Typer(
    help="Encoders learned from images of random processes, without any private or real image.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Seed = Annotated[int, typer.Option(help="Of all randomness. The images are public.")]


@app.command()
def processes(as_json: AsJson = False) -> None:
    """List the random processes."""
    from dpvision.priors import PROCESSES

    fields = {name: process.summary for name, process in PROCESSES.items()}
    show(fields, as_json, fields)


@app.command()
def images(
    process: Annotated[str, typer.Option(metavar="NAME", help="A random process; see `prior processes`.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to write PNG files to.")],
    count: Annotated[int, typer.Option(help="How many images.")] = 105_000,
    size: Annotated[int, typer.Option(help="Their side in pixels.")] = 64,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Write images of a random process as PNG files. An interrupted run goes on where it ended.

    Example:

        dpvision prior images --process stylegan-oriented --count 105000 --size 64 --out oriented
    """
    from dpvision.priors.processes.write import write_images

    with repeatable(), work_bars() as progress:
        write_images(process, count, size, out, seed, lambda done: progress("images", done, count))
    folder = out / process
    show({"images": str(folder), "count": count}, as_json, f"{count} images in {folder}")


@app.command()
@checks(out=check_new_prior, public_images=check_exists, initial_prior=find_prior)
def train(
    out: Annotated[Path, typer.Option(metavar="FILE", help="The prior's file, ending in .safetensors.")],
    process: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A random process; see `prior processes`. Repeat for more."),
    ] = None,
    public_images: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Learn from these images, which you declare public, and not from processes."
        ),
    ] = None,
    initial_prior: Annotated[
        str | None,
        typer.Option(metavar="PRIOR", help="Begin with this prior of the same network: a name or a file."),
    ] = None,
    network: Annotated[str, typer.Option(help="The network whose body is learned.")] = "wrn-16-4",
    stem_stride: Annotated[int, typer.Option(help="Of its first convolution; 2 quarters the cost.")] = 1,
    count: Annotated[int, typer.Option(help="How many images the processes make together.")] = 105_000,
    stream: Annotated[bool, typer.Option(help="New images at every step, in place of --count.")] = False,
    image_size: Annotated[int, typer.Option(help="Side of the images, in pixels.")] = 64,
    view_size: Annotated[int, typer.Option(help="Side of the views, which the network is good for.")] = 32,
    steps: Annotated[int, typer.Option(help="Updates, of two views of each image of a batch.")] = 82_000,
    batch_size: Annotated[int, typer.Option(help="Images in a batch.")] = 256,
    learning_rate: Annotated[float, typer.Option(help="For batches of 256; scaled in proportion.")] = 0.12,
    seed: Seed = 0,
    compile_network: Annotated[
        bool, typer.Option("--compile", help="Use torch.compile; needs a C++ compiler.")
    ] = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Learn an encoder from public images (Phase I of DP-RandP, arXiv 2306.06076).

    The defaults are the paper's: 42 million views, for a GPU. An interrupted training goes on from the
    checkpoint beside FILE.

    Example:

        dpvision prior train --process stylegan-oriented --process dead-leaves-mixed --network wrn-10-4
        --stem-stride 2 --count 40000 --steps 3000 --out small.safetensors
    """
    if process and public_images is not None:
        raise InputError("--process and --public-images exclude each other; leave one of them out")
    from dpvision.api.priors import train_prior
    from dpvision.priors import ContrastiveConfig

    config = ContrastiveConfig(
        network=network,
        network_options={"stem_stride": stem_stride} if stem_stride != 1 else {},
        processes=tuple(process or ["stylegan-oriented"]),
        count=count,
        image_size=image_size,
        view_size=view_size,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        compile=compile_network,
    )
    with repeatable(), work_bars() as progress:
        prior = train_prior(
            config,
            out,
            public_images=public_images,
            stream=stream,
            initial_prior=initial_prior,
            device=device,
            command=command_line(),
            progress=progress,
        )
    figure = prior.provenance["figure"]
    show({"prior": str(out), "figure": figure}, as_json, f"{out}: {figure}")


@app.command("list")
def list_names(as_json: AsJson = False) -> None:
    """List the priors that come with the package."""
    from dpvision.priors import list_priors, load_prior

    rows = {}
    for name in list_priors():
        provenance = load_prior(name).provenance
        rows[name] = {key: provenance[key] for key in ("network", "processes", "views", "figure")}
    lines = {name: f"{row['network']}, {row['views']:,} views: {row['figure']}" for name, row in rows.items()}
    show(rows, as_json, lines or "no priors are bundled")


@app.command("show")
@checks(prior=find_prior)
def show_prior(
    prior: Annotated[str, typer.Argument(metavar="PRIOR", help="A bundled prior's name, or a file.")],
    as_json: AsJson = False,
) -> None:
    """Say what a prior was learned from, and how."""
    from dpvision.priors import load_prior

    provenance = load_prior(prior).provenance
    show(provenance, as_json, provenance)
