"""Transform many images at once, at random: pure functions of pixels and uniform numbers in [0, 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from dpvision.priors.phase_one.two_views import CROP_TRIES, blend, random_crops, resampling_weights

NUMBERS_PER_CROP = 4 * CROP_TRIES
ASPECT_RATIO = (3 / 4, 4 / 3)


def shifted(pixels: Tensor, uniform: Tensor, pad: int, flip: bool) -> Tensor:
    """Shift by at most ``pad`` pixels, reflecting at the border, and mirror left and right half of the time.

    Args:
        pixels: uint8 ``[B, C, H, W]``.
        uniform: ``[B, K, 3]``, for K views of each image.

    Returns:
        ``[B, K, C, H, W]`` in [0, 1].
    """
    B, C, H, W = pixels.shape
    K = uniform.shape[1]
    shift = (uniform[..., :2] * (2 * pad + 1)).long() - pad  # [B, K, 2] in −pad … pad
    mirrored = (uniform[..., 2:] < 0.5) & flip  # [B, K, 1]
    # The source row and column of every pixel of every view: one gather makes all views.
    rows = _reflect(torch.arange(H, device=pixels.device) + shift[..., :1], H)  # [B, K, H]
    columns = torch.arange(W, device=pixels.device)
    columns = torch.where(mirrored, columns.flip(0), columns)
    columns = _reflect(columns + shift[..., 1:], W)  # [B, K, W]
    source = (rows[..., :, None] * W + columns[..., None, :]).view(B, K, 1, H * W)
    views = pixels.reshape(B, 1, C, H * W).expand(B, K, C, H * W).gather(3, source.expand(B, K, C, H * W))
    return views.view(B, K, C, H, W).float().div_(255)


def _reflect(index: Tensor, size: int) -> Tensor:
    """Reflect positions outside 0 … size − 1 at the first and last one, which are not repeated."""
    return size - 1 - (size - 1 - index.abs()).abs()


def resized_crops(x: Tensor, uniform: Tensor, smallest: float) -> Tensor:
    """Return a crop of each image ``[V, C, H, W]``, of ``smallest`` to all of its area and a ratio of sides
    between 3/4 and 4/3 of the image's, resized to the image's size (torchvision's ``RandomResizedCrop``).

    Args:
        uniform: ``[V, NUMBERS_PER_CROP]``.
    """
    V, _, H, W = x.shape
    tries = uniform.view(V, CROP_TRIES, 4)
    top, left, height, width = random_crops(tries, H, W, (smallest, 1.0), ASPECT_RATIO)
    as_it_is = torch.zeros(V, 1, dtype=torch.bool, device=x.device)
    rows = resampling_weights(top, height, H, H, as_it_is)  # [V, H, H]
    columns = resampling_weights(left, width, W, W, as_it_is)  # [V, W, W]
    return rows[:, None] @ x @ columns.mT[:, None]


def jitter_colors(x: Tensor, uniform: Tensor, strength: float) -> None:
    """Scale, in place, brightness, then contrast, then saturation of images ``[V, C, H, W]`` in [0, 1] by
    factors from U[max(0, 1 − strength), 1 + strength], for numbers ``[V, 3]``. Grey images have no
    saturation.
    """
    low = max(0.0, 1 - strength)
    brightness, contrast, saturation = (low + (1 + strength - low) * uniform).split(1, dim=1)
    none = torch.zeros_like(brightness)
    if x.shape[1] == 1:
        x.mul_(brightness[..., None, None]).clamp_(0, 1)
        mean = x.mean(dim=(2, 3), keepdim=True)
        x.sub_(mean).mul_(contrast[..., None, None]).add_(mean).clamp_(0, 1)
        return
    blend(x, brightness, grey=none, mean_grey=none)
    blend(x, contrast, grey=none, mean_grey=1 - contrast)
    blend(x, saturation, grey=1 - saturation, mean_grey=none)


def cut_out(x: Tensor, uniform: Tensor, side: int) -> None:
    """Cover, in place, a square of ``side`` pixels of images ``[V, C, H, W]`` by mid-grey, its centre drawn
    from all pixels by numbers ``[V, 2]``.
    """
    height, width = x.shape[-2:]
    rows = _covered(uniform[:, 0], height, side)  # [V, H]
    columns = _covered(uniform[:, 1], width, side)  # [V, W]
    x.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0.5)


def _covered(uniform: Tensor, size: int, side: int) -> Tensor:
    """Choose the pixels, of ``size``, in a stretch of ``side`` around a random one: ``[V] -> [V, size]``."""
    start = (uniform * size).long()[:, None] - side // 2
    place = torch.arange(size, device=uniform.device)
    return (place >= start) & (place < start + side)
