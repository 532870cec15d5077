"""dpvision data, ledger, epsilon and noise: what there is, what was spent, and what would be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from dpvision.api.options import ReadOptions
from dpvision.cli import completion
from dpvision.cli.interruption import interruptible
from dpvision.cli.options import AsJson, checks, reads_images
from dpvision.cli.output import show, table
from dpvision.cli.progress import work_bars
from dpvision.images.places import check_exists
from dpvision.privacy.errors import InputError

if TYPE_CHECKING:
    from dpvision.api.sources import Reading
    from dpvision.images import ImageSet

SampleRate = Annotated[float, typer.Option(help="Probability with which an example enters a batch.")]
Steps = Annotated[int, typer.Option(help="How many noisy sums.")]
Delta = Annotated[float, typer.Option(help="δ of the guarantee.")]
Accountant = Annotated[str, typer.Option(help="pld (tight) or rdp (looser).")]
Relation = Annotated[str, typer.Option(help="Neighbouring relation: add_or_remove_one or replace_one.")]


@reads_images
def data(
    spec: Annotated[
        str, typer.Argument(metavar="SPEC", help="Images, as for train.", autocompletion=completion.data)
    ],
    choices: dict[str, Any],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "train",
    to: Annotated[
        tuple[str, Path] | None,
        typer.Option(
            metavar="FORMAT OUT",
            help="Write all splits anew to OUT: as parquet, npz or a folder. Sizes stay, but for --size.",
            show_default=False,
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the first images of each class.", show_default=False),
    ] = None,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache",
            help="Read the split once, into a store on disk from which all commands take it that read it so.",
        ),
    ] = False,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget", help="Remove all stores of SPEC, of any split, and its downloads; do no more."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a data set holds: shape, classes, counts; convert it, draw a sheet, or keep it on disk as it
    is used, for a data set larger than memory. Private: do not publish what comes out.

    Examples:

        dpvision data photos/

        dpvision data list.csv --to parquet photos-parquet

        dpvision data photos/ --sheet photos.png

        dpvision data photos/ --cache

        dpvision data photos/ --forget
    """
    if forget:
        if cache or to is not None or sheet is not None:
            raise InputError("--forget removes what is stored, and does no more; give it alone")
        _forget(spec, as_json)
        return
    check_exists(spec)
    from dpvision.api.converting import check_target, convert, draw_sheet
    from dpvision.api.sources import training_reading

    read_by = ReadOptions(**choices).choices()
    if to is not None:
        check_target(spec, cast(Any, to[0]), to[1])
    reading, _ = training_reading(spec, read_by, keep_large=to is not None, split=split)
    images = _keep(reading) if cache else reading.open(labelled=None)
    if to is not None:
        convert(reading, images, cast(Any, to[0]), to[1])
    if sheet is not None:
        draw_sheet(images, sheet)
    summary = images.summary() | _of_store(images)
    rows: dict[str, object] = {
        "source": images.source,
        "images": f"{len(images)} of {'×'.join(map(str, images.shape))} (channels, height, width)",
        **_of_units(summary),
        "classes": len(images.class_names),
        **{f"  {name}": count for name, count in (summary["class_counts"] or {}).items()},
        **({"store": f"{summary['store']}, {_in_gib(summary['store_bytes'])}"} if "store" in summary else {}),
    }
    show(summary, as_json, f"{summary['notice']}\n{table(rows)}")


def _keep(reading: Reading) -> ImageSet:
    """Read images into a store, and tell how far that is."""
    with interruptible("nothing is left of the store"), work_bars() as bars:
        return reading.keep(lambda done, total: bars("images read", done, total))


def _forget(spec: str, as_json: bool) -> None:
    """Remove the stores of a data set, and say what was."""
    from dpvision.images import forget_images

    found = forget_images(spec)
    said = f"removed {found.stores} store{'s' * (found.stores != 1)} of {spec}, {_in_gib(found.bytes)}"
    show({"spec": spec} | asdict(found), as_json, said if found.bytes else f"{spec} has no stores")


def _of_store(images: ImageSet) -> dict[str, Any]:
    """Say where the store of images is, and how many bytes of the disk it takes, if they are in one."""
    from dpvision.images.stored import StoredImages

    if not isinstance(images, StoredImages):
        return {}
    return {"store": str(images.folder), "store_bytes": images.num_bytes}


def _in_gib(count: int) -> str:
    """Write bytes as people say them, if they are many."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**24 else f"{count / 2**20:.1f} MiB"


def _of_units(summary: Mapping[str, Any]) -> dict[str, object]:
    """Say how many units there are, and how many images they have, if there are any."""
    if "num_units" not in summary:
        return {}
    found = summary["images_per_unit"]
    return {
        "units": f"{summary['num_units']:,}, by {summary['units_from']}",
        "  images of each": f"{found['min']} to {found['max']}, median {found['median']:g}",
    }


def _check_target(target: str) -> None:
    """Raise InputError where neither data nor a run are; of a ledger's file the ledger says so itself."""
    if not target.endswith(".jsonl"):
        check_exists(target)


@checks(target=_check_target)
@reads_images
def ledger(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="Data as for train, a run's directory, or a ledger file.",
            autocompletion=completion.data,
        ),
    ],
    choices: dict[str, Any],
    limit_epsilon: Annotated[
        float | None, typer.Option(help="Allow at most this ε in total, from now on.", show_default=False)
    ] = None,
    limit_delta: Annotated[
        float | None,
        typer.Option(help="δ of the limit (default: the largest power of ten that is at most 1/(10·N))."),
    ] = None,
    relation: Relation = "add_or_remove_one",
    close: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="End an abandoned run (its directory or id): frees what it did not spend."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show, limit or tidy what was spent on a data set. Private: do not publish the output.

    "still fits" is the largest ε of one further run that every image's owners allow, if that run is a single
    Gaussian release; `dpvision plan` says how much of another method fits. As a rule it is more than the
    limit less what was spent: compositions do not add up.

    Examples:

        dpvision ledger photos/

        dpvision ledger photos/ --limit-epsilon 8

        dpvision ledger photos/ --close runs/abandoned
    """
    if limit_epsilon is None and limit_delta is not None:
        raise InputError("--limit-delta needs --limit-epsilon beside it")
    from dpvision.api.ledgers import account_of, close_run, ledger_and_images, set_limit
    from dpvision.cli.ledgers import account_text
    from dpvision.privacy import Budget, default_delta

    book, images = ledger_and_images(target, ReadOptions(**choices).choices())
    if limit_epsilon is not None:
        delta = default_delta(book.num_examples) if limit_delta is None else limit_delta
        set_limit(book, images, Budget(limit_epsilon, delta, cast(Any, relation)))
    if close is not None:
        close_run(book, close)
    account = account_of(book, images, target)
    show(account, as_json, account_text(account))


def epsilon(
    noise_multiplier: Annotated[
        float, typer.Option(help="Noise's standard deviation over the clipping norm.")
    ],
    sample_rate: SampleRate,
    steps: Steps,
    delta: Delta,
    accountant: Accountant = "pld",
    relation: Relation = "add_or_remove_one",
    as_json: AsJson = False,
) -> None:
    """Compute the ε that noise, sample rate and steps of DP-SGD amount to.

    Example:

        dpvision epsilon --noise-multiplier 1.5 --sample-rate 0.04 --steps 2250 --delta 1e-5
    """
    spent = _spent(noise_multiplier, sample_rate, steps, delta, accountant, relation)
    show(spent, as_json, f"{spent['epsilon']:.6g}")


def noise(
    target_epsilon: Annotated[float, typer.Option(help="ε to spend; never exceeded.")],
    sample_rate: SampleRate,
    steps: Steps,
    delta: Delta,
    accountant: Accountant = "pld",
    relation: Relation = "add_or_remove_one",
    as_json: AsJson = False,
) -> None:
    """Compute the noise multiplier with which DP-SGD spends a given ε.

    Example:

        dpvision noise --target-epsilon 1 --sample-rate 0.08192 --steps 875 --delta 1e-5
    """
    from dpvision import privacy

    budget = privacy.Budget(target_epsilon, delta, cast(Any, relation))
    multiplier = privacy.calibrate_steps(sample_rate, steps, budget, cast(Any, accountant))
    spent = _spent(multiplier, sample_rate, steps, delta, accountant, relation)
    text = f"{multiplier:.6g} (spends epsilon {spent['epsilon']:.6g})"
    show({"noise_multiplier": multiplier} | spent, as_json, text)


def _spent(
    noise_multiplier: float, sample_rate: float, steps: int, delta: float, accountant: str, relation: str
) -> dict[str, Any]:
    """Compute the ε of so much noise, beside what it is for."""
    from dpvision import privacy

    events = [privacy.gaussian_event(noise_multiplier, sample_rate, steps)]
    found = privacy.epsilon(events, delta, cast(Any, relation), cast(Any, accountant))
    return {"epsilon": found, "delta": delta, "accountant": accountant, "neighboring_relation": relation}
