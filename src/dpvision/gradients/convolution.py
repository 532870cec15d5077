"""Per-example weight gradients of convolutions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
from dpvision.gradients.ways import consume, ways_in_use

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
    by_sizes = one_by_one if large and x.device.type == "cpu" else by_patches
    settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return ways_in_use().fastest(
        ("conv2d", *settings, weight.shape, *map(_kind, (x, g)), examples, torch.get_num_threads()),
        {
            method.__name__: partial(_instantiated, method, layer, weight, x, g, examples)
            for method in (by_sizes, *(other for other in WAYS if other is not by_sizes))
            if method is not by_taps or set(layer.stride) == {1}
        },
        finish=consume,
    )


def _instantiated(
    method: Callable[..., Tensor], layer: Any, weight: Tensor, x: Tensor, g: Tensor, examples: int
) -> Instantiated:
    return Instantiated(method(layer, weight, x, g, examples))


def _kind(tensor: Tensor) -> tuple[object, ...]:
    return (tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def one_by_one(layer: Any, weight: Tensor, x: Tensor, g: Tensor, examples: int) -> Tensor:
    """Make one library call per example, its K views the minibatch: on a CPU as fast as the summed one."""
    # Channels last in memory, like what the library returns for x and g with channels last.
    last = weight.movedim(1, -1).shape
    found = weight.new_empty((examples, *last), dtype=widened(g[:0]).dtype).movedim(-1, 2)
    for each, x_views, g_views in zip(found, x.chunk(examples), g.chunk(examples), strict=True):
        each.copy_(_backward(layer, weight, x_views, g_views, layer.groups))
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


def by_groups(layer: Any, weight: Tensor, x: Tensor, g: Tensor, examples: int) -> Tensor:
    """Make one library call in which every example is a group of channels of its own, its K views the
    minibatch (2-D, not transposed). Most libraries have kernels of their own for many groups.
    """
    # [B·K, C, H, W] -> [K, B·C, H, W]
    x, g = (t.unflatten(0, (examples, -1)).transpose(0, 1).flatten(1, 2) for t in (x, g))
    weights = weight.expand(examples, *weight.shape).flatten(0, 1)
    found = _backward(layer, weights, x, g, groups=examples * layer.groups)
    return widened(found.unflatten(0, (examples, -1)))


def by_taps(layer: Any, weight: Tensor, x: Tensor, g: Tensor, examples: int) -> Tensor:
    """Multiply output gradients with the shifted input, in batches, for one weight of the kernel after the
    other: no copies but the padding (2-D, not transposed, with stride 1).

    Both are laid out in rows of the padded input's width. Then the input that a position sees at a tap is a
    fixed number of pixels from it, and all the views of an example follow each other: what a position at the
    edge sees of the next row or view is multiplied by the zeros to which its gradient is padded.
    """
    top, left, bottom, right = _padding(layer)
    (kh, kw), (dh, dw) = layer.kernel_size, layer.dilation
    groups, inputs, outputs = layer.groups, weight.shape[1], weight.shape[0]
    x = F.pad(_as_nhwc(x), (0, 0, left, right, top, bottom))
    height, width = x.shape[1:3]
    g = F.pad(_as_nhwc(g), (0, 0, 0, width - g.shape[3], 0, height - g.shape[2]))
    furthest = dh * (kh - 1) * width + dw * (kw - 1)
    x = x.reshape(examples, -1, groups, inputs).movedim(2, 1)  # [B, groups, positions, C_in/groups]
    g = g.reshape(examples, -1, groups, outputs // groups).movedim(2, 1)
    seen = x.shape[2] - furthest  # the positions left out are padding
    found = x.new_empty(examples, groups, outputs // groups, kh * kw, inputs)
    for tap in range(kh * kw):
        shift = tap // kw * dh * width + tap % kw * dw
        found[:, :, :, tap] = g[:, :, :seen].mT @ x[:, :, shift : shift + seen]
    return widened(found).view(examples, outputs, kh, kw, inputs).movedim(-1, 2)


WAYS = (by_patches, one_by_one, by_groups, by_taps)
"""Those of which the fastest is taken, all for 2-D, not transposed; the last for stride 1."""


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


def _backward(layer: Any, weight: Tensor, x: Tensor, g: Tensor, groups: int) -> Tensor:
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
        groups,
        (False, True, False),
    )
    return found
