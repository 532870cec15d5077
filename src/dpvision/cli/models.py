"""dpvision evaluate and predict."""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpvision import api
from dpvision.api.options import FilePath, option
from dpvision.cli import completion
from dpvision.cli.figures import NOT_COVERED, by_class, images_table, summary
from dpvision.cli.options import (
    AsJson,
    Run,
    checks,
    flag_of,
    options_of,
    reads_images_for_a_model,
    with_settings,
)
from dpvision.cli.output import printable, show, table
from dpvision.cli.progress import work_bars
from dpvision.images.places import check_exists
from dpvision.priors.phase_one.places import check_prior_files
from dpvision.privacy.errors import InputError
from dpvision.runs.files import writing_whole
from dpvision.runs.places import find_release, is_run

if TYPE_CHECKING:
    from dpvision.api import Prediction
    from dpvision.runs import Progress

Split = Annotated[
    str | None,
    typer.Option(help="train, val or test (default: test where there is one, or else everything)."),
]


@dataclass(frozen=True, kw_only=True)
class OfClassifiers:
    """The options of `evaluate` for a run that released a classifier."""

    positive: str | None = option(
        "Of a classifier: the class of sensitivity and specificity; by default the second of two.",
        None,
        metavar="CLASS",
    )
    threshold: float | None = option(
        "Of a classifier: the least probability of that class that counts as it; by default 0.5.", None
    )


@dataclass(frozen=True, kw_only=True)
class OfImages:
    """The options of `evaluate` for a run that released images."""

    images: FilePath | None = option(
        "Of synthetic images: those that dpvision sample drew of the run; by default the run's own.",
        None,
        metavar="FOLDER",
    )
    encoder: str | None = option(
        "Of synthetic images: whose features to compare; by default wrn-10-4-small's.", None
    )
    encoder_options: Sequence[str] | None = option(
        "An option of the encoder. Repeat for more.", None, flag="--set", metavar="KEY=VALUE"
    )
    classifiers: str | None = option(
        "Of synthetic images: who learns from them: logistic, mlp, resnet9, resnet110, wrn-40-4, resnext29, "
        "or dpimagebench for the last three; by default logistic,mlp for small grey images, else resnet9.",
        None,
        metavar="NAME,NAME,…",
    )
    training: Sequence[str] | None = option(
        "How networks among them are trained: steps, batch_size, learning_rate, weight_decay; width of "
        "resnet9. Repeat for more.",
        None,
        metavar="KEY=VALUE",
    )
    reference: bool = option(
        "Of synthetic images: put beside each figure that of as many private images. Private.", False
    )
    copies: bool = option(
        "Of synthetic images: test if they are nearer to private images than to others, and if they tell who "
        "is private. Private.",
        False,
    )
    private: str | None = option(
        "The private images, where the run does not say where they are.", None, metavar="DATA"
    )
    neighbours: bool = option(
        "Of synthetic images: write RUN/private/neighbours.png, the private images nearest to some.", False
    )
    hard_labels: bool = option(
        "Of synthetic images: learn the one class of each, also where the release has soft labels.", False
    )


@checks(
    run=find_release,
    data=check_exists,
    images=check_exists,
    encoder=check_prior_files,
    private=check_exists,
)
@reads_images_for_a_model
@options_of(OfImages, "of_images")
@options_of(OfClassifiers, "of_classifiers")
def evaluate(
    run: Run,
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="Labelled images, as for train.", autocompletion=completion.data),
    ],
    choices: dict[str, Any],
    of_classifiers: dict[str, Any],
    of_images: dict[str, Any],
    split: Split = None,
    as_json: AsJson = False,
) -> None:
    """Measure what a run released, on real images, with 95 % intervals.

    Of a classifier: accuracy beside that of always saying the commonest class, balanced accuracy, AUC,
    calibration error, log loss, sensitivity and specificity; and of each class recall, precision,
    specificity and AUC, with the confusion matrix. Of synthetic images: the accuracy of classifiers that
    learn from them, and how far their features are from those of the real ones.

    The images are not covered by the run's guarantee: publish the figures only if they are not private.
    What --reference, --copies and --neighbours find is private, and in RUN/private too.

    Examples:

        dpvision evaluate runs/photos photos/

        dpvision evaluate runs/synthetic photos/ --classifiers mlp,dpimagebench --training steps=500

        dpvision evaluate runs/synthetic photos/ --reference --copies
    """
    encoder_options = with_settings({}, of_images.get("encoder_options", ()))
    from dpvision.networks.image_generator import ImageGenerator

    model = api.load(run)
    if isinstance(model, ImageGenerator):
        if of_classifiers:
            raise InputError(f"{run} released images: --positive and --threshold are for classifiers")
        asked = of_images | {"encoder_options": encoder_options}
        _evaluate_images(run, data, split, model.image_shape, as_json, **asked, **choices)
        return
    for name in of_images:
        raise InputError(f"{run} released a classifier: {flag_of(OfImages, name)} is for images")
    with work_bars() as progress:
        report = api.evaluate(run, data, split, progress=progress, **of_classifiers, **choices)
    parts = [table(summary(report)), by_class(report), "\n".join([*report.notes, NOT_COVERED])]
    show(report.to_json(), as_json, "\n\n".join(parts))


def _evaluate_images(
    run: Path,
    data: str,
    split: str | None,
    shape: tuple[int, int, int],
    as_json: bool,
    classifiers: str | None = None,
    training: Sequence[str] = (),
    **options: Any,
) -> None:
    """Measure synthetic images of a shape, and show the figures."""
    from dpvision.api.measuring import REAL_IMAGES, SHEET, trainings
    from dpvision.api.membership_inference import NOTICE
    from dpvision.evaluation.downstream import default_classifiers, named_classifiers

    named = named_classifiers(classifiers.split(",")) if classifiers else default_classifiers(shape)
    options |= trainings(named, with_settings({}, training, "--training"))
    has_private = is_run(run) and os.access(run / "private", os.W_OK)
    with work_bars() as progress:
        rows = api.evaluate_images(
            run,
            data,
            split,
            classifiers=named if classifiers else None,
            sheet=has_private,
            progress=progress,
            **options,
        )
    notice = NOTICE if options.keys() & {"reference", "copies"} else REAL_IMAGES
    sheet = str(run / "private" / SHEET) if has_private else None
    lines = [
        images_table(rows),
        notice,
        *([f"sheet of images, not to be published: {sheet}"] if sheet else []),
    ]
    show(
        {"notice": notice, "rows": [asdict(row) for row in rows], "sheet": sheet}, as_json, "\n\n".join(lines)
    )


@checks(run=find_release, images=check_exists)
@reads_images_for_a_model
def predict(
    run: Run,
    images: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES",
            help="A folder of images, one image, or data as for train.",
            autocompletion=completion.data,
        ),
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
