"""Public images for methods that mix with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save six public images of three classes, as those of the digits."""
    path = tmp_path_factory.mktemp("pool") / "pool.npz"
    pixels = torch.randint(256, (6, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    np.savez(path, images=pixels.numpy(), labels=np.arange(6) % 3, class_names=["0", "1", "2"])
    return path
