"""Images that a program has at hand are those of the files with the same pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from dpvision.images import Images, images_from_arrays, images_from_dataset
from dpvision.privacy.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)
LABELS = [0, 1, 2, 0, 1, 2]
EXPECTED = torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy())


def pixels_are(images: Images, expected: torch.Tensor = EXPECTED) -> None:
    torch.testing.assert_close(images.pixels, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "given",
    [
        PIXELS,
        PIXELS.transpose(0, 3, 1, 2),
        torch.from_numpy(PIXELS),
        PIXELS / 255,
        (PIXELS / 255).astype(np.float32),
        torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255,
        PIXELS.tolist(),
    ],
    ids=["NHWC", "NCHW", "tensor", "float64", "float32", "as ToTensor makes them", "lists"],
)
def test_all_forms_of_arrays_are_the_same_images(given: Any) -> None:
    given = np.array(given, dtype=np.uint8) if isinstance(given, list) else given
    images = images_from_arrays(given, LABELS)
    pixels_are(images)
    assert images.class_names == ("0", "1", "2")
    same = Images(EXPECTED, torch.tensor(LABELS), ("0", "1", "2"), "files")
    assert images.digest == same.digest  # one account for them
    assert images.identities.equal(same.identities)


def test_grey_arrays_and_no_labels() -> None:
    images = images_from_arrays(PIXELS[..., 0])
    assert images.shape == (1, 8, 9)
    assert images.labels is None


def test_labels_that_are_names() -> None:
    images = images_from_arrays(PIXELS, ["dog", "cat", "dog", "cat", "dog", "dog"])
    assert images.class_names == ("cat", "dog")
    assert images.labels is not None
    assert images.labels.tolist() == [1, 0, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (PIXELS.astype(float), LABELS, r"floating point from 0 to 255, not in \[0, 1\].*divide"),
        (PIXELS / 255 - 0.5, LABELS, r"not in \[0, 1\]"),
        (np.full((2, 4, 4), np.nan), None, r"not in \[0, 1\]"),
        (PIXELS.astype(np.int64), LABELS, "hold.? int64, whose range is unknown"),
        (PIXELS[..., :2], None, "shape"),
        (np.zeros((2, 3, 4, 3), np.uint8), None, "first or last"),
        (PIXELS, LABELS[:2], "6 images need as many labels, got 2"),
        (PIXELS, [1, 2, 3, 1, 2, 3], "no image of any split has label 0"),
        (PIXELS, [0.5] * 6, "not integers"),
        (PIXELS[:0], None, "no images"),
    ],
)
def test_arrays_that_do_not_fit(pixels: Any, labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        images_from_arrays(pixels, labels)


def test_layouts_that_both_fit_are_said() -> None:
    both = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    assert images_from_arrays(both, layout="NHWC").shape == (3, 3, 4)
    assert images_from_arrays(both, layout="NCHW").shape == (3, 4, 3)


def test_a_range_of_values() -> None:
    deep = np.array([[[0, 2048], [4095, 9000]]], dtype=np.uint16)
    expected = [[0, 128], [255, 255]]
    for dtype in (np.uint16, np.int32, np.float32):
        images = images_from_arrays(deep.astype(dtype), value_range=(0, 4095))
        assert images.pixels[0, 0].tolist() == expected


@dataclass
class Pairs:
    """A data set of PyTorch's, as torchvision's are: pairs, and the classes' names."""

    images: list[Any]
    labels: list[int]
    classes: tuple[str, ...] = ("ant", "bee", "cow")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.images[index], self.labels[index]


def test_data_sets_of_pairs() -> None:
    for images in (
        [Image.fromarray(p) for p in PIXELS],
        list(PIXELS),
        [torch.from_numpy(p) / 255 for p in PIXELS],
    ):
        found = images_from_dataset(Pairs(images, LABELS))
        pixels_are(found)
        assert found.class_names == ("ant", "bee", "cow")
        assert found.labels is not None
        assert found.labels.tolist() == LABELS
    tensors = TensorDataset(EXPECTED.float() / 255, torch.tensor(LABELS))
    pixels_are(images_from_dataset(tensors))
    pixels_are(images_from_dataset(list(PIXELS), labelled=False))


def test_labels_of_any_whole_type_are_indices_of_the_names() -> None:
    forms: list[Any] = [int, np.int64, torch.tensor]
    for form in forms:
        labels = [form(label) for label in LABELS]
        assert images_from_dataset(Pairs(list(PIXELS), labels)).class_names == ("ant", "bee", "cow")


def test_items_that_are_no_images_are_told_together_or_left_out() -> None:
    mixed = Pairs([PIXELS[0], "x", PIXELS[2], None, PIXELS[4], PIXELS[5]], LABELS)
    with pytest.raises(InputError, match=r"2 of the 6 images .*item 1 .*item 3 "):
        images_from_dataset(mixed)
    found = images_from_dataset(mixed, skip_unreadable=True)
    pixels_are(found, EXPECTED[[0, 2, 4, 5]])
    assert found.labels is not None
    assert found.labels.tolist() == [0, 2, 1, 2]


@pytest.mark.parametrize("dataset", [iter([1]), [], 3, [(PIXELS[0], None)], Pairs([PIXELS[0]], [7])])
def test_what_is_no_data_set(dataset: Any) -> None:
    with pytest.raises(InputError):
        images_from_dataset(dataset)


class ClassLabel:
    def __init__(self, names: list[str]) -> None:
        self.names = names


class HuggingFace:
    """What is used of a `datasets.Dataset`."""

    def __init__(self) -> None:
        self.features = {
            "id": object(),
            "picture": type("Image", (), {})(),  # as in `datasets`, which need not be there
            "fine": ClassLabel(["ant", "bee", "cow"]),
            "coarse": ClassLabel(["insect", "beast"]),
        }
        self.column_names = list(self.features)

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        label = LABELS[index]
        return {"id": index, "picture": Image.fromarray(PIXELS[index]), "fine": label, "coarse": label // 2}


def test_data_sets_of_hugging_face() -> None:
    with pytest.raises(InputError, match="2 columns that name classes"):
        images_from_dataset(HuggingFace())
    found = images_from_dataset(HuggingFace(), label_column="coarse")
    pixels_are(found)
    assert found.class_names == ("insect", "beast")
    assert found.labels is not None
    assert found.labels.tolist() == [0, 0, 1, 0, 0, 1]
    assert images_from_dataset(HuggingFace(), labelled=False).labels is None
