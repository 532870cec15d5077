"""PyTorch's warnings do not come out of the engine: whoever gave the network could do nothing about them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dpvision
from dpvision.gradients import ClippedGradient, Precision


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


class Tokens(nn.Module):
    """Patches of an image, a class token and positions, and what attends over them."""

    def __init__(self, body: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 5, width))
        self.body, self.head = body, nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Any:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.head(self.body(x)[:, 0])


class Attends(nn.Module):
    """``nn.MultiheadAttention`` in its fast form."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.attention(x, x, x, need_weights=False)[0]


class Kernel(nn.Module):
    """Attention by hand, with weights that no layer holds, so that the module is run again."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * width, width) / 4)

    def forward(self, x: Tensor) -> Any:
        query, key, value = (x @ self.weight.t()).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x.squeeze(1))[0][:, -1])


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Embedding(16, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body((x.flatten(1) * 15).long().clamp(0, 15)).mean(dim=1))


def encoder(**options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=not options.get("norm_first", False))


def pooled(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "transformer": lambda: Tokens(encoder()),
    "transformer in evaluation mode": lambda: Tokens(encoder()).eval(),
    "transformer, normalised first": lambda: Tokens(encoder(norm_first=True, activation="gelu")),
    "multi-head attention": lambda: Tokens(Attends()),
    "attention by hand": lambda: Tokens(Kernel()),
    "convolutions": lambda: pooled(nn.Conv2d(1, 8, 3, padding="same"), nn.GroupNorm(2, 8), nn.ReLU()),
    "depthwise": lambda: pooled(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Dropout(0.1)),
    "instance norm": lambda: pooled(nn.ConvTranspose2d(1, 8, 3), nn.InstanceNorm2d(8, affine=True)),
    "layer norm": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8), nn.Linear(8, 10)),
    "RMS norm": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.RMSNorm(8), nn.Linear(8, 10)),
    "weight norm": lambda: nn.Sequential(
        nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 10))
    ),
    "LSTM": Recurrent,
    "embedding": Words,
}
IN_BFLOAT16 = ("transformer", "attention by hand", "depthwise", "RMS norm", "weight norm")


@pytest.fixture(autouse=True)
def always() -> Any:
    """Have PyTorch say again what it says once in a process."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    torch.set_warn_always(before)


def sum_of_few(network: nn.Module, precision: Precision) -> None:
    clipped = ClippedGradient(network, loss, 1.0, precision=precision, expected_batch_size=8)
    found = clipped.sum(torch.rand(7, 2, 1, 8, 8), torch.randint(10, (7,)))
    assert found.nonfinite == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_no_warning_comes_out(name: str) -> None:
    sum_of_few(NETWORKS[name](), "float32")


@pytest.mark.parametrize("name", IN_BFLOAT16)
def test_no_warning_comes_out_in_low_precision(name: str) -> None:
    sum_of_few(NETWORKS[name](), "bfloat16")


def test_none_comes_out_of_training_and_evaluation(tmp_path: Path) -> None:
    digits = dpvision.open_images("bundled:digits")
    images, test = digits.subset(range(60)), digits.subset(range(100, 150))
    options: dict[str, Any] = {"network": Tokens(encoder()), "config": {"steps": 2, "augmult": 2}}
    result = dpvision.train(images, epsilon=8, out=tmp_path / "run", test=test, **options)
    assert dpvision.evaluate(result.release, test).accuracy.total == 50


def test_the_notice_of_vmap_is_given_again_afterwards() -> None:
    clipped = ClippedGradient(Tokens(Kernel()), loss, 1.0, engine="by-size")
    clipped.sum(torch.rand(3, 1, 1, 8, 8), torch.randint(10, (3,)))
    x = torch.rand(2, 1, 2, 4, 8)
    with pytest.warns(UserWarning, match="performance drop"):
        torch.func.vmap(F.scaled_dot_product_attention)(x, x, x)


def test_rms_norm_in_low_precision_is_what_autocast_makes_of_layer_norm() -> None:
    """Its gradients are near those in float32, and the layer is left as it was."""
    torch.manual_seed(0)
    network = NETWORKS["RMS norm"]()
    views, targets = torch.rand(5, 1, 1, 8, 8), torch.randint(10, (5,))
    low, full = (
        ClippedGradient(network, loss, 1.0, precision=precision, engine="by-size").sum(views, targets)
        for precision in ("bfloat16", "float32")
    )
    torch.testing.assert_close(low.norms, full.norms, rtol=0.05, atol=0)
    assert not any(module._forward_pre_hooks for module in network.modules())
