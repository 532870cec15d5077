from __future__ import annotations

import numpy as np
import torch

from dpvision.priors.processes.colour import Palette, random_colours


def test_colours_follow_the_published_mosaics() -> None:
    """Against a slow reference: one mosaic at a time, its rows blurred by an explicit mean."""
    rng = np.random.default_rng(0)
    side, stds, steps = 16, [], []
    for _ in range(1500):
        number = rng.integers(3, 23)
        shares = rng.random(number)
        chosen = np.sort(rng.choice(number, side**2, p=shares / shares.sum()))
        mosaic = rng.random((number, 3))[chosen]
        reach = (1 + side * rng.integers(0, 10)) // 2
        blurred = [mosaic[max(i - reach, 0) : i + reach + 1].mean(0) for i in range(side**2)]
        colours = 0.96 * np.array(blurred) + 0.04 * rng.random((side**2, 3))
        stds.append(colours.std(0))
        steps.append(np.abs(np.diff(colours, axis=0)))
    found = random_colours(1500, side, torch.Generator().manual_seed(0))
    assert found.shape == (1500, side**2, 3)
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_allclose(found.mean((0, 1)), 0.5, atol=0.02)
    np.testing.assert_allclose(found.std(1, correction=0).mean(0), np.mean(stds, (0, 1)), rtol=0.05)
    np.testing.assert_allclose(found.diff(dim=1).abs().mean((0, 1)), np.mean(steps, (0, 1, 2)), rtol=0.05)


def test_principal_components_and_back() -> None:
    colours = random_colours(4, 16, torch.Generator().manual_seed(3))
    palette = Palette.draw(4, 16, torch.Generator().manual_seed(3))
    components = (colours - palette.mean[:, None]) @ palette.axes  # [B, n, 3]
    covariance = components.mT @ components
    off_diagonal = covariance - torch.diag_embed(covariance.diagonal(dim1=1, dim2=2))
    assert off_diagonal.abs().max() < 1e-4 * covariance.max()
    torch.testing.assert_close(components.mT.sort(-1).values, palette.marginals)
    torch.testing.assert_close(palette.to_rgb(components.mT.view(4, 3, 16, 16)).flatten(2), colours.mT)


def test_imposed_images_have_the_marginals_of_their_palette() -> None:
    generator = torch.Generator().manual_seed(0)
    palette = Palette.draw(4, 16, generator)
    images = palette.impose(torch.randn(4, 3, 16, 16, generator=generator))
    torch.testing.assert_close(images.flatten(2).sort(-1).values, palette.marginals)
    torch.testing.assert_close(palette.to_rgb(images).mean((2, 3)), palette.mean)
