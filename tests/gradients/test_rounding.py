"""Norms are never below the true ones, at the sizes of real networks and where terms cancel, and sums are
right to double precision: what `dpvision.gradients.rounding` promises, and clipping rests on.

True norms are taken in float64, or in rational numbers where all entries are equal; there is no tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.gradients import (
    ClippedGradient,
    ClippedSum,
    check_clipping_norm,
    clipped_gradient_sum,
    rounding,
)
from dpvision.gradients.convolution import convolution_gradient
from dpvision.gradients.forward import Loss
from dpvision.gradients.per_example import SMALLEST_SHARE, Factored, Instantiated, PerExample
from dpvision.gradients.standardized import PulledBack
from dpvision.networks import build_network
from dpvision.networks.precision import matmul_precision
from dpvision.networks.weight_standardization import WeightStandardizedConv2d, standardize
from dpvision.privacy.errors import InputError

ABOVE = 5e-5  # at most by this share where nothing cancels: see rounding.squared_norms
C = 0.1


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def true_squares(each: Tensor) -> Tensor:
    """``[B, …] -> [B]`` float64."""
    return each.double().flatten(1).square().sum(dim=1)


def assert_within_c(gradient: PerExample, squares: Tensor) -> None:
    """What one example adds, clipped by its reported norm, is at most C long."""
    for place, square in enumerate(squares):
        weights = torch.zeros(len(squares), dtype=torch.float64)
        weights[place] = C / square.sqrt()
        assert float(gradient.weighted_sum(weights).norm()) <= C


def linear_factors(a: Tensor, b: Tensor) -> Factored:
    return Factored(x=a, g=b, factors=lambda a, b: (a, b), shaped=lambda found: found)


# --- rows ---


@pytest.mark.parametrize("number", [1, 255, 256, 257, 5000, 1_000_003])
def test_norms_of_rows_are_just_above_the_true_ones(number: int) -> None:
    rows = random(4, number)
    rows[1] = 1.1
    rows[2, : number // 2] *= 1e-3
    found = rounding.squared_norms(rows)
    assert (found >= true_squares(rows)).all()
    assert (found <= true_squares(rows) * (1 + ABOVE)).all()


@pytest.mark.parametrize("number", [4_000_000, 30_000_000])
def test_equal_entries_are_the_worst_of_one_sum_and_no_trouble(number: int) -> None:
    for value in random(3, seed=number).abs().add(0.5).tolist():
        row = torch.full((1, number), value)
        square = Fraction(row[0, 0].item()) ** 2 * number
        assert square <= Fraction(rounding.squared_norms(row).item()) <= square * Fraction(1 + ABOVE)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-10, 1e10, 1e15])
def test_tiny_and_huge_rows(scale: float) -> None:
    rows = random(3, 1000) * scale
    found = rounding.squared_norms(rows)
    assert (found >= true_squares(rows)).all()
    lost = 2 * rows.shape[1] * torch.finfo(torch.float32).tiny
    assert (found <= true_squares(rows) * (1 + ABOVE) + lost).all()
    assert_within_c(Instantiated(rows), found)


def test_a_norm_beyond_float32_is_infinite_and_not_small() -> None:
    assert rounding.squared_norms(torch.full((1, 10), 1e30)).isinf().all()
    assert rounding.squared_norms(torch.tensor([[1.0, float("nan")]])).isnan().all()


@pytest.mark.parametrize("clipping_norm", [0, -1.0, 9e-11, 1.1e10, float("inf"), float("nan"), True, "1"])
def test_clipping_norms_that_float32_cannot_square_are_refused(clipping_norm: Any) -> None:
    """Below 10⁻¹⁹ or above 10¹⁹ squares are lost; what is taken stays far from that."""
    with pytest.raises(InputError, match="max_grad_norm: must be a number from 1e-10 to 1e\\+10"):
        check_clipping_norm(clipping_norm)
    for taken in (1e-10, 1, 1e10):
        check_clipping_norm(taken)


def test_norms_do_not_depend_on_the_place_of_a_row() -> None:
    rows = random(8, 3000)
    in_order = rounding.squared_norms(rows)
    for shift in range(1, 8):
        assert torch.equal(rounding.squared_norms(rows.roll(shift, 0)).roll(-shift), in_order)


def test_sums_of_very_many_aligned_examples() -> None:
    """As a float32 total they would be off by 10⁻³, more than clipping leaves as a margin."""
    chunk, chunks = 8, 25_000
    rows = random(1, 10).expand(chunk, -1).contiguous()
    weights = torch.full((chunk,), 0.1, dtype=torch.float64)
    total = torch.zeros(10, dtype=torch.float64)
    for _ in range(chunks):
        total += rounding.weighted_sum(rows, weights)
    exact = [float(Fraction(entry) * Fraction(0.1) * chunk * chunks) for entry in rows[0].tolist()]
    assert total.tolist() == pytest.approx(exact, rel=1e-9, abs=0)


def test_the_total_of_very_many_examples_is_as_exact() -> None:
    """Of one plain layer, all examples alike and all clipped: the sum is n times that of one."""
    model, number = nn.Linear(1, 2), 20_000
    views, targets = torch.full((number, 1, 1), 0.3), torch.zeros(number, dtype=torch.long)
    alone, together = (
        clipped_gradient_sum(
            model, loss, views[:n], targets[:n], C, precision="float32", expected_batch_size=number
        )
        for n in (1, number)
    )
    for name, gradient in together.gradients.items():
        assert gradient.dtype == torch.float64
        torch.testing.assert_close(gradient, number * alone.gradients[name], rtol=1e-9, atol=0)


# --- factors ---


@pytest.mark.parametrize("inputs", [3072, 25_088, 150_528])
@pytest.mark.parametrize("terms", [2, 8, 34])
@pytest.mark.parametrize("left_over", [0.0, 2e-3, 1e-2])
def test_nearly_cancelling_factors_are_not_under_reported(inputs: int, terms: int, left_over: float) -> None:
    """Views that are plain, half of them a little brighter, and output gradients that make up for it but for
    a share.
    """
    first = terms // 2
    offsets = [0.0, 1e-7, 3e-4, *(0.05 * random(3, seed=inputs + terms)).tolist()]
    for value, offset in zip(random(6, seed=terms).abs() + 0.5, offsets, strict=True):
        a = value * torch.ones(1, terms, inputs)
        a[:, first:] *= 1 + offset
        b = torch.ones(1, terms, 1)
        b[:, first:] = -first / (terms - first) / (1 + offset) * (1 - left_over)
        gradient = linear_factors(a, b)
        pairs = zip(a[0, :, 0].tolist(), b.flatten().tolist(), strict=True)
        entry = sum(Fraction(x) * Fraction(y) for x, y in pairs)
        found = gradient.squared_norms()
        assert Fraction(found.item()) >= entry**2 * inputs
        assert_within_c(gradient, found)


def test_sums_of_factors_are_right_to_double_precision() -> None:
    """Relative to what the terms come to: their rounding depends on all examples."""
    a, b, weights = random(6, 34, 3072), random(6, 34, 3, seed=1), random(6, seed=2).double().abs()
    terms = weights * a.double().flatten(1).norm(dim=1) * b.double().flatten(1).norm(dim=1)
    exact = torch.einsum("e,etp,etd->pd", weights, b.double(), a.double())
    assert float((linear_factors(a, b).weighted_sum(weights) - exact).norm()) < 1e-13 * float(terms.sum())


@pytest.mark.parametrize(("examples", "terms", "inputs"), [(5, 1, 3072), (5, 2, 3072), (2, 34, 20_000)])
def test_factors_that_do_not_cancel(examples: int, terms: int, inputs: int) -> None:
    a, b = random(examples, terms, inputs), random(examples, terms, 10, seed=1)
    gradient = linear_factors(a, b)
    true = true_squares(torch.bmm(b.double().mT, a.double()))
    found = gradient.squared_norms()
    assert (found >= true).all()
    assert (found <= true * (1 + 3 * ABOVE)).all()
    assert_within_c(gradient, found)


@pytest.mark.parametrize("scale", [1e-15, 1e8])
def test_factors_of_any_scale(scale: float) -> None:
    a, b = random(3, 4, 200) * scale, random(3, 4, 5, seed=1) * scale
    gradient = linear_factors(a, b)
    found = gradient.squared_norms()
    assert (found >= true_squares(torch.bmm(b.double().mT, a.double()))).all()
    assert_within_c(gradient, found)


@pytest.mark.parametrize("offset", [0.0, 1e-6, 1e-2, 1.0])
def test_a_convolution_kept_as_factors(offset: float) -> None:
    """One output position and two views, which cancel but for ``offset``."""
    layer = nn.Conv2d(16, 8, 8, padding=0)
    x, g = random(3, 1, 16, 8, 8), random(3, 1, 8, 1, 1, seed=1)
    x = torch.cat([x, x * (1 + offset)], dim=1).flatten(0, 1)
    g = torch.cat([g, -g], dim=1).flatten(0, 1)
    gradient = convolution_gradient(layer, layer.weight.detach(), x, g, examples=3, ghost=True)
    assert isinstance(gradient, Factored)
    a, b = (factor.double() for factor in gradient.factors(gradient.x, gradient.g))
    found = gradient.squared_norms()
    assert (found >= true_squares(torch.bmm(b.mT, a))).all()
    # What cancels is reported as more, but never as more than a small share of its terms.
    terms = true_squares(a) * true_squares(b)
    assert (found <= true_squares(torch.bmm(b.mT, a)) * (1 + 3 * ABOVE) + 2 * SMALLEST_SHARE * terms).all()
    assert_within_c(gradient, found)


# --- standardised weights ---


@pytest.mark.parametrize("channels", [64, 256, 512])
@pytest.mark.parametrize("offset", [0.0, 0.1, 1e3], ids=lambda offset: f"weights + {offset:g}")
@pytest.mark.parametrize("along", ["constants", "unit", "both"])
def test_what_nearly_vanishes_under_the_pull_back_is_not_under_reported(
    channels: int, offset: float, along: str
) -> None:
    """Gradients along the directions that standardising takes away, and a little of others."""
    count = channels * 9
    weight = random(1, channels, 3, 3) * count**-0.5 + offset
    unit, constants = standardize(weight), torch.full_like(weight, count**-0.5)
    bases = {"constants": constants, "unit": unit, "both": 0.8 * unit - 0.6 * constants}
    share = 10 ** torch.linspace(-7, 0, 40).view(-1, 1, 1, 1, 1)
    noise = random(40, *weight.shape, seed=1) * count**-0.5
    gain = torch.tensor([1.3])
    for scale in (1e-12, 1.0, 1e12):
        gradient = PulledBack(scale * (bases[along] + share * noise), weight, gain)
        # Of the very numbers that the weighted sum adds up, before they are rounded to float32.
        true = true_squares(gradient.pull_back(gradient.gradients))
        found = gradient.squared_norms()
        assert (found >= true).all()
        assert_within_c(gradient, found)
    if offset == 0:  # what is left in full is reported as little more
        assert found[-1] <= 2 * true[-1]


def test_a_pulled_back_gradient_that_does_not_cancel_is_reported_as_it_is() -> None:
    weight, gain = random(32, 64, 3, 3) / 24, random(32, seed=2)
    gradient = PulledBack(random(4, 32, 64, 3, 3, seed=1), weight, gain)
    true = true_squares(gradient.pull_back(gradient.gradients))
    found = gradient.squared_norms()
    assert (found >= true).all()
    assert (found <= true * 1.01).all()


# --- precision ---

OPERATIONS = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
BOTH = {"tf32": OPERATIONS, "bf16": OPERATIONS[3:]}  # cuBLAS and cuDNN know no bfloat16 for float32


def operation(name: str) -> Any:
    library, kind = name.split(".")
    return getattr(getattr(torch.backends, library), kind)


def in_force() -> dict[str, str]:
    return {name: operation(name).fp32_precision for name in OPERATIONS}


@pytest.fixture(params=["tf32", "bf16", "medium", "high"])
def allowed(request: pytest.FixtureRequest) -> Iterator[None]:
    """A user allows less than float32, by the new or the old settings."""
    before, matmul = in_force(), matmul_precision()
    if request.param in BOTH:
        for name in BOTH[request.param]:
            operation(name).fp32_precision = request.param
    else:
        torch.set_float32_matmul_precision(request.param)
    yield
    assert matmul is not None
    torch.set_float32_matmul_precision(matmul)
    for name, precision in before.items():
        operation(name).fp32_precision = precision


needs_the_new_settings = pytest.mark.skipif(
    not hasattr(torch.backends.cudnn, "conv"), reason="this PyTorch has no fp32_precision"
)


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


def one_pass(loss: Loss) -> None:
    model = nn.Sequential(WeightStandardizedConv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    clipped_gradient_sum(model, loss, torch.rand(2, 1, 2, 4, 4), torch.tensor([0, 2]), C, precision="float32")


@needs_the_new_settings
@pytest.mark.usefixtures("allowed")
def test_all_of_a_pass_is_in_float32_and_settings_are_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hooks of the backward pass too: the pull-back takes its products there."""
    seen = []
    initialise = PulledBack.__post_init__

    def spy(gradient: PulledBack) -> None:
        seen.append(in_force())
        initialise(gradient)

    monkeypatch.setattr(PulledBack, "__post_init__", spy)
    before = in_force(), matmul_precision()
    one_pass(loss)
    assert seen
    assert {precision for each in seen for precision in each.values()} == {"ieee"}
    assert (in_force(), matmul_precision()) == before


def test_the_autocast_of_whoever_calls_reaches_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 3))
    engine = ClippedGradient(model, loss, C, precision="float32", engine="by-size")
    batch = torch.rand(2, 1, 2, 4, 4), torch.tensor([0, 2])
    expected = engine.sum(*batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ClippedGradient(model, loss, C, precision="float32", engine="by-size").sum(*batch)
    assert torch.equal(found.norms, expected.norms)
    assert all(torch.equal(total, expected.gradients[name]) for name, total in found.gradients.items())


@needs_the_new_settings
@pytest.mark.usefixtures("allowed")
def test_settings_are_set_back_after_an_error() -> None:
    def fails(logits: Tensor, targets: Tensor) -> Tensor:
        raise ZeroDivisionError

    before = in_force(), matmul_precision()
    with pytest.raises(ZeroDivisionError):
        one_pass(fails)
    assert (in_force(), matmul_precision()) == before


# --- end to end ---


def norm(found: ClippedSum) -> float:
    return float(torch.cat([gradient.flatten() for gradient in found.gradients.values()]).norm())


def test_a_plain_image_of_512_pixels_a_side() -> None:
    """Its gradient by a linear classifier has 1.6 million entries, as good as equal."""
    model = build_network("linear", in_channels=3, image_size=(512, 512), num_classes=2)
    views = torch.full((1, 1, 3, 512, 512), 160 / 255).expand(-1, 34, -1, -1, -1)
    found = clipped_gradient_sum(model, loss, views, torch.tensor([0]), C, precision="float32")
    assert 0.999 * C < norm(found) <= C


def test_a_grey_and_a_nearly_equal_grey() -> None:
    """Mixtures of two plain images, as of dp-mix-diff, with targets that pull either way."""
    model = build_network("linear", in_channels=3, image_size=(224, 224), num_classes=2)
    engine = ClippedGradient(model, loss, C, precision="float32")
    share = torch.tensor([0.0, 0.3, 0.5, 0.8, 1.0, 1.0]).view(1, -1, 1, 1, 1)
    targets = torch.stack([share.flatten(), 1 - share.flatten()], dim=1).unsqueeze(0)
    for one, other in ((243, 241), (243, 242), (128, 129), (200, 200)):
        views = (share * one + (1 - share) * other) / 255 * torch.ones(1, 1, 3, 224, 224)
        assert norm(engine.sum(views, targets)) <= C
