"""Find out whose images are whose, as a data set says it or its reader asks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dpvision.images import dicom
from dpvision.images.choices import Choices
from dpvision.images.columns import find_column
from dpvision.images.faults import Stacked, listed
from dpvision.images.image_set import ImageSet
from dpvision.images.units import Units
from dpvision.privacy.errors import InputError, named_option

logger = logging.getLogger("dpvision")

Set = TypeVar("Set", bound=ImageSet)

DICOM_PATIENT = "dicom-patient"


@dataclass(frozen=True, repr=False)
class Whose:
    """Whose each of a data set's images is, those among them that cannot be read.

    Attributes:
        names: of the units of all images, "" where an image has none. Private.
        origin: what says so; see `Units`.
    """

    names: Sequence[str]
    origin: str

    def check(self, images: Sequence[str], source: str) -> None:
        """Raise InputError, with their names, where images have no unit."""
        without = [image for image, unit in zip(images, self.names, strict=True) if not unit]
        if without:
            raise InputError(
                f"{source}: {len(without)} of {len(images)} images have no unit in {self.origin}: "
                f"{listed(without)}; complete it, or protect each image by itself, with "
                f"{named_option('unit', 'image')}"
            )

    def units(self, found: Stacked, images: Sequence[str], source: str) -> Units:
        """Return the units of the images that were kept; ``images`` are the names of all."""
        kept = Whose(found.names(self.names), self.origin)
        kept.check(found.names(images), source)
        return Units.named(kept.names, source, self.origin)


def unit_column(names: Sequence[str], choices: Choices, source: str) -> str | None:
    """Return which of the columns says whose images are whose: the one named, else the one with a usual name
    that was not named for something else; None where there is none, or it is not to count.

    Raises:
        InputError: as `find_column`.
    """
    if choices.unit is not None:
        return None
    others = (choices.path_column, choices.label_column, choices.split_column)
    free = names if choices.unit_column is not None else [name for name in names if name not in others]
    return find_column(free, "unit", choices.unit_column, source)


def patients_of(files: Sequence[Path]) -> Whose:
    """Return the patients of DICOM files, by their headers."""
    return Whose([dicom.patient_of(file) for file in files], "the patient IDs of the DICOM headers")


def with_told_units(images: Set, choices: Choices, what: str) -> Set:
    """Return the images. Where units were found that nobody had asked for, tell so.

    Raises:
        InputError: units were asked for, and there are none: each image would be protected by itself.
    """
    asked = "unit_column" if choices.unit_column is not None else "unit"
    is_asked = choices.unit_column is not None or choices.unit == DICOM_PATIENT
    if images.units is None and is_asked:
        raise InputError(
            f"{what} has neither columns nor DICOM files that would say whose images are whose; leave out "
            f"{named_option(asked, getattr(choices, asked))}, or list the units in a table"
        )
    if images.units is not None and not is_asked:
        logger.info(
            f"units: {images.units.origin}, {len(images.units):,} units in {what}; "
            f"{named_option('unit', 'image')} protects each image by itself"
        )
    return images
