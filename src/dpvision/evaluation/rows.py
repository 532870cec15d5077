"""The lines of a table of figures of synthetic images."""

from __future__ import annotations

from dataclasses import dataclass

from dpvision.evaluation.intervals import Figure


@dataclass(frozen=True)
class Reference:
    """The same figure of private images in the place of the synthetic ones: what a release without privacy
    would get. Private.

    Attributes:
        value, low, high: the figure and its 95 % confidence interval.
        num_private: how many private images it is from.
    """

    value: float
    low: float
    high: float
    num_private: int


@dataclass(frozen=True)
class Row:
    """One line of a table; ``dataclasses.asdict`` makes it JSON.

    Attributes:
        name: what was measured.
        value: the figure. Accuracies, precision, recall and coverage are fractions.
        low, high: its 95 % confidence interval.
        how: the protocol.
        num_synthetic, num_real: how many images the figure is from.
        reference: the same of private images, where that was asked for.
    """

    name: str
    value: float
    low: float
    high: float
    how: str
    num_synthetic: int
    num_real: int
    reference: Reference | None = None

    @classmethod
    def of(cls, name: str, figure: Figure, how: str, reference: Figure | None = None) -> Row:
        """Make a row of a figure, and of the same figure of private images in place of the synthetic."""
        counts = f"{figure.num_synthetic} synthetic and {figure.num_real} real images"
        beside = None
        if reference is not None:
            beside = Reference(reference.value, reference.low, reference.high, reference.num_synthetic)
            counts += f"; beside it the same of {reference.num_synthetic} private images"
        return cls(
            name,
            figure.value,
            figure.low,
            figure.high,
            f"{how}; {counts}",
            figure.num_synthetic,
            figure.num_real,
            beside,
        )
