from __future__ import annotations

import pytest
import torch
from torch import nn

from dpvision.networks import WideResNet
from dpvision.networks.wide_resnet import NormAndActivation
from dpvision.privacy.errors import InputError


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_wrn_16_4_is_the_network_of_de_et_al() -> None:
    network = WideResNet(16, 4, in_channels=3, num_classes=10)
    assert parameters(network) == 2_753_818  # the 2.75 M of the paper
    # The part that DP-RandP trains first (arXiv 2306.06076) has 3,082 parameters.
    assert parameters(network.final) + parameters(network.head) == 3_082
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 16  # the stem, two in each of six blocks, three projections
    assert all(module.num_groups == 16 for module in network.modules() if isinstance(module, nn.GroupNorm))
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def test_head_starts_as_de_et_al_initialise_it() -> None:
    torch.manual_seed(0)
    head = WideResNet(10, 4, in_channels=3, num_classes=10).head
    assert 0.95 < head.weight.std() * 256**0.5 < 1.05
    assert not head.bias.any()


def test_three_stages_halve_the_image_twice() -> None:
    network = WideResNet(16, 2, in_channels=3, num_classes=10)
    shapes = []
    for block in network.stages:
        block.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    logits = network(torch.rand(2, 3, 32, 32))
    assert shapes == [(32, 32, 32)] * 2 + [(64, 16, 16)] * 2 + [(128, 8, 8)] * 2
    assert logits.shape == (2, 10)
    assert network.embed(torch.rand(2, 3, 32, 32)).shape == (2, 128)


@pytest.mark.parametrize(
    ("order", "residual", "shortcut", "final"),
    [
        ("activation_first", False, False, False),
        ("norm_first", True, True, True),
        ("activation_first_in_shortcuts", True, False, False),
        ("norm_first_in_shortcuts", False, True, False),
    ],
)
def test_order_of_norm_and_activation(order: str, residual: bool, shortcut: bool, final: bool) -> None:
    network = WideResNet(10, 1, in_channels=1, num_classes=2, order=order)
    pairs = {n: m.norm_first for n, m in network.named_modules() if isinstance(m, NormAndActivation)}
    assert {first for name, first in pairs.items() if ".residual." in name} == {residual}
    assert {first for name, first in pairs.items() if ".shortcut." in name} == {shortcut}
    assert pairs["final"] == final


def test_norm_and_activation_applies_them_in_its_order() -> None:
    x = torch.randn(2, 16, 4, 4)
    norm_last = NormAndActivation(16, 16, norm_first=False)(x)
    norm_first = NormAndActivation(16, 16, norm_first=True)(x)
    assert norm_last.min() < 0
    assert norm_first.min() == 0
    torch.testing.assert_close(norm_first, nn.functional.group_norm(x, 16).relu())


def test_an_example_does_not_see_its_batch() -> None:
    torch.manual_seed(0)
    network = WideResNet(10, 1, in_channels=1, num_classes=4).double()
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(network(x)[1:2], network(x[1:2]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 12}, "depth"),
        ({"depth": 4}, "depth"),
        ({"width": 0}, "width"),
        ({"stem_stride": 0}, "stem_stride"),
        ({"groups": 3}, "groups"),
        ({"order": "norm_last"}, "order"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WideResNet(**{"depth": 10, "width": 1, "in_channels": 1, "num_classes": 2} | arguments)


def test_stem_stride_halves_every_side() -> None:
    images = torch.zeros(1, 3, 16, 16)
    sides = [WideResNet(10, 1, 3, 2, stem_stride=stride).stem(images).shape[-1] for stride in (1, 2)]
    assert sides == [16, 8]
