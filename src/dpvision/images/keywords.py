"""The keyword arguments of functions that take options, for type checkers (PEP 692).

`python -m checks.generated` writes this module from `dpvision.images.choices`.
"""

from __future__ import annotations

from typing import Any, TypedDict

from dpvision.images.choices import UnitChoice
from dpvision.images.conversion import Resize


class ChoiceKeywords(TypedDict, total=False):
    """The options of how a data set is read."""

    size: int | None
    channels: int | None
    resize: Resize
    value_range: Any
    classes: Any
    path_column: str | None
    label_column: str | None
    split_column: str | None
    unit_column: str | None
    unit: UnitChoice | None
    first_frame: bool
    skip_unreadable: bool
