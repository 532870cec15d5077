"""dpvision evaluate and predict."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpvision import api
from dpvision.cli.figures import NOT_COVERED, by_class, summary
from dpvision.cli.options import AsJson, Run, checks, reads_images_for_a_model, with_settings
from dpvision.cli.output import printable, show, table
from dpvision.cli.progress import work_bars
from dpvision.images.places import check_exists
from dpvision.priors.phase_one.places import check_prior_files
from dpvision.privacy.errors import InputError
from dpvision.runs.files import writing_whole
from dpvision.runs.places import find_release

if TYPE_CHECKING:
    from dpvision.api import Prediction
    from dpvision.runs import Progress

Split = Annotated[
    str | None,
    typer.Option(help="train, val or test (default: test where there is one, or else everything)."),
]


@checks(run=find_release, data=check_exists, encoder=check_prior_files)
@reads_images_for_a_model
def evaluate(
    run: Run,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Labelled images, as for train.")],
    choices: dict[str, Any],
    split: Split = None,
    positive: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="Of a classifier: the class of sensitivity and specificity (default: the second of two).",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Of a classifier: the least probability of that class that counts as it (default: 0.5).",
            show_default=False,
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Of synthetic images: whose features to compare (default: wrn-10-4-small's).",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of the encoder. Repeat for more."),
    ] = None,
    neighbours: Annotated[
        bool,
        typer.Option(
            "--neighbours",
            help="Of synthetic images: write RUN/private/neighbours.png, the private images nearest to some.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure what a run released, on real images, with 95 % intervals.

    Of a classifier: accuracy beside that of always saying the commonest class, balanced accuracy, AUC,
    calibration error, log loss, sensitivity and specificity; and of each class recall, precision,
    specificity and AUC, with the confusion matrix. Of synthetic images: the accuracy of classifiers that
    learn from them, and how far their features are from those of the real ones.

    The images are not covered by the run's guarantee: publish the figures only if they are not private.
    """
    encoder_options = with_settings({}, settings or [])
    from dpvision.networks.image_generator import ImageGenerator

    if isinstance(api.load(run), ImageGenerator):
        if positive is not None or threshold is not None:
            raise InputError(f"{run} released images: --positive and --threshold are for classifiers")
        with work_bars() as progress:
            rows = api.evaluate_images(
                run,
                data,
                split,
                encoder=encoder,
                encoder_options=encoder_options,
                neighbours=neighbours,
                progress=progress,
                **choices,
            )
        text = "\n".join(
            f"{row.name:36}  {row.value:9.4f}  ({row.low:.4f} to {row.high:.4f})\n    {row.how}"
            for row in rows
        )
        show({"rows": [asdict(row) for row in rows]}, as_json, text)
        return
    if encoder or settings or neighbours:
        raise InputError(f"{run} released a classifier: --encoder, --set and --neighbours are for images")
    with work_bars() as progress:
        report = api.evaluate(
            run, data, split, positive=positive, threshold=threshold, progress=progress, **choices
        )
    parts = [table(summary(report)), by_class(report), "\n".join([*report.notes, NOT_COVERED])]
    show(report.to_json(), as_json, "\n\n".join(parts))


@checks(run=find_release, images=check_exists)
@reads_images_for_a_model
def predict(
    run: Run,
    images: Annotated[
        str, typer.Argument(metavar="IMAGES", help="A folder of images, one image, or data as for train.")
    ],
    choices: dict[str, Any],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Where to write (default: stdout).")
    ] = None,
    split: Split = None,
) -> None:
    """Classify images. Writes CSV: name, class, probability, the probability of each class, and error.

    Images that cannot be read come last, with the error; then the exit code is 1.

    Examples:

        dpvision predict runs/photos new-photos/ --out classes.csv

        dpvision predict runs/photos cat.jpg
    """
    is_whole = True
    with _destination(out) as (write, progress):
        for line, error in _lines(api.predictions(run, images, split, progress=progress, **choices)):
            write(line)
            is_whole &= error is None
    if not is_whole:
        raise typer.Exit(1)


@contextmanager
def _destination(out: Path | None) -> Iterator[tuple[Callable[[str], object], Progress | None]]:
    """Yield what writes lines to a file, whole or not at all, or to stdout, and what tells of progress: not
    beside lines on stdout, which bars would take for theirs.
    """
    if out is None:
        yield lambda line: typer.echo(printable(line), nl=False), None
        return
    with work_bars() as progress, writing_whole(out) as file:
        yield lambda line: file.write(line.encode(errors="backslashreplace")), progress


def _lines(predictions: Iterator[Prediction]) -> Iterator[tuple[str, str | None]]:
    """Yield the lines of a CSV file of predictions, of which there is one at least, and what is wrong with
    the image of each.
    """
    first = next(predictions)
    classes = tuple(first.probabilities)
    # A class may be called "name": its column is not.
    yield _line("name", "class", "probability", *(f"p({name})" for name in classes), "error"), None
    for one in itertools.chain([first], predictions):
        numbers = [f"{number:.6f}" for number in (one.probability, *one.probabilities.values())]
        cells = [""] * (1 + len(classes)) if one.error else numbers
        yield _line(one.name, one.class_name or "", *cells, one.error or ""), one.error


def _line(*cells: str) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
