"""The private images that a release was made of, for figures that no guarantee covers."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from dpvision.api.accounts import check_unchanged
from dpvision.api.config import read_images
from dpvision.api.sources import Reading, Source, fitting_images
from dpvision.api.using import choices_of
from dpvision.images import ImageSet, available_splits
from dpvision.images.files import reading
from dpvision.images.public import without_private_images
from dpvision.privacy.errors import InputError, named_option
from dpvision.runs import RunDirectory
from dpvision.runs.files import read_json
from dpvision.runs.places import is_run

logger = logging.getLogger("dpvision")


def private_images_of(
    run: str | os.PathLike[str],
    given: Source | None,
    shape: tuple[int, int, int],
    class_names: Sequence[str],
) -> ImageSet:
    """Return the private images given, or those that the run recorded.

    Args:
        run: a run's directory or, with images that are given, a release alone.
        given: the images, if they are given.
        shape: (C, H, W) of the images that the run released.
        class_names: their classes, in whose order the private ones are labelled; empty without labels.

    Raises:
        InputError: the images cannot be read, have changed, or are not said.
    """
    if given is None:
        private = _recorded_images(run)
    else:
        private = _read(run, given, shape, bool(class_names))
        _warn_of_others(run, private)
    return private.with_classes(class_names) if class_names else private


def _read(
    run: str | os.PathLike[str], given: Source, shape: tuple[int, int, int], labelled: bool
) -> ImageSet:
    """Return the images given, of data with splits those to train on. InputError where that has none such."""
    if isinstance(given, ImageSet):
        return given
    splits = available_splits(given)
    if splits and "train" not in splits:
        raise InputError(
            f"{given} has the splits {', '.join(splits)} and no train; give the private images alone"
        )
    split = "train" if splits else None
    return fitting_images(given, split, shape, labelled=labelled, choices=choices_of(run, {}))


def _warn_of_others(run: str | os.PathLike[str], private: ImageSet) -> None:
    """Warn where images that are given as private ones are not those that a run was made of."""
    if _are_those_of(run, private) is False:
        logger.warning(
            f"the images of {private.source} are not, number for number, those that {run} was made of: what "
            f"is measured of copies says nothing of those; leave out {named_option('private')}, if they are "
            "where they were"
        )


def _recorded_images(run: str | os.PathLike[str]) -> ImageSet:
    """Read the images that a run was made from, as it recorded. InputError where they have changed."""
    named = named_option("private")
    if not is_run(run):
        raise InputError(
            f"{run} does not say where its private images are; give the run that read them, or {named}"
        )
    directory = RunDirectory.open(run)
    with reading(f"{directory.path / 'config.json'}"):
        source = Reading.from_json(directory.config.get("data") or {"spec": None})
    if source.spec is None:
        raise InputError(
            f"{run} does not say where its private images are; give the run that read them, or {named}"
        )
    try:
        private = read_images(source, needs_labels=False)
    except InputError as error:
        raise InputError(f"{error}; give {named} if the private images of {run} moved") from error
    check_unchanged(directory, private)
    return private


def without_private(test: ImageSet, private: ImageSet) -> ImageSet:
    """Return the test images that are not among the private ones."""
    others = without_private_images(test, private)
    left_out = len(test) - len(others)
    if left_out:
        logger.info(f"{left_out} of {len(test)} images of {test.source} are private ones, and left out")
    return others


def refuse_those_of(run: str | os.PathLike[str], test: ImageSet) -> None:
    """Refuse to measure a run on the very images that it was made of.

    Raises:
        InputError: they are, image for image.
    """
    if _are_those_of(run, test):
        raise InputError(
            f"the images of {test.source} are those that {run} was made of; give others of the same kind"
        )


def _are_those_of(run: str | os.PathLike[str], images: ImageSet) -> bool | None:
    """Say whether images are those that a run was made of, number for number, whatever their labels and whose
    they are. None where that is not known: of a release alone, and of a run of an earlier version, unless
    labels and units are the same too.
    """
    if not is_run(run):
        return None
    record = RunDirectory.open(run).private
    if "pixel_digest" in record:
        return bool(record["pixel_digest"] == images.pixel_digest)
    return record.get("digest") == images.digest or None


def claimed(place: Path) -> dict[str, float]:
    """Return the ε and δ that a release claims."""
    path = place / "card.json"
    card = read_json(path)
    with reading(f"{path}"):
        return {"epsilon": float(card["epsilon"]), "delta": float(card["delta"])}
