"""Build a network by its name."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from dpvision.networks.linear import LinearClassifier
from dpvision.networks.options import check_options
from dpvision.networks.own import build_own, is_own
from dpvision.networks.scatter_cnn import ScatterCNN
from dpvision.networks.tanh_cnn import DeepTanhCNN, TanhCNN
from dpvision.networks.wide_resnet import WideResNet
from dpvision.privacy.errors import InputError

NETWORKS = ("wrn-D-K", "tanh-cnn", "tanh-cnn-deep", "scatter-cnn", "linear")
"""The names that :func:`build_network` knows; D and K stand for a depth and a width, as in wrn-16-4."""

_SIZED_NETWORKS: dict[str, type[TanhCNN | DeepTanhCNN | ScatterCNN | LinearClassifier]] = {
    "tanh-cnn": TanhCNN,
    "tanh-cnn-deep": DeepTanhCNN,
    "scatter-cnn": ScatterCNN,
    "linear": LinearClassifier,
}


def build_network(
    name: str, *, in_channels: int, image_size: tuple[int, int], num_classes: int, **options: Any
) -> nn.Module:
    """Return a freshly initialised network from ``[B, in_channels, H, W]`` to logits ``[B, num_classes]``.

    >>> network = build_network("tanh-cnn", in_channels=1, image_size=(28, 28), num_classes=10)
    >>> sum(parameter.numel() for parameter in network.parameters())
    26010

    Args:
        name: one of :data:`NETWORKS`, or of :func:`register_network`.
        in_channels: C of the images.
        image_size: (H, W) of the images.
        num_classes: the number of logits.
        options: further arguments of the network's class, such as ``order`` of :class:`WideResNet`.

    Raises:
        InputError: for an unknown name or option, an option of another type, or images too small for the
            network.
    """
    if is_own(name):
        return build_own(
            name, in_channels=in_channels, image_size=image_size, num_classes=num_classes, **options
        )
    wide_resnet = re.fullmatch(r"wrn-(\d{1,2})-(\d{1,2})", name)  # more would take minutes to build
    network_class: type[nn.Module]
    arguments: dict[str, Any] = {"in_channels": in_channels, "num_classes": num_classes}
    if wide_resnet:
        network_class, smallest_side = WideResNet, WideResNet.SMALLEST_SIDE
        arguments |= {"depth": int(wide_resnet[1]), "width": int(wide_resnet[2])}
    elif name in _SIZED_NETWORKS:
        network_class, smallest_side = _SIZED_NETWORKS[name], _SIZED_NETWORKS[name].SMALLEST_SIDE
        arguments |= {"image_size": image_size}
    else:
        raise InputError(f"there is no network '{name}'; choose one of {', '.join(NETWORKS)}")

    if min(image_size) < smallest_side:
        raise InputError(
            f"network {name} needs images of at least {smallest_side}×{smallest_side} pixels, "
            f"not {image_size[0]}×{image_size[1]}; enlarge them with size, or choose another network"
        )
    check_options(f"network {name}", network_class, options, arguments)
    return network_class(**arguments, **options)
