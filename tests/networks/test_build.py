from __future__ import annotations

import pytest
import torch

from dpvision.networks import NETWORKS, build_network
from dpvision.privacy.errors import InputError


def parameters(name: str, shape: tuple[int, int, int]) -> int:
    network = build_network(name, in_channels=shape[0], image_size=shape[1:], num_classes=10)
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("tanh-cnn", (1, 28, 28), 26_010),
        ("tanh-cnn-deep", (3, 32, 32), 550_570),
        ("scatter-cnn", (3, 32, 32), 150_282),
        ("linear", (1, 8, 8), 650),
        ("wrn-16-4", (3, 32, 32), 2_753_818),
    ],
)
def test_number_of_parameters(name: str, shape: tuple[int, int, int], count: int) -> None:
    assert parameters(name, shape) == count


@pytest.mark.parametrize(
    ("name", "smallest"),
    [("tanh-cnn", 14), ("tanh-cnn-deep", 8), ("scatter-cnn", 8), ("linear", 1), ("wrn-10-1", 5)],
)
@pytest.mark.parametrize("excess", [(0, 0), (1, 6), (23, 2)])
def test_logits_for_every_size_from_the_smallest(name: str, smallest: int, excess: tuple[int, int]) -> None:
    size = (smallest + excess[0], smallest + excess[1])
    network = build_network(name, in_channels=2, image_size=size, num_classes=3)
    assert network(torch.rand(1, 2, *size)).shape == (1, 3)
    with pytest.raises(InputError, match=f"at least {smallest}×{smallest} pixels, not 20×{smallest - 1}"):
        build_network(name, in_channels=2, image_size=(20, smallest - 1), num_classes=3)


def test_options_reach_the_network() -> None:
    network = build_network("wrn-10-1", in_channels=1, image_size=(8, 8), num_classes=2, groups=4)
    assert network.final.norm.num_groups == 4


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(InputError, match=f"no network 'resnet'; choose one of {', '.join(NETWORKS)}"):
        build_network("resnet", in_channels=1, image_size=(8, 8), num_classes=2)
    with pytest.raises(InputError, match="no option 'grops'; its options: groups, order"):
        build_network("wrn-10-1", in_channels=1, image_size=(8, 8), num_classes=2, grops=4)
    with pytest.raises(InputError, match="no option 'groups'; its options: none"):
        build_network("linear", in_channels=1, image_size=(8, 8), num_classes=2, groups=4)
    with pytest.raises(InputError, match="depth"):
        build_network("wrn-11-1", in_channels=1, image_size=(8, 8), num_classes=2)


def test_width_of_the_deep_tanh_network() -> None:
    sizes = {"in_channels": 3, "image_size": (32, 32), "num_classes": 10}
    narrow, published = (
        build_network("tanh-cnn-deep", width=16, **sizes),
        build_network("tanh-cnn-deep", **sizes),
    )
    assert narrow[0].out_channels * 2 == published[0].out_channels == 32
    with pytest.raises(InputError, match="width"):
        build_network("tanh-cnn-deep", width=0, **sizes)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_scattering_network_trains_on_normalised_scattering(channels: int) -> None:
    torch.manual_seed(0)
    network = build_network("scatter-cnn", in_channels=channels, image_size=(16, 12), num_classes=4, width=5)
    x = torch.randn(3, channels, 16, 12, requires_grad=True)
    features = network.scattering(x.detach())
    groups = features.reshape(3, 27, -1)
    deviation = (groups.var(dim=2, correction=0, keepdim=True) + 1e-5).sqrt()
    normalized = (groups - groups.mean(dim=2, keepdim=True)) / deviation
    torch.testing.assert_close(network(x), network.trained(normalized.reshape(features.shape)))
    network(x).sum().backward()
    assert x.grad is None
    assert all(p.grad is not None and name.startswith("trained.") for name, p in network.named_parameters())


@pytest.mark.parametrize("name", ["tanh-cnn", "tanh-cnn-deep", "scatter-cnn"])
def test_no_network_is_without_width(name: str) -> None:
    with pytest.raises(InputError, match="width must be at least 1, not 0"):
        build_network(name, in_channels=1, image_size=(16, 16), num_classes=2, width=0)
