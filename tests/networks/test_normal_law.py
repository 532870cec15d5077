"""Normal laws of images: against matrices of all pixels, and that no image depends on another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpvision.networks.denoiser import preconditioning
from dpvision.networks.diffusion import DiffusionGenerator
from dpvision.networks.normal_law import SPREAD, NormalLaw

SHAPE, PIXELS, RANK = (1, 6, 6), 36, 4
VARIANCES, REST = torch.tensor([2.0, 1.0, 0.5, 0.25]), 0.01


def covariance(seed: int) -> Tensor:
    """Some pixels' covariance ``[n, n]`` with `VARIANCES` along four directions, and `REST` elsewhere."""
    random = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(PIXELS, RANK, generator=random, dtype=torch.float64))[0]
    return directions @ (VARIANCES - REST).double().diag() @ directions.T + REST * torch.eye(PIXELS)


def normal_law() -> NormalLaw:
    """The laws of two classes, each from many images."""
    law = NormalLaw(2, PIXELS, RANK)
    random = torch.Generator().manual_seed(5)
    for label in range(2):
        root = torch.linalg.cholesky(covariance(label)).float()
        law.fit(label, torch.randn(40_000, PIXELS, generator=random) @ root.T)
    return law


def as_matrix(law: NormalLaw, label: int) -> Tensor:
    """The covariance that a law has, by itself."""
    directions = law.directions[label].double()
    along = (law.variances[label] - law.rest[label]).double().diag()
    return directions @ along @ directions.T + law.rest[label].double() * torch.eye(PIXELS)


def one_hot(labels: list[int]) -> Tensor:
    return torch.eye(2)[labels]


def test_a_law_is_that_of_its_images() -> None:
    law = normal_law()
    for label in range(2):
        torch.testing.assert_close(law.variances[label], VARIANCES, rtol=0.05, atol=0)
        assert float(law.rest[label]) == pytest.approx(REST, rel=0.05)
        difference = as_matrix(law, label) - covariance(label)
        assert float(torch.linalg.matrix_norm(difference, 2)) < 0.1


def test_it_is_the_same_whenever_it_is_fitted_and_draws_nothing_from_elsewhere() -> None:
    before = torch.random.get_rng_state()
    first, again = normal_law().state_dict(), normal_law().state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


@pytest.mark.parametrize("rank", [0, RANK, PIXELS])
def test_of_images_that_are_all_alike_the_guess_is_that_image(rank: int) -> None:
    law = NormalLaw(1, PIXELS, rank)
    law.fit(0, torch.zeros(80, PIXELS))
    guess, wrong = law.denoised(torch.randn(2, *SHAPE), torch.tensor([[1e-3], [80.0]]), torch.ones(2, 1))
    assert not guess.any()
    assert not wrong.any()
    assert torch.equal(law.drawn(torch.ones(1, *SHAPE), 2.0, torch.ones(1, 1)), torch.full((1, *SHAPE), 2.0))


@pytest.mark.parametrize("sigma", [0.05, 0.7, 20.0])
def test_the_guess_is_the_best_and_its_error_is_known(sigma: float) -> None:
    """Σ(Σ + σ²)⁻¹x, whose error has the mean variance of Σ − Σ(Σ + σ²)⁻¹Σ."""
    law, x = normal_law(), torch.randn(6, *SHAPE)
    labels = [0, 1, 1, 0, 1, 0]
    guess, wrong = law.denoised(x, torch.full((6, 1), sigma), one_hot(labels))
    for row, label in enumerate(labels):
        known = as_matrix(law, label)
        gain = known @ torch.linalg.inv(known + sigma**2 * torch.eye(PIXELS))
        expected = gain @ x[row].flatten().double()
        torch.testing.assert_close(guess[row].flatten().double(), expected, rtol=1e-3, atol=1e-4)
        error = float((known - gain @ known).diagonal().mean().sqrt())
        assert float(wrong[row]) == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("sigma", [0.1, 3.0])
def test_what_is_drawn_has_the_law_and_the_noise(sigma: float) -> None:
    """The map from noise to images is a root of Σ + σ²."""
    law = normal_law()
    root = law.drawn(torch.eye(PIXELS).view(PIXELS, *SHAPE), sigma, one_hot([1] * PIXELS)).flatten(1).double()
    expected = as_matrix(law, 1) + sigma**2 * torch.eye(PIXELS)
    torch.testing.assert_close(root.T @ root, expected, rtol=1e-4, atol=1e-4)


def test_of_no_known_class_and_at_first_pixels_are_alike() -> None:
    x, sigma = torch.randn(3, *SHAPE), torch.tensor([[0.1], [1.0], [5.0]])
    how = preconditioning(sigma[:, :, None, None])
    for law, classes in ((normal_law(), torch.zeros(3, 2)), (NormalLaw(2, PIXELS, RANK), one_hot([0, 1, 0]))):
        guess, wrong = law.denoised(x, sigma, classes)
        torch.testing.assert_close(guess, how.kept * x)
        torch.testing.assert_close(wrong, how.added.flatten(1))
    assert float(NormalLaw(2, PIXELS, 0).drawn(torch.ones(1, *SHAPE), 2.0, one_hot([0])).mean()) == (
        pytest.approx((4 + SPREAD**2) ** 0.5)
    )


@pytest.mark.parametrize(("side", "rank"), [(8, 3), (28, 64)])
def test_an_image_s_guess_is_the_same_to_the_last_bit_whatever_the_others_are(side: int, rank: int) -> None:
    law = NormalLaw(3, side**2, rank)
    law.directions.normal_()
    law.variances.uniform_(1, 2)  # not those of the rest, or directions would not matter
    x, sigma = torch.randn(64, 1, side, side), torch.rand(64, 1) + 0.1
    classes = torch.eye(3)[torch.randint(3, (64,))]
    guess, wrong = law.denoised(x, sigma, classes)
    order = torch.randperm(64)
    moved = x[order].clone(), sigma[order].clone(), classes[order].clone()
    others = order >= 32
    moved[0][others] = 1e3
    elsewhere, as_wrong = law.denoised(*moved)
    assert torch.equal(elsewhere[~others], guess[order][~others])
    assert torch.equal(as_wrong[~others], wrong[order][~others])
    for count in (1, 5, 33):
        some = order[:count]
        fewer, as_wrong = law.denoised(x[some], sigma[some], classes[some])
        assert torch.equal(fewer, guess[some])
        assert torch.equal(as_wrong, wrong[some])


def test_a_denoiser_that_has_learned_nothing_draws_images_of_the_law() -> None:
    made = DiffusionGenerator((1, 8, 8), ("x", "y"), 8, 1, 4, steps=30).eval()
    spread = torch.full((64,), 0.06)
    spread[:4] = torch.tensor([0.3, 0.25, 0.2, 0.15])  # little enough that none is clamped
    for label in range(2):
        made.denoiser.law.fit(label, torch.randn(5000, 64) * spread)
    with torch.no_grad():
        drawn = made(torch.zeros(2000, dtype=torch.int64), torch.randn(2000, 1, 8, 8))
    found = (2 * drawn - 1).flatten(1).std(dim=0)
    torch.testing.assert_close(found[:4], spread[:4], rtol=0.1, atol=0)
    assert found[4:].mean().item() == pytest.approx(0.06, rel=0.15)
