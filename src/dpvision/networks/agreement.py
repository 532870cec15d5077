"""Whether an exported model computes what the model itself does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dpvision.networks.classifier import Classifier
from dpvision.networks.image_generator import ImageGenerator
from dpvision.networks.tracing import Pixels, examples
from dpvision.privacy.errors import InputError

BATCH_SIZES = (1, 2, 7, 64)
TOLERANCE = 1e-3
"""Of logits, times the largest one where that is above 1; of images, a quarter of a step of grey."""
MOST_DIFFERING = 1 / 50
"""The share of a generator's images that may differ by more. It chooses: among details of public images, or
candidates. A number on the border between two choices may be rounded to either side.
"""

Run = Callable[[Mapping[str, Tensor]], Tensor]
"""What an exported model makes of its inputs, by their names: its first output."""


@dataclass(frozen=True)
class Agreement:
    """A comparison of an exported model with the model, on random inputs.

    Attributes:
        batch_sizes: the numbers of inputs that were given at once.
        largest_difference: the largest absolute difference of a logit, or of a pixel in [0, 1], over all that
            differ by no more than the tolerance.
        tolerance: the largest that is taken for rounding.
        differing: how many rows differ by more.
    """

    batch_sizes: tuple[int, ...]
    largest_difference: float
    tolerance: float
    differing: int

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON types."""
        return asdict(self) | {"batch_sizes": list(self.batch_sizes)}


@torch.no_grad()
def compared(model: Classifier | ImageGenerator, run: Run, what: str, pixels: Pixels = "uint8") -> Agreement:
    """Compare an exported model with the model at several batch sizes.

    Args:
        model: on the CPU, in evaluation mode.
        run: the exported model.
        what: its name, for messages.
        pixels: the type of a classifier's images.

    Raises:
        InputError: they do not agree.
    """
    differences, largest = [], 1.0
    for size in BATCH_SIZES:
        inputs = examples(model, size, pixels)
        expected, found = model(*inputs.values()), run(inputs)
        if found.shape != expected.shape:
            raise InputError(
                f"{what} gives {list(found.shape)} for {size} inputs, and the model {list(expected.shape)}; "
                "nothing was written"
            )
        differences.append((found - expected).abs().flatten(1).amax(dim=1))
        if isinstance(model, Classifier):
            largest = max(largest, float(expected.abs().max()))
    rows, tolerance = torch.cat(differences).double(), TOLERANCE * largest
    same = rows[rows <= tolerance]  # NaN is not
    differing, allowed = len(rows) - len(same), 0.0
    if isinstance(model, ImageGenerator):
        allowed = MOST_DIFFERING * len(rows)
    if differing > allowed:
        raise InputError(
            f"{what} does not compute what the model does: {differing} of {len(rows)} rows differ by up to "
            f"{float(rows.max()):.3g}, more than {tolerance:.3g}; nothing was written"
        )
    return Agreement(BATCH_SIZES, float(same.max()), tolerance, differing)
