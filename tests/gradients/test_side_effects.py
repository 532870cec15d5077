"""The engine leaves the user's module as it was, and decides nothing by private values."""

from __future__ import annotations

import copy
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dpvision.gradients.clipped as clipped_module
from dpvision.gradients import ClippedGradient, clipped_gradient_sum
from dpvision.gradients.proof import proved_ownership


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


class Network(nn.Module):
    """A frozen layer, a buffer, a parameter of its own, and a forward that fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(2, 4), nn.Dropout(0.0)).eval()
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.register_buffer("mean", torch.zeros(4))
        self.scale = nn.Parameter(torch.ones(4))
        self.head = nn.Linear(4, 3)
        self.fails_on: torch.dtype | None = None

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(self.scale * self.frozen(self.body(x - self.mean)))
        if x.dtype == self.fails_on:
            raise OSError("the forward failed")
        return out


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All that a caller can see of a module: classes, hooks, modes, tensors and their gradients."""
    found: dict[str, Any] = {"": str(model)}
    for path, module in model.named_modules():
        found[f"{path} hooks"] = {
            name: len(value)
            for name, value in vars(module).items()
            if name.endswith(("_hooks", "_pre_hooks"))
        }
        found[f"{path} attributes"] = (type(module), sorted(vars(module)), module.training)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found[name] = (id(tensor), tensor.detach().clone().tolist(), tensor.requires_grad, tensor.dtype)
        found[f"{name} gradient"] = None if tensor.grad is None else tensor.grad.tolist()
    return found


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_module_is_as_it_was(precision: Any) -> None:
    torch.manual_seed(0)
    model = Network()
    model.register_forward_hook(lambda *_: None)  # the user's own
    model.head.weight.grad = torch.ones(3, 4)
    before = snapshot(model)
    engine = ClippedGradient(model, loss, 1.0, precision=precision)
    for _ in range(2):
        engine.sum(torch.rand(3, 2, 4), torch.zeros(3).long())
    assert snapshot(model) == before


@pytest.mark.parametrize("fails_on", [torch.float64, torch.float32], ids=["in the check", "in the pass"])
def test_the_module_is_as_it_was_after_its_forward_failed(fails_on: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Network()
    model.fails_on = fails_on
    before = snapshot(model)
    with pytest.raises(OSError, match="the forward failed"):
        clipped_gradient_sum(model, loss, torch.rand(3, 2, 4), torch.zeros(3).long(), 1.0)
    assert snapshot(model) == before


def test_no_hook_is_left_when_only_the_pass_over_the_batch_fails() -> None:
    torch.manual_seed(0)
    model = Network()
    engine = ClippedGradient(model, loss, 1.0)
    engine.sum(torch.rand(3, 2, 4), torch.zeros(3).long())
    model.fails_on = torch.float32
    before = snapshot(model)
    with pytest.raises(OSError, match="the forward failed"):
        engine.sum(torch.rand(3, 2, 4), torch.zeros(3).long())
    assert snapshot(model) == before


def test_gradients_are_found_under_no_grad_too() -> None:
    torch.manual_seed(0)
    model, views, targets = Network(), torch.rand(3, 2, 4), torch.zeros(3).long()
    expected = clipped_gradient_sum(model, loss, views, targets, 1.0)
    with torch.no_grad():
        found = clipped_gradient_sum(model, loss, views, targets, 1.0)
    assert torch.equal(found.norms, expected.norms)


def test_the_proof_reads_only_shapes() -> None:
    torch.manual_seed(0)
    model = Network()
    found = [
        proved_ownership(model, loss, views, targets)
        for views, targets in [
            (torch.rand(3, 2, 4), torch.zeros(3, 2).long()),
            (torch.full((3, 2, 4), torch.nan), torch.ones(3, 2).long()),
            (torch.zeros(1, 2, 4), torch.full((1, 2), 2)),
        ]
    ]
    assert found[0] == found[1] == found[2]


def test_the_module_sees_no_private_value_before_the_proof() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    seen: list[Tensor] = []
    marked = torch.full((3, 2, 4), 77.0)

    def remember(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0].detach().clone())

    with mock.patch.object(clipped_module, "per_example_gradients", side_effect=KeyboardInterrupt):
        # The hook is copied along with the module, so that it sees what the copies are given, too.
        model.register_forward_pre_hook(remember)
        with pytest.raises(KeyboardInterrupt):
            clipped_gradient_sum(model, loss, marked, torch.full((3,), 2), 1.0)
    assert len(seen) > 3
    assert not any(bool((tensor == 77).any()) for tensor in seen)


def test_the_weights_during_the_plan_are_not_the_users() -> None:
    torch.manual_seed(0)
    model = Network()
    weights = copy.deepcopy(model.state_dict())
    proved_ownership(model, loss, torch.rand(3, 2, 4), torch.zeros(3, 2).long())
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_parameters_unfrozen_later_are_trained() -> None:
    """As in training a head first and then everything."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    model[0].requires_grad_(False)
    views, targets = torch.rand(2, 1, 3, dtype=torch.float64), torch.tensor([0, 1])
    engine = ClippedGradient(model, loss, 1e6)
    assert set(engine.sum(views, targets).gradients) == {"2.weight", "2.bias"}
    model[0].requires_grad_(True)
    assert engine.sum(views, targets).gradients["0.weight"].abs().sum() > 0
