"""Say which settings are tuned. It imports nothing heavy."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from dpvision.privacy.errors import InputError
from dpvision.privacy.trial_count import TrialCount

MOST_CANDIDATES = 256

DEFAULT_TRIALS = 8.0


@dataclass(frozen=True)
class Search:
    """Settings to search, each with the values that it may take, and the expected number of trials.

    >>> [one for one in Search({"steps": [30, 60], "mirror": [True, False]}).combinations()][:2]
    [{'steps': 30, 'mirror': True}, {'steps': 30, 'mirror': False}]

    Raises:
        InputError: there is no setting, or one without two different values; there are too many combinations;
            or the number of trials is out of range.
    """

    values: Mapping[str, Sequence[Any]]
    trials: float = DEFAULT_TRIALS

    def __post_init__(self) -> None:
        if not self.values:
            raise InputError("there is nothing to tune; name settings to search, each with its values")
        for name, values in self.values.items():
            if not isinstance(values, list | tuple) or len(_distinct(values)) < max(2, len(values)):
                raise InputError(f"search of {name}: give two or more values, all different")
        if "pool" in self.values:
            raise InputError("a pool cannot be searched, for all candidates have the same; set it")
        if "class_weight" in self.values:
            raise InputError(
                "class_weight cannot be searched, for the score counts images, whatever their class; set it"
            )
        count = math.prod(len(values) for values in self.values.values())
        if count > MOST_CANDIDATES:
            raise InputError(f"{count} combinations are more than {MOST_CANDIDATES}; search fewer values")
        TrialCount(self.trials)  # refuses what is none

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Yield every choice of one value for each setting."""
        for values in product(*self.values.values()):
            yield dict(zip(self.values, values, strict=True))


def _distinct(values: Sequence[Any]) -> set[str]:
    return {json.dumps(value, sort_keys=True, default=str) for value in values}
