"""Two random views of every image, as contrastive learning compares them (Wang and Isola, arXiv 2005.10242,
appendix; Baradad et al., arXiv 2106.05963, for random processes): a resized crop, a flip, a colour jitter."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from dpvision.privacy.errors import InputError

CROP_TRIES = 10  # candidate crops drawn per view, of which the first that lies inside the image is taken
UNIFORMS = 4 * CROP_TRIES + 9  # numbers drawn per view


@dataclass(frozen=True)
class TwoViews:
    """Makes two views of each image, all at once, on the images' device.

    Each step has the law of torchvision's transform of floating-point images: ``RandomResizedCrop(size,
    scale, ratio)`` with antialiasing, ``RandomHorizontalFlip(flip)``, ``ColorJitter(brightness, contrast,
    saturation, hue)``, ``RandomGrayscale(grayscale)``. One thing differs: the jitter orders brightness,
    contrast and saturation at random, but hue takes its turn (first to last of the four) by the view's place
    in the batch, so that it is computed once. Among images in random order all orders are equally likely.

    Attributes:
        size: a view's side, in pixels.
        scale: least and greatest area of a crop, as a share of the image's.
        ratio: least and greatest width of a crop as a multiple of its height; views are squares all the same.
        flip: probability of mirroring left and right.
        brightness, contrast, saturation: s draws a factor from U[max(0, 1 − s), 1 + s]; 0 leaves it as it is.
        hue: the hue is shifted by U[−hue, hue] turns; at most 1/2.
        grayscale: probability that the colour is removed.

    Raises:
        InputError: for values out of these ranges; on a call, if the images are not ``[B, 3, H, W]``.
    """

    size: int = 32
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.4
    grayscale: float = 0.2

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"size of a view must be at least 1 pixel, not {self.size}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(
                f"scale of a crop must be two rising shares of the image's area, not {self.scale}"
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise InputError(f"ratio of a crop must be two positive rising numbers, not {self.ratio}")
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise InputError(f"hue must lie in 0..0.5 turns, not {self.hue}")
        for name in ("flip", "grayscale"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a probability in 0..1, not {getattr(self, name)}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Make views: ``[B, 3, H, W]``, uint8 or floats in [0, 1], to float32 ``[2, B, 3, size, size]`` in
        [0, 1].

        The generator may be on the images' device, or on the CPU, for which a GPU then has to wait.
        """
        return self.make(images, self.draw(len(images), generator).to(images.device))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return the uniform numbers ``[2·count, UNIFORMS]`` that ``make`` takes, on the generator's device.

        The first row is for the first image's first view, the next for its second view, and so on.
        """
        return torch.rand(2 * count, UNIFORMS, generator=generator, device=generator.device)

    def make(self, images: Tensor, u: Tensor) -> Tensor:
        """Return the views for the numbers drawn: a pure function, fit for ``torch.compile``."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(
                f"two views are made of RGB images [B, 3, H, W], not of shape {list(images.shape)}; "
                "open grey images with channels=3"
            )
        B, _, H, W = images.shape
        crop, flip, jitter, order, grayscale = u.split([4 * CROP_TRIES, 1, 4, 3, 1], dim=1)

        top, left, height, width = random_crops(
            crop.unflatten(1, (CROP_TRIES, 4)), H, W, self.scale, self.ratio
        )
        rows = resampling_weights(top, height, H, self.size, torch.zeros_like(flip, dtype=torch.bool))
        columns = resampling_weights(left, width, W, self.size, flip < self.flip)
        # Two matrix products resample all channels of both views: the first takes every image as [H, 3·W].
        x = images.permute(0, 2, 1, 3).to(torch.float32, memory_format=torch.contiguous_format).flatten(2)
        if images.dtype == torch.uint8:
            rows /= 255
        x = torch.bmm(rows.view(B, 2 * self.size, H), x)  # [B, 2·size, 3·W]
        x = torch.bmm(x.view(2 * B, self.size * 3, W), columns.mT)  # [2·B, size·3, size]
        x = x.view(2 * B, self.size, 3, self.size).transpose(1, 2).contiguous()  # [2·B, 3, size, size]

        self._jitter(x, jitter, order)
        remove = (grayscale < self.grayscale).float()
        blend(x, 1 - remove, grey=remove, mean_grey=torch.zeros_like(remove))
        return x.view(B, 2, 3, self.size, self.size).transpose(0, 1)

    def _jitter(self, x: Tensor, u: Tensor, order: Tensor) -> None:
        """Change the colours of x ``[V, 3, size, size]`` in place, by uniforms ``[V, 4]`` and ``[V, 3]``."""
        strength = (self.brightness, self.contrast, self.saturation)
        low = [max(0.0, 1 - s) for s in strength]
        factors = torch.stack(
            [lo + (1 + s - lo) * u[:, i] for i, (lo, s) in enumerate(zip(low, strength, strict=True))], dim=1
        )
        turns = (2 * u[:, 3] - 1) * self.hue  # [V]
        order = order.argsort(dim=1)  # of brightness 0, contrast 1, saturation 2
        factors = factors.gather(1, order)
        grey, mean_grey = (1 - factors) * (order == 2), (1 - factors) * (order == 1)
        for turn in range(3):
            shift_hue(x[turn::4], turns[turn::4])
            blend(x, factors[:, turn, None], grey[:, turn, None], mean_grey[:, turn, None])
        shift_hue(x[3::4], turns[3::4])


def random_crops(
    u: Tensor, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw crops with uniform area, log-uniform aspect ratio and uniform place, in whole pixels.

    Of each row's candidates the first that fits the image is taken; if none does, the whole image.

    Args:
        u: uniform numbers ``[V, candidates, 4]``.
        height, width: the size of the image, in pixels.

    Returns:
        top, left, height, width: float32 ``[V, 1]`` each.
    """
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[..., 0])
    aspect = (log(ratio[0]) + (log(ratio[1]) - log(ratio[0])) * u[..., 1]).exp()
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()  # [V, candidates]
    fits = (w >= 1) & (h >= 1) & (w <= width) & (h <= height)
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)  # [V, 1]
    found = fits.gather(1, first)
    h = h.gather(1, first).where(found, height)
    w = w.gather(1, first).where(found, width)
    # A product just under a whole number may be rounded up to it, hence the minimum.
    top = (u[..., 2].gather(1, first) * (height - h + 1)).floor().minimum(height - h)
    left = (u[..., 3].gather(1, first) * (width - w + 1)).floor().minimum(width - w)
    return top, left, h, w


def resampling_weights(start: Tensor, length: Tensor, source: int, target: int, mirrored: Tensor) -> Tensor:
    """Return matrices ``[V, target, source]`` that cut ``[start, start + length)`` out of a line and resize
    it.

    The filter is a triangle, as wide as the greater of a source and a target pixel: linear interpolation when
    enlarging, antialiased when shrinking. It sees nothing outside the cut.

    Args:
        start, length: the start and the length, in source pixels, ``[V, 1]``.
        source, target: pixels of the line before and after.
        mirrored: whether to turn the result round, ``[V, 1]``.
    """
    device = start.device
    step = length / target  # source pixels per target pixel
    centre = (torch.arange(target, device=device) + 0.5) * step  # [V, target], from the start of the cut
    centre = torch.where(mirrored, length - centre, centre)
    pixel = torch.arange(source, device=device) + 0.5 - start  # [V, source]
    pixel.masked_fill_((pixel < 0) | (pixel > length), torch.inf)
    narrowing = 1 / step.clamp(min=1)
    distance = (centre * narrowing)[:, :, None] - (pixel * narrowing)[:, None, :]
    weights = distance.abs_().neg_().add_(1).clamp_(min=0)
    return weights.div_(weights.sum(dim=2, keepdim=True))


def blend(x: Tensor, factor: Tensor, grey: Tensor, mean_grey: Tensor) -> None:
    """Set x in place to ``factor · x + grey · (x's grey) + mean_grey · (mean of x's grey)``, within [0, 1].

    Brightness (factor alone), contrast (mean_grey = 1 − factor), saturation (grey = 1 − factor) and the
    removal of colour are all of this form, so one batch may hold any of them. Grey is BT.601's luma.

    Args:
        x: ``[V, 3, H, W]``.
        factor, grey, mean_grey: ``[V, 1]``.
    """
    luma = x[:, 0].mul(0.2989).add_(x[:, 1], alpha=0.587).add_(x[:, 2], alpha=0.114)  # [V, H, W]
    offset = mean_grey * luma.mean(dim=(1, 2))[:, None]
    luma.mul_(grey[:, :, None]).add_(offset[:, :, None])
    x.mul_(factor[:, :, None, None]).add_(luma[:, None]).clamp_(0, 1)


def shift_hue(x: Tensor, turns: Tensor) -> None:
    """Shift, in place, the hue (as in HSV) of x ``[V, 3, H, W]`` by turns ``[V]`` in [−1/2, 1/2].

    Each channel is the smallest one plus the chroma times a trapezium of the hue, so there is no need to pass
    through the other colour space and back.
    """
    red, green, blue = x.unbind(1)  # [V, H, W]
    largest, smallest = x.amax(dim=1), x.amin(dim=1)
    chroma = largest - smallest
    # Sixths of a turn from red, times the chroma.
    past_green = (blue - red).add_(chroma, alpha=2)
    past_blue = (red - green).add_(chroma, alpha=4)
    hue = torch.where(largest == red, green - blue, torch.where(largest == green, past_green, past_blue))
    hue.div_(chroma.clamp(min=torch.finfo(x.dtype).tiny)).div_(6).add_(
        1 + turns[:, None, None]
    )  # positive turns
    hue.frac_().mul_(6)
    torch.addcmul(smallest, chroma, (hue - 3).abs_().sub_(1).clamp_(0, 1), out=red)
    torch.addcmul(smallest, chroma, (hue - 2).abs_().neg_().add_(2).clamp_(0, 1), out=green)
    torch.addcmul(smallest, chroma, (hue - 4).abs_().neg_().add_(2).clamp_(0, 1), out=blue)
