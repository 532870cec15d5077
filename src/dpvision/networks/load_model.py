"""Load the model beside this file, with nothing but torch and safetensors:

    from load_model import load_model
    model = load_model()  # logits = model(images), of uint8 [N, C, H, W], or floating point in [0, 1]

graph.json lists operations of torch, which are called one after the other. It names no other code.
"""

import json
import operator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

OPERATIONS = """
_unsafe_view _upsample_bilinear2d_aa adaptive_avg_pool2d addcmul affine_grid_generator baddbmm chunk
clamp_min conv1d conv2d conv3d conv_transpose2d einsum eye fft_fft2 fft_ifft2 flatten grid_sampler
group_norm hardsigmoid hardswish im2col layer_norm linalg_vector_norm linear log_softmax masked_fill
matmul max_pool2d mish one_hot pad pixel_shuffle pixel_unshuffle prelu scaled_dot_product_attention silu
softmax softplus special_ndtr split square stack transpose unbind unflatten upsample_bicubic2d
view_as_complex view_as_real where zeros_like
"""  # that networks are made of, beside those of torch's core
ARITHMETIC = ("add", "sub", "mul", "floordiv", "mod", "neg", "getitem")  # on sizes, and of tuples


class Model(torch.nn.Module):
    """Computes what a graph says. Its numbers are buffers, so ``to`` and ``state_dict`` do what they do."""

    def __init__(self, graph: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.graph = graph  # also class_names, epsilon, delta and more
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, *inputs: Tensor) -> Tensor:
        if inputs[0].dtype == torch.uint8:
            inputs = (inputs[0].float() / 255, *inputs[1:])
        values: dict[str, Any] = dict(zip(self.graph["inputs"], inputs, strict=True))
        values.update(self.named_buffers())

        def read(x: Any) -> Any:  # an argument, as graph.json has it
            if isinstance(x, list):
                return [read(one) for one in x]
            if not isinstance(x, dict):
                return x
            ((kind, name),) = x.items()
            if kind == "device":
                return inputs[0].device
            if kind == "value":
                return values[name]
            found = getattr(torch, name) if kind == "torch" else None
            if not isinstance(found, torch.dtype | torch.memory_format):
                raise ValueError(f"{x} is no argument of an operation")
            return found

        for name, operation, args, kwargs, done in self.graph["operations"]:
            values[name] = find(operation)(*read(args), **{key: read(x) for key, x in kwargs.items()})
            for one in done:  # no later operation needs it
                del values[one]
        return values[self.graph["output"]]


def find(operation: str) -> Any:
    """Return an operation by its name: torch's ``aten.NAME.OVERLOAD``, or ``arithmetic.NAME``."""
    kind, name, *overload = operation.split(".")
    if kind == "arithmetic" and name in ARITHMETIC:
        return getattr(operator, name)
    found = getattr(getattr(torch.ops.aten, name), *overload) if kind == "aten" else None
    if not isinstance(found, torch._ops.OpOverload) or not may_call(found):
        raise ValueError(f"{operation} is no operation of networks")
    return found


def may_call(operation: torch._ops.OpOverload) -> bool:
    """Say whether an operation is one of those above, or of torch's core; none that changes its arguments."""
    if operation._schema.is_mutable:
        return False
    is_core = torch.Tag.core in operation.tags and torch.Tag.nondeterministic_seeded not in operation.tags
    return is_core or operation._schema.name.removeprefix("aten::") in OPERATIONS.split()


def load_model(folder: str | Path = Path(__file__).parent) -> Model:
    """Return the model in a folder, on the CPU."""
    graph = json.loads(Path(folder, "graph.json").read_text(encoding="utf-8"))
    return Model(graph, load_file(Path(folder, "model.safetensors"))).eval()
