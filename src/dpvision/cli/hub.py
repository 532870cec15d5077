"""dpvision hub."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dpvision import api
from dpvision.cli.options import AsJson, Run, checks
from dpvision.cli.output import show
from dpvision.runs.places import check_free, find_release


@checks(run=find_release, out=check_free)
def hub(
    run: Run,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder.", show_default=False)],
    license: Annotated[
        str,
        typer.Option(
            metavar="LICENSE",
            help="The licence to give it away under, as the hub calls it: apache-2.0, cc-by-4.0, other, …",
            show_default=False,
        ),
    ],
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Push the folder to a new repository of this name, which is private until you change that "
            "on the hub.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Lay a release out as a repository of the Hugging Face Hub: a model, or a data set of synthetic images.

    Examples:

        dpvision hub run --out hub --license apache-2.0

        dpvision hub images --out hub --license cc-by-4.0 --push owner/name

    The folder has the files of RUN/release, a card as README.md and nothing else of the run. It is a release
    too: verify, load, predict and sample take it.
    """
    found = api.write_hub_folder(run, out, license=license, push=push)
    rows: dict[str, object] = {
        "wrote": f"{out}, a {found.kind}",
        "SHA-256 of its guarantee.json": found.sha256,
        **({"pushed": f"{found.pushed} (private)"} if found.pushed else {}),
    }
    show(asdict(found), as_json, rows)
