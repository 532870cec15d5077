"""Define what a view policy is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from dpvision.privacy.by_example import ExampleDraws
from dpvision.privacy.errors import InputError

MOST_VIEWS = 100_000
"""The most views of an example of one kind. Published methods take up to 32."""


class ViewPolicy(Protocol):
    """Makes K views of each example, on which its one gradient is taken.

    Guarantee: **views of an example depend on that example, on public data and on fresh randomness, and on no
    other example of the batch.** Every policy promises this, and every training method rests on it: then one
    example more or less changes one clipped gradient, and the sensitivity of the sum is the clipping norm. If
    a policy mixed two private examples, it would change several. :func:`dpvision.views.leak.check_no_leak`
    looks for such a leak before any training, ``tests/testing/test_methods.py`` in every method.

    All randomness comes from ``draws``, where each example has numbers of its own: whoever else is in the
    batch, its views stay what they are.
    """

    @property
    def views_per_example(self) -> int:
        """The number K of views per example, at least 1."""

    def __call__(self, pixels: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        """Make the views of a batch.

        Args:
            pixels: uint8 ``[B, C, H, W]``. B may be 0.
            targets: int64 ``[B]``, class indices.
            draws: the draws of these examples, in their order. What it hands out is on the CPU.

        Returns:
            views: float32 ``[B, K, C, H, W]`` in [0, 1], on the pixels' device.
            targets: ``[B, K]`` class indices, or ``[B, K, num_classes]`` probabilities.
        """


@runtime_checkable
class UnitPolicy(ViewPolicy, Protocol):
    """A view policy that also makes views of units, whose images become one gradient.

    Guarantee: as of every :class:`ViewPolicy`, of units in place of examples.
    """

    @property
    def images_of_a_unit(self) -> int | None:
        """The number M of images that are drawn from each unit for its views; None where it takes all."""

    def of_units(self, pixels: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        """Make the views of a batch of units.

        Args:
            pixels: uint8 ``[B, M, C, H, W]``, the images that were taken of each unit. B may be 0.
            targets: ``[B, M, num_classes]``: one-hot rows, times what the image counts where all are taken.
            draws: the draws of these units, in their order.

        Returns:
            views: float32 ``[B, K, C, H, W]`` in [0, 1], on the pixels' device.
            targets: ``[B, K, num_classes]``.
        """


def check_views(count: int, name: str, least: int) -> None:
    """Raise InputError, naming the setting, unless an example can have so many views of a kind."""
    if not least <= count <= MOST_VIEWS:
        raise InputError(f"{name} must be between {least} and {MOST_VIEWS:,} for each example, not {count}")
