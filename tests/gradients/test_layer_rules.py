"""Every layer rule gives the gradients of a micro-batch of one, in float64, whichever path it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dpvision.gradients import ClippedGradient, group_norm, reference_clipped_sum, reference_gradients
from dpvision.gradients.capture import per_example_gradients
from dpvision.gradients.clipped import ROUNDING_MARGIN
from dpvision.gradients.convolution import WAYS, by_patches, one_by_one
from dpvision.gradients.per_example import Factored, Instantiated, PerExample
from dpvision.gradients.proof import proved_ownership
from dpvision.gradients.ways import Ways
from dpvision.networks.weight_standardization import WeightStandardizedConv2d

few = settings(max_examples=12, deadline=None, derandomize=True)
counts = {"examples": st.integers(1, 3), "per_view": st.sampled_from([1, 4])}


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


@contextmanager
def path(name: str) -> Iterator[None]:
    """Force how gradients are computed, and see to it that the rule does it: a replay is an error."""
    largest = 10**12 if name == "by_patches" else 0

    def forced(
        self: Ways, key: object, ways: dict[str, Callable[[], object]], *_: object, **__: object
    ) -> object:
        return ways.get(name, next(iter(ways.values())))()

    with (
        mock.patch.object(Ways, "fastest", forced),
        mock.patch("dpvision.gradients.rules.ghost_is_cheaper", return_value=name == "ghost"),
        mock.patch("dpvision.gradients.convolution.ghost_is_cheaper", return_value=name == "ghost"),
        mock.patch("dpvision.gradients.convolution.PATCHES_IN_CACHE", largest),
        mock.patch("dpvision.gradients.capture.replayed_gradients", side_effect=AssertionError("replayed")),
    ):
        yield


def check(layer: nn.Module, views: Tensor) -> dict[str, PerExample]:
    """The layer as a whole network: gradients, norms and clipped sums equal the reference's."""
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten()).double()
    features = model(views.flatten(0, 1)).shape[1]
    targets = torch.randint(features, views.shape[:2])
    ownership = proved_ownership(model, loss, views, targets)
    assert list(ownership.owners) == ["0"]

    found = per_example_gradients(model, loss, ownership, views, targets).gradients
    expected = reference_gradients(model, loss, views, targets)
    norms = torch.stack([torch.stack([g.norm() for g in each.values()]).norm() for each in expected])
    for name, gradient in found.items():
        reference = torch.stack([each[name] for each in expected])
        with torch.no_grad():
            torch.testing.assert_close(gradient.instantiate(), reference, rtol=1e-8, atol=1e-11)

    bound = max(float(norms.median()), 0.01)  # a filter of one weight has no gradient
    result = ClippedGradient(model, loss, bound, precision="float32").sum(views, targets)
    # Norms whose terms can cancel are rounded up, by the root of a rounding error where the norm is zero.
    torch.testing.assert_close(result.norms, norms, rtol=2e-3, atol=2e-5)
    total = reference_clipped_sum(model, loss, views, targets, bound * (1 - ROUNDING_MARGIN))
    for name, gradient in result.gradients.items():
        torch.testing.assert_close(gradient, total[name], rtol=2e-3, atol=2e-3 * bound)
    return found


@st.composite
def convolutions(
    draw: st.DrawFn, dimensions: int, paddings: tuple[str, ...]
) -> tuple[dict[str, object], list[int]]:
    """Arguments of a convolution, and a size of image that it takes."""
    groups = draw(st.integers(1, 2))
    each = st.tuples(*[st.integers(1, 2)] * dimensions)
    padding = draw(st.one_of(st.tuples(*[st.integers(0, 2)] * dimensions), st.sampled_from(paddings or (0,))))
    arguments = {
        "in_channels": groups * draw(st.integers(1, 2)),
        "out_channels": groups * draw(st.integers(1, 3)),
        "kernel_size": draw(st.tuples(*[st.integers(1, 3)] * dimensions)),
        "stride": (1,) * dimensions if padding == "same" else draw(each),
        "padding": padding,
        "dilation": draw(each),
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    return arguments, draw(st.lists(st.integers(5, 7), min_size=dimensions, max_size=dimensions))


@pytest.mark.parametrize("way", ["ghost", *(way.__name__ for way in WAYS)])
@given(drawn=convolutions(2, ("same", "valid")), **counts)
@settings(few, max_examples=25)
def test_conv2d(way: str, drawn: tuple[dict[str, object], list[int]], examples: int, per_view: int) -> None:
    torch.manual_seed(0)
    arguments, size = drawn
    layer = nn.Conv2d(**arguments)
    with path(way):
        found = check(layer, torch.randn(examples, per_view, layer.in_channels, *size).double())
    kind = Factored if way == "ghost" and layer.groups == 1 else Instantiated
    assert isinstance(found["0.weight"], kind)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@given(drawn=convolutions(2, ("same", "valid")), at_a_time=st.integers(1, 5))
@few
def test_patches_give_what_single_convolutions_give(
    dtype: torch.dtype, drawn: tuple[dict[str, object], list[int]], at_a_time: int
) -> None:
    torch.manual_seed(0)
    arguments, size = drawn
    layer = nn.Conv2d(**arguments)
    x = torch.randn(10, layer.in_channels, *size).double()
    g = torch.randn_like(layer.double()(x))  # five examples of two views
    with torch.no_grad():
        expected = one_by_one(layer, layer.weight, x, g, 5)
        patches = 2 * g[0, 0].numel() * layer.in_channels * layer.weight[0, 0].numel()
        with mock.patch("dpvision.gradients.convolution.PATCHES_IN_CACHE", at_a_time * patches):
            found = by_patches(layer, layer.weight, x.to(dtype), g.to(dtype), 5)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    rough = 0.02 * float(expected.abs().max()) + 0.05
    tolerance = {"rtol": 1e-8, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 0.05, "atol": rough}
    torch.testing.assert_close(found.double(), expected, **tolerance)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv3d])
@given(data=st.data(), **counts)
@few
def test_conv1d_and_conv3d(
    kind: Callable[..., nn.Module], data: st.DataObject, examples: int, per_view: int
) -> None:
    torch.manual_seed(0)
    arguments, size = data.draw(convolutions(1 if kind is nn.Conv1d else 3, ()))
    layer = kind(**arguments)
    with path("instantiated"):
        check(layer, torch.randn(examples, per_view, layer.in_channels, *size).double())


@pytest.mark.parametrize("kind", [nn.ConvTranspose1d, nn.ConvTranspose2d])
@given(data=st.data(), **counts)
@few
def test_transposed_convolution(
    kind: Callable[..., nn.Module], data: st.DataObject, examples: int, per_view: int
) -> None:
    torch.manual_seed(0)
    dimensions = 1 if kind is nn.ConvTranspose1d else 2
    arguments, size = data.draw(convolutions(dimensions, ()))
    extra = min(*arguments["stride"], 2) - 1  # must be less than the stride
    layer = kind(**arguments, output_padding=extra)
    with path("instantiated"):
        check(layer, torch.randn(examples, per_view, layer.in_channels, *size).double())


@pytest.mark.parametrize("way", [way.__name__ for way in WAYS])
@given(drawn=convolutions(2, ("same", "valid")), at_floor=st.booleans(), **counts)
@settings(few, max_examples=20)
def test_weight_standardized_conv2d(
    way: str, drawn: tuple[dict[str, object], list[int]], at_floor: bool, examples: int, per_view: int
) -> None:
    torch.manual_seed(0)
    arguments, size = drawn
    layer = WeightStandardizedConv2d(**arguments)
    with torch.no_grad():
        layer.gain.uniform_(0.5, 2)
        if at_floor:  # a filter whose variance is below the least, beside others
            layer.weight[0] = 0.3 + 1e-4 * torch.randn_like(layer.weight[0])
    with path(way):
        check(layer, torch.randn(examples, per_view, layer.in_channels, *size).double())


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_settings_without_a_rule_are_replayed(kind: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    dimensions = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}[kind]
    views = torch.randn(2, 4, 2, *[5] * dimensions).double()
    check(kind(2, 3, 3, padding=1, padding_mode="circular"), views)
    check(kind(2, 3, 2, padding="same"), views)
    check(kind(2, 3, 3, padding="valid"), views)


@pytest.mark.parametrize("way", ["ghost", "instantiated"])
@given(
    positions=st.lists(st.integers(1, 3), max_size=2),
    inputs=st.integers(1, 5),
    outputs=st.integers(2, 4),
    bias=st.booleans(),
    **counts,
)
@few
def test_linear(
    way: str, positions: list[int], inputs: int, outputs: int, bias: bool, examples: int, per_view: int
) -> None:
    torch.manual_seed(0)
    with path(way):
        views = torch.randn(examples, per_view, *positions, inputs).double()
        found = check(nn.Linear(inputs, outputs, bias=bias), views)
    assert isinstance(found["0.weight"], Factored if way == "ghost" else Instantiated)


@pytest.mark.parametrize("way", ["by_sums", "by_example"])
@given(groups=st.integers(1, 3), size=st.lists(st.integers(2, 4), min_size=1, max_size=3), **counts)
@few
def test_group_norm(way: str, groups: int, size: list[int], examples: int, per_view: int) -> None:
    torch.manual_seed(0)
    layer = nn.GroupNorm(groups, 2 * groups)
    nn.init.uniform_(layer.weight)
    with path(way):
        check(layer, torch.randn(examples, per_view, 2 * groups, *size).double())


@pytest.mark.parametrize("views_at_a_time", [1, 2, 5])
def test_group_norm_in_pieces_that_cut_across_examples(
    views_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = torch.randn(4, 3, 4, 5, 5).double()
    monkeypatch.setattr(group_norm, "NUMBERS_IN_CACHE", views_at_a_time * views[0, 0].numel())
    layer = nn.GroupNorm(2, 4)
    nn.init.uniform_(layer.weight)
    with path("instantiated"):
        check(layer, views)


@given(
    positions=st.lists(st.integers(1, 3), max_size=2),
    shape=st.lists(st.integers(2, 4), min_size=1, max_size=2),
    bias=st.booleans(),
    **counts,
)
@few
def test_layer_norm(positions: list[int], shape: list[int], bias: bool, examples: int, per_view: int) -> None:
    torch.manual_seed(0)
    layer = nn.LayerNorm(shape, bias=bias)
    nn.init.uniform_(layer.weight)
    with path("instantiated"):
        check(layer, torch.randn(examples, per_view, *positions, *shape).double())


@given(
    positions=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    padding_idx=st.sampled_from([None, 0, 1, -1]),
    **counts,
)
@few
def test_embedding(positions: list[int], padding_idx: int | None, examples: int, per_view: int) -> None:
    torch.manual_seed(0)
    with path("instantiated"):
        check(nn.Embedding(4, 3, padding_idx=padding_idx), torch.randint(4, (examples, per_view, *positions)))


def test_an_embedding_scaled_by_frequency_is_replayed() -> None:
    torch.manual_seed(0)
    check(nn.Embedding(4, 3, scale_grad_by_freq=True), torch.randint(4, (3, 4, 5)))
