"""One view: the example itself."""

from __future__ import annotations

from torch import Tensor

from dpvision.privacy.by_example import ExampleDraws


class Unchanged:
    """A view policy for examples that are no images any more, such as features: each is its own only view."""

    views_per_example = 1
    images_of_a_unit = None

    def __call__(self, pixels: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        """Return ``[B, …], [B] -> [B, 1, …], [B, 1]``, the examples as floating point."""
        floating = pixels if pixels.is_floating_point() else pixels.float()
        return floating.unsqueeze(1), targets.unsqueeze(1)

    def of_units(self, pixels: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        """Return the examples ``[B, M, …]`` as floating point, and their targets as they are."""
        return pixels if pixels.is_floating_point() else pixels.float(), targets
