"""Find the reader of a data set, and read it."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Unpack

from dpvision.images.bundled import Bundled
from dpvision.images.choices import Choices, takes_choices
from dpvision.images.cifar import Cifar
from dpvision.images.data_set import DataSet
from dpvision.images.files import NoLabelsError, physical_memory
from dpvision.images.folder import Folder
from dpvision.images.hub import downloaded, forget_downloads, is_hub, placed
from dpvision.images.idx import Idx
from dpvision.images.image_folder import ImageFolder
from dpvision.images.image_set import ImageSet
from dpvision.images.keywords import ChoiceKeywords
from dpvision.images.npz import Npz
from dpvision.images.parquet import Parquet
from dpvision.images.pixel_file import Told
from dpvision.images.places import check_exists
from dpvision.images.released import Released
from dpvision.images.room import BeyondShareError, Memory, reading_into
from dpvision.images.saved import Saved
from dpvision.images.store import Forgotten, Store, forget_stores
from dpvision.images.stored import StoredImages
from dpvision.images.table import TableFile
from dpvision.images.whose import with_told_units
from dpvision.privacy.errors import InputError

SHARE = 4
"""The pixels of a data set may take one part in this many of the memory; others stay on disk."""

READERS: tuple[type[DataSet], ...] = (
    Released,
    Npz,
    TableFile,
    Parquet,
    Saved,
    Idx,
    Cifar,
    Bundled,
    Folder,
)  # folder last: it takes any folder

READERS_OF_HUB: tuple[type[DataSet], ...] = (*READERS[:-1], ImageFolder, Folder)
"""Those of specs that begin with ``hf:``. Elsewhere a table beside class folders is left aside."""


@takes_choices
def open_images(
    spec: str | os.PathLike[str],
    split: str = "train",
    *,
    labelled: bool | None = True,
    **choices: Unpack[ChoiceKeywords],
) -> ImageSet:
    """Read one split of a data set: into memory, as `Images`; or, where its pixels take more than a quarter
    of the memory, into a store on disk, see `cache_images`. Where there is such a store it is used.

    >>> digits = open_images("bundled:digits")
    >>> digits.shape, len(digits.class_names)
    ((1, 8, 8), 10)

    Args:
        spec: "bundled:digits"; "hf:OWNER/NAME" or "hf:OWNER/NAME/FOLDER@REVISION", a data set of the Hugging
            Face Hub, which is downloaded once; or the path of one of these:
            a folder of class folders (PNG, JPEG, WebP, BMP, TIFF), or of train/ and test/ that hold class
            folders; a NumPy archive .npz with ``train_images``, ``train_labels``, ``test_…``, ``val_…``, or
            with images and labels; a folder of IDX files (train-images-idx3-ubyte, …, plain or gzip);
            a Parquet file, or a folder of them, in the Hugging Face image layout, or a folder that its
            ``datasets`` wrote by ``save_to_disk``; a run of `synthesize`, or its release directory, for the
            images in it; a table (CSV, TSV, Parquet) with a column of paths, and columns of labels and
            splits; the folder of CIFAR-10 or CIFAR-100, binary or pickled.
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

    The names and the number of classes come from the data set (folder names, metadata, or the greatest label
    of any split), or from ``classes``, and are taken as public.

    Images have units, such as patients, where the data say whose they are: in a column called patient,
    subject, participant, person, user or unit, with or without _id; in a table units.csv, with columns path
    and unit, beside the class folders or in the folder of a split; in arrays train_units, … of an archive.

    Raises:
        NoLabelsError: an InputError; there are images, but no labels.
        InputError: for anything missing, damaged, ambiguous or too large (an image of more than 2**26 pixels,
            a data set of more bytes than there is room on the disk).
    """
    return _opened(spec, split, labelled, Choices.of(choices))


@takes_choices
def cache_images(
    spec: str | os.PathLike[str],
    split: str = "train",
    *,
    labelled: bool | None = True,
    told: Told | None = None,
    **choices: Unpack[ChoiceKeywords],
) -> StoredImages:
    """Read one split of a data set into a store on disk, unless that was done, and return the images in it.

    From then on ``open_images`` with the same arguments takes them from there, until the files of the data
    set change: then it is made anew. Only the owner may read it: it is as private as the images.

    Args:
        spec, split, labelled, choices: as for ``open_images``.
        told: is told, as images are written, how many are, and how many there will be.

    Raises:
        InputError: as ``open_images``; or the disk has no room, and nothing is left there.
    """
    images = _opened(spec, split, labelled, Choices.of(choices), told or _untold)
    assert isinstance(images, StoredImages)
    return images


def forget_images(spec: str | os.PathLike[str]) -> Forgotten:
    """Remove all stores of a data set, of any split and choices, whether the data set is still there or not;
    and what was downloaded of one of the Hugging Face Hub.

    Raises:
        InputError: one is being made, or cannot be removed.
    """
    stores = [forget_stores(str(place)) for place in downloaded(spec)]
    return Forgotten(
        sum(one.stores for one in stores), sum(one.bytes for one in stores) + forget_downloads(spec)
    )


def _opened(
    spec: str | os.PathLike[str],
    split: str,
    labelled: bool | None,
    choices: Choices,
    told: Told | None = None,
) -> ImageSet:
    """Return images as `open_images`, or, where somebody is to be told of it, as `cache_images`."""
    if labelled is None:
        try:
            return _opened(spec, split, True, choices, told)
        except NoLabelsError:
            return _opened(spec, split, False, choices, told)
    data_set = _with_split(spec, split, choices)
    store = Store(data_set, split, labelled)
    with _without_warnings():
        if told is not None or store.exists:
            images: ImageSet = store.find_or_make(f"{spec} is read into a store", told or _untold)
        else:
            try:
                with reading_into(Memory(physical_memory() // SHARE)):
                    images = data_set.read(split, labelled)
            except BeyondShareError as error:
                images = store.find_or_make(f"{error}: they are read into a store", _untold)
    return with_told_units(images, choices, f"{split} of {spec}")


def _untold(done: int, total: int) -> None:
    """Tell nobody how far reading is."""


@takes_choices
def available_splits(spec: str | os.PathLike[str], **choices: Unpack[ChoiceKeywords]) -> tuple[str, ...]:
    """Return the splits that open_images can read from spec, with the same choices, out of "train", "val" and
    "test".

    Raises:
        InputError: as open_images, as far as it shows without reading images.
    """
    return tuple(_data_set(spec, Choices.of(choices)).splits)


@takes_choices
def image_sizes(
    spec: str | os.PathLike[str], split: str = "train", **choices: Unpack[ChoiceKeywords]
) -> Counter[tuple[int, int]]:
    """Count the images of a split by size (width, height), as stored (and as kept if no size is asked for).

    Reads headers, not pixels, where images have headers of their own; those that cannot be read do not count.
    EXIF orientation is not looked at.

    Raises:
        InputError: as open_images, as far as it shows without decoding images.
    """
    data_set = _with_split(spec, split, Choices.of(choices))
    with _without_warnings():
        return data_set.sizes(split)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence the decoders' warnings: what they warn of is either harmless or refused here, in a sentence."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\.")
        yield


def _with_split(spec: str | os.PathLike[str], split: str, choices: Choices) -> DataSet:
    data_set = _data_set(spec, choices)
    if split not in data_set.splits:
        available = ", ".join(data_set.splits)
        raise InputError(f"{spec} has no split '{split}' (it has: {available}); name one of these")
    return data_set


def _data_set(spec: str | os.PathLike[str], choices: Choices) -> DataSet:
    """Return the data set, which parses what it is asked for once."""
    check_exists(spec)
    path = placed(spec)
    for reader in READERS_OF_HUB if is_hub(spec) else READERS:
        if reader.recognises(path):
            return reader(path, choices)
    raise InputError(
        f"{spec} is no data set that can be read; give a folder of class folders, of IDX files or of Parquet "
        "files, or a .npz, .parquet or .csv file"
    )
