"""Numbers that no one would give: every setting of every method takes them, or refuses them in a sentence."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dpvision.methods.registry import find_method, known_methods
from dpvision.methods.settings import setting_types
from dpvision.privacy import Budget, InputError
from tests.methods.learning import CPU, calibrated, facts

OF = facts(1000, (1, 8, 8))
EXTREMES: dict[Any, list[Any]] = {
    int: [-1, 0, 2**53, 10**400],
    float: [
        -1.0,
        0.0,
        1e-300,
        1e-40,
        1e-6,
        1 - 1e-6,
        0.9999999999999999,
        1e3,
        1e200,
        math.inf,
        math.nan,
        10**400,
    ],
}
METHODS = [name for name in known_methods() if name != "auto"]


@pytest.mark.parametrize("method", METHODS)
def test_each_is_planned_with_or_refused(method: str) -> None:
    refused: list[str] = []
    found = find_method(method)
    numbers = [(name, kind) for name, kind in setting_types(found.config_class).items() if kind in EXTREMES]
    for name, kind in numbers:
        for value in EXTREMES[kind]:
            try:
                config = found.default_config(OF, Budget(1.0, 1e-5), CPU, {name: value})
                plan = calibrated(found, config, OF, Budget(1.0, 1e-5))
                assert 0 < plan.epsilon <= 1
            except InputError as error:
                refused.append(str(error))
    assert len(refused) >= 2 * len(numbers)
    assert "\n" not in "".join(refused)
