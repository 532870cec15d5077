"""DP-Mix: what is mixed, how often, with which weights, and with which labels."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import beta, chisquare
from torch import Tensor, nn

from dpvision.gradients import ClippedGradient
from dpvision.images import Images
from dpvision.methods.gradient_descent import cross_entropy
from dpvision.privacy import InputError, SeededRandom
from dpvision.views import DPMix, Pool, SelfAugmentation, ViewPolicy, check_no_leak
from dpvision.views.mixing import Pairs

CLASSES = 4
AUGMENTATION = SelfAugmentation(augmult=3, pad=2)


def batch(count: int, shape: tuple[int, int, int] = (3, 8, 8)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)
    return pixels, torch.arange(count) % 2


def pool_of(pixels: Tensor) -> Pool:
    """Images of the last two classes in turn, which no private image here is of."""
    targets = torch.eye(CLASSES)[2 + torch.arange(len(pixels)) % 2]
    return Pool(Images(pixels, None, (), "made"), targets, ("a", "b", "c", "d"), "made", {})


@pytest.fixture
def pool() -> Pool:
    generator = torch.Generator().manual_seed(2)
    return pool_of(torch.randint(256, (11, 3, 8, 8), dtype=torch.uint8, generator=generator))


def made(policy: ViewPolicy, pixels: Tensor, targets: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    return policy(pixels, targets, SeededRandom(seed).by_example().of(torch.arange(len(pixels))))


def test_the_papers_numbers_of_views(pool: Pool) -> None:
    pixels, targets = batch(2)
    views, labels = made(DPMix(SelfAugmentation()), pixels, targets)
    assert views.shape == (2, 16 + 18, 3, 8, 8)
    assert torch.equal(labels, targets[:, None].expand(2, 34))  # of Self, every label is the example's
    views, labels = made(DPMix(SelfAugmentation(), pool=pool, k_diff=2), pixels, targets)
    assert views.shape == (2, 16 + 2 + 18, 3, 8, 8)
    assert labels.shape == (2, 36, CLASSES)
    assert torch.allclose(labels.sum(dim=2), torch.ones(2, 36))


def test_every_mixture_is_of_two_members_of_its_own_list(pool: Pool) -> None:
    """For one pair of members and one weight, pixels and labels alike; the weight shows from the labels."""
    policy = DPMix(AUGMENTATION, k_self=7, pool=pool, k_diff=2)
    views, labels = made(policy, *batch(5))
    for example_views, example_labels in zip(views, labels, strict=True):
        members, mixtures = example_views[:5], example_views[5:]
        for mixture, label in zip(mixtures, example_labels[5:], strict=True):
            fits = []
            for i, j in permutations(range(5), 2):
                difference = members[i] - members[j]
                weight = ((mixture - members[j]) * difference).sum() / difference.square().sum()
                blended = members[j] + weight * difference
                blended_label = weight * example_labels[i] + (1 - weight) * example_labels[j]
                if torch.allclose(blended, mixture, atol=1e-5):
                    assert -1e-5 < weight < 1 + 1e-5
                    fits.append(torch.allclose(blended_label, label, atol=1e-4))
            assert fits
            assert all(fits)


def test_pixels_really_mix() -> None:
    """Published code handed the mixer one image twice: then every mixture would be one of the views."""
    policy = DPMix(AUGMENTATION, k_self=40, alpha=5.0)  # few weights near 0 or 1
    views, _ = made(policy, *batch(3))
    distance = (views[:, 3:, None] - views[:, None, :3]).abs().flatten(3).amax(dim=3)  # [B, 40, 3]
    assert (distance.amin(dim=2) > 0.01).float().mean() > 0.95


def test_all_pairs_of_members_are_as_likely() -> None:
    """Published code never drew the last member of the list."""
    pairs = Pairs.draw(torch.rand(1, 40_000, 3, generator=torch.Generator().manual_seed(0)), 5, 0.2)
    counts = torch.bincount(pairs.first.flatten() * 5 + pairs.second.flatten(), minlength=25).view(5, 5)
    assert counts.diagonal().sum() == 0
    assert chisquare(counts[~torch.eye(5, dtype=torch.bool)]).pvalue > 1e-3


def test_all_images_of_the_pool_are_as_likely() -> None:
    flat = torch.arange(11, dtype=torch.uint8)[:, None, None, None].expand(11, 3, 8, 8)
    pool = pool_of(flat)
    policy = DPMix(AUGMENTATION, k_self=0, pool=pool, k_diff=3, base_in_mean=False)
    views, labels = made(policy, *batch(4_000))
    drawn = (views[:, :, 0, 0, 0] * 255).round().long()  # [B, 3]
    assert chisquare(torch.bincount(drawn.flatten(), minlength=11)).pvalue > 1e-3
    assert torch.equal(labels, pool.targets[drawn])
    together = torch.bincount(drawn[:, 0] * 11 + drawn[:, 1], minlength=121)
    assert chisquare(together).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_weights_have_the_law_of_beta(alpha: float) -> None:
    uniform = torch.rand(100, 200, 3, generator=torch.Generator().manual_seed(0))
    pairs = Pairs.draw(uniform, 4, alpha)
    edges = torch.from_numpy(beta(alpha, alpha).ppf(np.arange(1, 20) / 20))
    part = torch.bucketize(pairs.weight.double(), edges)  # 20 parts, all as likely
    assert chisquare(torch.bincount(part.flatten(), minlength=20)).pvalue > 1e-3
    # Whatever is mixed with what: a weight knows nothing of the pair.
    counts = torch.bincount((pairs.first * 20 + part).flatten(), minlength=80)
    assert chisquare(counts).pvalue > 1e-3


def test_public_images_are_augmented_alike(pool: Pool) -> None:
    """Each is what the augmentation makes of some image of the pool, and not always the same view of it."""
    ramp = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    policy = DPMix(AUGMENTATION, k_self=0, pool=pool_of(ramp), k_diff=4, base_in_mean=False)
    views, _ = made(policy, *batch(200))
    all_views, _ = made(SelfAugmentation(augmult=2_000, pad=2), ramp, torch.zeros(1).long())
    possible = {view.numpy().tobytes() for view in all_views[0]}
    found = {view.numpy().tobytes() for view in views.flatten(0, 1)}
    assert found <= possible
    assert len(found) == len(possible) == 50  # 25 shifts, mirrored or not


def test_ablations_choose_what_the_gradient_is_the_mean_over(pool: Pool) -> None:
    policy = {"augmentation": AUGMENTATION, "k_self": 5, "pool": pool, "k_diff": 2}
    views, labels = made(DPMix(**policy), *batch(3))
    for base, public in ((False, True), (True, False), (False, False)):
        some = DPMix(**policy, base_in_mean=base, pool_in_mean=public)
        kept = [*range(3 * base), *range(3, 3 + 2 * public), *range(5, 10)]
        assert some.views_per_example == len(kept)
        some_views, some_labels = made(some, *batch(3))
        assert torch.equal(some_views, views[:, kept])
        assert torch.equal(some_labels, labels[:, kept])
    alone, _ = made(DPMix(AUGMENTATION, k_self=5, base_in_mean=False), *batch(3))
    assert alone.shape[1] == 5


def test_views_depend_on_their_example_and_the_pool_only(pool: Pool) -> None:
    for policy in (
        DPMix(AUGMENTATION),
        DPMix(AUGMENTATION, pool=pool, k_diff=2),
        DPMix(SelfAugmentation(2, 1, smallest_crop=0.3, color_jitter=0.4, cutout=3), pool=pool, k_diff=1),
    ):
        check_no_leak(policy, (3, 8, 8))
        pixels, targets = batch(6)
        before = made(policy, pixels, targets)
        pixels[4], targets[4] = 255 - pixels[4], 1 - targets[4]
        after = made(policy, pixels, targets)
        others = torch.arange(6) != 4
        for left, right in zip(before, after, strict=True):
            assert torch.equal(left[others], right[others])
            assert not torch.equal(left[4], right[4])


def test_a_batch_in_parts_gets_the_same_views(pool: Pool) -> None:
    pixels, targets = batch(7)
    policy = DPMix(AUGMENTATION, pool=pool, k_diff=2)
    whole, labels = made(policy, pixels, targets)
    draws = SeededRandom(0).by_example().of(torch.arange(7))
    parts = [policy(pixels[some], targets[some], draws[some]) for some in torch.arange(7).split(3)]
    assert torch.equal(whole, torch.cat([views for views, _ in parts]))
    assert torch.equal(labels, torch.cat([soft for _, soft in parts]))


def test_an_empty_batch_has_no_views(pool: Pool) -> None:
    views, labels = made(DPMix(AUGMENTATION, pool=pool, k_diff=2), *batch(0))
    assert views.shape == (0, 23, 3, 8, 8)
    assert labels.shape == (0, 23, CLASSES)


def test_the_sensitivity_with_36_views_is_the_clipping_norm(pool: Pool) -> None:
    """One example more changes the sum of gradients by no more than the norm, and by no less if clipped."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 6), nn.Tanh(), nn.Linear(6, CLASSES))
    engine = ClippedGradient(model, cross_entropy, max_grad_norm=0.05)
    policy = DPMix(SelfAugmentation(augmult=16, pad=2), pool=pool, k_diff=2)
    views, labels = made(policy, *batch(6))
    assert views.shape[1] == 36
    everyone, but_one = engine.sum(views, labels), engine.sum(views[:-1], labels[:-1])
    change = torch.cat(
        [(everyone.gradients[name] - but_one.gradients[name]).flatten() for name in everyone.gradients]
    )
    assert everyone.norms[-1] > 0.05
    assert change.norm() <= 0.05
    assert change.norm() > 0.0499


def test_what_cannot_be_mixed_is_refused(pool: Pool) -> None:
    with pytest.raises(InputError, match="k_self must be between 0 and 100,000"):
        DPMix(AUGMENTATION, k_self=-1)
    with pytest.raises(InputError, match="alpha must be above 0"):
        DPMix(AUGMENTATION, alpha=0.0)
    for half in ({"k_diff": 2}, {"pool": pool}):
        with pytest.raises(InputError, match="need a pool and k_diff of at least 1"):
            DPMix(AUGMENTATION, **half)
    with pytest.raises(InputError, match="two views to mix"):
        DPMix(SelfAugmentation(augmult=1))
    with pytest.raises(InputError, match="no view is left"):
        DPMix(AUGMENTATION, k_self=0, base_in_mean=False)
