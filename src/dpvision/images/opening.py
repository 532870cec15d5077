"""Find the reader of a data set, and read it."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from dpvision.images import bundled, cifar, folder, idx, npz, parquet, table
from dpvision.images.choices import Choices, takes_choices
from dpvision.images.files import NoLabelsError
from dpvision.images.images import Images
from dpvision.images.places import check_exists
from dpvision.images.whose import with_told_units
from dpvision.privacy.errors import InputError


class Reader(Protocol):
    """The functions that the module of a format offers."""

    def recognises(self, path: Path) -> bool:
        """Say whether what lies at path is of this format, by its name alone."""

    def splits(self, path: Path, choices: Choices) -> dict[str, Any]:
        """Return the splits at path, by name."""

    def sizes(self, path: Path, split: str, choices: Choices) -> Counter[tuple[int, int]]:
        """Count the images of one of these splits by size (width, height)."""

    def read(self, path: Path, split: str, choices: Choices, labelled: bool) -> Images:
        """Read one of these splits."""


READERS: tuple[Reader, ...] = (
    npz,
    table,
    parquet,
    idx,
    cifar,
    bundled,
    folder,
)  # folder last: it takes any folder


@takes_choices
def open_images(
    spec: str | os.PathLike[str], split: str = "train", *, labelled: bool | None = True, **choices: Any
) -> Images:
    """Read one split of a data set into memory.

    >>> digits = open_images("bundled:digits")
    >>> digits.shape, len(digits.class_names)
    ((1, 8, 8), 10)

    Args:
        spec: "bundled:digits", or the path of one of these:
            a folder of class folders (PNG, JPEG, WebP, BMP, TIFF), or of train/ and test/ that hold class
            folders; a NumPy archive .npz with train_images and train_labels, test_…, val_…, or with images
            and labels; a folder of IDX files (train-images-idx3-ubyte, …, plain or gzip);
            a Parquet file, or a folder of them, in the Hugging Face image layout; a table (CSV, TSV, Parquet)
            with a column of paths, and columns of labels and splits; the folder of CIFAR-10 or CIFAR-100,
            binary or pickled.
        split: "train", "val" or "test". Data without splits are all train.
        labelled: False reads the images alone: from the same places, any folder of images, or one image. None
            reads labels where there are some.
        choices: of :class:`~dpvision.images.choices.Choices`:
            size=32 makes every image a square of that side, by resize="crop" (the largest centred square),
            "pad" or "stretch"; by default sizes stay, and must agree. channels=1 makes every image grey, 3
            RGB; by default grey images keep 1 channel and colour images 3. value_range="0:4095" says which
            values of more than 8 bits are black and white. classes="normal,pneumonia" says which classes
            there are. path_column, label_column, split_column, unit_column name columns of
            a table. unit="image" protects each image by itself, whatever the data say of units;
            unit="dicom-patient" all images of a patient together, by the headers of DICOM files.
            first_frame=True takes the first of several frames. skip_unreadable=True leaves out images that
            cannot be read, and tells how many.

    Images have units, such as patients, where the data say whose they are: in a column called patient,
    subject, participant, person, user or unit, with or without _id; in a table units.csv, with columns path
    and unit, beside the class folders or in the folder of a split; in arrays train_units, … of an archive.

    The names and the number of classes come from the data set (folder names, metadata, or the greatest label
    of any split), or from ``classes``, and are taken as public.

    Raises:
        NoLabelsError: an InputError; there are images, but no labels.
        InputError: for anything missing, damaged, ambiguous or too large (an image of more than 2**26 pixels,
            a data set of more bytes than this machine has memory).
    """
    if labelled is None:
        try:
            return open_images(spec, split, **choices)
        except NoLabelsError:
            labelled = False
    chosen = Choices.of(choices)
    reader, path = _reader_of_split(spec, split, chosen)
    with _without_warnings():
        images = reader.read(path, split, chosen, labelled)
    return with_told_units(images, chosen, f"{split} of {spec}")


@takes_choices
def available_splits(spec: str | os.PathLike[str], **choices: Any) -> tuple[str, ...]:
    """Return the splits that open_images can read from spec, with the same choices, out of "train", "val" and
    "test".

    Raises:
        InputError: as open_images, as far as it shows without reading images.
    """
    reader, path = _reader(spec)
    return tuple(reader.splits(path, Choices.of(choices)))


@takes_choices
def image_sizes(
    spec: str | os.PathLike[str], split: str = "train", **choices: Any
) -> Counter[tuple[int, int]]:
    """Count the images of a split by size (width, height), as stored (and as kept if no size is asked for).

    Reads headers, not pixels, where images have headers of their own; those that cannot be read do not count.
    EXIF orientation is not looked at.

    Raises:
        InputError: as open_images, as far as it shows without decoding images.
    """
    chosen = Choices.of(choices)
    reader, path = _reader_of_split(spec, split, chosen)
    with _without_warnings():
        return reader.sizes(path, split, chosen)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence the decoders' warnings: what they warn of is either harmless or refused here, in a sentence."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\.")
        yield


def _reader_of_split(spec: str | os.PathLike[str], split: str, choices: Choices) -> tuple[Reader, Path]:
    reader, path = _reader(spec)
    available = reader.splits(path, choices)
    if split not in available:
        raise InputError(f"{spec} has no split '{split}' (it has: {', '.join(available)}); name one of these")
    return reader, path


def _reader(spec: str | os.PathLike[str]) -> tuple[Reader, Path]:
    check_exists(spec)
    path = Path(spec)
    for reader in READERS:
        if reader.recognises(path):
            return reader, path
    raise InputError(
        f"{spec} is no data set that can be read; give a folder of class folders, of IDX files or of Parquet "
        "files, or a .npz, .parquet or .csv file"
    )
