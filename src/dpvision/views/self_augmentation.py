"""Self-augmentation: several random crops and flips of each image (De et al., arXiv 2204.13650, section 3.2;
Hoffer et al., arXiv 1901.09335, call the number of them the augmentation multiplicity)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpvision.privacy.errors import InputError


@dataclass(frozen=True)
class SelfAugmentation:
    """A view policy: each view is the image padded by reflection, cropped at random and flipped at random.

    Attributes:
        augmult: K, the views per example.
        pad: pixels added on every side before cropping back to the image's size. The offset of a crop is
            uniform on {0, …, 2·pad}, for rows and columns alike.
        flip: mirror left and right with probability one half.
        include_original: make the first of the K views the image itself.

    Raises:
        InputError: if augmult is less than 1 or pad is negative; on a call, if pad is not less than H and W.
    """

    augmult: int = 16
    pad: int = 4
    flip: bool = True
    include_original: bool = False

    def __post_init__(self) -> None:
        if self.augmult < 1:
            raise InputError(f"augmult must be at least 1 view per example, not {self.augmult}")
        if self.pad < 0:
            raise InputError(f"pad must be at least 0 pixels, not {self.pad}")

    @property
    def views_per_example(self) -> int:
        return self.augmult

    def __call__(self, pixels: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``[B, C, H, W], [B] -> [B, K, C, H, W], [B, K]``: see :class:`dpvision.views.policy.ViewPolicy`.

        Every view takes the next three numbers of the generator, so a batch handed over in parts gets the
        same views (with a generator on the CPU).
        """
        B, C, H, W = pixels.shape
        K = self.augmult
        if self.pad >= min(H, W):
            raise InputError(
                f"pad must be less than the height and width of the images to reflect them, "
                f"but pad is {self.pad} and the images are {H}×{W}"
            )
        uniform = torch.rand(B, K, 3, generator=generator, device=generator.device).to(pixels.device)
        shift = (uniform[..., :2] * (2 * self.pad + 1)).long() - self.pad  # [B, K, 2] in −pad … pad
        mirrored = (uniform[..., 2:] < 0.5) & self.flip  # [B, K, 1]
        if self.include_original:
            shift[:, 0] = 0
            mirrored[:, 0] = False

        # The source row and column of every pixel of every view: one gather makes all views.
        rows = _reflect(torch.arange(H, device=pixels.device) + shift[..., :1], H)  # [B, K, H]
        columns = torch.arange(W, device=pixels.device)
        columns = torch.where(mirrored, columns.flip(0), columns)
        columns = _reflect(columns + shift[..., 1:], W)  # [B, K, W]
        source = (rows[..., :, None] * W + columns[..., None, :]).view(B, K, 1, H * W)
        views = pixels.reshape(B, 1, C, H * W).expand(B, K, C, H * W).gather(3, source.expand(B, K, C, H * W))
        return views.view(B, K, C, H, W).float().div_(255), targets[:, None].repeat(1, K)


def _reflect(index: Tensor, size: int) -> Tensor:
    """Positions outside 0 … size − 1 reflected at the first and last one, which are not repeated."""
    return size - 1 - (size - 1 - index.abs()).abs()
