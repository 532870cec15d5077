"""The networks of DPImageBench: as large as published, for any size, and not for private training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from dpvision.networks.batch_norm_wide_resnet import batch_norm_wide_resnet
from dpvision.networks.build import NETWORKS
from dpvision.networks.resnet import small_resnet
from dpvision.networks.resnext import resnext29

Builder = Callable[..., nn.Module]
BUILDERS = (small_resnet, batch_norm_wide_resnet, resnext29)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("builder", "options", "millions"),
    [
        (small_resnet, {}, 1.7),  # He et al., table 6
        (small_resnet, {"depth": 20}, 0.27),
        (small_resnet, {"depth": 56}, 0.85),
        (batch_norm_wide_resnet, {}, 8.9),  # Zagoruyko and Komodakis, table 4
        (batch_norm_wide_resnet, {"depth": 16, "width": 8}, 11.0),
        (batch_norm_wide_resnet, {"depth": 28, "width": 10}, 36.5),
        (resnext29, {}, 34.4),  # Xie et al., table 7
        (resnext29, {"groups": 16}, 68.1),
    ],
)
def test_has_the_published_parameters(builder: Builder, options: dict[str, int], millions: float) -> None:
    with torch.device("meta"):
        found = parameters(builder(3, 10, **options)) / 1e6
    assert found == pytest.approx(millions, rel=0.025)


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 5, 9)])
def test_any_size_gives_logits(builder: Builder, shape: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        assert builder(shape[0], 7)(torch.empty(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(
    ("builder", "layers", "channels"),
    [(small_resnet, 110, 64), (batch_norm_wide_resnet, 40, 256), (resnext29, 29, 1024)],
)
def test_is_as_deep_and_wide_as_its_name_says(builder: Builder, layers: int, channels: int) -> None:
    last: list[torch.Size] = []
    with torch.device("meta"):
        network = builder(3, 10)
        pooling = next(module for module in network.modules() if isinstance(module, nn.AdaptiveAvgPool2d))
        pooling.register_forward_hook(lambda module, given, found: last.append(given[0].shape))
        network(torch.empty(2, 3, 32, 32))
    assert last == [(2, channels, 8, 8)]
    convolutions = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    beside = [name for name in convolutions if "downsample" in name or "shortcut" in name]
    # The depth of a wide residual network counts its three shortcuts, and not the linear layer.
    linear = 0 if builder is batch_norm_wide_resnet else 1
    assert len(convolutions) - linear * len(beside) + linear == layers


def test_they_are_no_networks_for_private_training() -> None:
    assert not any(name.startswith("resne") for name in NETWORKS)
