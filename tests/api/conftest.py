from __future__ import annotations

import pytest
import torch

from dpvision.images import Images


@pytest.fixture
def images() -> Images:
    """Two classes that a linear network tells apart: dark and bright, 1×4×4."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 2
    pixels = torch.randint(100, (120, 1, 4, 4), generator=generator) + 100 * labels[:, None, None, None]
    return Images(pixels.to(torch.uint8), labels, ("dark", "bright"), "made up")
