"""Settings of the views that an example's gradient is the mean over."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from dpvision.images import Images
from dpvision.privacy.errors import InputError
from dpvision.views import DPMix, Pool, SelfAugmentation, ViewPolicy


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """Settings that choose the views of an image.

    Attributes:
        augmult: K, how many random views each image becomes.
        pad: pads a view by so many reflected pixels on every side, then crops it back at random.
        flip: mirrors a view left and right, half of the time.
        smallest_crop: crops a view to at least this share of its area and resizes it back; 1 never does.
        color_jitter: scales brightness, contrast and saturation by random factors from 1 − this to 1 + this.
        cutout: covers a random square of so many pixels a side by grey; 0 covers nothing.
        k_self: how many mixtures are made, each of two of an image's views or public images; 0 is no mixing.
        alpha: draws the weight of a mixture from Beta(alpha, alpha).
        k_diff: how many public images of the pool each image is mixed with; needs a pool.
        base_in_mean: whether an image's gradient is the mean over its own views too, not over mixtures alone.
        pool_in_mean: whether an image's gradient is the mean over its public images too.
        pool: is where the public images are: anything that DATA may be; empty for none.

    :class:`dpvision.views.SelfAugmentation` and :class:`dpvision.views.DPMix` define them.

    Raises:
        InputError: a value is out of range.
    """

    augmult: int = 1
    pad: int = 0
    flip: bool = False
    smallest_crop: float = 1.0
    color_jitter: float = 0.0
    cutout: int = 0
    k_self: int = 0
    alpha: float = 0.2
    k_diff: int = 0
    base_in_mean: bool = True
    pool_in_mean: bool = True
    pool: str = ""

    def __post_init__(self) -> None:
        if not self.pool and self.k_diff > 0:
            raise InputError("k_diff needs public images; name a pool")
        self.stand_in_views((1, 1, 1), 2)

    def views(self, pool: Pool | None) -> ViewPolicy:
        """Return the policy, with the images of ``pool`` if there is one."""
        augmentation = SelfAugmentation(
            self.augmult,
            self.pad,
            self.flip,
            smallest_crop=self.smallest_crop,
            color_jitter=self.color_jitter,
            cutout=self.cutout,
        )
        if self.k_self == 0 and self.k_diff == 0 and pool is None and self.base_in_mean:
            return augmentation
        return DPMix(
            augmentation,
            k_self=self.k_self,
            alpha=self.alpha,
            pool=pool,
            k_diff=self.k_diff,
            base_in_mean=self.base_in_mean,
            pool_in_mean=self.pool_in_mean,
        )

    def stand_in_views(self, image_shape: tuple[int, int, int], num_classes: int) -> ViewPolicy:
        """Return a policy that takes as much as the real one: with a black image for the pool."""
        if not self.pool:
            return self.views(None)
        black = torch.zeros(1, *image_shape, dtype=torch.uint8)
        targets = torch.full((1, num_classes), 1 / num_classes)
        names = tuple(str(index) for index in range(num_classes))
        images = Images(black, None, names, "a stand-in")
        return self.views(Pool(images, targets, names, images.source, {}))

    def views_are_images(self) -> bool:
        """True if the only view of an example is the example itself."""
        return all(getattr(self, field.name) == field.default for field in fields(ViewSettings))
