"""dpvision evaluate and predict."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated

import typer

from dpvision.cli.options import AsJson
from dpvision.cli.output import show, show_messages

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory, or its release directory.")]
Split = Annotated[
    str | None,
    typer.Option(help="train, val or test (default: test where there is one, or else everything)."),
]


def evaluate(
    run: Run,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Labelled images, as for train.")],
    split: Split = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model's accuracy on labelled images, with its 95 % interval.

    The images are not covered by the run's guarantee: publish the figure only if they are not private.
    """
    show_messages()
    from dpvision import api

    accuracy = api.evaluate(run, data, split)
    fields = {
        "accuracy": accuracy.value,
        "interval_95": list(accuracy.interval),
        "correct": accuracy.correct,
        "total": accuracy.total,
    }
    show(fields, as_json, f"accuracy {accuracy}")


def predict(
    run: Run,
    images: Annotated[
        str, typer.Argument(metavar="IMAGES", help="A folder of images, one image, or data as for train.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Where to write (default: stdout).")
    ] = None,
    split: Split = None,
) -> None:
    """Classify images. Writes CSV: name, class, probability.

    Examples:

        dpvision predict runs/photos new-photos/ --out classes.csv

        dpvision predict runs/photos cat.jpg
    """
    show_messages()
    from dpvision import api
    from dpvision.runs.files import write_atomically

    predictions = api.predict(run, images, split)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "class", "probability"])
    writer.writerows([p.name, p.class_name, f"{p.probability:.6f}"] for p in predictions)
    if out:
        write_atomically(out, text.getvalue().encode())
    else:
        typer.echo(text.getvalue(), nl=False)
