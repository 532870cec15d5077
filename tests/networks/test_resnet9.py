from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from dpvision.networks import ResNet9
from dpvision.networks.build import NETWORKS


@pytest.mark.parametrize("side", [8, 16, 28, 33])
def test_any_size_gives_logits(side: int) -> None:
    network = ResNet9(1, 7, width=4)
    assert network(torch.randn(2, 1, side, side)).shape == (2, 7)


def test_has_eight_convolutions_with_batch_norm_and_the_usual_parameters() -> None:
    network = ResNet9(3, 10)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64, 128, 128, 128, 256, 512, 512, 512]
    # Weights of the convolutions, two numbers per channel of a BatchNorm, and the linear layer.
    channels = [3, 64, 128, 128, 128, 256, 512, 512, 512]
    weights = sum(9 * a * b for a, b in itertools.pairwise(channels))
    expected = weights + 2 * sum(channels[1:]) + 512 * 10 + 10
    assert sum(p.numel() for p in network.parameters()) == expected


def test_a_residual_block_begins_with_what_it_is_given() -> None:
    block = ResNet9(3, 2, width=4).features[3]
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(block(x), x)


def test_it_is_no_network_for_private_training() -> None:
    assert not any("resnet9" in name for name in NETWORKS)
