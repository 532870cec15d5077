"""dpvision synthesize."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpvision.cli import options as given
from dpvision.cli.options import collect, with_settings
from dpvision.cli.output import interruptible, show, show_messages, table, work_bars

if TYPE_CHECKING:
    from dpvision.api import Synthesis


def synthesize(
    data: given.Data = None,
    epsilon: given.Epsilon = None,
    out: given.Out = None,
    count: Annotated[
        int | None, typer.Option(help="Images to release (default: as many as the private ones).")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="png (default), npz or parquet. Repeat for more.", show_default=False),
    ] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="As many of every class, not by the noisy class sizes.")
    ] = False,
    from_embedding: Annotated[
        Path | None,
        typer.Option(
            "--from-embedding",
            metavar="FILE",
            help="An earlier run's release/embedding.safetensors, in place of DATA and ε; free of cost.",
        ),
    ] = None,
    delta: given.Delta = None,
    relation: given.Relation = None,
    method: Annotated[str | None, typer.Option(help="dp-mepf (default).", show_default=False)] = None,
    config: given.ConfigFile = None,
    settings: given.Settings = None,
    size: given.Size = None,
    channels: given.Channels = None,
    device: given.Device = None,
    seed: given.Seed = None,
    num_examples: given.NumExamples = None,
    ledger: given.LedgerFile = None,
    as_json: given.AsJson = False,
) -> None:
    """Release synthetic images in place of private ones, with the generator that draws them.

    Examples:

        dpvision synthesize photos/ --epsilon 1 --out runs/synthetic

        dpvision synthesize mnist/ --epsilon 1 --count 60000 --format npz --out runs/mnist

        dpvision synthesize --from-embedding runs/mnist/release/embedding.safetensors --out again

    RUN/release may be published: images, generator, embedding and the release card. RUN/private may not.
    RUN/samples shows how the generator learns.
    """
    show_messages()
    from dpvision import api
    from dpvision.privacy.errors import InputError

    if out is None and config is None:
        raise InputError("--out is missing; name a new directory for the run")
    wanted: dict[str, Any] = {"count": count, "formats": formats, "balanced": balanced or None}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    if from_embedding is not None:
        others: dict[str, object] = {
            "DATA": data,
            "--epsilon": epsilon,
            "--delta": delta,
            "--relation": relation,
        }
        others |= {"--config": config, "--size": size, "--channels": channels, "--ledger": ledger}
        others["--num-examples"] = num_examples
        for name, value in others.items():
            if value is not None:
                raise InputError(f"{name} has no use with --from-embedding; leave it out")
        assert out is not None
        with interruptible(out), work_bars() as progress:
            result = api.synthesize_from(
                from_embedding,
                out=out,
                config=with_settings({}, settings or []),
                seed=seed,
                device=device,
                progress=progress,
                **wanted,
            )
    else:
        found = collect(
            config,
            settings,
            data=data,
            epsilon=epsilon,
            out=out,
            delta=delta,
            neighboring_relation=relation,
            method=method,
            size=size,
            channels=channels,
            device=device,
            seed=seed,
            num_examples=num_examples,
            ledger=ledger,
        )
        if "out" not in found:
            raise InputError("--out is missing; name a new directory for the run")
        if "test" in found:
            raise InputError(f"{config}: test is for train; measure synthetic images by dpvision evaluate")
        with interruptible(found["out"]), work_bars() as progress:
            result = api.synthesize(found.pop("data"), **found, **wanted, progress=progress)
    show_synthesis(result, as_json)


def show_synthesis(result: Synthesis, as_json: bool) -> None:
    """What came of a run."""
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
