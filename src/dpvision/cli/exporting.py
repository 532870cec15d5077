"""dpvision export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from dpvision import api
from dpvision.cli.options import AsJson, Run, checks
from dpvision.cli.output import show, table
from dpvision.runs.places import check_export, find_release


@checks(run=find_release)
def export(
    run: Run,
    onnx: Annotated[
        Path | None,
        typer.Option(metavar="FILE.onnx", help="Write ONNX to this new file.", show_default=False),
    ] = None,
    torch: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write what torch and safetensors load alone to this new folder.",
            show_default=False,
        ),
    ] = None,
    input: Annotated[
        str,
        typer.Option(
            help="What a classifier in ONNX takes images as: uint8, or float32 in 0 to 1. For torch it "
            "takes either."
        ),
    ] = "uint8",
    as_json: AsJson = False,
) -> None:
    """Write a released model as ONNX, or for torch alone, and check that it computes the same.

    Examples:

        dpvision export run --onnx model.onnx

        dpvision export run --torch model

    A generator takes labels and normal noise, and gives images in 0 to 1. A file that does not compute what
    the model does, at batches of 1, 2, 7 and 64, is not written.
    """
    check_export(onnx, torch)
    found = api.export(run, onnx=onnx, torch=torch, input=cast(Any, input))
    text = "\n\n".join(table(_rows(one)) for one in found.values())
    show({form: one.to_json() for form, one in found.items()}, as_json, text)


def _rows(one: api.Exported) -> dict[str, object]:
    """Return what people are told of one form."""
    told: dict[str, object] = {"wrote": one.place, "bytes": one.bytes}
    told |= {f"input {name}": described for name, described in one.inputs.items()}
    if one.agreement is None:
        return told | {"checked": "no: onnxruntime is not installed; pip install 'dpvision[onnx]'"}
    sizes = ", ".join(map(str, one.agreement.batch_sizes))
    told |= {"largest difference": f"{one.agreement.largest_difference:.2g}, at batches of {sizes}"}
    if one.agreement.differing:
        told["differing"] = f"{one.agreement.differing} of {sum(one.agreement.batch_sizes)} images"
    return told
