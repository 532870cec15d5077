"""What every released generator of images is: it makes images of given classes from normal noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dpvision.images.images import Images, check_class_names
from dpvision.privacy.errors import InputError

MOST_IMAGES, FEWEST_IMAGES = 512, 16
"""How many images are made at a time. Multiples of 16: noise that is drawn in such parts is that which would
be drawn at once.
"""
NUMBERS_AT_A_TIME = MOST_IMAGES * 3 * 128**2
"""The numbers of the images that are made at a time, if these are not fewer than `FEWEST_IMAGES`: 96 MiB of
float32, and a few times as much on the way.
"""


def images_at_a_time(image_shape: Sequence[int]) -> int:
    """Return how many images of a shape are made at a time."""
    parts = NUMBERS_AT_A_TIME // math.prod(image_shape) // FEWEST_IMAGES
    return FEWEST_IMAGES * max(1, min(parts, MOST_IMAGES // FEWEST_IMAGES))


class ImageGenerator(nn.Module, ABC):
    """Draws images of given classes.

    Args:
        image_shape: (C, H, W).
        class_names: the class names in the order of labels; none for images without labels.

    Attributes:
        kind: the name by which a release says which class of generators it has.
        class_proportions: buffer ``[max(1, classes)]``; which classes `sample` draws.
    """

    kind: ClassVar[str]
    class_proportions: Tensor

    def __init__(self, image_shape: Sequence[int], class_names: Sequence[str]) -> None:
        super().__init__()
        check_class_names(class_names, "the generator")
        channels, height, width = image_shape
        self.image_shape = (channels, height, width)
        self.class_names = tuple(class_names)
        blocks = max(1, len(self.class_names))
        self.register_buffer("class_proportions", torch.full((blocks,), 1 / blocks))

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The configuration, as JSON types, of which `from_config` makes this generator, but for weights."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any]) -> ImageGenerator:
        """Make a generator of its `config`, up to its weights."""

    @property
    @abstractmethod
    def noise_shape(self) -> tuple[int, ...]:
        """The shape of the noise that one image is made of."""

    @abstractmethod
    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        """Make images ``[B, C, H, W]`` in [0, 1], of int64 labels ``[B]``, all 0 without classes, and normal
        noise ``[B, *noise_shape]``.
        """

    def traceable(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what makes the images that `forward` makes, up to rounding, by the same operations for every
        batch, so that it can be traced; here it is `forward`.

        Raises:
            InputError: there is no such thing of a bearable size.
        """
        return self.forward

    def soft_labels(self, pixels: Tensor) -> Tensor | None:
        """Return the probabilities of the classes ``[B, K]`` that go with images ``[B, C, H, W]`` that this
        generator made, or None where it says no more than one class of each.
        """
        return None

    def sample(
        self,
        count: int,
        *,
        labels: Sequence[int | str] | Tensor | None = None,
        seed: int | None = None,
        tell: Callable[[int, int], None] | None = None,
    ) -> Images:
        """Make new images, uint8, with their labels. In evaluation mode, as a released generator is.

        Args:
            count: how many.
            labels: their classes, ``count`` indices or names; by default each class has its share of them by
                `class_proportions`, in random order. An image's label is then the likeliest by
                :meth:`soft_labels`, if there are any: classifiers learn more of these than of the class
                that it was drawn for.
            seed: the seed of the noise and of that order, for images that can be drawn again.
            tell: is given how many are made, and how many there will be.

        Raises:
            InputError: count is below 1; labels are not as many, or of other classes.
        """
        return self.draw(count, labels=labels, seed=seed, tell=tell)[0]

    @torch.no_grad()
    def draw(
        self,
        count: int,
        *,
        labels: Sequence[int | str] | Tensor | None = None,
        seed: int | None = None,
        tell: Callable[[int, int], None] | None = None,
    ) -> tuple[Images, Tensor | None]:
        """Make the images that :meth:`sample` does, and return with them what :meth:`soft_labels` says of
        these, float32 ``[N, K]`` on the CPU, or None.
        """
        if count < 1:
            raise InputError(f"the number of images to draw must be at least 1, not {count}")
        random = torch.Generator()
        random.manual_seed(seed) if seed is not None else random.seed()
        if labels is None:
            chosen = apportion(count, self.class_proportions.cpu())[torch.randperm(count, generator=random)]
        else:
            chosen = self._indices(labels)
        if len(chosen) != count:
            raise InputError(f"{count} images need as many labels, not {len(chosen)}")
        device, pieces, probabilities = self.class_proportions.device, [], []
        for some in chosen.split(images_at_a_time(self.image_shape)):
            noise = torch.randn(len(some), *self.noise_shape, generator=random)
            made = self(some.to(device), noise.to(device))
            pieces.append(made.mul(255).round().to("cpu", torch.uint8))
            says = self.soft_labels(pieces[-1])
            if says is not None:
                probabilities.append(says.float().cpu())
            if tell:
                tell(sum(map(len, pieces)), count)
        soft = torch.cat(probabilities) if probabilities else None
        if labels is None and soft is not None:
            chosen = soft.argmax(dim=1)
        known = chosen if self.class_names else None
        return Images(torch.cat(pieces), known, self.class_names, "a generator"), soft

    def _indices(self, labels: Sequence[int | str] | Tensor) -> Tensor:
        """Return the class indices of labels, int64 [B]."""
        names = {name: index for index, name in enumerate(self.class_names)}
        wanted = labels.tolist() if isinstance(labels, Tensor) else list(labels)
        found = [names.get(label, -1) if isinstance(label, str) else int(label) for label in wanted]
        for label, index in zip(wanted, found, strict=True):
            if not 0 <= index < len(names):
                raise InputError(
                    f"the generator knows no class {label!r}; its classes are "
                    f"{', '.join(self.class_names) or 'none: it was fitted without labels'}"
                )
        return torch.tensor(found, dtype=torch.int64)


def apportion(count: int, proportions: Tensor) -> Tensor:
    """Return ``count`` indices, int64, ascending: each as often as its share, by the largest remainders."""
    shares = proportions.double() / proportions.double().sum() * count
    whole = shares.floor()
    missing = count - int(whole.sum())
    whole[(shares - whole).argsort(descending=True, stable=True)[:missing]] += 1
    return torch.arange(len(proportions)).repeat_interleave(whole.long())
