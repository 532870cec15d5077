"""dpvision methods and settings: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer

from dpvision.cli import completion
from dpvision.cli.options import AsJson, checks
from dpvision.cli.output import show
from dpvision.methods.registry import AUTO, check_known, find_method, known_methods

CHOICE = (
    "Choose dp-randp, or dp-sgd where a setting of it alone or of views is given, or images are tiny; "
    "the default"
)


def methods(as_json: AsJson = False) -> None:
    """List the methods: what each makes, and from where it is."""
    from dpvision.methods.documentation import summary

    known = {name: find_method(name) for name in known_methods()}
    found = {AUTO: {"makes": "a classifier", "summary": CHOICE}}
    found |= {name: {"makes": method.makes, "summary": summary(method)} for name, method in known.items()}
    rows = {name: f"makes {each['makes']}: {each['summary']}" for name, each in found.items()}
    show(found, as_json, rows)


@checks(method=check_known)
def settings(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD", help="One of `dpvision methods`.", autocompletion=completion.known_method
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """List a method's settings: name, type and what each does. Defaults follow from what is public of the
    images, ε and the device: `dpvision plan` prints them, and docs/reference/settings.md has an example.

    Example:

        dpvision settings dp-randp
    """
    from dpvision.methods.documentation import documented_settings

    found = documented_settings(find_method(method).config_class)
    rows = {one.name: f"{one.type}: {one.help}" for one in found}
    show({one.name: one.to_json() for one in found}, as_json, rows)
