"""The images that a run of synthesize released: its directory, or its release directory, is a data set.

They are no private images: whatever is done with them costs those they were made of nothing more than the
release did. What that was goes with them: see `provenance_with`.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from dpvision.images.data_set import DataSet
from dpvision.images.files import MAX_GUARANTEE_BYTES, parse_json, read_json, read_text_file, reading
from dpvision.images.folder import Folder
from dpvision.images.hub import placed
from dpvision.images.images import Images
from dpvision.images.npz import Npz
from dpvision.images.parquet import Parquet
from dpvision.images.places import is_release
from dpvision.images.series import POOL_RECORD
from dpvision.images.source_state import files_in
from dpvision.privacy.errors import InputError
from dpvision.privacy.events import Event
from dpvision.privacy.facts import Unit

CARD, CONFIG, GUARANTEE = "card.json", "config.json", "guarantee.json"
GENERATOR = (CONFIG, "generator.safetensors")
"""What draws the images of a release."""

FORMS: tuple[tuple[str, type[DataSet]], ...] = (
    ("images/parquet/images.parquet", Parquet),
    ("images/npz/images.npz", Npz),
    ("images/png", Folder),
)
"""Where the images of a release may be, and what reads them; all hold the same images."""

STATED: dict[str, type | tuple[type, ...]] = {
    "is_private": bool,
    "epsilon": float,
    "delta": float,
    "neighboring_relation": str,
    "num_examples": int,
    "events": list,
}
"""What goes with images that were made of private ones of what a card says, and of which type it is."""

ABOVE = 3
"""How many folders above images there may be what says how they were made."""


class Released(DataSet):
    """The images of a run, in the first form that there is, with the classes in the order of its generator's.
    All are train.
    """

    @staticmethod
    def recognises(path: Path) -> bool:
        """Say whether path is a run's directory, or a release."""
        return (path / "private" / "run.json").is_file() or is_release(path)

    @property
    def splits(self) -> Mapping[str, Any]:
        """The only split, train.

        Raises:
            InputError: nothing was released, or a classifier.
        """
        return self._inner.splits

    def read(self, split: str, labelled: bool) -> Images:
        """Read all images."""
        return replace(self._inner.read(split, labelled), source=str(self.path))

    def sizes(self, split: str) -> Counter[tuple[int, int]]:
        """Count the images by size (width, height): all have the same."""
        return self._inner.sizes(split)

    def files(self) -> Iterable[str]:
        """Return the files of the images, and the card, which has the classes."""
        return [*files_in(self._inner.path), str((self._release / CARD).absolute())]

    @cached_property
    def _release(self) -> Path:
        if is_release(self.path):
            return self.path
        if not is_release(self.path / "release"):
            raise InputError(f"{self.path} is not complete; resume it first")
        return self.path / "release"

    @cached_property
    def _inner(self) -> DataSet:
        found = [(self._release / place, kind) for place, kind in FORMS if (self._release / place).exists()]
        if not found:
            raise InputError(f"{self.path} released no images; give a run of dpvision synthesize")
        (path, kind), choices = found[0], self.choices
        card = self._release / CARD
        with reading(str(card)):
            names = tuple(read_json(card)["generator"]["class_names"])
        return kind(path, replace(choices, classes=choices.classes or names or None))


def release_with(spec: str | os.PathLike[str]) -> Path | None:
    """Return the release whose images a spec names, if it does: that of a run, or the release itself, or what
    lies in its folder of images.
    """
    path = placed(spec).absolute()
    for place in (path / "release", path, *path.parents[:ABOVE]):
        is_inside = place == path / "release" or place == path or path.is_relative_to(place / "images")
        if is_inside and is_release(place) and (place / "images").is_dir():
            return place
    return None


def provenance_with(spec: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return how the images of a spec were made, as JSON types: of those of a release `provenance_of` it; of
    others what pool.json says in their folder, or in one around it. None where there is neither.

    Raises:
        InputError: the card or the record is damaged.
    """
    release = release_with(spec)
    if release is not None:
        return provenance_of(release)
    path = placed(spec).absolute()
    folders = (path, *path.parents[:ABOVE]) if path.exists() else ()
    record = next((folder / POOL_RECORD for folder in folders if (folder / POOL_RECORD).is_file()), None)
    if record is None:
        return None
    content = read_text_file(record)
    with reading(str(record)):
        provenance = parse_json(content)
    if not isinstance(provenance, dict):
        raise InputError(
            f"{record} must hold a JSON object, the provenance of the pool; replace or remove it"
        )
    if "guarantee" in provenance:  # the images were made of private ones
        with reading(str(record)):
            provenance["guarantee"] = stated_guarantee(provenance["guarantee"])
    return provenance


def guarantee_with(spec: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return what is guaranteed of images made of private ones, see `provenance_of`. None of others.

    Raises:
        InputError: what says how they were made is damaged.
    """
    return (provenance_with(spec) or {}).get("guarantee")


def provenance_of(release: Path) -> dict[str, Any]:
    """Return how the images of a release were made, as JSON types, with what is guaranteed under "guarantee":
    of its card what `STATED` names, and "unit", what is protected. "generator" is the same of all images that
    one generator has drawn.

    Raises:
        InputError: the card is damaged, or there is no generator.
    """
    card = release / CARD
    with reading(str(card)):
        found = read_json(card)
        return {
            "kind": "images that dpvision synthesize released",
            "method": found["method"],
            "generator": _digest_of_generator(release),
            "guarantee": stated_guarantee(found),
        }


def _digest_of_generator(release: Path) -> str:
    """Return the SHA-256 of what draws the images of a release: copies of it have the same."""
    sha256 = hashlib.sha256()
    for name in GENERATOR:
        with reading(str(release / name)):
            sha256.update((release / name).read_bytes())
    return sha256.hexdigest()


def stated_guarantee(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a card, or of what was taken from one, what `STATED` names, and "unit".

    Raises:
        KeyError, TypeError, …: it is no such card.
    """
    stated = {name: card[name] for name in STATED}
    for name, kind in STATED.items():
        if not isinstance(stated[name], kind):
            raise TypeError(f"{name} is of the wrong type")
    for one in stated["events"]:
        Event.from_json(one["event"])
    unit = card.get("unit", "image")
    if unit not in get_args(Unit):
        raise ValueError(f"it protects no {unit}")
    return {**stated, "unit": unit}


def check_as_released(release: Path) -> None:
    """Raise InputError unless the images are, byte for byte, those that were released, by guarantee.json."""
    record = release / GUARANTEE
    if not record.is_file():
        raise InputError(f"{record} is missing; give a release that is complete")
    with reading(str(record)):
        files = read_json(record, MAX_GUARANTEE_BYTES)["files"]
        known = {name: value for name, value in files.items() if _is_image(name)}
    found = {path.relative_to(release).as_posix(): path for path in (release / "images").rglob("*")}
    found = {name: path for name, path in found.items() if not path.is_dir()}
    for name in sorted(found.keys() ^ known.keys()):
        raise InputError(f"{release / name} was {'added' if name in found else 'removed'} since the release")
    for name, path in found.items():
        with reading(str(path)):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != known[name]:
            raise InputError(f"{path} was changed since the release; restore it from a copy")


def _is_image(name: str) -> bool:
    return name.startswith("images/")
