from __future__ import annotations

import pytest
import torch
from torch import nn

from dpvision.training import ExponentialMovingAverage


def test_the_average_is_that_of_a_plain_loop() -> None:
    model = nn.Linear(1, 1, bias=False)
    values = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, -6.0, 5.0, 3.0, 5.0, 8.0]
    nn.init.constant_(model.weight, 7.0)
    average = ExponentialMovingAverage(model, decay=0.5)
    expected = 7.0
    for step, value in enumerate(values):
        nn.init.constant_(model.weight, value)
        average.update(model, step)
        # Decays of 1/10, 2/11, 3/12, … up to the one asked for.
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        assert float(average.weights["weight"]) == pytest.approx(expected, rel=1e-6)
    assert min(0.5, (1 + 11) / (10 + 11)) == 0.5  # the warm-up is over

    average.copy_to(model)
    assert model.weight.item() == pytest.approx(expected, rel=1e-6)


def test_the_average_holds_weights_of_its_own() -> None:
    model = nn.Linear(2, 2)
    average = ExponentialMovingAverage(model, decay=0.9)
    start = model.weight.detach().clone()
    nn.init.zeros_(model.weight)
    assert torch.equal(average.weights["weight"], start)

    average.copy_to(model)
    nn.init.ones_(model.weight)
    assert torch.equal(average.weights["weight"], start)
    other = ExponentialMovingAverage(model, decay=0.9)
    other.load(average.weights)
    other.update(model, 0)
    assert torch.equal(average.weights["weight"], start)
