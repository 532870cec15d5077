"""Generators are fitted through encoders, so that derivatives by the images have to be right."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dpvision.priors import build_encoder

TO_BE_LOADED = {"source": "to be loaded"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("wrn-10-4-small", {}),
        ("wrn-16-4", {"taps": [0, 1], "cells": "all"}),
        ("scattering", {}),
        ("scattering", {"cells": 1, "groups": 0}),
        ("pixels", {"size": 3}),
        ("pixels", {"size": 2, "products": True}),
        ("vgg19", {"provenance": TO_BE_LOADED, "size": 16}),
        ("vgg19", {"provenance": TO_BE_LOADED, "layers": ["features.5"], "cells": 2}),
        ("squeezenet1_0", {"provenance": TO_BE_LOADED, "size": 24, "cells": 2}),
        ("resnet18", {"provenance": TO_BE_LOADED}),
        ("resnet18-small", {"provenance": TO_BE_LOADED, "layers": ["layer1.0.relu1", "layer2"]}),
        ("random-wrn-10-1+pixels", {"part_weights": [2, 0.5]}),
    ],
)
def test_derivatives_by_the_images_are_those_of_finite_differences(
    name: str, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name, (3, 8, 8), **options).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    # A step so small that hardly a ReLU or a maximum changes sides on its way.
    assert torch.autograd.gradcheck(encoder, x, eps=1e-7, atol=1e-5, rtol=1e-3, fast_mode=True)


@pytest.mark.parametrize("name", ["wrn-10-4-small", "scattering", "wrn-10-4-small+scattering"])
def test_derivatives_are_finite_where_an_image_is_flat(name: str) -> None:
    x = torch.zeros(1, 3, 16, 16, requires_grad=True)
    build_encoder(name, (3, 16, 16))(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
