from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dpvision.privacy.errors import InputError
from dpvision.training import make_optimizer, schedule_factor


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("cosine", [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
    ],
)
def test_schedules(schedule: str, expected: list[float]) -> None:
    assert [schedule_factor(schedule, step, 4) for step in range(4)] == pytest.approx(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "momentum", "update"),
    [
        ("sgd", 0.0, lambda g: [-0.1 * g, -0.1 * g]),
        ("sgd", 0.5, lambda g: [-0.1 * g, -0.1 * 1.5 * g]),
        ("adam", 0.0, lambda g: [-0.1 * g.sign(), -0.1 * g.sign()]),
    ],
)
def test_two_updates_with_the_same_gradient(name: str, momentum: float, update: object) -> None:
    parameter, gradient = nn.Parameter(torch.zeros(3)), torch.tensor([1.0, -2.0, 0.5])
    optimizer = make_optimizer(name, [parameter], 0.1, momentum)  # type: ignore[arg-type]
    for change in update(gradient):  # type: ignore[operator]
        before = parameter.detach().clone()
        parameter.grad = gradient.clone()
        optimizer.step()
        torch.testing.assert_close(parameter.detach() - before, change)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="one of sgd, adam"):
        make_optimizer("lion", [nn.Parameter(torch.zeros(1))], 0.1, 0.0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one of constant, linear, cosine"):
        schedule_factor("step", 0, 1)  # type: ignore[arg-type]
