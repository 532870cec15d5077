"""Self-augmentation: several random views of each image (De et al., arXiv 2204.13650, section 3.2; Hoffer et
al., arXiv 1901.09335, call the number of them the augmentation multiplicity)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from dpvision.privacy.by_example import ExampleDraws
from dpvision.privacy.errors import InputError
from dpvision.views import transforms
from dpvision.views.policy import check_views


@dataclass(frozen=True)
class SelfAugmentation:
    """A view policy: each view is the image padded by reflection, cropped and flipped at random, and then, if
    so wished, cropped and resized, changed in colour, or covered in part.

    >>> import torch
    >>> from dpvision.privacy import SecureRandom
    >>> policy = SelfAugmentation(augmult=4, pad=2)
    >>> pixels, targets = torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.arange(5)
    >>> views, _ = policy(pixels, targets, SecureRandom().by_example().of(torch.arange(5)))
    >>> views.shape
    torch.Size([5, 4, 3, 8, 8])

    Attributes:
        augmult: K, the views per example.
        pad: pixels added on every side before cropping back to the image's size. The offset of a crop is
            uniform on {0, …, 2·pad}, for rows and columns alike.
        flip: mirror left and right with probability one half.
        include_original: make the first of the K views the image itself.
        smallest_crop: the least area of a crop that is resized to the image's size, as a share of the
            image's: see :func:`dpvision.views.transforms.resized_crops`. 1 is no such crop.
        color_jitter: s scales brightness, contrast and, of RGB images, saturation by factors from
            U[max(0, 1 − s), 1 + s] each. 0 leaves colours as they are.
        cutout: the side, in pixels, of a square that is covered by mid-grey (DeVries and Taylor, arXiv
            1708.04552). Its centre is uniform on the image, so that it may hang over the border. 0 is none.

    Raises:
        InputError: a value is out of range; on a call, if pad is not less than H and W.
    """

    augmult: int = 16
    pad: int = 4
    flip: bool = True
    include_original: bool = False
    smallest_crop: float = 1.0
    color_jitter: float = 0.0
    cutout: int = 0

    def __post_init__(self) -> None:
        check_views(self.augmult, "augmult", 1)
        if self.pad < 0:
            raise InputError(f"pad must be at least 0 pixels, not {self.pad}")
        if not 0 < self.smallest_crop <= 1:
            raise InputError(f"smallest_crop must be above 0 and at most 1, not {self.smallest_crop}")
        if not 0 <= self.color_jitter < float("inf"):
            raise InputError(f"color_jitter must be at least 0 and finite, not {self.color_jitter}")
        if self.cutout < 0:
            raise InputError(f"cutout must be at least 0 pixels, not {self.cutout}")

    @property
    def views_per_example(self) -> int:
        return self.augmult

    @property
    def images_of_a_unit(self) -> int:
        """One image for each view."""
        return self.augmult

    @property
    def numbers_per_view(self) -> int:
        """The number of uniform numbers that a view takes."""
        return sum(self._numbers())

    def __call__(self, pixels: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        """Make views, ``[B, C, H, W], [B] -> [B, K, C, H, W], [B, K]``: see
        :class:`dpvision.views.policy.ViewPolicy`.

        Every example takes the next numbers that are its own, as many for each view.
        """
        uniform = draws.uniform(self.augmult * self.numbers_per_view).to(pixels.device)
        uniform = uniform.view(len(pixels), self.augmult, self.numbers_per_view)
        return self.make(pixels, uniform), targets[:, None].repeat(1, self.augmult)

    def of_units(self, pixels: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        """Make a view of each image ``[B, K, C, H, W]``; see :class:`dpvision.views.policy.UnitPolicy`."""
        uniform = draws.uniform(self.augmult * self.numbers_per_view).to(pixels.device)
        return self.make_each(pixels, uniform.view(*pixels.shape[:2], self.numbers_per_view)), targets

    def make_each(self, pixels: Tensor, uniform: Tensor) -> Tensor:
        """Return a view of each image ``[B, K, C, H, W]`` for its numbers ``[B, K, numbers_per_view]``."""
        single = replace(self, include_original=False).make(
            pixels.flatten(0, 1), uniform.flatten(0, 1)[:, None]
        )
        views = single.view(pixels.shape)
        if self.include_original:
            views[:, 0] = pixels[:, 0].float() / 255
        return views

    def make(self, pixels: Tensor, uniform: Tensor) -> Tensor:
        """Return the views ``[B, K, C, H, W]`` of images uint8 ``[B, C, H, W]`` for numbers
        ``[B, K, numbers_per_view]`` in [0, 1), whatever K is.
        """
        _, C, H, W = pixels.shape
        if self.pad >= min(H, W):
            raise InputError(
                f"pad must be less than the height and width of the images to reflect them, "
                f"but pad is {self.pad} and the images are {H}×{W}"
            )
        shift_and_flip, crop, jitter, cut = uniform.split(self._numbers(), dim=2)
        flat = transforms.shifted(pixels, shift_and_flip, self.pad, self.flip).flatten(0, 1)  # [B·K, C, H, W]
        if self.smallest_crop < 1:
            flat = transforms.resized_crops(flat, crop.flatten(0, 1), self.smallest_crop)
        if self.color_jitter:
            transforms.jitter_colors(flat, jitter.flatten(0, 1), self.color_jitter)
        if self.cutout:
            transforms.cut_out(flat, cut.flatten(0, 1), self.cutout)
        views = flat.view(*uniform.shape[:2], C, H, W)
        if self.include_original:
            views[:, 0] = pixels.float() / 255
        return views

    def _numbers(self) -> list[int]:
        """Return how many numbers each step of a view takes."""
        return [
            3,
            transforms.NUMBERS_PER_CROP if self.smallest_crop < 1 else 0,
            3 if self.color_jitter else 0,
            2 if self.cutout else 0,
        ]
