"""Noisy views: an image at several noise levels, for a denoiser (Dockhorn et al., arXiv 2210.09929, section
3.2, call the number of them the noise multiplicity)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpvision.networks.denoiser import centres_of, packed, preconditioning
from dpvision.privacy.by_example import ExampleDraws
from dpvision.privacy.errors import InputError
from dpvision.views.policy import check_views

HALF_A_STEP = 2.0**-25
"""Half of the distance of two uniform numbers that examples draw."""


@dataclass(frozen=True, eq=False)
class NoisyViews:
    """A view policy: each view is the image with normal noise, its noise level and its class; its target is
    what a :class:`dpvision.networks.denoiser.Denoiser` should say of it.

    >>> from dpvision.privacy import SecureRandom
    >>> policy = NoisyViews(count=4, num_classes=3)
    >>> pixels, targets = torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 1])
    >>> views, wanted = policy(pixels, targets, SecureRandom().by_example().of(torch.arange(5)))
    >>> views.shape, wanted.shape
    (torch.Size([5, 4, 2, 8, 8]), torch.Size([5, 4, 1, 8, 8]))

    Attributes:
        count: K, the noise levels of an image. One of each K-th part of their law, so that each image sees
            all kinds.
        num_classes: how many classes there are.
        level_mean, level_spread: of the normal law of ln σ, where σ is the standard deviation of the noise on
            pixels from −1 to 1.
        flip: mirror left and right with probability one half.
        unlabelled: the share of views whose class is left out, so that the denoiser also learns what it is to
            say of an image of an unknown class.
        centres: those of the classes that the denoiser knows, which images are less; by default 0.

    Raises:
        InputError: a value is out of range.
    """

    count: int
    num_classes: int
    level_mean: float = -1.2
    level_spread: float = 1.2
    flip: bool = False
    unlabelled: float = 0.0
    centres: Tensor | None = None

    def __post_init__(self) -> None:
        check_views(self.count, "noise_levels", 1)
        if not -4 <= self.level_mean <= 4:
            raise InputError(f"level_mean must be between -4 and 4, not {self.level_mean}")
        if not 0 <= self.level_spread <= 4:
            raise InputError(f"level_spread must be between 0 and 4, not {self.level_spread}")
        if not 0 <= self.unlabelled <= 1:
            raise InputError(f"unlabelled must be between 0 and 1, not {self.unlabelled}")

    @property
    def views_per_example(self) -> int:
        return self.count

    @property
    def images_of_a_unit(self) -> int:
        """One image for each view."""
        return self.count

    def __call__(self, pixels: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        """Make views ``[B, K, C + n, H, W]`` of images ``[B, C, H, W]``, as
        :func:`dpvision.networks.denoiser.packed` does, and their targets ``[B, K, C, H, W]``; see
        :class:`dpvision.views.policy.ViewPolicy`. A target below 0 is of no class.
        """
        classes = (targets[:, None] == torch.arange(self.num_classes, device=targets.device)).float()
        repeated = pixels[:, None].expand(-1, self.count, -1, -1, -1)
        return self._made(repeated, classes[:, None].expand(-1, self.count, -1), draws)

    def of_units(self, pixels: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        """Make a view of each image ``[B, K, C, H, W]``; see :class:`dpvision.views.policy.UnitPolicy`."""
        return self._made(pixels, targets.float(), draws)

    def _made(self, pixels: Tensor, classes: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        """Return views and targets of images ``[B, K, C, H, W]`` of one-hot classes ``[B, K, classes]``.

        Every example takes the next numbers that are its own, as many for each view.
        """
        B, K, C, H, W = pixels.shape
        numbers = [1, 1, 1, C * H * W]
        uniform = draws.uniform(K * sum(numbers)).view(B, K, sum(numbers)).to(pixels.device)
        of_level, of_flip, of_class, of_noise = uniform.split(numbers, dim=2)
        kinds = torch.arange(K, device=pixels.device)[:, None]
        sigma = (self.level_mean + self.level_spread * _normal((kinds + of_level) / K)).exp()  # [B, K, 1]
        clean = pixels.float() / 127.5 - 1
        if self.flip:
            clean = torch.where(of_flip[..., None, None] < 0.5, clean.flip(4), clean)
        known = torch.where(of_class < self.unlabelled, 0.0, classes.to(pixels.device))
        if self.centres is not None:
            centres = centres_of(self.centres.to(pixels.device), known.flatten(0, 1))
            clean = clean - centres.unflatten(0, (B, K))
        how = preconditioning(sigma[..., None, None])
        noisy = clean + sigma[..., None, None] * _normal(of_noise).view(clean.shape)
        target = (clean - how.kept * noisy) / how.added
        views = packed(
            (how.scale * noisy).flatten(0, 1), how.level.flatten(0, 1).flatten(1), known.flatten(0, 1)
        )
        return views.unflatten(0, (B, K)), target


def _normal(uniform: Tensor) -> Tensor:
    """Return standard normal numbers for numbers uniform on [0, 1), each of its own, to within 2⁻²⁵."""
    return torch.special.ndtri(uniform.double().mul(1 - 2 * HALF_A_STEP).add(HALF_A_STEP)).float()
