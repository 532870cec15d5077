"""Images that a Python program has at hand: arrays, and data sets of PyTorch and Hugging Face."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from dpvision.images.arrays import labels_from_array
from dpvision.images.choices import Choices, takes_choices
from dpvision.images.class_list import indexed_labels, named_labels, numbered_labels
from dpvision.images.columns import find_column
from dpvision.images.conversion import Deep
from dpvision.images.decode import values_of
from dpvision.images.files import NoLabelsError
from dpvision.images.images import Images
from dpvision.images.stack import stack
from dpvision.images.units import Units, names_given, unit_name
from dpvision.images.whose import Whose, unit_column, with_told_units
from dpvision.privacy.errors import InputError, named_option

Layout = Literal["NHWC", "NCHW"]


@takes_choices
def images_from_arrays(
    pixels: Any, labels: Any = None, *, layout: Layout | None = None, units: Any = None, **choices: Any
) -> Images:
    """Make a set of images of arrays or tensors.

    >>> images = images_from_arrays(torch.zeros(3, 1, 8, 8), ["cat", "dog", "cat"])
    >>> images, images.class_names
    (<Images: 3 of 1×8×8, 2 classes>, ('cat', 'dog'))

    Args:
        pixels: ``[N, H, W]``, ``[N, H, W, C]`` or ``[N, C, H, W]`` with C 1 or 3; uint8, or floating point in
            [0, 1], or other numbers with a ``value_range``.
        labels: ``[N]``, whole numbers or names; None for images without labels.
        layout: where the channels are; needed only where both places may be.
        units: ``[N]``, whole numbers or texts, whose image each is, such as a patient's: all images of one
            are protected together. None where each is protected by itself.
        choices: as in `open_images`; ``classes`` orders or names the classes.

    Raises:
        InputError: shapes, types or values do not fit.
    """
    chosen, source = Choices.of(choices), "the arrays"
    _check_given_once(units, chosen, source)
    array = _as_array(pixels)
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4:
        array = _channels_first(array, layout)
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise InputError(
            f"{source} have the shape {list(array.shape)}; images must be [N, H, W], [N, H, W, C] or "
            "[N, C, H, W] with C 1 or 3"
        )
    ranged = chosen.value_range is not None
    of_images, class_names = (None, ()) if labels is None else _labels(labels, len(array), chosen, source)
    named = ((f"image {index}", image) for index, image in enumerate(array))
    found = stack(
        named, len(array), lambda image, name: _values(image, ranged, name), source, chosen.conversion
    )
    images = Images(
        found.pixels,
        of_images,
        class_names,
        source,
        stored=found.stored,
        units=None if units is None else Units.named(names_given(units, len(array), source), source),
    )
    return with_told_units(images, chosen, source) if units is None else images


@takes_choices
def images_from_dataset(
    dataset: Any,
    *,
    labelled: bool = True,
    units: Callable[[Any], Any] | Sequence[Any] | Tensor | None = None,
    **choices: Any,
) -> Images:
    """Make a set of images of a map-style data set of PyTorch or of Hugging Face's `datasets`.

    Args:
        dataset: has ``len(dataset)`` and items. Those of PyTorch are pairs of an image and a label, or images
            alone; ``dataset.classes`` names the classes, if it is there. Those of Hugging Face are
            dictionaries, of which the column with images is taken, and ``label_column`` or the one that names
            classes. An image is Pillow's, or an array as for `images_from_arrays`. Random transforms of a
            data set are drawn once: leave them to the views of a method.
        labelled: whether to take the labels.
        units: whose image each is, in the order of the items, or a function that says it of an item. Of
            Hugging Face, ``unit_column`` or a column with a usual name says it otherwise; see `open_images`.
        choices: as in `open_images`.

    Raises:
        InputError: it has no length, or an item that is no image; what `open_images` refuses.
    """
    chosen, source = Choices.of(choices), f"the {type(dataset).__name__}"
    _check_given_once(units, chosen, source)
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise InputError(f"{source} has no length or no items; give a map-style data set")
    if len(dataset) == 0:
        raise InputError(f"{source} holds no images; at least one is needed")
    columns = _columns(dataset, chosen, labelled, source) if hasattr(dataset, "column_names") else None
    whose = _whose(dataset, units, chosen, source)
    labels: list[Any] = []
    unit_names: list[str] = []

    def items() -> Any:
        for index in range(len(dataset)):
            item = dataset[index]
            if whose:
                unit_names.append(unit_name(whose[0](index, item), source))
            if columns:
                image, label = item[columns[0]], item[columns[1]] if columns[1] else None
            else:
                image, label = item if isinstance(item, tuple | list) and len(item) == 2 else (item, None)
            labels.append(label)
            yield f"{source}, item {index}", image

    found = stack(
        items(),
        len(dataset),
        lambda image, name: _of_item(image, chosen, name),
        source,
        chosen.conversion,
        skip_unreadable=chosen.skip_unreadable,
    )
    of_images, class_names = None, tuple[str, ...]()
    if labelled:
        if any(label is None for label in labels):
            raise InputError(f"{source} has items without a label; give labelled=False for images alone")
        own_names = _own_names(dataset, columns)
        every, class_names = _labels(labels, len(labels), chosen, source, own_names)
        of_images = every[found.kept]
    numbers = [f"item {index}" for index in range(len(dataset))]
    images = Images(
        found.pixels,
        of_images,
        class_names,
        source,
        stored=found.stored,
        left_out=found.left_out,
        units=Whose(unit_names, whose[1]).units(found, numbers, source) if whose else None,
    )
    return with_told_units(images, chosen, source) if units is None else images


def _check_given_once(units: Any, choices: Choices, source: str) -> None:
    if units is not None and (choices.unit is not None or choices.unit_column is not None):
        raise InputError(f"{source}: units are given, and unit or unit_column too; leave one out")


def _whose(
    dataset: Any, units: Any, choices: Choices, source: str
) -> tuple[Callable[[int, Any], Any], str] | None:
    """Return what says whose an item is, by its index and itself, and its origin; None: nothing does."""
    if callable(units):
        return lambda _, item: units(item), "the function given"
    if units is not None:
        given = names_given(units, len(dataset), source)
        return lambda index, _: given[index], Units.origin
    if not hasattr(dataset, "column_names"):
        return None
    column = unit_column(list(dataset.features), choices, source)
    return None if column is None else (lambda _, item: item[column], f"column '{column}'")


def _columns(dataset: Any, choices: Choices, labelled: bool, source: str) -> tuple[str, str | None]:
    """Return the columns of a Hugging Face data set with the images and the labels."""
    kinds, images = _kinds(dataset), image_column(dataset, choices, source)
    if not labelled:
        return images, None
    of_classes = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    named = choices.label_column
    if named is None and len(of_classes) > 1:
        raise InputError(
            f"{source} has {len(of_classes)} columns that name classes ({', '.join(of_classes)}); say which "
            f"holds the labels, with {named_option('label_column', of_classes[0])}"
        )
    if named is None and of_classes:
        return images, of_classes[0]
    found = find_column(list(kinds), "label", named, source)
    if found is None:
        raise NoLabelsError(
            f"{source} has no column that names classes (it has {', '.join(kinds)}); say which holds the "
            f"labels, with {named_option('label_column')}"
        )
    return images, found


def image_column(dataset: Any, choices: Choices, source: str) -> str:
    """Return the column of a Hugging Face data set with the images: the one that was named, or the only one.

    Raises:
        InputError: there is none, or several.
    """
    images = [name for name, kind in _kinds(dataset).items() if kind == "Image"]
    if choices.path_column is not None and choices.path_column in images:
        return choices.path_column
    if len(images) != 1 or choices.path_column is not None:
        raise InputError(
            f"{source} has {len(images)} columns of images ({', '.join(images)}); name one, with "
            f"{named_option('path_column')}"
        )
    return images[0]


def _kinds(dataset: Any) -> dict[str, str]:
    """Return the kind of feature that each column of a Hugging Face data set has, by name."""
    return {name: type(feature).__name__ for name, feature in dataset.features.items()}


def _own_names(dataset: Any, columns: tuple[str, str | None] | None) -> Sequence[str]:
    """Return the names of the classes that a data set knows, if any."""
    if columns is None:
        return tuple(getattr(dataset, "classes", ()))
    return tuple(getattr(dataset.features[columns[1]], "names", ()))


def _labels(
    labels: Any, count: int, choices: Choices, source: str, own_names: Sequence[str] = ()
) -> tuple[Tensor, tuple[str, ...]]:
    array = _as_array(labels)
    if len(array) != count:
        raise InputError(f"{source}: {count} images need as many labels, got {len(array)}")
    if array.dtype.kind in "OUS":
        names = [str(label) for label in array.tolist()]
        return named_labels(names, own_names or sorted(set(names)), choices.classes, source)
    numbers = labels_from_array(array, f"the labels of {source}")
    if own_names:
        return indexed_labels(numbers, "train", own_names, choices.classes, source)
    return numbered_labels({"train": numbers}, "train", choices.classes, source)


def _as_array(values: Any) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def _channels_first(array: NDArray[Any], layout: Layout | None) -> NDArray[Any]:
    first, last = array.shape[1] in (1, 3), array.shape[3] in (1, 3)
    if layout is None and first and last:
        raise InputError(
            f"the arrays have the shape {list(array.shape)}, in which channels may be first or last; say "
            "which: layout='NHWC' or 'NCHW'"
        )
    if layout not in (None, "NHWC", "NCHW"):
        raise InputError(f"layout must be 'NHWC' or 'NCHW', not {layout!r}")
    last = last if layout is None else layout == "NHWC"
    return array.transpose(0, 3, 1, 2) if last else array


def _values(array: NDArray[Any], has_range: bool, name: str) -> NDArray[Any]:
    """Return an image [C, H, W], or several, in the numbers that `Conversion` takes.

    Numbers in [0, 1] become uint8 here, before it is seen what an image is known by: it is the same image as
    in a file.

    Raises:
        InputError: they are neither uint8 nor in [0, 1], and no range was given.
    """
    if array.dtype == np.uint8 or (array.dtype == np.uint16 and len(array) == 1 and has_range):
        return array
    if has_range:
        return array.astype(np.float64)
    if array.dtype.kind != "f":
        raise InputError(
            f"{name} holds {array.dtype}, whose range is unknown; say it with value_range=(0, 4095) or as it "
            "is, or give uint8, or floating point in [0, 1]"
        )
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"{name} holds floating point from {low:.4g} to {high:.4g}, not in [0, 1]; divide pixels of 0 "
            "to 255 by 255, or say the range with value_range="
        )
    return np.rint(array.astype(np.float64) * 255).astype(np.uint8)


def encoded_image(image: Any) -> bytes | Path | None:
    """Return an image as Hugging Face's data sets give it that is not decoded: its bytes, or its file; None
    where it is anything else.
    """
    if not (isinstance(image, Mapping) and image.keys() == {"bytes", "path"}):
        return None
    path = image["path"] and Path(image["path"])
    return path if image["bytes"] is None else bytes(image["bytes"])


def _of_item(image: Any, choices: Choices, name: str) -> NDArray[Any] | Deep:
    """Return the values [C, H, W] of an image that a data set gave."""
    if image is None:
        raise InputError(f"{name} has no image; remove it")
    if (encoded := encoded_image(image)) is not None:
        return choices.decode(encoded, name)
    if isinstance(image, Image.Image):
        return values_of(ImageOps.exif_transpose(image))
    array = _as_array(image)
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[0] not in (1, 3):
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[0] not in (1, 3):
        raise InputError(
            f"{name} is no image (a {type(image).__name__} of shape {list(np.shape(array))}); give Pillow "
            "images or arrays [H, W], [H, W, C] or [C, H, W]"
        )
    return _values(array, choices.value_range is not None, name)
