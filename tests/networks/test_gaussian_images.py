"""Images with a normal law: their moments are those they were made of."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.networks.gaussian_images import GaussianImages
from dpvision.networks.generators import Generator


def moments_of(small: Tensor) -> Tensor:
    """E vvᵀ / E ‖v‖² of images [K, B, C, S, S]."""
    v = F.pad(small.flatten(2), (0, 1), value=1.0).double()
    moments = v.transpose(1, 2) @ v
    return moments / moments.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]


def made(channels: int = 1, side: int = 3) -> Tensor:
    """Two classes of 50 images."""
    return torch.rand(2, 50, channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale", [1.0, 1e-3, 50.0])
def test_mean_and_covariance_are_those_of_the_moments(scale: float) -> None:
    images = made()
    law = GaussianImages(2, (1, 3, 3), (3, 3), rank=9).double()
    law.set_moments(scale * moments_of(images))
    for label in range(2):
        pixels = images[label].flatten(1).double()
        torch.testing.assert_close(law.mean[label], pixels.mean(dim=0))
        covariance = law.root[label] @ law.root[label].T
        torch.testing.assert_close(covariance, pixels.T.cov(correction=0))


def test_draws_have_that_law_and_the_size_asked_for() -> None:
    law = GaussianImages(2, (3, 2, 2), (2, 2), rank=100)
    assert law.root.shape == (2, 12, 12)
    images = made(3, 2)
    law.set_moments(moments_of(images).float())
    draws = law(torch.ones(40_000, dtype=torch.int64), torch.randn(40_000, 20))
    torch.testing.assert_close(draws.flatten(1).mean(dim=0), law.mean[1], atol=0.01, rtol=0)
    torch.testing.assert_close(draws.flatten(1).T.cov(), law.root[1] @ law.root[1].T, atol=0.005, rtol=0)
    scaled = GaussianImages(**{**law.config, "size": (8, 8)})
    scaled.load_state_dict({"mean": law.mean, "root": law.root}, strict=False)
    assert scaled(torch.tensor([0]), torch.randn(1, 12)).shape == (1, 3, 8, 8)


def test_a_smaller_rank_keeps_the_largest_directions() -> None:
    moments = moments_of(made())
    whole, part = (GaussianImages(2, (1, 3, 3), (3, 3), rank).double() for rank in (9, 2))
    whole.set_moments(moments)
    part.set_moments(moments)
    assert torch.equal(part.root, whole.root[:, :, :2])
    sizes = whole.root.norm(dim=1)
    assert (sizes[:, :-1] >= sizes[:, 1:]).all()


def test_moments_that_say_nothing_make_finite_images() -> None:
    """Noise may have left nothing of a class, or nothing of the constant."""
    without_constant = torch.eye(10)
    without_constant[-1, -1] = 0
    law = GaussianImages(2, (1, 3, 3), (3, 3), rank=4)
    law.set_moments(torch.stack([torch.zeros(10, 10), without_constant]))
    assert torch.isfinite(law(torch.tensor([0, 1]), torch.randn(2, 4))).all()


@pytest.mark.parametrize("side", [8, 28])
def test_a_generator_begins_with_its_start(side: int) -> None:
    start = GaussianImages(2, (1, 4, 4), (side, side), rank=3)
    start.set_moments(moments_of(made(1, 4)).float())
    generator = Generator((1, side, side), ("x", "y"), latent_size=3, start=start).eval()
    labels, noise = torch.tensor([0, 1, 1]), torch.randn(3, 3)
    assert torch.equal(generator(labels, noise), start(labels, noise).clamp(0, 1))
    images, begun = generator.with_start(labels, noise)
    assert begun is not None
    assert torch.equal(images, begun)
    again = Generator.from_config(generator.config)
    again.load_state_dict(generator.state_dict())
    assert torch.equal(again.eval()(labels, noise), generator(labels, noise))
    # and its network learns, in spite of the clamp and of the zero weights
    generator.train()(labels, noise).sum().backward()
    assert generator.network.last.weight.grad is not None
    assert generator.network.last.weight.grad.abs().sum() > 0


def detailed(count: int = 5) -> tuple[GaussianImages, Tensor]:
    """Two classes of 4×4 at 8×8, and the public images of the details."""
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    law = GaussianImages(2, (1, 4, 4), (8, 8), rank=3)
    law.set_moments(moments_of(made(1, 4)).float())
    law.set_details(images)
    return law, images


def test_details_are_what_public_images_lose_when_made_smaller() -> None:
    law, images = detailed()
    rough = F.interpolate(F.adaptive_avg_pool2d(images, 2), (8, 8), mode="bilinear")
    torch.testing.assert_close(law.details.float() / 127, images - rough, atol=0.004, rtol=0)
    again = GaussianImages(**law.config)
    again.load_state_dict(law.state_dict())
    labels, noise = torch.tensor([0, 1]), torch.randn(2, 4)
    assert torch.equal(again(labels, noise), law(labels, noise))


def test_every_detail_is_drawn_equally_often_whatever_the_class() -> None:
    law, _ = detailed()
    plain = GaussianImages(**{**law.config, "num_details": 0})
    plain.load_state_dict({"mean": law.mean, "root": law.root}, strict=False)
    for label in range(2):
        labels, noise = torch.full((4000,), label), torch.randn(4000, 4)
        added = law(labels, noise) - plain(labels, noise)
        distances = torch.cdist(added.flatten(1), law.details.flatten(1).float() / 127)
        assert distances.min(dim=1).values.max() < 0.01
        assert (distances.argmin(dim=1).bincount(minlength=5) / 4000 - 0.2).abs().max() < 0.04
    extremes = torch.tensor([[0.0, 0, 0, -40], [0, 0, 0, 40]])
    assert torch.isfinite(law(torch.tensor([0, 0]), extremes)).all()
