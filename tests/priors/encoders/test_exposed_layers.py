from __future__ import annotations

import weakref
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from dpvision.priors.encoders.exposed_layers import check_layers, layer_outputs, up_to
from dpvision.privacy.errors import InputError


class Small(nn.Module):
    """Its ReLU and its sum overwrite what came before; one module is run twice, one gives two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(4)
        self.twice = nn.Tanh()
        self.unused = nn.Identity()
        self.pool = nn.MaxPool2d(2, return_indices=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        y = self.norm(x)
        y += 100
        return self.pool(self.twice(self.twice(y)))[0]


@pytest.fixture
def network() -> Small:
    torch.manual_seed(0)
    return Small().eval()


def images() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_outputs_are_what_modules_gave_before_anything_overwrote_them(network: Small) -> None:
    x = images().requires_grad_()
    norm, conv = layer_outputs(network, ["norm", "conv"], x)
    expected = nn.functional.conv2d(x, network.conv.weight, network.conv.bias)
    assert (expected < 0).any()
    torch.testing.assert_close(conv, expected)
    torch.testing.assert_close(norm, network.norm(expected.relu()))
    # Averages remember their input for the gradient, which must not be overwritten either.
    nn.functional.adaptive_avg_pool2d(conv, 2).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_nothing_stays_behind_in_the_network(network: Small) -> None:
    seen: list[weakref.ref[Tensor]] = []
    network.relu.register_forward_hook(lambda module, inputs, output: seen.append(weakref.ref(output)))
    outputs = layer_outputs(network, ["conv", "relu"], images().requires_grad_())
    assert not network.conv._forward_hooks
    assert len(network.relu._forward_hooks) == 1  # the test's
    del outputs
    assert [reference() for reference in seen] == [None]
    with pytest.raises(RuntimeError):
        layer_outputs(network, ["conv"], torch.zeros(1, 5, 6, 6))
    assert not network.conv._forward_hooks


@pytest.mark.parametrize(
    ("layer", "message"),
    [("twice", "is run 2 times"), ("unused", "is run 0 times"), ("pool", "does not give one tensor")],
)
def test_a_layer_without_one_output_is_refused(network: Small, layer: str, message: str) -> None:
    with pytest.raises(InputError, match=f"layer '{layer}' {message}"):
        layer_outputs(network, ["conv", layer], images())


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], r"one layer or more, each once, not \[\]"),
        (["conv", "conv"], "each once"),
        (["cnv"], "it has no layer 'cnv'; the names nearest to it: conv"),
        ([""], "it has no layer ''"),
    ],
)
def test_names_are_checked(network: Small, layers: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_layers("it", network, layers)


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        (["a"], ["a"]),
        (["b.1", "a"], ["a", "b", "b.0", "b.1", "b.1.x"]),
        (["b.1.x"], ["a", "b", "b.0", "b.1", "b.1.x"]),
        (["b"], ["a", "b", "b.0", "b.1", "b.1.x", "b.10"]),
        (["b.10"], ["a", "b", "b.0", "b.1", "b.1.x", "b.10"]),
        (["c"], ["a", "b", "b.0", "b.1", "b.1.x", "b.10", "c"]),
    ],
)
def test_a_sequence_is_cut_behind_the_last_layer(layers: list[str], kept: list[str]) -> None:
    inner = [
        ("0", nn.Identity()),
        ("1", nn.Sequential(OrderedDict(x=nn.Identity()))),
        ("10", nn.Identity()),
    ]
    whole = nn.Sequential(OrderedDict(a=nn.Identity(), b=nn.Sequential(OrderedDict(inner)), c=nn.Identity()))
    assert [name for name, _ in up_to(whole, layers).named_modules() if name] == kept
