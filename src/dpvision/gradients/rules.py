"""Per-example gradients of one layer call, from the layer's input and its output's gradient: one function per
kind of layer.

A rule is called as ``rule(layer, x, g, examples, ghost)``. The input ``x`` and the output's gradient ``g``
hold ``examples`` · K rows, the K views of an example next to each other. It returns, by name, the per-example
gradient of each of the layer's own parameters, summed over views and positions; or None for a setting that it
does not cover (the call is then replayed, replay.py). ``ghost`` says that the parameters are used only once,
so that their gradients may be left as factors.

To teach the engine a layer, write one function under ``@rule(LayerType)``. Types are matched exactly: a
subclass may compute something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.gradients.convolution import convolution_gradient
from dpvision.gradients.per_example import (
    Factored,
    Instantiated,
    PerExample,
    ghost_is_cheaper,
    widened,
)
from dpvision.gradients.standardized import PulledBack
from dpvision.networks.weight_standardization import WeightStandardizedConv2d

FEW_WEIGHTS = 8
"""The number of weights up to which a standardised filter's gradients are formed, not bounded: most of such a
gradient vanishes when it is pulled back. (Nothing at all is left of two.)
"""

Rule = Callable[[Any, Tensor, Tensor, int, bool], Mapping[str, PerExample] | None]
RULES: dict[type[nn.Module], Rule] = {}


def rule(*kinds: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Register the decorated function as the rule of these layer types."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, function))
        return function

    return register


@rule(nn.Linear)
def linear(layer: nn.Linear, x: Tensor, g: Tensor, examples: int, ghost: bool) -> Mapping[str, PerExample]:
    a = widened(x.reshape(examples, -1, layer.in_features))  # [B, T, D]
    b = widened(g.reshape(examples, -1, layer.out_features))  # [B, T, P]
    product = Factored(
        x=a,
        g=b,
        factors=lambda a, b: (a, b),
        shaped=lambda found: found,
    )
    keep_factors = ghost and ghost_is_cheaper(a.shape[1], a.shape[2], b.shape[2])
    found: dict[str, PerExample] = {
        "weight": product if keep_factors else Instantiated(product.instantiate())
    }
    if layer.bias is not None:
        found["bias"] = Instantiated(b.sum(dim=1))
    return found


@rule(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def convolution(
    layer: Any, x: Tensor, g: Tensor, examples: int, ghost: bool
) -> Mapping[str, PerExample] | None:
    if not _covers(layer, x):
        return None
    found = {"weight": convolution_gradient(layer, layer.weight, x, g, examples, ghost)}
    return found | _bias(layer, g, examples)


@rule(WeightStandardizedConv2d)
def weight_standardized_convolution(
    layer: WeightStandardizedConv2d, x: Tensor, g: Tensor, examples: int, ghost: bool
) -> Mapping[str, PerExample] | None:
    if not _covers(layer, x):
        return None
    weight, gain = layer.weight.detach(), layer.gain.detach()
    gradients = convolution_gradient(layer, weight, x, g, examples, ghost=False).instantiate()
    pulled_back = PulledBack(gradients, weight, gain)
    of_weight: PerExample = pulled_back
    if weight[0].numel() <= FEW_WEIGHTS:
        of_weight = Instantiated(pulled_back.instantiate())
    found: dict[str, PerExample] = {"weight": of_weight, "gain": Instantiated(pulled_back.to_gain)}
    return found | _bias(layer, g, examples)


def _covers(layer: Any, x: Tensor) -> bool:
    """Say whether rules cover the layer: padded by zeros ("same" in 2-D only), with a batch dimension."""
    dimensions = len(layer.kernel_size)
    named_padding = isinstance(layer.padding, str) and dimensions != 2
    return layer.padding_mode == "zeros" and not named_padding and x.ndim == dimensions + 2


def _bias(layer: Any, g: Tensor, examples: int) -> dict[str, PerExample]:
    """Return the gradients of one bias per channel: the output's gradient summed over views and positions."""
    if layer.bias is None:
        return {}
    return {"bias": Instantiated(_by_channel(widened(g), examples))}


def _by_channel(tensor: Tensor, examples: int) -> Tensor:
    """Return ``[B·K, C, …]`` summed over views and positions: ``[B, C]``."""
    # With channels last in memory this is a view, and the sum runs along rows.
    return tensor.movedim(1, -1).reshape(examples, -1, tensor.shape[1]).sum(dim=1)


@rule(nn.LayerNorm)
def layer_norm(
    layer: nn.LayerNorm, x: Tensor, g: Tensor, examples: int, ghost: bool
) -> Mapping[str, PerExample]:
    shape = layer.normalized_shape
    normalized = F.layer_norm(widened(x), shape, eps=layer.eps)
    g = widened(g)
    found = {"weight": Instantiated((normalized * g).reshape(examples, -1, *shape).sum(dim=1))}
    if layer.bias is not None:
        found["bias"] = Instantiated(g.reshape(examples, -1, *shape).sum(dim=1))
    return found


@rule(nn.Embedding)
def embedding(
    layer: nn.Embedding, x: Tensor, g: Tensor, examples: int, ghost: bool
) -> Mapping[str, PerExample] | None:
    if layer.max_norm is not None or layer.scale_grad_by_freq:
        return None
    rows = x.reshape(examples, -1)  # [B, T] row indices
    values = widened(g.reshape(examples, -1, layer.embedding_dim))  # [B, T, D]
    if layer.padding_idx is not None:
        values = values.masked_fill((rows == layer.padding_idx).unsqueeze(2), 0)
    found = values.new_zeros(examples, *layer.weight.shape)
    found.scatter_add_(1, rows.unsqueeze(2).expand_as(values), values)
    return {"weight": Instantiated(found)}
