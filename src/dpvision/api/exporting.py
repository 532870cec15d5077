"""Write what a run released in forms that others read: ONNX, and files for torch alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from dpvision.api.using import load
from dpvision.images.files import parse_json, read_text_file, reading
from dpvision.networks import Classifier
from dpvision.networks.agreement import Agreement, compared
from dpvision.networks.graph_file import LOADER, graph_of, loaded
from dpvision.networks.image_generator import ImageGenerator
from dpvision.networks.tracing import Pixels, examples, trace
from dpvision.networks.weights import safetensors_bytes
from dpvision.privacy.errors import InputError
from dpvision.reports.guarantee_file import not_private_because, unit_of
from dpvision.runs.files import json_bytes, write_atomically, write_folder
from dpvision.runs.onnx_file import check_exporter, onnx_bytes, runner
from dpvision.runs.places import check_export, check_outside, find_release

_LONGEST_CARD = 2**24
"""Bytes of a card that are read at most."""


@dataclass(frozen=True)
class Exported:
    """What was written of one form.

    Attributes:
        place: the ONNX file, or the folder for torch.
        inputs: the types and shapes of the inputs by their names; ``N`` is any number.
        bytes: the size of all files.
        agreement: how it compares with the model, or None where onnxruntime is not installed.
    """

    place: Path
    inputs: Mapping[str, str]
    bytes: int
    agreement: Agreement | None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON types."""
        agreement = self.agreement and self.agreement.to_json()
        return {
            "place": str(self.place),
            "inputs": dict(self.inputs),
            "bytes": self.bytes,
            "agreement": agreement,
        }


def export(
    run: str | os.PathLike[str],
    *,
    onnx: str | os.PathLike[str] | None = None,
    torch: str | os.PathLike[str] | None = None,
    input: Pixels = "uint8",
    network: Any = None,
) -> dict[str, Exported]:
    """Write the classifier or generator of a release as ONNX, or for torch alone. It is as private as the
    release, of which nothing else is read.

    Each form is compared with the model at several batch sizes before anything is written.

    Args:
        run: a run's directory or release directory.
        onnx: the file, called \\*.onnx, made here.
        torch: the folder, made here, of model.safetensors, graph.json and load_model.py, which loads both.
        input: the type of the images that a classifier in ONNX takes: uint8, or float32 in [0, 1]. For torch
            it takes either.
        network: the network of the classifier, if it was a user's own and this process does not know it.

    Returns:
        What was written, by "onnx" and "torch".

    Raises:
        InputError: there is no release; a place is taken; the model cannot be exported, or what comes of it
            does not compute what the model does.
    """
    if input not in get_args(Pixels):
        raise InputError(f"input must be one of {', '.join(get_args(Pixels))}, not '{input}'")
    check_export(onnx, torch)
    release = find_release(run)
    for place in (onnx, torch):
        if place is not None:
            check_outside(place, release)
    if onnx is not None and torch is not None and os.path.realpath(onnx) == os.path.realpath(torch):
        raise InputError(f"{onnx} is named for both forms; name two places")
    if onnx is not None:
        check_exporter()
    model = load(release, network)
    facts = _facts(release, model)
    files: dict[str, bytes] = {}
    exported: dict[str, Exported] = {}
    if torch is not None:
        files, exported["torch"] = _for_torch(model, facts, Path(torch))
    if onnx is not None:
        content, exported["onnx"] = _as_onnx(model, facts, Path(onnx), input)
        write_atomically(Path(onnx), content, public=True)
    if torch is not None:
        try:
            write_folder(Path(torch), files, mode=0o755)
        except BaseException:
            if onnx is not None:
                Path(onnx).unlink(missing_ok=True)  # both, or neither
            raise
    return exported


def _for_torch(
    model: Classifier | ImageGenerator, facts: Mapping[str, Any], out: Path
) -> tuple[dict[str, bytes], Exported]:
    """Return the files for torch, and how what they make compares."""
    graph, tensors = graph_of(trace(model, "float32"))
    module = loaded(graph, tensors)
    agreement = compared(model, lambda inputs: module(*inputs.values()), str(out))
    files = {
        "graph.json": json_bytes({**facts, **graph}),
        "model.safetensors": safetensors_bytes(tensors),
        LOADER.name: LOADER.read_bytes(),
    }
    described = _described(examples(model, 1))
    return files, Exported(out, described, sum(map(len, files.values())), agreement)


def _as_onnx(
    model: Classifier | ImageGenerator, facts: Mapping[str, Any], out: Path, input: Pixels
) -> tuple[bytes, Exported]:
    """Return the ONNX file, and how what onnxruntime makes of it compares."""
    as_texts = {
        name: fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False)
        for name, fact in facts.items()
    }
    content = onnx_bytes(trace(model, input), as_texts)
    run = runner(content)
    agreement = None if run is None else compared(model, run, f"{out}, run by onnxruntime,", input)
    return content, Exported(out, _described(examples(model, 1, input)), len(content), agreement)


def _described(inputs: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the type and the shape of inputs, of which there is one of each here."""
    return {
        name: f"{str(one.dtype).removeprefix('torch.')} [{', '.join(['N', *map(str, one.shape[1:])])}]"
        for name, one in inputs.items()
    }


def _facts(release: Path, model: Classifier | ImageGenerator) -> dict[str, Any]:
    """Return what an exported model says of itself and of its guarantee, JSON types."""
    content = read_text_file(release / "card.json", _LONGEST_CARD)
    with reading(f"the card in {release}"):
        card = parse_json(content, _LONGEST_CARD)
        return {
            "kind": "classifier" if isinstance(model, Classifier) else "generator",
            "class_names": list(model.class_names),
            "image_shape": list(model.image_shape),
            "epsilon": float(card["epsilon"]),
            "delta": float(card["delta"]),
            "neighboring_relation": str(card["neighboring_relation"]),
            "unit": unit_of(card),
            "not_private_because": not_private_because(card),
            "card_sha256": hashlib.sha256(content).hexdigest(),
            "made_by": f"dpvision {version('dpvision')}",
        }
