"""GroupNorm whose backward pass yields the weights' per-example gradients on the way.

With x̂ = (x − mean)·rstd, the gradients of weight and bias are Σ g·x̂ and Σ g over the positions of a channel.
The input's gradient needs the same sums; PyTorch's own backward makes them as well, but hands out only what
they come to over all rows. Taken from here, no second pass over x and g is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dpvision.gradients.per_example import widened
from dpvision.gradients.ways import Ways

NUMBERS_IN_CACHE = 1 << 18
"""1 MiB of float32: half of what a core's own cache holds on current processors."""

FUSED = (nn.GroupNorm,)
"""The layers whose own backward pass is replaced. Types are matched exactly, as those of rules are."""

Sums = tuple[Tensor, Tensor, Tensor]
"""The gradients of the input ``[B·K, C, …]``, and those of weight and bias by example, ``[B, C]``."""


def group_norm(
    layer: nn.GroupNorm,
    x: Tensor,
    anchor: Tensor,
    examples: int,
    ways: Ways,
    take: Callable[[Tensor, Tensor], None],
) -> Tensor:
    """Compute ``layer(x)``, and in the backward pass hand the gradients of weight and bias, ``[B, C]`` each,
    to ``take``.

    anchor: requires a gradient, so that the backward pass gets here also where x does not.
    """
    if x.is_cuda and torch.is_autocast_enabled("cuda"):
        x = widened(x)  # as autocast does for nn.GroupNorm
    # The operation below reads memory in one of two orders.
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    output: Tensor = _GroupNorm.apply(x, anchor, layer, examples, ways, take)
    return output


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        anchor: Tensor,
        layer: nn.GroupNorm,
        examples: int,
        ways: Ways,
        take: Callable[[Tensor, Tensor], None],
    ) -> Tensor:
        count, channels = x.shape[:2]
        positions = x[0, 0].numel()
        output, mean, rstd = torch.native_group_norm(
            x, layer.weight, layer.bias, count, channels, positions, layer.num_groups, layer.eps
        )
        ctx.save_for_backward(x, layer.weight, widened(mean), widened(rstd))
        ctx.examples, ctx.ways, ctx.take = examples, ways, take
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, mean, rstd = ctx.saved_tensors
        (g,) = gradients
        if g.dtype != x.dtype or g.stride() != x.stride():
            g = torch.empty_like(x).copy_(g)  # in the same order of memory
        ways = {
            way.__name__: partial(way, x, g, weight, mean, rstd, ctx.examples)
            for way in (by_sums, by_example)
        }
        key = ("group_norm", x.shape, x.stride(), x.dtype, x.device, mean.shape, ctx.examples)
        of_x, of_weight, of_bias = ctx.ways.fastest((*key, torch.get_num_threads()), ways)
        ctx.take(of_weight, of_bias)
        return of_x, None, None, None, None, None


def by_example(x: Tensor, g: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, examples: int) -> Sums:
    """Call PyTorch's backward on the views of one example after the other."""
    of_x = torch.empty_like(x)
    of_weight = mean.new_empty(2, examples, x.shape[1])
    parts = zip(*(tensor.chunk(examples) for tensor in (x, g, mean, rstd, of_x)), strict=True)
    for b, (own_x, own_g, own_mean, own_rstd, out) in enumerate(parts):
        sizes = (*own_x.shape[:2], own_x[0, 0].numel(), mean.shape[1])
        found = torch.ops.aten.native_group_norm_backward(
            own_g, own_x, own_mean, own_rstd, weight.to(mean.dtype), *sizes, (True, True, True)
        )
        for target, value in zip((out, of_weight[0, b], of_weight[1, b]), found, strict=True):
            target.copy_(value)
    return of_x, of_weight[0], of_weight[1]


def by_sums(x: Tensor, g: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, examples: int) -> Sums:
    """Take the sums Σ g and Σ g·x of each channel of a view, and all gradients from these.

    With the sums A = Σ weight·g and B = Σ weight·g·x over the n numbers of a group, the input's gradient is
    rstd·(weight·g − A/n − (x − mean)·rstd²·(B − mean·A)/n) (Wu and He, arXiv 1803.08494, by the chain rule).
    """
    (count, channels, *sides), positions, groups = x.shape, x[0, 0].numel(), mean.shape[1]
    x, g = (tensor.movedim(1, -1).reshape(count, positions, channels) for tensor in (x, g))
    of_x = torch.empty_like(x)
    of_g, of_gx = mean.new_empty(2, count, channels)
    number = positions * channels // groups

    def by_channel(values: Tensor) -> Tensor:
        return values.repeat_interleave(channels // groups, dim=1)

    # On a CPU, several passes over a few views, which stay in the cache, beat as many over all views.
    views = max(1, NUMBERS_IN_CACHE // (positions * channels)) if x.device.type == "cpu" else count
    for first in range(0, count, views):
        some = slice(first, first + views)
        own_x, own_g, m, r = widened(x[some]), widened(g[some]), mean[some], rstd[some]
        products = own_g * own_x
        of_g[some], of_gx[some] = own_g.sum(dim=1), products.sum(dim=1)
        a, b = ((sums[some] * weight).unflatten(1, (groups, -1)).sum(dim=2) for sums in (of_g, of_gx))
        of_variance = (m * a - b) * r**3 / number
        constant = -of_variance * m - a * r / number
        found = torch.addcmul(
            by_channel(constant).unsqueeze(1), own_g, (by_channel(r) * weight).unsqueeze(1), out=products
        )
        of_x[some] = found.addcmul_(own_x, by_channel(of_variance).unsqueeze(1))
    of_weight = (of_gx - by_channel(mean) * of_g) * by_channel(rstd)
    of_weight, of_g = (sums.unflatten(0, (examples, -1)).sum(dim=1) for sums in (of_weight, of_g))
    return of_x.view(count, *sides, channels).movedim(-1, 1), of_weight, of_g
