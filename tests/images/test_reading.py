"""Whatever a parser raises is told as bad input; mistakes of the program are not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from dpvision.images.files import reading
from dpvision.privacy.errors import InputError


def misspelt() -> Any:
    return nothing_is_called_so  # noqa: F821


def missing_from_a_module() -> Any:
    return math.no_such_function


def unbound(value: Any = None) -> Any:
    if value is not None:
        name = value
    return name


@pytest.mark.parametrize(
    ("mistake", "error"), [(misspelt, NameError), (missing_from_a_module, AttributeError)]
)
def test_a_mistake_of_the_program_is_not_called_bad_input(
    mistake: Callable[[], Any], error: type[Exception]
) -> None:
    with pytest.raises(error), reading("x.png"):
        mistake()


@pytest.mark.parametrize(
    "fault", [lambda: None.size, lambda: int("x"), lambda: [][0], lambda: len(3), unbound]
)
def test_what_may_follow_from_the_input_is(fault: Callable[[], Any]) -> None:
    with pytest.raises(InputError, match=r"x\.png cannot be read .*may be damaged"), reading("x.png"):
        fault()
