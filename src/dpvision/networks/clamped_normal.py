"""Images drawn from normal laws whose values are limited to [0, 1], one law for each class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.networks.details import AT_A_TIME, details_of, drawn, scaled
from dpvision.networks.image_generator import ImageGenerator
from dpvision.privacy.errors import InputError

GRID = 4
"""The side of the grid of random shifts that an elastic warp smoothly joins."""
SHIFT = 0.25
"""What a warp shifts an image by, in units of what it stretches it by."""
_AFFINE, _ELASTIC = 6, 2 * GRID**2


class ClampedNormal(ImageGenerator):
    """A normal law behind the pixels of each class: x = clamp(location + scale·(root·z + rest·z′), 0, 1),
    where z are R normal numbers and z′ one for each pixel, such that each pixel's sum has variance 1. A
    clamped law has what no normal one has: pixels that are exactly black, and strokes that are here *or*
    there.

    Images are then warped at random: by affine maps near the identity, and by smooth random shifts. Where the
    law is of smaller images, they are scaled to size, and given the details of public images, drawn at
    random.

    Args:
        image_shape: (C, H, W).
        class_names: the class names in the order of labels; none for images without labels.
        small_sides: (h, w), the sides of the images that have the law; n = C·h·w.
        rank: R.
        num_details: M, how many details there are to draw from, zero until :meth:`set_details`.

    Attributes:
        location, scale: buffers ``[K, n]``.
        root: buffer ``[K, n, R]``, whose rows are no longer than one.
        warps: buffer ``[2]``: the standard deviations of the entries of an affine map, and of smooth shifts,
            in halves of the image's side.
        details: buffer int8 ``[M, C, H, W]``, in units of 1 / 127.

    Raises:
        InputError: sides or counts are out of range.
    """

    kind = "clamped normal"

    location: Tensor
    scale: Tensor
    root: Tensor
    warps: Tensor
    details: Tensor

    def __init__(
        self,
        image_shape: Sequence[int],
        class_names: Sequence[str],
        small_sides: Sequence[int],
        rank: int,
        num_details: int = 0,
    ) -> None:
        super().__init__(image_shape, class_names)
        channels, *sides = self.image_shape
        small = tuple(small_sides)
        if len(small) != 2 or not all(1 <= a <= b for a, b in zip(small, sides, strict=True)):
            raise InputError(f"a law of images of {sides} pixels cannot be of {list(small)}")
        self.small_shape = (channels, *small)
        n, classes = channels * small[0] * small[1], len(self.class_proportions)
        if not 1 <= rank <= n or num_details < 0:
            raise InputError(f"a law of {n} numbers has a rank from 1 to {n}, not {rank}")
        self.register_buffer("location", torch.zeros(classes, n))
        self.register_buffer("scale", torch.zeros(classes, n))
        self.register_buffer("root", torch.zeros(classes, n, rank))
        self.register_buffer("warps", torch.zeros(2))
        self.register_buffer("details", torch.zeros(num_details, *self.image_shape, dtype=torch.int8))

    @property
    def config(self) -> dict[str, Any]:
        return {
            "image_shape": list(self.image_shape),
            "class_names": list(self.class_names),
            "small_sides": list(self.small_shape[1:]),
            "rank": self.root.shape[2],
            "num_details": len(self.details),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ClampedNormal:
        return cls(**config)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.root.shape[2] + self.root.shape[1] + _AFFINE + _ELASTIC + 1,)

    def set_details(self, images: Tensor) -> None:
        """Take what public images ``[M, C, H, W]`` in [0, 1] lose when averaged to half the small size."""
        self.details = details_of(images, self.small_shape[1:])

    def averaged(self, sides: Sequence[int]) -> ClampedNormal:
        """Return a generator of these images averaged to sides (h, w), none larger than theirs, up to what
        clamping and warps do. It shares the laws, and has no warps yet.
        """
        height, width = sides
        made = ClampedNormal.from_config({**self.config, "image_shape": [self.image_shape[0], height, width]})
        made.location, made.scale, made.root = self.location, self.scale, self.root
        parts = (some.float() for some in self.details.split(AT_A_TIME))
        small = [F.adaptive_avg_pool2d(some, (height, width)).round().to(torch.int8) for some in parts]
        made.details = torch.cat(small)
        return made.eval()

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        z, rest, _ = self._split(noise)
        x = torch.empty_like(rest)
        for label in labels.unique().tolist():  # a root for each image would take much memory
            of_class, root = labels == label, self.root[label]
            free = (1 - root.square().sum(dim=1)).clamp(min=0).sqrt()
            x[of_class] = z[of_class] @ root.T + free * rest[of_class]
        return self._images_of(x, labels, noise, bool(self.warps.any()))

    def traceable(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what gathers a root for each image, where `forward` goes class by class."""
        warped = bool(self.warps.any())
        free = (1 - self.root.square().sum(dim=2)).clamp(min=0).sqrt()  # rounds badly: done once, here

        def images(labels: Tensor, noise: Tensor) -> Tensor:
            z, rest, _ = self._split(noise)
            x = (self.root[labels] @ z[:, :, None]).squeeze(2) + free[labels] * rest
            return self._images_of(x, labels, noise, warped)

        return images

    def _split(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return z and z′ in noise, and what is left for warps and details."""
        rank, n = self.root.shape[2], self.root.shape[1]
        z, rest, others = noise.split([rank, n, _AFFINE + _ELASTIC + 1], dim=1)
        return z, rest, others

    def _images_of(self, x: Tensor, labels: Tensor, noise: Tensor, warped: bool) -> Tensor:
        """Return images ``[B, C, H, W]`` of a standard normal vector for each, ``[B, n]``."""
        affine, elastic, last = self._split(noise)[2].split([_AFFINE, _ELASTIC, 1], dim=1)
        x = (self.location[labels] + self.scale[labels] * x).clamp(0, 1)
        x = scaled(x.unflatten(1, self.small_shape), self.image_shape[1:])
        if warped:
            x = self._warped(x, affine, elastic)
        return (x + drawn(self.details, last[:, 0])).clamp(0, 1) if len(self.details) else x

    def _warped(self, x: Tensor, affine: Tensor, elastic: Tensor) -> Tensor:
        size = x.shape[0]
        stretch, shift = affine.view(size, 2, 3).split([2, 1], dim=2)
        strength = self.warps[0]
        maps = torch.cat([torch.eye(2).to(x) + strength * stretch, SHIFT * strength * shift], dim=2)
        grid = F.affine_grid(maps, list(x.shape), align_corners=False)
        shifts = (self.warps[1] * elastic).view(size, 2, GRID, GRID)
        smooth = F.interpolate(shifts, x.shape[2:], mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
        return F.grid_sample(x, grid + smooth, padding_mode="border", align_corners=False)
