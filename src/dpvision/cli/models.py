"""dpvision evaluate and predict."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dpvision import api
from dpvision.cli.options import AsJson, Run, checks, with_settings
from dpvision.cli.output import printable, show, work_bars
from dpvision.images.places import check_exists
from dpvision.priors.phase_one.places import check_prior_files
from dpvision.privacy.errors import InputError
from dpvision.runs.files import write_atomically
from dpvision.runs.places import find_release

Split = Annotated[
    str | None,
    typer.Option(help="train, val or test (default: test where there is one, or else everything)."),
]


@checks(run=find_release, data=check_exists, encoder=check_prior_files)
def evaluate(
    run: Run,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Labelled images, as for train.")],
    split: Split = None,
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

    Of a classifier, its accuracy. Of synthetic images, the accuracy of classifiers that learn from them, and
    how far their features are from those of the real ones.

    The images are not covered by the run's guarantee: publish the figures only if they are not private.
    """
    encoder_options = with_settings({}, settings or [])
    from dpvision.networks.generators import Generator

    if isinstance(api.load(run), Generator):
        with work_bars() as progress:
            rows = api.evaluate_images(
                run,
                data,
                split,
                encoder=encoder,
                encoder_options=encoder_options,
                neighbours=neighbours,
                progress=progress,
            )
        text = "\n".join(
            f"{row.name:36}  {row.value:9.4f}  ({row.low:.4f} to {row.high:.4f})\n    {row.how}"
            for row in rows
        )
        show({"rows": [asdict(row) for row in rows]}, as_json, text)
        return
    if encoder or settings or neighbours:
        raise InputError(f"{run} released a classifier: --encoder, --set and --neighbours are for images")
    accuracy = api.evaluate(run, data, split)
    fields = {
        "accuracy": accuracy.value,
        "interval_95": list(accuracy.interval),
        "correct": accuracy.correct,
        "total": accuracy.total,
    }
    show(fields, as_json, f"accuracy {accuracy}")


@checks(run=find_release, images=check_exists)
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
    predictions = api.predict(run, images, split)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "class", "probability"])
    writer.writerows([p.name, p.class_name, f"{p.probability:.6f}"] for p in predictions)
    if out:
        write_atomically(out, text.getvalue().encode(errors="backslashreplace"))
    else:
        typer.echo(printable(text.getvalue()), nl=False)
