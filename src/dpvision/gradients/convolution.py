"""Per-example weight gradients of convolutions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.gradients.per_example import (
    Factored,
    Instantiated,
    PerExample,
    equal_parts,
    ghost_is_cheaper,
    widened,
)

# Numbers: 2 MB of float32. Patches up to this size stay in a CPU's cache, where products with them beat the
# library's convolutions on few images; beyond it the copying costs more than the convolution.
PATCHES_IN_CACHE = 500_000


def convolution_gradient(
    layer: Any, weight: Tensor, x: Tensor, g: Tensor, examples: int, ghost: bool
) -> PerExample:
    """Return the gradients of ``weight`` in ``layer(x)``, an ``nn.Conv*d`` or ``nn.ConvTranspose*d`` with
    zero padding.

    x: ``[B·K, C_in, …]``; g: ``[B·K, C_out, …]`` → ``[B, *weight.shape]``, instantiated or as factors.
    """
    x = x.to(g.dtype)
    if layer.transposed or x.ndim != 4:
        return Instantiated(one_by_one(layer, weight, x, g, examples))
    kernel = weight[0, 0].numel()
    positions = g[0, 0].numel() * (len(g) // examples)
    inputs, outputs = weight.shape[1] * kernel, weight.shape[0]
    if ghost and layer.groups == 1 and ghost_is_cheaper(positions, inputs, outputs):
        return Factored(
            x=widened(x).unflatten(0, (examples, -1)),
            g=widened(g).unflatten(0, (examples, -1)),
            factors=lambda x, g: (
                unfolded(layer, x.flatten(0, 1)).reshape(len(x), -1, inputs),
                _as_nhwc(g.flatten(0, 1)).reshape(len(g), -1, outputs),
            ),
            shaped=lambda found: found.unflatten(-1, (*layer.kernel_size, -1)).movedim(-1, -3),
        )
    large = positions * inputs * layer.groups > PATCHES_IN_CACHE
    method = one_by_one if large and x.device.type == "cpu" else by_patches
    return Instantiated(method(layer, weight, x, g, examples))


def one_by_one(layer: Any, weight: Tensor, x: Tensor, g: Tensor, examples: int) -> Tensor:
    """Make one library call per example, its K views the minibatch: on a CPU as fast as the summed one."""
    # Channels last in memory, like what the library returns for x and g with channels last.
    last = weight.movedim(1, -1).shape
    found = weight.new_empty((examples, *last), dtype=widened(g[:0]).dtype).movedim(-1, 2)
    for each, x_views, g_views in zip(found, x.chunk(examples), g.chunk(examples), strict=True):
        each.copy_(_backward(layer, weight, x_views, g_views))
    return found


def by_patches(layer: Any, weight: Tensor, x: Tensor, g: Tensor, examples: int) -> Tensor:
    """Multiply output gradients, in batches, with the input patches they saw (2-D, not transposed)."""
    groups, inputs, outputs = layer.groups, weight.shape[1], weight.shape[0]
    kernel, views = weight[0, 0].numel(), len(x) // examples
    found = g.new_empty(examples, groups, outputs // groups, kernel * inputs)
    per_example = views * g[0, 0].numel() * kernel * inputs * groups
    at_a_time = equal_parts(examples, PATCHES_IN_CACHE // per_example if x.device.type == "cpu" else examples)
    for first in range(0, examples, at_a_time):
        some = found[first : first + at_a_time]
        rows = slice(first * views, (first + len(some)) * views)
        patches = unfolded(layer, x[rows])  # [b·K, L, kernel, C_in]
        patches = patches.reshape(len(some), -1, kernel, groups, inputs).movedim(3, 1).flatten(3)
        b = _as_nhwc(g[rows]).reshape(len(some), -1, groups, outputs // groups).movedim(2, 1)
        # [b, groups, C_out/groups, K·L] × [b, groups, K·L, kernel · C_in/groups]
        torch.matmul(b.mT, patches, out=some)
    # [B, C_out, C_in/groups, kH, kW], channels last in memory
    return widened(found).view(examples, outputs, *layer.kernel_size, inputs).movedim(-1, 2)


def unfolded(layer: Any, x: Tensor) -> Tensor:
    """Return, ``[N, C, H, W] -> [N, L, kH·kW, C]``, the patch that each of the L output positions sees.

    With channels last a row of a patch is contiguous in memory, so that the copy runs at memory speed
    (F.unfold's does not).
    """
    top, left, bottom, right = _padding(layer)
    x = F.pad(_as_nhwc(x), (0, 0, left, right, top, bottom)).contiguous()
    (count, height, width, channels), (sn, sh, sw, sc) = x.shape, x.stride()
    (kh, kw), (dh, dw), (th, tw) = layer.kernel_size, layer.dilation, layer.stride
    out_h, out_w = (height - dh * (kh - 1) - 1) // th + 1, (width - dw * (kw - 1) - 1) // tw + 1
    windows = x.as_strided(
        (count, out_h, out_w, kh, kw, channels), (sn, sh * th, sw * tw, sh * dh, sw * dw, sc)
    )
    return windows.reshape(count, out_h * out_w, kh * kw, channels)


def _as_nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _padding(layer: Any) -> tuple[int, int, int, int]:
    """Return top, left, bottom, right. "same" puts the odd row or column at the end, as the forward does."""
    if layer.padding == "valid":
        return 0, 0, 0, 0
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2
    vertical, horizontal = layer.padding
    return vertical, horizontal, vertical, horizontal


def _backward(layer: Any, weight: Tensor, x: Tensor, g: Tensor) -> Tensor:
    """Return the weight's gradient, summed over the rows of ``x`` and ``g``."""
    padding = layer.padding
    if isinstance(padding, str):  # only in two dimensions: see rules.convolution
        top, left, bottom, right = _padding(layer)
        x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
    _, found, _ = torch.ops.aten.convolution_backward(
        g,
        x,
        weight.to(g.dtype),
        None,
        layer.stride,
        padding,
        layer.dilation,
        layer.transposed,
        layer.output_padding,
        layer.groups,
        (False, True, False),
    )
    return found
