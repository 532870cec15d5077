"""How a data set is read, where its files leave that open."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from numpy.typing import NDArray

from dpvision.images.class_list import classes_given
from dpvision.images.conversion import Conversion, Deep, Resize, value_range
from dpvision.images.decode import decode
from dpvision.privacy.errors import InputError

Function = TypeVar("Function", bound=Callable[..., Any])
UnitChoice = Literal["image", "dicom-patient"]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The choices of whoever reads a data set. By default none: what is left open is refused.

    Attributes:
        size, channels, resize, value_range: what becomes of every image; see `Conversion`. A range may be
            given as a text, "0:4095".
        classes: which classes there are: their number, where labels are numbers from 0; their names, in the
            order of these numbers, or of the classes; or names by label. May be given as a text:
            "10", "normal,pneumonia", "1=normal,2=pneumonia", "1..26".
        path_column, label_column, split_column: the columns of a table with the paths, or the images
            themselves, and with labels and splits; by default those with the usual names.
        unit_column: the column that says whose image each is; by default one with a usual name.
        unit: "image", for each image to be protected by itself whatever the data say; "dicom-patient", for
            all images of a patient to be protected together, by the headers of DICOM files.
        first_frame: take the first frame or page of files with several, which else are refused.
        skip_unreadable: leave out images that cannot be read. Each decides alone.

    Raises:
        InputError: for a value that nothing can be read with.
    """

    size: int | None = None
    channels: int | None = None
    resize: Resize = "crop"
    value_range: Any = None
    classes: Any = None
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    unit_column: str | None = None
    unit: UnitChoice | None = None
    first_frame: bool = False
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "value_range", value_range(self.value_range))
        object.__setattr__(self, "classes", classes_given(self.classes))
        self.conversion  # noqa: B018 (refuses what it cannot be)
        if self.unit not in (None, *get_args(UnitChoice)):
            raise InputError(f"unit must be {' or '.join(get_args(UnitChoice))}, not {self.unit!r}")
        if self.unit is not None and self.unit_column is not None:
            raise InputError("unit and unit_column are both given; leave one out")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Choices:
        """Take the choices that were given. InputError where there is none of that name."""
        known = [one.name for one in fields(cls)]
        for name in given:
            if name not in known:
                raise InputError(f"there is no option '{name}'; choose from {', '.join(known)}")
        return cls(**given)

    def given(self) -> dict[str, Any]:
        """Return the choices that are not those by default, by name."""
        return {
            one.name: value for one in fields(Choices) if (value := getattr(self, one.name)) != one.default
        }

    @property
    def conversion(self) -> Conversion:
        """What becomes of every image."""
        return Conversion(self.size, self.channels, self.resize, self.value_range)

    def decode(self, encoded: bytes | Path, name: str) -> NDArray[Any] | Deep:
        """Decode an image; see `decode`."""
        return decode(encoded, name, self.first_frame)


def takes_choices(function: Function) -> Function:
    """Give a function of ``**choices`` the signature of these choices, for whoever asks for its help."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    hints = get_type_hints(Choices)
    named = [
        inspect.Parameter(
            one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=hints[one.name]
        )
        for one in fields(Choices)
    ]
    function.__signature__ = signature.replace(parameters=[*own, *named])  # type: ignore[attr-defined]
    return function
