"""A traced model as an ONNX file, and what onnxruntime makes of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dpvision.images.extras import import_extra
from dpvision.networks.agreement import Run
from dpvision.networks.tracing import Traced, quietly, reason
from dpvision.privacy.errors import InputError

BATCH = "batch"
"""What the number of images is called in the shapes of inputs and outputs."""
OPSET = 20
LARGEST = 2**31 - 2**24
"""Bytes of all tensors that fit into one file, whose format ends at 2 GiB."""


def check_exporter() -> None:
    """Raise InputError unless what torch needs to write ONNX is installed."""
    import_extra("onnx", "exporting to ONNX", "onnx")
    import_extra("onnxscript", "exporting to ONNX", "onnx")


def runner(content: bytes) -> Run | None:
    """Return what runs an ONNX file by onnxruntime, on the CPU, and gives its first output; None where
    onnxruntime is not installed.

    Raises:
        InputError: onnxruntime does not take the file.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    onnxruntime = import_extra("onnxruntime", "checking an ONNX file", "onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised too
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(f"onnxruntime does not take the model: {reason(error)}") from error

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        given = {name: tensor.numpy() for name, tensor in inputs.items()}
        try:
            return torch.from_numpy(session.run(None, given)[0])
        except Exception as error:
            raise InputError(f"onnxruntime does not run the model: {reason(error)}") from error

    return run


def onnx_bytes(traced: Traced, facts: Mapping[str, str]) -> bytes:
    """Return a traced model as an ONNX file, with facts about it as its metadata. This is torch's exporter,
    and so what `check_exporter` looks for.

    Raises:
        InputError: something in the model has no form in ONNX, or it is too large for one file.
    """
    size = sum(tensor.nbytes for tensor in traced.program.state_dict.values())
    if size > LARGEST:
        raise InputError(
            f"the model has {size / 2**30:.1f} GiB of numbers, more than the 2 GiB of an ONNX file; "
            "export it for torch instead"
        )
    try:
        with quietly():
            program = torch.onnx.export(
                traced.program,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=list(traced.inputs),
                output_names=list(traced.outputs),
            )
    except Exception as error:  # of whatever kind, for a network may be any
        raise InputError(f"the model has no form in ONNX: {reason(error.__cause__ or error)}") from error
    assert program is not None
    model = program.model_proto
    _remove_sources(model)
    del model.graph.value_info[:]  # shapes of what is between, which follow
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    model.producer_name = "dpvision"
    for name, fact in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, fact
    return model.SerializeToString(deterministic=True)


def _remove_sources(message: Any) -> None:
    """Remove what torch notes of where each part of a model comes from, at any depth: lines of the code that
    was traced, with its comments and the paths of its files.
    """
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for one in [value] if hasattr(value, "ListFields") else value:
                _remove_sources(one)
