"""Networks of torchvision, where it is installed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.gradients.test_any_network import check

IMAGES, LABELS = (3, 32, 32), 3


def without_batch_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(1, channels)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_0"])
def test_networks_of_torchvision(name: str) -> None:
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    torch.manual_seed(0)
    norm = {} if name.startswith("squeezenet") else {"norm_layer": without_batch_norm}
    model = models.get_model(name, num_classes=LABELS, **norm).eval()
    check(model, torch.rand(3, 1, *IMAGES), torch.arange(3)[:, None] % LABELS)
