"""dpvision runs and sweep: what runs there are, how they compare, and many of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpvision import api
from dpvision.api.options import FIGURES, OneClassifier, check_figure, check_sort
from dpvision.api.sweep_plan import Plan
from dpvision.cli.interruption import repeatable
from dpvision.cli.options import AsJson, checks, command
from dpvision.cli.output import columns, duration, printable, show
from dpvision.cli.progress import work_bars
from dpvision.privacy.errors import InputError
from dpvision.runs.places import check_chart, check_folder

if TYPE_CHECKING:
    from dpvision.api.comparing import Runs
    from dpvision.api.run_rows import RunRow

_NOTHING = "–"
OF_EACH_RUN = ("epsilon", "method", "seed")


@checks(folder=check_folder, chart=check_chart, figure=check_figure, sort=check_sort)
def runs(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder with runs or releases in it, or one of them.")
    ],
    chart: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.svg|.png",
            help="Draw the figure against ε, by method; runs that are not private are hollow.",
            show_default=False,
        ),
    ] = None,
    figure: Annotated[
        str,
        typer.Option(help="Compare by accuracy, or by auc, which is in RUN/private and on no card."),
    ] = "accuracy",
    sort: Annotated[
        str, typer.Option(help="By name, method, epsilon, accuracy (the best first) or started.")
    ] = "name",
    as_json: AsJson = False,
) -> None:
    """List the runs in a folder and compare them: ε, accuracy, how far they are, and what they cost together.

    A run is paid if what it cost is in a ledger; unpaid with a fixed seed, without a ledger, or if its images
    were said to be public. Private: do not publish the output, but for what the runs' cards say.

    Examples:

        dpvision runs runs/

        dpvision runs runs/ --sort accuracy --chart runs.svg
    """
    found = api.runs_in(folder, sort=sort)
    if chart is not None:
        from dpvision.api.run_chart import write_chart

        write_chart(found, chart, figure)
    show(found.to_json(), as_json, runs_text(found, figure))


@command(OneClassifier, without=OF_EACH_RUN)
def sweep(
    found: dict[str, Any],
    as_json: bool,
    methods: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME,…", help="The methods to compare; see `dpvision methods`."),
    ] = None,
    epsilons: Annotated[str | None, typer.Option(metavar="ε,ε,…", help="The ε to compare them at.")] = None,
    seeds: Annotated[
        int, typer.Option(metavar="N", help="Runs of each method and ε, every one with noise of its own.")
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The folder of the runs: METHOD-epsE-run1 and so on."),
    ] = None,
    unpaid: Annotated[
        bool,
        typer.Option(
            "--unpaid",
            help="The images are public, as those of benchmarks: the runs are in no account of theirs, and "
            "their cards say so. Refused where a ledger here has the images.",
        ),
    ] = False,
) -> None:
    """Train by several methods at several ε, a few times each; then compare the runs, and chart them.

    Examples:

        dpvision sweep photos/ --methods dp-randp,dp-ridge --epsilons 1,3,8 --seeds 3 --out sweeps/photos

        dpvision sweep cifar/ --methods dp-randp,dp-sgd --epsilons 1,8 --out sweeps/cifar --unpaid
        --set dp-sgd.augmult=4

    Every run counts against the owner's limit, unless the images are public. The same command goes on after
    an interruption, and with more methods, ε or seeds. A run that fails is reported, and the others go on;
    then the exit code is 1. FOLDER has sweep.json and sweep.svg beside the runs.
    """
    folder = out or found.get("out")
    needed = {"DATA": found.get("data"), "--methods": methods, "--epsilons": epsilons, "--out": folder}
    for flag, value in needed.items():
        if value is None:
            raise InputError(f"{flag} is missing; give it on the command line")
    found.pop("out", None)
    named = [name.strip() for name in str(methods).split(",")]
    data, numbers = found.pop("data"), _numbers(str(epsilons))
    Plan(data, named, numbers, Path(str(folder)), seeds, unpaid, found).check_places()
    with repeatable(), work_bars() as progress:
        done = api.sweep(
            data,
            methods=named,
            epsilons=numbers,
            seeds=seeds,
            out=str(folder),
            unpaid=unpaid,
            progress=progress,
            **found,
        )
    failed = list(_together(done.failed.items(), "failed: "))
    chart = "no run has a test accuracy to draw" if done.chart is None else f"chart: {done.chart}"
    text = "\n\n".join([runs_text(done.runs), *(["\n".join(failed)] if failed else []), chart])
    show(done.to_json(), as_json, text)
    if failed:
        raise typer.Exit(1)


def _numbers(text: str) -> list[float]:
    """Return numbers that are separated by commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--epsilons {text}: must be numbers with commas between them, such as 1,3,8"
        ) from None


def runs_text(found: Runs, figure: str = "accuracy") -> str:
    """Write runs as a table: what is the same of all of them above it, and what has to be said beneath."""
    if not found.rows:
        return f"there are no runs in {found.folder}"
    parts = {head: [cell(row) for row in found.rows] for head, cell in _columns(figure).items()}
    same = {
        head: max(cells, key=lambda cell: cell != _NOTHING)
        for head, cells in parts.items()
        if len(cells) > 1 and head in _OFTEN_THE_SAME and len({*cells} - {_NOTHING}) == 1
    }
    shown = {head: cells for head, cells in parts.items() if head not in same and set(cells) != {_NOTHING}}
    told = ", ".join(f"{head} {value}" for head, value in same.items())
    lines = zip(*shown.values(), strict=True)
    texts = [f"all: {told}"] if told else []
    texts.append(columns([list(shown), *map(list, lines)]))
    notes = [printable(note, breaks=False) for note in found.notes]
    return "\n\n".join(filter(None, [*texts, "\n".join(_reasons(found.rows)), "\n".join(notes)]))


def _epsilon(row: RunRow) -> str:
    if row.epsilon is not None:
        return f"{row.epsilon:.4g}"
    return _NOTHING if row.target_epsilon is None else f"{row.target_epsilon:g} planned"


def _figure(row: RunRow, figure: str) -> str:
    found = row.figure(figure)
    if found is None:
        return _NOTHING
    value, low, high = (f"{one:.4f}" if figure == "auc" else f"{one:.2%}" for one in found)
    return f"{value} ({low} to {high})"


def _state(row: RunRow) -> str:
    if row.state not in ("interrupted", "running"):
        return row.state
    if row.has_learned:
        return f"{row.state}, has learned"
    return row.state if row.step is None else f"{row.state} at step {row.step} of {row.steps}"


def _private(row: RunRow) -> str:
    return {True: "yes", False: "NO", None: _NOTHING}[row.is_private]


def _started(row: RunRow) -> str:
    try:
        return f"{datetime.fromisoformat(row.started or ''):%Y-%m-%d %H:%M}"
    except ValueError:
        return _NOTHING


def _or_nothing(value: object) -> str:
    return _NOTHING if value is None else str(value)


def _columns(figure: str) -> dict[str, Callable[[RunRow], str]]:
    """Return what each column says of a run, by its head."""
    return {
        "run": lambda row: row.name,
        "method": lambda row: _or_nothing(row.method),
        "data": lambda row: _NOTHING if row.data is None else Path(row.data).name,
        "ε": _epsilon,
        "δ": lambda row: _NOTHING if row.delta is None else f"{row.delta:g}",
        "relation": lambda row: _or_nothing(row.neighboring_relation),
        "unit": lambda row: _or_nothing(row.unit),
        "private": _private,
        "cost": lambda row: row.cost,
        "state": _state,
        f"{FIGURES[figure]} (95 %)": lambda row: _figure(row, figure),
        "n": lambda row: _or_nothing(row.test_total),
        "images": lambda row: _or_nothing(row.images),
        "started (UTC)": _started,
        "time": lambda row: _NOTHING if row.seconds is None else duration(row.seconds),
    }


_OFTEN_THE_SAME = ("data", "δ", "relation", "unit", "n")


def _reasons(rows: Sequence[RunRow]) -> Iterator[str]:
    """Say what is wrong with runs."""
    from dpvision.api.run_rows import PUBLIC

    said: list[tuple[str, str]] = []
    for row in rows:
        if row.problem is not None:
            said.append((row.name, f"damaged: {row.problem}"))
        elif row.not_private_because:
            said.append((row.name, f"NOT PRIVATE: {'; '.join(row.not_private_because)}"))
        elif row.cost != "paid" and row.cost_because != PUBLIC:  # that is among the notes
            said.append((row.name, f"{row.cost}: {row.cost_because}"))
    return _together(said)


def _together(said: Iterable[tuple[str, str]], what: str = "") -> Iterator[str]:
    """Say of runs, by name, what is to be said: those together of which it is the same."""
    names: dict[str, list[str]] = {}
    for name, of_run in said:
        names.setdefault(of_run, []).append(name)
    for of_runs, some in names.items():
        yield printable(f"{', '.join(some)}: {what}{of_runs}", breaks=False)
