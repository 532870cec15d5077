"""Whitening by random processes, and patches of them: against references that are slow and plain."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from dpvision.networks import Normalize
from dpvision.priors.encoders import build_encoder, rebuild_encoder
from dpvision.priors.encoders.patches import LEAST_VARIANCE
from dpvision.priors.encoders.process_images import process_images
from dpvision.priors.encoders.whitened import FEWEST_IMAGES, SEED, principal_directions
from dpvision.privacy.errors import InputError

COUNT = FEWEST_IMAGES  # enough for 16 features
GREY, RGB = (1, 16, 16), (3, 16, 12)
PIXELS = {"size": 4}
FEW = {"centroids": 12, "size": 4}


def of_processes(shape: tuple[int, int, int], count: int, seed: int) -> Tensor:
    return Normalize()(torch.cat(list(process_images(shape, count, seed))))


@pytest.mark.parametrize("shape", [GREY, RGB, (1, 5, 9), (3, 8, 8)])
def test_images_of_processes_have_the_shape_and_differ(shape: tuple[int, int, int]) -> None:
    images = torch.cat(list(process_images(shape, 130, seed=3)))
    assert (images.dtype, images.shape) == (torch.uint8, (130, *shape))
    assert len({image.numpy().tobytes() for image in images}) == 130
    assert torch.equal(images[:70], torch.cat(list(process_images(shape, 70, seed=3))))
    assert not torch.equal(images, torch.cat(list(process_images(shape, 130, seed=4))))


def test_whitening_is_that_of_mean_and_covariance_over_processes() -> None:
    whitened = build_encoder("pixels", GREY, **PIXELS, whiten=0.05)
    plain = build_encoder("pixels", GREY, **PIXELS)
    before = plain(of_processes(GREY, COUNT, SEED)).double()
    centred = before - before.mean(dim=0)
    covariance = centred.T @ centred / COUNT
    root = torch.linalg.inv(
        torch.linalg.cholesky(covariance + 0.05 * covariance.trace() / 16 * torch.eye(16))
    )
    x = torch.randn(5, *GREY, generator=torch.Generator().manual_seed(0))
    found, expected = whitened(x).double(), (plain(x).double() - before.mean(dim=0)) @ root.T
    # Any two roots of the inverse differ by a rotation, which products do not see.
    torch.testing.assert_close(found @ found.T, expected @ expected.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("count", "size"), [(40, 12), (12, 40), (30, 30)])
def test_principal_directions_are_those_of_the_covariance(count: int, size: int) -> None:
    rows = torch.randn(count, size, generator=torch.Generator().manual_seed(0)).double()
    centred = rows - rows.mean(dim=0)
    variances, directions = principal_directions(centred)
    assert len(variances) == min(count, size)
    assert (variances[1:] >= variances[:-1]).all()
    torch.testing.assert_close((directions * variances) @ directions.T, centred.T @ centred / count)
    seen = directions[:, variances > 1e-9]
    torch.testing.assert_close(seen.T @ seen, torch.eye(seen.shape[1]).double())


def test_other_images_of_processes_are_white_too() -> None:
    encoder = build_encoder("pixels", GREY, **PIXELS, whiten=1e-3)
    features = encoder(of_processes(GREY, 3000, seed=SEED + 1))
    eigenvalues = torch.linalg.eigvalsh(torch.cov(features.T))
    before = build_encoder("pixels", GREY, **PIXELS)(of_processes(GREY, 3000, seed=SEED + 1))
    assert features.mean(dim=0).abs().max() < 0.15
    values = torch.linalg.eigvalsh(torch.cov(before.T))
    assert eigenvalues.max() / eigenvalues.min() < values.max() / values.min() / 10


def test_patches_are_compared_as_coates_and_ng_do() -> None:
    encoder = build_encoder("patches", RGB, **FEW, cells=1, threshold=0.3)
    buffers = dict(encoder.named_buffers())
    filters, offsets = buffers["filters"].flatten(1).double(), buffers["offsets"].double()
    x = torch.randn(2, *RGB, generator=torch.Generator().manual_seed(0))
    for image, found in zip(x.double(), encoder(x), strict=True):
        products = []
        for row in range(16 - 4 + 1):
            for column in range(12 - 4 + 1):
                patch = image[:, row : row + 4, column : column + 4].flatten()
                patch = (patch - patch.mean()) / (patch.var(correction=0) + LEAST_VARIANCE).sqrt()
                products.append(filters @ patch - offsets)
        of_patches = torch.stack(products)
        halves = [(sign * of_patches - 0.3).clamp(min=0).mean(dim=0) for sign in (1, -1)]
        torch.testing.assert_close(found, torch.cat(halves).float(), rtol=1e-4, atol=1e-5)


def test_a_dictionary_has_patches_of_processes_not_noise() -> None:
    learned = build_encoder("patches", GREY, centroids=24, size=6, cells=1)
    features = learned(of_processes(GREY, 200, seed=9)).mean(dim=0)
    # Each entry is like some patches of images that it was not learned from, with either sign.
    assert (features > 0).all()
    other = build_encoder("patches", GREY, centroids=24, size=6, cells=1, seed=1)
    assert not torch.equal(dict(learned.named_buffers())["filters"], dict(other.named_buffers())["filters"])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("patches", FEW),
        ("pixels", {**PIXELS, "whiten": 0.1}),
        ("patches+pixels", {"parts": [{**FEW, "whiten": 0.2}, {**PIXELS, "whiten": 0.1}]}),
        ("pixels+patches", {"parts": [PIXELS, FEW], "whiten": 0.1}),
    ],
)
def test_config_and_state_bring_a_fitted_encoder_back(name: str, options: dict[str, Any]) -> None:
    encoder = build_encoder(name, GREY, **options)
    x = torch.randn(3, *GREY, generator=torch.Generator().manual_seed(0))
    again = rebuild_encoder(json.loads(json.dumps(encoder.config)))
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(x), encoder(x))
    assert torch.equal(build_encoder(name, GREY, **options)(x), encoder(x))
    assert all(buffer.isfinite().all() for buffer in encoder.buffers())


def test_without_fitting_there_are_shapes_alone() -> None:
    encoder = build_encoder("pixels", GREY, fit=False, **PIXELS, whiten=0.1)
    assert encoder.images_to_fit == COUNT
    assert encoder(torch.randn(2, *GREY)).shape == (2, 16)
    told: list[tuple[int, int]] = []
    encoder.fit(lambda done, total: told.append((done, total)))
    assert told[-1] == (COUNT, COUNT)
    assert build_encoder("pixels", GREY, **PIXELS).images_to_fit == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pixels", {"whiten": 0.0}, "whiten must be above 0"),
        ("pixels", {"whiten": "much"}, "whiten must be a number"),
        ("scattering", {"J": 1, "groups": 0, "whiten": 0.1, "L": 190}, "can be whitened"),
        ("patches", {"size": 17}, "size must be between 2 and 16"),
        ("patches", {"centroids": 0}, "centroids must be between"),
        ("patches", {"cells": 12}, "cells must be between 1 and 11"),
        ("patches", {"threshold": -1.0}, "threshold at least 0"),
        ("patches", {"seed": -1}, "seed must be"),
    ],
)
def test_what_cannot_be_whitened_or_cut_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_encoder(name, GREY, **options)
