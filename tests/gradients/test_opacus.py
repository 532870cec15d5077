"""Agreement with an independent implementation: Opacus' per-sample gradients."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from opacus import GradSampleModule
from torch import Tensor, nn

from dpvision.gradients import ClippedGradient
from dpvision.gradients.capture import per_example_gradients
from dpvision.gradients.clipped import ROUNDING_MARGIN
from dpvision.gradients.proof import proved_ownership


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


def test_gradients_of_a_common_network_are_those_of_opacus() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.GroupNorm(4, 8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 3 * 3, 10),
    )
    views, targets = torch.rand(6, 1, 3, 12, 12), torch.randint(10, (6, 1))

    theirs = GradSampleModule(copy.deepcopy(model), loss_reduction="sum")
    loss(theirs(views.flatten(0, 1)), targets.flatten()).sum().backward()
    expected = {name.removeprefix("_module."): p.grad_sample for name, p in theirs.named_parameters()}

    ownership = proved_ownership(model, loss, views, targets)
    found = per_example_gradients(model, loss, ownership, views, targets).gradients
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        with torch.no_grad():
            torch.testing.assert_close(gradient.instantiate(), expected[name], rtol=1e-4, atol=1e-6)

    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in expected.values()]).norm(dim=0)
    bound = float(norms.median())
    result = ClippedGradient(model, loss, bound, precision="float32").sum(views, targets)
    torch.testing.assert_close(result.norms, norms, rtol=2e-3, atol=0)
    weights = (bound * (1 - ROUNDING_MARGIN) / norms).clamp(max=1)
    for name, gradient in expected.items():
        total = torch.einsum("b,b...->...", weights, gradient)
        torch.testing.assert_close(result.gradients[name].float(), total, rtol=2e-3, atol=1e-4 * bound)
