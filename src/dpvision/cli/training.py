"""dpvision train, tune, plan, resume and curves."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from dpvision import api
from dpvision.api.options import PlanOptions, TrainOptions, TuneOptions
from dpvision.cli import STARTED
from dpvision.cli.figures import summary
from dpvision.cli.interruption import interruptible
from dpvision.cli.options import AsJson, SearchFor, checks, command, require, with_searches
from dpvision.cli.output import duration, show
from dpvision.cli.progress import work_bars
from dpvision.images.files import read_json
from dpvision.runs.places import check_run


@command(TrainOptions)
def train(found: dict[str, Any], as_json: bool) -> None:
    """Train a private classifier and release it.

    Examples:

        dpvision train photos/ --epsilon 2 --out runs/photos

        dpvision train mnist/ --epsilon 1 --out runs/mnist --set network=tanh-cnn --set steps=800

        dpvision train --config recipe.toml --out runs/recipe

        dpvision train photos/ --epsilon 1 --from runs/photos --out runs/more

    RUN/release may be published: the weights, a configuration that rebuilds the network, and the release
    card. RUN/private may not.
    """
    require(TrainOptions, found)
    with interruptible(run=found["out"]), work_bars() as progress:
        result = api.train(found.pop("data"), **found, progress=progress)
    show_result(result, as_json)


@command(TuneOptions)
def tune(found: dict[str, Any], as_json: bool, search: SearchFor = None) -> None:
    """Tune settings on the private images, and release the best classifier, all within one budget.

    Examples:

        dpvision tune photos/ --epsilon 2 --out runs/tuned --search learning_rate=10,30 --search steps=50,100

        dpvision tune mnist/ --epsilon 1 --out runs/mnist --search network=linear,tanh-cnn --trials 4

    A random number of trials are trained, each with settings that are drawn from all combinations. The best
    is released, by a noisy count of the training images it has right, and nothing of the others. The budget
    pays for the choice too, so that each trial has more noise than a run of `train` would have: `plan` with
    the same options says how much.
    """
    with_searches(found, search)
    require(TuneOptions, found)
    with interruptible(run=found["out"]), work_bars() as progress:
        result = api.tune(found.pop("data"), **found, progress=progress)
    show_result(result, as_json)


@command(PlanOptions, is_run=False)
def plan(found: dict[str, Any], as_json: bool, search: SearchFor = None) -> None:
    """Show what train, tune or synthesize would do with the same options. Spends nothing, writes nothing.

    With --method dp-moments, or another that makes images, it is synthesize that is planned.

    Examples:

        dpvision plan photos/ --epsilon 2

        dpvision plan mnist/ --epsilon 1 --set network=wrn-16-4 --set augmult=8 --json

        dpvision plan mnist/ --epsilon 1 --method dp-moments --count 60000

        dpvision plan photos/ --epsilon 2 --search learning_rate=10,30,100
    """
    with_searches(found, search)
    require(PlanOptions, found)
    by_default = "" if found.get("delta") else ", the largest power of ten that is at most 1/(10·N)"
    starting = perf_counter() - STARTED  # which a run does as well
    with work_bars():
        forecast = api.plan(found.pop("data"), **found)
    forecast = replace(forecast, seconds=starting + forecast.seconds)
    rows: dict[str, object] = {
        "method": forecast.method,
        f"{forecast.unit}s": f"{forecast.num_examples}{', of images' if forecast.unit == 'unit' else ''} of "
        f"{'×'.join(map(str, forecast.image_shape))}, {forecast.num_classes} classes; "
        f"{forecast.test_examples} to test on",
        **({} if forecast.images is None else {"images": f"{forecast.images} to release"}),
        "epsilon": f"{forecast.epsilon:.6g} ({forecast.neighboring_relation})",
        **_of_earlier(forecast),
        "delta": f"{forecast.delta:g}{by_default}",
        **(_of_tuning(forecast) if forecast.tuning else _of_releases(forecast)),
        "expected time": duration(forecast.seconds),
        "expected memory": f"{forecast.memory_bytes / 2**20:.0f} MiB",
    }
    rows |= _of_limit(forecast)
    if not forecast.tuning:
        rows |= {f"  {name}": value for name, value in asdict(forecast.config).items()}
    show(asdict(forecast), as_json, rows)


def _of_earlier(forecast: api.Forecast) -> dict[str, object]:
    """Say what a run costs together with what it takes up: an earlier run, a synthetic pool."""
    all_of_it = forecast.epsilon_with_earlier
    if all_of_it is None:
        return {}
    return {"  with earlier releases": f"{all_of_it:.6g}, which the card would state"}


def _of_releases(forecast: api.Forecast) -> dict[str, object]:
    """Say how a run releases."""
    return {
        "noise multiplier": f"{forecast.noise_multiplier:.6g}",
        "releases": "; ".join(
            f"{stage.count} × {stage.releases}, sample rate {stage.sample_rate:.6g}"
            for stage in forecast.stages
        ),
    }


def _of_tuning(forecast: api.Forecast) -> dict[str, object]:
    """Say what each candidate's noise would be, and without tuning."""
    tuning = forecast.tuning
    assert tuning is not None
    return {
        "trials": f"{tuning.trials:g} on average, of {len(tuning.candidates)} candidates; at least one",
        "score": f"training {forecast.unit}s that are right, with noise of standard deviation "
        f"{tuning.score_noise:.4g}",
        **{
            f"  {', '.join(f'{name}={value}' for name, value in one.settings.items())}": (
                f"noise multiplier {one.noise_multiplier:.4g}; train alone {one.alone:.4g}"
            )
            for one in tuning.candidates
        },
    }


def _of_limit(forecast: api.Forecast) -> dict[str, object]:
    """Say what the limits of the images' owners say of a run."""
    from dpvision.privacy.standing import round_down

    after, limit, fits = forecast.epsilon_after, forecast.epsilon_limit, forecast.epsilon_fits
    if limit is None or fits is None:
        return {"after this run": f"ε {after:.4g} in all; no owner has set a limit"}
    if forecast.allowed:
        said = f"ε {after:.4g} of {limit:g}, allowed"
    else:
        whom = f"{forecast.images_after} {forecast.after_of}s"
        said = f"NOT allowed: would bring {whom} to ε {after:.4g} of {limit:g}"
    largest = f"--epsilon {round_down(fits):g}" if fits else "nothing"
    return {"after this run": said, "still fits": f"{largest}, by this method and these settings"}


@checks(run=check_run)
def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of the interrupted run.")],
    as_json: AsJson = False,
) -> None:
    """Go on with a run that was interrupted.

    What it had paid for stays paid: steps whose result was lost when the process was killed are not taken
    again.
    """
    with interruptible(run=run), work_bars() as progress:
        result = api.resume(run, progress=progress)
    show_result(result, as_json)


@checks(run=check_run)
def curves(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory.")],
    as_json: AsJson = False,
) -> None:
    """Write the curves of a run as CSV, while it works or later.

    Example:

        dpvision curves runs/photos

    RUN/private/curves.csv has a row for each step: loss, gradient norm, clipped share, batch size, learning
    rate, seconds, and the ε so far. A step that was taken
    again after an interruption has one row, of the last time; its ε counts both. PRIVATE: no noise covers it.
    Nothing is spent.
    """
    from dpvision.api.watching import NOTICE

    path = api.curves(run)
    show(
        {"notice": NOTICE, "curves": str(path)},
        as_json,
        {"NOT FOR PUBLICATION": NOTICE, "curves": path},
    )


def show_result(result: api.Result | api.Synthesis, as_json: bool) -> None:
    """Show what a run has released and, to whoever ran it alone, how much of the owner's limit is used."""
    from dpvision.api.ledgers import limit_used

    fields: dict[str, object] = {"epsilon": result.epsilon, "delta": result.delta}
    rows: dict[str, object] = {"epsilon": f"{result.epsilon:.6g} at delta {result.delta:g}"}
    both = _with_the_pool(result)
    fields["epsilon_with_pool"] = both["epsilon"] if both else None
    if both:
        rows["  with its pool"] = f"{both['epsilon']:.6g} at delta {both['delta']:g}, of who is in both runs"
    if isinstance(result, api.Synthesis):
        fields["count"] = rows["images"] = result.count
    else:
        test = result.test_accuracy
        fields["test_accuracy"] = test.value if test else None
        fields["test_interval_95"] = list(test.interval) if test else None
        fields["test_total"] = test.total if test else None
        fields["test"] = result.test_report.to_json() if result.test_report else None
        rows |= _of_test(result)
    rows |= _tuned_settings(result)
    used = limit_used(result.release.parent)
    fields["epsilon_counted"] = used.epsilon if used else None
    fields["epsilon_limit"] = used.limit.budget.epsilon if used else None
    if used:
        rows["owner's limit"] = f"ε {used.epsilon:.4g} of {used.limit.budget.epsilon:g} used"
    fields["release"] = str(result.release)
    rows["release"] = f"{result.release} (card: {result.release / 'card.html'})"
    show(fields, as_json, rows)


def _with_the_pool(result: api.Result | api.Synthesis) -> dict[str, float] | None:
    """Return what a run and the one that made its pool cost together, if that was made of private images."""
    guarantee = (read_json(result.release / "card.json").get("pool") or {}).get("guarantee")
    return guarantee["with_this_run"] if guarantee else None


def _of_test(result: api.Result) -> dict[str, object]:
    """Say how good a classifier is on the test images."""
    rows: dict[str, object] = {
        "test accuracy": result.test_accuracy or "not measured: there are no test images"
    }
    if result.test_report:
        rows |= {name: value for name, value in summary(result.test_report).items() if name != "accuracy"}
        rows["all, by class"] = (
            f"{result.release.parent / 'private' / 'test.json'}; the accuracy is on the card"
        )
    return rows


def _tuned_settings(result: api.Result | api.Synthesis) -> dict[str, object]:
    """Say which settings were chosen, where some were tuned."""
    card = read_json(result.release / "card.json")
    return {f"  {name}": card["config"][name] for name in card.get("tuning", {}).get("search", {})}
