"""What the privacy guarantee asks of the clipped sum, in every mode of computing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import dpvision.gradients.clipped as clipped_module
from dpvision.gradients import (
    ClippedGradient,
    ClippedSum,
    Precision,
    clipped_gradient_sum,
    reference_clipped_sum,
)
from dpvision.gradients.capture import per_example_gradients
from dpvision.gradients.per_example import Factored, Instantiated
from dpvision.gradients.proof import proved_ownership
from dpvision.gradients.rules import RULES

C = 0.5


class Network(nn.Module):
    """One layer of most kinds, and a parameter that no layer owns."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.narrow = nn.Conv2d(4, 3, 2, stride=2)
        self.offset = nn.Parameter(torch.randn(3, 2, 2))
        self.linear = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(torch.relu(self.norm(self.convolution(x)))) + self.offset
        return self.linear(x.flatten(1))


@dataclass(frozen=True)
class Mode:
    precision: Precision = "float32"
    ghost: bool | None = None  # None: as the engine chooses
    rules: bool = True  # False: every layer is replayed

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with mock.patch.dict(RULES, {}, clear=not self.rules):
            if self.ghost is None:
                yield
                return
            with (
                mock.patch("dpvision.gradients.rules.ghost_is_cheaper", return_value=self.ghost),
                mock.patch("dpvision.gradients.convolution.ghost_is_cheaper", return_value=self.ghost),
            ):
                yield


MODES = {
    "float32": Mode(),
    "ghost": Mode(ghost=True),
    "instantiated": Mode(ghost=False),
    "replayed": Mode(rules=False),
    "bfloat16": Mode("bfloat16"),
    "bfloat16 ghost": Mode("bfloat16", ghost=True),
    "bfloat16 replayed": Mode("bfloat16", rules=False),
}
in_every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())


def batch(examples: int, per_view: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    views = torch.rand(examples, per_view, 2, 4, 4, generator=generator)
    return views, torch.randint(3, (examples, per_view), generator=generator)


def network() -> Network:
    torch.manual_seed(0)
    return Network()


def scaled(scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, targets: scale * F.cross_entropy(logits, targets, reduction="none")


loss = scaled(1.0)


def clipped(
    mode: Mode, views: Tensor, targets: Tensor, scale: float = 1.0, memory_bytes: int | None = None
) -> ClippedSum:
    with mode():
        return clipped_gradient_sum(
            network(),
            scaled(scale),
            views,
            targets,
            C,
            precision=mode.precision,
            expected_batch_size=8,
            memory_bytes=memory_bytes,
        )


def flat(result: ClippedSum) -> Tensor:
    """All gradients as one vector: the norm is taken over all parameters together."""
    return torch.cat([gradient.flatten() for gradient in result.gradients.values()]).double()


def assert_same(found: ClippedSum, expected: ClippedSum, tolerance: float = 1e-5) -> None:
    assert found.gradients.keys() == expected.gradients.keys()
    assert float((flat(found) - flat(expected)).norm()) <= tolerance * C


@in_every_mode
@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-6])
def test_one_example_changes_the_sum_by_at_most_c(mode: Mode, scale: float) -> None:
    views, targets = batch(4)
    whole = clipped(mode, views, targets, scale)
    assert len(whole.norms) == 4
    for left_out in range(4):
        others = torch.arange(4) != left_out
        change = flat(whole) - flat(clipped(mode, views[others], targets[others], scale))
        assert float(change.norm()) <= C
        if scale > 1e-6:  # and what is clipped is clipped to C, not to less
            assert whole.norms[left_out] > C
            assert float(change.norm()) > 0.99 * C
        else:
            assert float(change.norm()) == pytest.approx(float(whole.norms[left_out]), rel=0.05)


@in_every_mode
def test_an_example_alone_stays_within_c(mode: Mode) -> None:
    views, targets = batch(4)
    for scale in (1.0, 1e6):
        for own_views, own_targets in zip(views.split(1), targets.split(1), strict=True):
            assert 0.99 * C < float(flat(clipped(mode, own_views, own_targets, scale)).norm()) <= C


@in_every_mode
def test_the_sum_is_that_of_the_definition(mode: Mode) -> None:
    views, targets = batch(4)
    model = network()
    expected = reference_clipped_sum(model, loss, views, targets, C)
    found = clipped(mode, views, targets)
    tolerance = 1e-3 if mode.precision == "float32" else 0.05
    for name, gradient in found.gradients.items():
        assert float((gradient - expected[name]).norm()) <= tolerance * C


@in_every_mode
def test_changing_one_example_leaves_the_others_alone(mode: Mode) -> None:
    views, targets = batch(4)
    other_views, other_targets = views.clone(), targets.clone()
    other_views[2] = 5 * torch.rand_like(views[2])
    other_targets[2] = (targets[2] + 1) % 3
    others = torch.tensor([0, 1, 3])
    model = network()
    autocast = torch.bfloat16 if mode.precision == "bfloat16" else None
    with mode():
        ownership = proved_ownership(model, loss, views, targets)
        before = per_example_gradients(model, loss, ownership, views, targets, autocast)
        after = per_example_gradients(model, loss, ownership, other_views, other_targets, autocast)
        for name, gradient in before.gradients.items():
            with torch.no_grad():
                one, two = gradient.instantiate(), after.gradients[name].instantiate()
                torch.testing.assert_close(one[others], two[others], rtol=1e-5, atol=1e-7)
                assert not torch.allclose(one[2], two[2], rtol=1e-2)
                norms = gradient.squared_norms()[others]
                torch.testing.assert_close(norms, after.gradients[name].squared_norms()[others])
    first, second = clipped(mode, views, targets), clipped(mode, other_views, other_targets)
    torch.testing.assert_close(first.norms[others], second.norms[others])
    torch.testing.assert_close(first.losses[others], second.losses[others])
    # The sum changes by what the example itself adds, and by nothing else.
    alone = flat(clipped(mode, views[2:3], targets[2:3])) - flat(
        clipped(mode, other_views[2:3], other_targets[2:3])
    )
    tolerance = 1e-5 if mode.precision == "float32" else 0.05  # bfloat16 may round otherwise in another batch
    assert float((flat(first) - flat(second) - alone).norm()) <= tolerance * C


@in_every_mode
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_an_example_without_a_finite_gradient_adds_nothing_and_is_counted(mode: Mode, value: float) -> None:
    views, targets = batch(4)
    spoilt = views.clone()
    spoilt[1, 0, 0, 0, 0] = value  # a pixel of one view
    others = torch.tensor([0, 2, 3])
    whole, rest = clipped(mode, spoilt, targets), clipped(mode, views[others], targets[others])
    assert whole.nonfinite == 1
    assert not whole.norms[1].isfinite()
    torch.testing.assert_close(whole.norms[others], clipped(mode, views, targets).norms[others])
    # bfloat16 may round otherwise in a batch of another size.
    assert_same(whole, rest, 1e-5 if mode.precision == "float32" else 0.05)

    nothing = clipped(mode, torch.full_like(views, value), targets)
    assert nothing.nonfinite == 4
    assert all(bool((gradient == 0).all()) for gradient in nothing.gradients.values())


@in_every_mode
def test_an_overflowing_gradient_adds_nothing(mode: Mode) -> None:
    views, targets = batch(3)
    whole = clipped(mode, views, targets, scale=1e30)  # squares leave the range of float32
    assert whole.nonfinite == 3
    assert float(flat(whole).norm()) == 0


@in_every_mode
def test_an_empty_batch_gives_zeros(mode: Mode) -> None:
    views, targets = batch(4)
    result = clipped(mode, views[:0], targets[:0])
    assert {name: g.shape for name, g in result.gradients.items()} == {
        name: p.shape for name, p in network().named_parameters()
    }
    assert float(flat(result).norm()) == 0
    assert (len(result.norms), len(result.losses), result.nonfinite) == (0, 0, 0)


@in_every_mode
def test_the_sum_does_not_depend_on_memory_or_order(mode: Mode) -> None:
    views, targets = batch(7)
    # bfloat16 may round otherwise in a batch of another size.
    tolerance = 1e-5 if mode.precision == "float32" else 0.05
    whole = clipped(mode, views, targets, memory_bytes=1 << 40)
    for memory_bytes in (0, 30_000, 100_000):
        found = clipped(mode, views, targets, memory_bytes=memory_bytes)
        assert_same(found, whole, tolerance)
        torch.testing.assert_close(found.norms, whole.norms, rtol=tolerance, atol=0)
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    shuffled = clipped(mode, views[order], targets[order])
    assert_same(shuffled, whole, tolerance)
    torch.testing.assert_close(shuffled.norms, whole.norms[order], rtol=tolerance, atol=0)


def test_memory_bounds_the_chunk_and_all_chunks_have_one_shape() -> None:
    views, targets = batch(7)
    chunks = {}
    for memory_bytes in (0, 20_000, 1 << 40):
        engine = ClippedGradient(network(), loss, C, expected_batch_size=8, memory_bytes=memory_bytes)
        engine.sum(views, targets)  # with its trial
        with mock.patch.object(clipped_module, "per_example_gradients", wraps=per_example_gradients) as spy:
            engine.sum(views, targets)
        chunks[memory_bytes] = [len(call.args[3]) for call in spy.call_args_list]
    assert chunks[0] == [1] * 7
    assert chunks[20_000] in ([2] * 4, [4] * 2)
    assert chunks[1 << 40] == [8]


@given(positions=st.integers(2, 64), inputs=st.integers(1, 8), log_difference=st.integers(-12, 0))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_ghost_norm_whose_terms_cancel_is_not_under_reported(
    positions: int, inputs: int, log_difference: int
) -> None:
    # The gradient is the small rest of large terms; in float32 the Gram sum is then mostly rounding error.
    torch.manual_seed(positions)
    layer = nn.Linear(inputs, 3)
    x = torch.randn(1, 1, inputs).expand(1, positions, inputs) * 10
    g = torch.randn(1, positions, 3)
    g = g - g.mean(dim=1, keepdim=True) + 10.0**log_difference * torch.randn(1, 1, 3)
    with mock.patch("dpvision.gradients.rules.ghost_is_cheaper", return_value=True), torch.no_grad():
        gradient = RULES[nn.Linear](layer, x, g, 1, True)["weight"]
        assert isinstance(gradient, Factored)
        weights = (C / gradient.squared_norms().sqrt()).clamp(max=1)
        assert float(gradient.weighted_sum(weights).double().norm()) <= C * (1 + 1e-6)


def test_norms_and_sums_are_taken_in_full_precision_whatever_the_user_allows() -> None:
    seen = []

    class Spy(Instantiated):
        def squared_norms(self) -> Tensor:
            seen.append(torch.get_float32_matmul_precision())
            return super().squared_norms()

        def weighted_sum(self, weights: Tensor) -> Tensor:
            seen.append(torch.get_float32_matmul_precision())
            return super().weighted_sum(weights)

    model = nn.Linear(3, 2, bias=False)
    views, targets = torch.rand(2, 1, 3), torch.tensor([0, 1])
    torch.set_float32_matmul_precision("medium")
    try:
        with (
            mock.patch("dpvision.gradients.rules.Instantiated", Spy),
            mock.patch("dpvision.gradients.rules.ghost_is_cheaper", return_value=False),
        ):
            clipped_gradient_sum(model, loss, views, targets, 1.0)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {"highest"}
