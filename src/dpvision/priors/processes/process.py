"""Define what a random process is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Generate = Callable[[int, int, torch.Generator], Tensor]
"""A function (count, size, generator) -> float32 ``[count, 3, size, size]`` in [0, 1], on the generator's
device. All randomness comes from the generator.
"""


@dataclass(frozen=True)
class RandomProcess:
    """A source of images that no photograph, hence no person, has any part in.

    Attributes:
        name: as it is called on the command line.
        summary: what its images look like, in one line.
        source: the paper and section that it follows.
        generate: draws independent images.
    """

    name: str
    summary: str
    source: str
    generate: Generate
