"""The privacy budget: how much may be learnt about any one example."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from dpvision.privacy.errors import InputError

NeighboringRelation = Literal["add_or_remove_one", "replace_one"]
"""The relation of data sets that must be hard to tell apart: one example's presence differs, or its
content.
"""


@dataclass(frozen=True)
class Budget:
    """(ε, δ)-differential privacy under a neighbouring relation.

    >>> Budget(epsilon=2.0, delta=1e-5)
    Budget(epsilon=2.0, delta=1e-05, neighboring_relation='add_or_remove_one')

    Attributes:
        epsilon: the bound ε > 0 on the privacy loss.
        delta: the probability 0 < δ < 1 with which the bound may fail; must be below 1/N for N examples.
        neighboring_relation: ``"add_or_remove_one"`` or ``"replace_one"``.

    Raises:
        InputError: a value is out of range.
    """

    epsilon: float
    delta: float
    neighboring_relation: NeighboringRelation = "add_or_remove_one"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise InputError(f"epsilon must be a positive finite number, not {self.epsilon}.")
        check_delta(self.delta)
        check_relation(self.neighboring_relation)

    def check_against(self, num_examples: int) -> None:
        """Refuse a δ so large that publishing one example outright would satisfy it.

        Raises:
            InputError: δ ≥ 1/num_examples.
        """
        if self.delta >= 1 / num_examples:
            raise InputError(
                f"delta {self.delta:g} is not below 1/N for N = {num_examples} examples; "
                f"choose a smaller one, for instance {default_delta(num_examples):g}."
            )


def default_delta(num_examples: int) -> float:
    """Return the largest power of ten that is at most 1/(10·N).

    >>> default_delta(50_000)
    1e-06
    """
    if num_examples < 1:
        raise InputError(f"the number of examples must be at least 1, not {num_examples}.")
    return float(f"1e-{len(str(10 * num_examples - 1))}")


def check_delta(delta: float) -> None:
    """Raise InputError unless 0 < delta < 1."""
    if not 0 < delta < 1:
        raise InputError(f"delta must lie strictly between 0 and 1, not {delta}.")


def check_relation(neighboring_relation: str) -> None:
    """Raise InputError unless the relation is one of the two that are known."""
    if neighboring_relation not in get_args(NeighboringRelation):
        raise InputError(
            f"unknown neighboring_relation {neighboring_relation!r}; "
            f"choose one of {', '.join(get_args(NeighboringRelation))}."
        )
