"""A network with its input normalisation inside: what is trained, released and used to predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dpvision.images.images import check_class_names
from dpvision.networks.build import build_network
from dpvision.privacy.errors import InputError
from dpvision.privacy.values import fits


class Normalize(nn.Module):
    """Pixels to what a network reads: uint8 becomes [0, 1], then ``(x − mean) / std``; keeps the shape.

    The two constants are fixed and public. Statistics of the private images would be a release of their own.
    """

    MEAN, STD = 0.5, 0.25

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float = MEAN, std: float = STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.uint8:
            x = x.to(self.mean.dtype) / 255
        return (x - self.mean) / self.std


class Classifier(nn.Module):
    """Images to logits: ``normalize``, then ``network``, both plain modules; then what :meth:`shift` adds.

    Args:
        network: maps ``[B, C, H, W]`` to logits ``[B, len(class_names)]``.
        class_names: the names of the logits, in order.
        image_shape: the (C, H, W) that the network takes.
        config: the arguments of :func:`build_classifier` that make the same classifier anew, or None for a
            network that this package did not build.
    """

    OVERSHOOT = 0.25
    """How far from [0, 1] values may be: resizing that keeps edges sharp goes beyond them."""

    def __init__(
        self,
        network: nn.Module,
        class_names: Sequence[str],
        image_shape: tuple[int, int, int],
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_class_names(class_names, "the classifier")
        self.offsets: Tensor | None
        self.register_buffer("offsets", None, persistent=False)  # the config has them, not the weights
        self.normalize = Normalize()
        self.network = network
        self.class_names = tuple(class_names)
        self.image_shape = image_shape
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits ``[B, num_classes]`` of images ``[B, C, H, W]``, uint8 or floating point in [0, 1].

        Raises:
            InputError: for images of another shape or type, or, in evaluation, values far from [0, 1].
        """
        if tuple(x.shape[-3:]) != self.image_shape:
            raise InputError(
                f"the classifier takes images of shape {_shape(self.image_shape)}, "
                f"not {_shape(x.shape[-3:])}; open them with its size and channels"
            )
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise InputError(f"the classifier takes uint8 images, or floating point in [0, 1], not {x.dtype}")
        if not self.training and x.is_floating_point() and x.numel():
            low, high = x.aminmax()
            if not (low >= -self.OVERSHOOT and high <= 1 + self.OVERSHOOT):
                raise InputError(
                    f"the classifier takes floating point in [0, 1], not {float(low):.4g} to "
                    f"{float(high):.4g}; divide pixels of 0 to 255 by 255, or give them as uint8"
                )
        return self.unchecked(x)

    def unchecked(self, x: Tensor) -> Tensor:
        """Compute what `forward` does, without a look at what it is given."""
        return self.shifted(self.network(self.normalize(x)))

    def shifted(self, logits: Tensor) -> Tensor:
        """Add the offsets of the classes, if there are any, to logits of the network ``[B, num_classes]``."""
        return logits if self.offsets is None else logits + self.offsets

    def shift(self, offsets: Sequence[float]) -> None:
        """Add one number to the logits of each class from now on, in place of those of before.

        Raises:
            InputError: there is not one number for each class that is finite in float32.
        """
        largest = torch.finfo(torch.float32).max
        usable = (fits(one, float) and abs(one) <= largest for one in offsets)
        if len(offsets) != len(self.class_names) or not all(usable):
            raise InputError(f"{len(self.class_names)} classes need as many finite offsets, not {offsets}")
        self.offsets = torch.tensor(offsets, dtype=torch.float32, device=self.normalize.mean.device)
        if self.config is not None:
            self.config = {**self.config, "offsets": list(offsets)}


def build_classifier(
    network: str,
    *,
    image_shape: Sequence[int],
    class_names: Sequence[str],
    options: dict[str, Any] | None = None,
    offsets: Sequence[float] | None = None,
) -> Classifier:
    """Build a classifier with a freshly initialised network.

    ``build_classifier(**classifier.config)`` builds the same one again; the config holds only JSON types.

    Args:
        network: a name that :func:`build_network` knows.
        image_shape: (C, H, W) of the images.
        class_names: one per class.
        options: the network's own options.
        offsets: are added to the logits, see :meth:`Classifier.shift`; by default none.

    Raises:
        InputError: as :func:`build_network` and :meth:`Classifier.shift`.
    """
    channels, height, width = image_shape
    options = dict(options or {})
    module = build_network(
        network, in_channels=channels, image_size=(height, width), num_classes=len(class_names), **options
    )
    config = {
        "network": network,
        "image_shape": [channels, height, width],
        "class_names": list(class_names),
        "options": options,
    }
    model = Classifier(module, class_names, (channels, height, width), config)
    if offsets is not None:
        model.shift(offsets)
    return model


def _shape(sizes: Sequence[int]) -> str:
    return "×".join(str(size) for size in sizes)
