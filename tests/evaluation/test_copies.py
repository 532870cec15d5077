"""Whether a release tells which images are private: not where it does not know them, and where it copies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score
from torch import Tensor

from dpvision.evaluation.copies import evaluate_copies, nearest_distances, nearest_is_private
from dpvision.evaluation.rows import Row
from dpvision.images import Images
from dpvision.priors import build_encoder
from dpvision.privacy.errors import InputError

Shape = tuple[int, int, int]


def images(n: int, seed: int, shape: Shape = (1, 8, 8)) -> Images:
    pixels = torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    return Images(pixels, None, (), f"images {seed}")


def gaussian(n: int, seed: int, features: int = 3) -> Tensor:
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed))


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.name: row for row in rows}


def measured(synthetic: Images, private: Images, others: Images, seed: int = 0) -> dict[str, Row]:
    encoder = build_encoder("scattering", synthetic.shape, cells=1)
    rows = evaluate_copies(synthetic, private, others, epsilon=1.0, delta=1e-5, encoders=[encoder], seed=seed)
    return by_name(rows)


@pytest.mark.parametrize("at_a_time", [1, 40, 2**20])
def test_nearest_images_are_those_of_brute_force(at_a_time: int) -> None:
    synthetic, private, others = gaussian(50, 0), gaussian(30, 1), gaussian(30, 2)
    found = nearest_is_private(synthetic, private, others, pairs_at_a_time=at_a_time)
    distances = cdist(synthetic.numpy(), torch.cat([private, others]).numpy())
    assert found.value == pytest.approx((distances.argmin(axis=1) < 30).mean())
    assert (found.num_synthetic, found.num_real) == (50, 60)
    of_real = nearest_distances(private, synthetic, pairs_at_a_time=at_a_time)
    assert of_real == pytest.approx(distances[:, :30].min(axis=0) ** 2, rel=1e-5)


def test_equally_near_images_share() -> None:
    one = torch.zeros(1, 2)
    away = torch.full((1, 2), 9.0)
    found = nearest_is_private(one, torch.cat([one, one]), torch.cat([one, away]))
    assert found.value == pytest.approx(2 / 3)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 64, 64)])
def test_copies_are_found_and_independent_images_are_not(shape: Shape) -> None:
    private, others = images(150, 1, shape), images(120, 2, shape)
    for synthetic, is_copy in ((private, True), (images(150, 3, shape), False)):
        rows = measured(synthetic, private, others)
        assert len(rows) == 7  # of 120 others there is no rate of 0.1 %
        blind = rows["blind membership AUC"]
        assert blind.low < 0.5 < blind.high  # both are noise, whatever is released
        assert (blind.num_synthetic, blind.num_real) == (0, 240)
        for name in ("pixels", "scattering"):
            nearest, auc = rows[f"nearest real image is private ({name})"], rows[f"membership AUC ({name})"]
            rate = rows[f"membership TPR at FPR 1.0% ({name})"]
            if is_copy:
                # Not every private image was chosen to compare with, so that a few copies are of none.
                assert nearest.value > 0.85
                assert (auc.value, auc.high) == (1, 1)
                assert auc.low > 0.9
                assert rate.value == 1
            else:
                assert nearest.low < 0.5 < nearest.high
                assert auc.low < 0.5 < auc.high
                assert rate.low <= 0.01 <= rate.high
            for row in (nearest, auc, rate):
                assert row.low <= row.value <= row.high
                assert (row.num_synthetic, row.num_real) == (150, 240)
            assert "120 private images from 120 others" in auc.how
            assert "epsilon allows" in rate.how


def test_of_a_thousand_others_there_is_a_rate_of_one_in_a_thousand() -> None:
    private, others = images(1000, 1, (1, 4, 4)), images(1000, 2, (1, 4, 4))
    rows = by_name(evaluate_copies(private, private, others, epsilon=1.0, delta=1e-5))
    rate = rows["membership TPR at FPR 0.1% (pixels)"]
    assert (rate.value, rate.low) == (1, 0), "of a thousand none is surely above all but one in a thousand"
    assert rows["membership TPR at FPR 1.0% (pixels)"].low > 0.99


def test_all_copies_of_images_compared_are_nearest_to_a_private_one() -> None:
    private = images(80, 1)
    rows = measured(private, private, images(80, 2))
    nearest = rows["nearest real image is private (pixels)"]
    assert (nearest.value, nearest.high) == (1, 1)
    assert 0.9 < nearest.low < 1


def test_the_area_is_that_of_the_distances() -> None:
    synthetic, private, others = images(60, 0), images(50, 1), images(50, 2)
    private.pixels[:20] = synthetic.pixels[:20] // 2 + private.pixels[:20] // 2
    rows = measured(synthetic, private, others)
    flat = [each.pixels.flatten(1).numpy() / 255 for each in (synthetic, private, others)]
    scores = -cdist(np.concatenate(flat[1:]), flat[0]).min(axis=1)
    expected = roc_auc_score(np.arange(100) < 50, scores)
    assert rows["membership AUC (pixels)"].value == pytest.approx(expected)
    assert expected > 0.6


def test_the_interval_covers_where_many_have_the_same_nearest_image() -> None:
    """With a synthetic image's many near copies, binomial trials would be far too sure."""
    centres, covered, binomial = 12, 0, 0
    for seed in range(300):
        near = gaussian(centres, 3 * seed)
        synthetic = (
            near[:, None] + 0.01 * gaussian(centres * 30, 3 * seed + 1).view(centres, 30, 3)
        ).flatten(0, 1)
        real = gaussian(100, 3 * seed + 2)
        found = nearest_is_private(synthetic, real[:50], real[50:])
        covered += found.low <= 0.5 <= found.high
        binomial += abs(found.value - 0.5) < 1.96 * 0.5 / len(synthetic) ** 0.5
    assert covered / 300 > 0.92
    assert binomial / 300 < 0.5


def test_the_seed_chooses_the_images() -> None:
    sets = images(40, 0), images(60, 1), images(25, 2)
    one, other, third = (measured(*sets, seed=seed) for seed in (0, 0, 1))
    assert one == other
    assert one != third


@pytest.mark.parametrize(("size", "kinds"), [(None, 1), (4, 2)])
def test_pixels_are_compared_as_they_are_and_once(size: int | None, kinds: int) -> None:
    encoder = build_encoder("pixels", (1, 8, 8), size=size)
    rows = evaluate_copies(
        images(9, 0), images(9, 1), images(9, 2), epsilon=1.0, delta=1e-5, encoders=[encoder]
    )
    assert len(by_name(rows)) == len(rows) == 2 * kinds
    averaged = f"nearest real image is private (pixels {encoder.digest().hex()[:8]})"
    assert (averaged in by_name(rows)) == (kinds == 2)
    if kinds == 2:
        assert "features by pixels (size 4" in by_name(rows)[averaged].how


def test_very_few_images_have_wide_intervals() -> None:
    rows = measured(images(2, 0), images(2, 1), images(2, 2))
    for row in rows.values():
        assert 0 <= row.low <= row.value <= row.high <= 1
        assert row.high - row.low > 0.5
    with pytest.raises(InputError, match="1 images of images 1, too few"):
        measured(images(2, 0), images(1, 1), images(2, 2))
    with pytest.raises(InputError, match="with the same size and channels"):
        measured(images(2, 0), images(2, 1, (3, 8, 8)), images(2, 2))


def test_private_images_of_another_kind_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """A release that knows nothing is near to images of its kind, and seems to know the private ones."""
    synthetic, private = (
        Images(64 + images(100, seed).pixels // 2, None, (), "pale images") for seed in (3, 1)
    )
    rows = measured(synthetic, private, images(100, 2))
    assert rows["membership AUC (pixels)"].low > 0.9
    assert rows["blind membership AUC"].low > 0.9
    assert "the other AUCs measure that" in rows["blind membership AUC"].how
    (warning,) = caplog.messages
    assert "private and other images differ in kind" in warning
    assert "do not publish" in warning


def test_a_few_images_have_no_blind_row() -> None:
    assert "blind membership AUC" not in measured(images(50, 3), images(19, 1), images(40, 2))
