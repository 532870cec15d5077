"""DP-Mix: mixup that stays within one private example (Bao et al., arXiv 2311.01295, section 4).

Mixup averages two images and their labels. Across a batch it would put every private example into several
gradients. Here what is mixed are views of one example, with each other (DP-Mix_Self) or with public images
too (DP-Mix_Diff). An example still has one gradient, and the sensitivity stays the clipping norm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from scipy.special import betaincinv
from torch import Tensor

from dpvision.privacy.by_example import ExampleDraws
from dpvision.privacy.errors import InputError
from dpvision.views.policy import check_views
from dpvision.views.pool import Pool
from dpvision.views.self_augmentation import SelfAugmentation


@dataclass(frozen=True, eq=False)
class DPMix:
    """A view policy: views of an example, public images augmented likewise, and mixtures of two of these.

    >>> from dpvision.views import SelfAugmentation
    >>> DPMix(SelfAugmentation(augmult=16), k_self=18).views_per_example  # DP-Mix_Self of the paper
    34

    Attributes:
        augmentation: the augmentation of the example, K_base times, and of each public image, once.
        k_self: how many mixtures. Each is of two different members of the list of all views of the example
            and its public images, every pair being as likely, with weights λ and 1 − λ, λ ~ Beta(α, α), for
            pixels and labels alike.
        alpha: α.
        pool: public images; without any, this is DP-Mix_Self, and every label is the example's.
        k_diff: how many images of the pool each example is given at every step, at random.
        base_in_mean, pool_in_mean: whether the views of the example, and the public images, are themselves
            among the views that its gradient is the mean over. (Mixtures are.)

    Raises:
        InputError: a value is out of range, there are not two to mix or no views at all, or there is a pool
            without k_diff, or k_diff without a pool.
    """

    augmentation: SelfAugmentation
    k_self: int = 18
    alpha: float = 0.2
    pool: Pool | None = None
    k_diff: int = 0
    base_in_mean: bool = True
    pool_in_mean: bool = True

    def __post_init__(self) -> None:
        check_views(self.k_self, "k_self", 0)
        check_views(self.k_diff, "k_diff", 0)
        if not 0 < self.alpha < float("inf"):
            raise InputError(f"alpha must be above 0 and finite, not {self.alpha}")
        if (self.pool is None) != (self.k_diff == 0):
            raise InputError("public images need a pool and k_diff of at least 1; give both, or neither")
        if self.k_self > 0 and self.members < 2:
            raise InputError("there must be two views to mix; choose an augmult of at least 2, or a pool")
        if self.views_per_example == 0:
            raise InputError("no view is left: raise k_self, or leave base_in_mean true")

    @property
    def members(self) -> int:
        """The number of members of the list that is mixed: K_base + K_diff."""
        return self.augmentation.augmult + self.k_diff

    @property
    def views_per_example(self) -> int:
        base = self.augmentation.augmult if self.base_in_mean else 0
        return base + (self.k_diff if self.pool_in_mean else 0) + self.k_self

    def __call__(self, pixels: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        """Make views, ``[B, C, H, W], [B] -> [B, K, C, H, W], [B, K]``, or ``[B, K, num_classes]`` with a
        pool: see :class:`dpvision.views.policy.ViewPolicy`.

        Every example takes the next numbers that are its own: for its views, for the choice of public images
        and their views, and for its mixtures.
        """
        K, numbers = self.augmentation.augmult, self._numbers(draws, pixels.device)
        views = self.augmentation.make(pixels, numbers.augmenting[:, :K])  # [B, K, C, H, W]
        if self.pool is None:
            kept = [views, numbers.pairs.mix(views)] if self.base_in_mean else [numbers.pairs.mix(views)]
            return torch.cat(kept, dim=1), targets[:, None].repeat(1, self.views_per_example)
        labels = F.one_hot(targets, self.pool.targets.shape[1]).float()[:, None].expand(-1, K, -1)
        return self._mixed(views, labels, numbers)

    @property
    def images_of_a_unit(self) -> int:
        """One image for each view of the private ones."""
        return self.augmentation.images_of_a_unit

    def of_units(self, pixels: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        """Make views of images ``[B, K_base, C, H, W]``, which are mixed within their unit; see
        :class:`dpvision.views.policy.UnitPolicy`.
        """
        numbers = self._numbers(draws, pixels.device)
        views = self.augmentation.make_each(pixels, numbers.augmenting[:, : pixels.shape[1]])
        return self._mixed(views, targets.float(), numbers)

    def _numbers(self, draws: ExampleDraws, device: torch.device) -> _Numbers:
        """Draw all numbers that views take, on ``device``."""
        B, per_view = len(draws), self.augmentation.numbers_per_view
        sizes = [self.members * per_view, self.k_diff, 3 * self.k_self]
        augmenting, choosing, mixing = draws.uniform(sum(sizes)).to(device).split(sizes, dim=1)
        pairs = Pairs.draw(mixing.view(B, self.k_self, 3), self.members, self.alpha)
        return _Numbers(augmenting.view(B, self.members, per_view), choosing, pairs)

    def _mixed(self, views: Tensor, labels: Tensor, numbers: _Numbers) -> tuple[Tensor, Tensor]:
        """Return what the gradient is the mean over, of the private views ``[B, K_base, …]`` and their labels
        ``[B, K_base, num_classes]``, with public ones drawn.
        """
        public, public_labels = views[:, :0], labels[:, :0]
        if self.pool is not None:
            public, public_labels = self._draw(
                self.pool, numbers.choosing, numbers.augmenting[:, views.shape[1] :]
            )
        mix = numbers.pairs.mix
        return (
            self._kept(views, public, mix(torch.cat([views, public], dim=1))),
            self._kept(labels, public_labels, mix(torch.cat([labels, public_labels], dim=1))),
        )

    def _draw(self, pool: Pool, choosing: Tensor, augmenting: Tensor) -> tuple[Tensor, Tensor]:
        """Draw public images ``[B, k_diff, C, H, W]`` and labels ``[B, k_diff, num_classes]`` for uniform
        numbers ``[B, k_diff]`` and ``[B, k_diff, numbers_per_view]``.
        """
        device, augmentation = choosing.device, replace(self.augmentation, include_original=False)
        chosen = (choosing * len(pool)).long().cpu()  # [B, k_diff]
        images, labels = pool.images.take(chosen.flatten()).to(device), pool.targets[chosen].to(device)
        public = augmentation.make(images, augmenting.flatten(0, 1).unsqueeze(1))
        return public.view(*chosen.shape, *pool.images.shape), labels

    def _kept(self, base: Tensor, public: Tensor, mixed: Tensor) -> Tensor:
        """Return what the gradient is the mean over, of members ``[B, K_base, …]``, ``[B, k_diff, …]`` and
        mixtures ``[B, k_self, …]``.
        """
        kept = [base] if self.base_in_mean else []
        kept += [public] if self.pool_in_mean else []
        return torch.cat([*kept, mixed], dim=1)


@dataclass(frozen=True, eq=False)
class _Numbers:
    """All that is drawn for B examples: ``augmenting`` ``[B, members, numbers_per_view]``, ``choosing``
    ``[B, k_diff]`` of public images, and the pairs that are mixed.
    """

    augmenting: Tensor
    choosing: Tensor
    pairs: Pairs


@dataclass(frozen=True)
class Pairs:
    """The pairs that are mixed, of each of B examples.

    ``first`` and ``second`` are indices ``[B, k]`` of different members of each example's list, and
    ``weight`` ``[B, k]`` is the weight of the first; the second has the rest.
    """

    first: Tensor
    second: Tensor
    weight: Tensor

    @classmethod
    def draw(cls, uniform: Tensor, members: int, alpha: float) -> Pairs:
        """Draw pairs for uniform numbers ``[B, k, 3]``: all ordered pairs alike, weights from Beta(α, α)."""
        first = (uniform[..., 0] * members).long()
        # One of the others: so many places further on, from the last round to the first.
        second = (first + 1 + (uniform[..., 1] * (members - 1)).long()) % max(members, 1)
        # By the inverse of the distribution function, one number makes one weight, whatever α is.
        weight = torch.from_numpy(betaincinv(alpha, alpha, uniform[..., 2].cpu().double().numpy()))
        return cls(first, second, weight.to(uniform))

    def mix(self, members: Tensor) -> Tensor:
        """Mix members: ``[B, M, …] -> [B, k, …]``."""
        example = torch.arange(len(members), device=members.device)[:, None]
        weight = self.weight.reshape(self.weight.shape + (1,) * (members.ndim - 2))
        return torch.lerp(members[example, self.second], members[example, self.first], weight)
