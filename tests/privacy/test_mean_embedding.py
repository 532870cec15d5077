"""What one image can change in a released mean embedding, and what the release costs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dpvision.privacy import Account, Budget, InputError, SeededRandom, epsilon
from dpvision.privacy.mean_embedding import ROUNDING_MARGIN, MeanEmbedding

D, K = 4, 3

entries = st.one_of(st.just(0.0), st.floats(-(2.0**99), 2.0**99, width=32), st.floats(-1, 1, width=32))
examples = st.tuples(st.lists(entries, min_size=D, max_size=D), st.integers(0, K - 1))
weights = st.sampled_from([0.0, 0.3, 1.0, 4.0])
count_weights = st.sampled_from([0.1, 0.5, 1.0, 3.0])


def released(mechanism: MeanEmbedding, images: list[Any]) -> Tensor:
    """All of the sums as one vector."""
    sums = mechanism.zero()
    if images:
        features = torch.tensor([e for e, _ in images], dtype=torch.float32)
        labels = torch.tensor([y for _, y in images]) if mechanism.num_classes else None
        mechanism.add(sums, features, labels)
    return torch.cat([total.flatten() for total in sums.values()])


@given(examples, examples, st.lists(examples, max_size=3), weights, count_weights, st.booleans())
def test_one_image_changes_no_more_than_declared(
    one: Any, other: Any, rest: list[Any], c: float, b: float, labelled: bool
) -> None:
    mechanism = MeanEmbedding(D, K if labelled else None, c, b)
    with_one, with_other = released(mechanism, [one, *rest]), released(mechanism, [other, *rest])
    without = released(mechanism, rest)
    assert float((with_one - without).norm()) <= mechanism.sensitivity
    assert float((with_one - with_other).norm()) <= mechanism.replace_one_ratio * mechanism.sensitivity


@pytest.mark.parametrize("c", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("b", [0.5, 1.0, 2.0])
def test_the_worst_pairs_reach_what_is_declared(c: float, b: float) -> None:
    """So that it is no larger than it must be: one-hots of two classes, or features that turn around."""
    mechanism = MeanEmbedding(D, K, c, b)
    one = ([1.0, 0.0, 0.0, 0.0], 0)
    declared = mechanism.replace_one_ratio * mechanism.sensitivity
    assert float(released(mechanism, [one]).norm()) == pytest.approx(mechanism.sensitivity, rel=1e-4)
    moved = released(mechanism, [one]) - released(mechanism, [(one[0], 1)])
    # φ1 turns around while φ2 moves to other coordinates: only a limit in one class of real features.
    turned = math.sqrt(4 + 2 * c**2)
    assert float(moved.norm()) == pytest.approx(math.sqrt(2 + 2 * c**2 + 2 * b**2), rel=1e-4)
    assert declared == pytest.approx(max(turned, float(moved.norm())), rel=1e-4)


def test_within_a_class_the_first_moment_can_turn_around() -> None:
    mechanism = MeanEmbedding(D, None, 0.0, 1.0)
    there, back = ([1.0, 1.0, 0.0, 0.0], 0), ([-1.0, -1.0, 0.0, 0.0], 0)
    change = float((released(mechanism, [there]) - released(mechanism, [back])).norm())
    assert change == pytest.approx(2, rel=1e-4)
    assert mechanism.replace_one_ratio * mechanism.sensitivity == pytest.approx(2)


def test_the_mistake_of_the_published_code_would_be_seen() -> None:
    """Squares of unit vectors are taken to differ by at most one there, and differ by √2."""
    mechanism = MeanEmbedding(2, None, 1.0, 1.0)
    sums = [mechanism.zero(), mechanism.zero()]
    mechanism.add(sums[0], torch.tensor([[1.0, 0.0]]), None)
    mechanism.add(sums[1], torch.tensor([[0.0, 1.0]]), None)
    assert float((sums[0]["second"] - sums[1]["second"]).norm()) == pytest.approx(math.sqrt(2), rel=1e-4)


@pytest.mark.parametrize("cached_numbers", [1, 20, 1 << 17])
def test_sums_are_those_of_the_definition(cached_numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image after the other in float64, up to float64's rounding; whatever columns come at a time."""
    monkeypatch.setattr("dpvision.privacy.mean_embedding.CACHED_NUMBERS", cached_numbers)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(50, 7, generator=generator)
    features[::9] = 0
    labels = torch.randint(K, (50,), generator=generator)
    mechanism = MeanEmbedding(7, K, 0.5, 0.25)
    sums = mechanism.zero()
    for some in torch.arange(50).split(8):
        mechanism.add(sums, features[some], labels[some])
    expected = mechanism.zero()
    for e, k in zip(features.double(), labels, strict=True):
        expected["counts"][k] += 0.25
        if e.any():
            expected["first"][k] += (1 - ROUNDING_MARGIN) * e / e.norm()
            expected["second"][k] += (1 - ROUNDING_MARGIN) * 0.5 * e**2 / (e**2).norm()
    embedded = mechanism.embed(features)
    for name, total in expected.items():
        torch.testing.assert_close(sums[name], total, rtol=1e-13, atol=1e-14)
        if name != "counts":
            by_class = torch.stack([embedded[name][labels == k].double().sum(dim=0) for k in range(K)])
            torch.testing.assert_close(by_class, total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-30, 1e-10, 1.0, 1e10, 1e30, 3e38])
@pytest.mark.parametrize("c", [0.0, 1.0])
def test_no_scale_of_features_is_too_small_or_too_large(scale: float, c: float) -> None:
    """Neither overflow nor underflow makes an image count more than it may, or less than it should."""
    generator = torch.Generator().manual_seed(0)
    features = (2 * torch.rand(20, 5000, generator=generator) - 1) * scale
    features[:, 3] = scale  # the least float32 above zero is 1e-45: there is nothing else then
    features[:, 4:2000] = 0
    mechanism = MeanEmbedding(5000, None, c, 1.0)
    for e in features:
        sums = mechanism.zero()
        mechanism.add(sums, e[None], None)
        norm = float(torch.cat(list(sums.values())).norm())
        assert norm <= mechanism.sensitivity
        assert norm >= (1 - 2 * ROUNDING_MARGIN) * mechanism.sensitivity


def test_rounding_among_many_images_stays_within_the_margin() -> None:
    """One more image in front moves all others to other places in other blocks, which changes rounding errors
    everywhere. All point the same way, so that the sums are as large as they can be.
    """
    generator = torch.Generator().manual_seed(0)
    features = 1 + 0.01 * torch.rand(5001, 200, generator=generator)
    mechanism = MeanEmbedding(200, None, 1.0, 1.0)

    def total(images: Tensor) -> Tensor:
        sums = mechanism.zero()
        for some in images.split(55):
            mechanism.add(sums, some, None)
        return torch.cat(list(sums.values()))

    alone = total(features[:1])
    change = total(features) - total(features[1:])
    assert float(change.norm()) <= mechanism.sensitivity
    n, b = 5001, 55
    assert float((change - alone).norm()) <= 2 * (n / b + b) * n * math.sqrt(2) * 2**-53 < 1e-9


def test_an_image_without_features_counts_and_adds_nothing_else() -> None:
    mechanism = MeanEmbedding(D, K, 1.0, 0.5)
    sums = mechanism.zero()
    mechanism.add(sums, torch.zeros(2, D), torch.tensor([1, 1]))
    assert not sums["first"].any()
    assert not sums["second"].any()
    assert sums["counts"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    mechanism = MeanEmbedding(D, K, 0.0, 0.5)
    sums = mechanism.zero()
    with pytest.raises(InputError, match="features that are not finite"):
        mechanism.add(sums, torch.tensor([[0.0, value, 0.0, 0.0]]), torch.tensor([0]))
    assert not any(total.any() for total in sums.values())


@pytest.mark.parametrize(
    ("c", "b", "message"),
    [
        (-1.0, 0.5, "second_moment_weight"),
        (math.nan, 0.5, "second_moment_weight"),
        (0.0, 0.0, "count_weight"),
    ],
)
def test_weights_out_of_range_are_refused(c: float, b: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MeanEmbedding(D, K, c, b)


@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
def test_it_costs_what_one_gaussian_release_costs(relation: Any) -> None:
    """By dp_accounting, at the noise over the sensitivity of that relation."""
    mechanism = MeanEmbedding(D, K, 1.0, 0.5)
    gaussian = mechanism.mechanism(2.0, 100)
    ratio = mechanism.replace_one_ratio if relation == "replace_one" else 1.0
    reference = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    reference.compose(dp_event.GaussianDpEvent(2.0 / ratio))
    assert epsilon([gaussian.event], 1e-5, relation) == pytest.approx(reference.get_epsilon(1e-5), rel=1e-3)


def test_the_noise_is_that_of_the_account() -> None:
    """On every number, in proportion to the sensitivity of all of it together."""
    mechanism = MeanEmbedding(20_000, 2, 1.0, 0.5)
    gaussian = mechanism.mechanism(3.0, 100)
    account = Account(Budget(10.0, 1e-3), None, "run", [gaussian.event])
    account.open()
    noisy = gaussian.release(mechanism.zero(), account, SeededRandom(0))
    for name in ("first", "second"):
        assert float(noisy[name].std()) == pytest.approx(3.0 * mechanism.sensitivity, rel=0.02)
        assert abs(float(noisy[name].mean())) < 0.1
    assert noisy["counts"].abs().min() > 0
