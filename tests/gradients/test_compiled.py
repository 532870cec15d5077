"""engine="compiled": the same clipped sum by another program, or the layers' ways and a word about it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.gradients import ClippedGradient, reference_clipped_sum
from dpvision.gradients.compiled import CompiledPass
from tests.gradients.test_chunks import distance

C = 0.5
compile_whole = torch.compile


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


def network() -> nn.Module:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 3))
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), head)


def batch(examples: int = 5, views: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(examples, views, 2, 8, 8, generator=generator)
    return images, torch.arange(examples) % 3


def compiling(model: nn.Module, **options: Any) -> ClippedGradient:
    return ClippedGradient(model, loss, C, engine="compiled", expected_batch_size=4, **options)


@pytest.fixture
def _traced_only() -> Any:
    """Trace and differentiate as when compiling, and run the program without a C++ compiler."""
    with mock.patch.object(torch, "compile", partial(compile_whole, backend="aot_eager")):
        yield


def is_compiled(engine: ClippedGradient) -> bool:
    return isinstance(engine._run, CompiledPass)


def test_the_compiled_sum_is_that_of_the_definition() -> None:
    model, examples = network(), batch()
    engine = compiling(model)
    found = engine.sum(*examples)
    if not is_compiled(engine):
        pytest.skip("no compiler that torch.compile can use here")
    views, targets = examples
    expected = reference_clipped_sum(model, loss, views, targets.unsqueeze(1).expand(-1, 2), C)
    assert distance(found.gradients, expected) < 2e-4  # ours clips to a little less than C
    assert engine.chunk > 1


@pytest.mark.usefixtures("_traced_only")
def test_weights_that_moved_are_those_computed_with() -> None:
    model, examples = network(), batch()
    engine = compiling(model)
    engine.sum(*examples)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    found = engine.sum(*examples)
    assert is_compiled(engine)
    expected = ClippedGradient(model, loss, C, engine="by-size").sum(*examples)
    assert distance(found.gradients, expected.gradients) < 1e-4  # float32, in another order


@pytest.mark.usefixtures("_traced_only")
@pytest.mark.parametrize("place", [0, 2, 4])
def test_an_example_adds_at_most_its_clipped_gradient(place: int) -> None:
    model, (views, targets) = network(), batch()
    views[place] *= 1e3
    engine = compiling(model)
    kept = torch.arange(5) != place
    whole = engine.sum(views, targets)
    without = engine.sum(views[kept], targets[kept])
    assert is_compiled(engine)
    added = {name: whole.gradients[name] - without.gradients[name] for name in whole.gradients}
    length = torch.stack([values.norm() for values in added.values()]).norm()
    assert 0.99 * C < length <= C


@pytest.mark.usefixtures("_traced_only")
def test_an_example_that_is_not_finite_leaves_the_others_alone() -> None:
    model, (views, targets) = network(), batch()
    engine = compiling(model)
    expected = engine.sum(views[1:], targets[1:])
    views[0, 1, 0, 3, 3] = torch.inf
    found = engine.sum(views, targets)
    assert is_compiled(engine)
    assert found.nonfinite == 1
    assert distance(found.gradients, expected.gradients) < 1e-12


class LooksAtValues(nn.Module):
    """A network that cannot be traced: which way it takes depends on the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(128, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)) if x.sum().item() > -1e9 else self.layer(-x.flatten(1))


def dropping() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, 3)).train()


@pytest.mark.usefixtures("_traced_only")
@pytest.mark.parametrize(("make", "why"), [(LooksAtValues, "not compiled"), (dropping, "drops units")])
def test_what_cannot_be_compiled_is_computed_by_layers_and_told(
    make: Callable[[], nn.Module], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, examples = make(), batch()
    engine = compiling(model)
    with caplog.at_level(logging.WARNING, "dpvision"):
        found = engine.sum(*examples)
    assert not is_compiled(engine)
    assert "layers by size instead" in caplog.text
    assert why in caplog.text
    assert found.norms.min() > 0


def test_a_program_that_computes_something_else_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    def miscompile(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def run(values: dict[str, Tensor], *examples: Tensor) -> Any:
            gradients, losses = function(values, *examples)
            return {**gradients, "0.weight": gradients["0.weight"] * 1.2}, losses

        return run

    model, examples = network(), batch()
    with mock.patch.object(torch, "compile", miscompile), caplog.at_level(logging.WARNING, "dpvision"):
        engine = compiling(model)
        found = engine.sum(*examples)
    assert not is_compiled(engine)
    assert "not those of the layers" in caplog.text
    expected = ClippedGradient(model, loss, C, engine="by-size").sum(*examples)
    assert distance(found.gradients, expected.gradients) < 1e-12


def test_a_program_whose_results_depend_on_the_place_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    def unsteady(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def run(values: dict[str, Tensor], views: Tensor, targets: Tensor) -> Any:
            gradients, losses = function(values, views, targets)
            place = 1 + 1e-6 * torch.arange(len(views))
            moved = {name: torch.einsum("b...,b->b...", found, place) for name, found in gradients.items()}
            return moved, losses

        return run

    model, examples = network(), batch()
    with mock.patch.object(torch, "compile", unsteady), caplog.at_level(logging.WARNING, "dpvision"):
        engine = compiling(model)
        engine.sum(*examples)
    assert not is_compiled(engine)
    assert "its place in the chunk" in caplog.text
