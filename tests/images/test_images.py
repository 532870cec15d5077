from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from dpvision.images import Images, ImageSet
from dpvision.privacy.errors import InputError


@pytest.fixture
def images() -> Images:
    pixels = torch.arange(4 * 3 * 2 * 5, dtype=torch.uint8).reshape(4, 3, 2, 5)
    return Images(pixels, torch.tensor([0, 2, 2, 0]), ("ant", "bee", "cow"), "here", ("a", "b", "c", "d"))


def test_length_shape_and_summary(images: Images) -> None:
    assert len(images) == 4
    assert images.shape == (3, 2, 5)
    summary = json.loads(json.dumps(images.summary()))
    assert summary["class_counts"] == {"ant": 2, "bee": 0, "cow": 2}
    assert summary["num_examples"] == 4
    assert summary["shape"] == [3, 2, 5]
    assert "do not publish" in summary["notice"]


def test_subset_keeps_pixels_labels_and_names_together(images: Images) -> None:
    part = images.subset(torch.tensor([2, 0]))
    assert torch.equal(part.pixels, images.pixels[[2, 0]])
    assert part.labels is not None
    assert part.labels.tolist() == [2, 0]
    assert part.names == ("c", "a")
    assert part.class_names == images.class_names


def test_ids_go_with_their_images(images: Images) -> None:
    assert images.ids.tolist() == [0, 1, 2, 3]
    part = images.subset([3, 1])
    assert part.ids.tolist() == [3, 1]
    assert part.subset([1]).ids.tolist() == [1]
    assert part.with_classes(images.class_names[::-1]).ids.tolist() == [3, 1]
    assert dataclasses.replace(part, pixels=255 - part.pixels).ids.tolist() == [3, 1]
    assert part.digest == dataclasses.replace(part, ids=torch.tensor([8, 9])).digest
    # A bootstrap has two of one image, which are two examples.
    assert images.subset([2, 0, 2]).ids.tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="two examples have one id"):
        dataclasses.replace(part, ids=torch.tensor([1, 1]))
    with pytest.raises(InputError, match="2 examples need as many int64 ids"):
        dataclasses.replace(part, ids=torch.arange(3))


def test_digest_sees_every_pixel_every_label_and_the_shape(images: Images) -> None:
    assert images.labels is not None
    pixels, labels = images.pixels.clone(), images.labels.clone()
    assert dataclasses.replace(images, pixels=pixels, labels=labels).digest == images.digest
    pixels[3, 2, 1, 4] += 1
    labels[3] = 1
    changed = [
        dataclasses.replace(images, pixels=pixels),
        dataclasses.replace(images, labels=labels),
        dataclasses.replace(images, labels=None),
        dataclasses.replace(images, pixels=images.pixels.reshape(4, 3, 5, 2)),
        images.subset([0, 1, 2]),
        images.subset([1, 0, 2, 3]),
    ]
    assert len({images.digest, *(other.digest for other in changed)}) == 1 + len(changed)


def test_digest_reads_values_not_memory_layout(images: Images) -> None:
    channels_last = images.pixels.contiguous(memory_format=torch.channels_last)
    assert dataclasses.replace(images, pixels=channels_last).digest == images.digest


def test_with_classes_follows_the_names(images: Images) -> None:
    other = images.with_classes(("cow", "ant", "dog"))  # "bee" has no images, so it need not be known
    assert other.labels is not None
    assert [other.class_names[i] for i in other.labels.tolist()] == ["ant", "cow", "cow", "ant"]


def test_with_classes_refuses_an_unknown_class(images: Images) -> None:
    with pytest.raises(InputError, match=r"'cow'.*not among"):
        images.with_classes(("ant", "bee"))


def test_check_trainable(images: Images) -> None:
    images.check_trainable()
    with pytest.raises(InputError, match=r"one class only \('cow'\)"):
        images.subset([1, 2]).check_trainable()
    with pytest.raises(InputError, match="no labels"):
        dataclasses.replace(images, labels=None).check_trainable()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": torch.zeros(4, 3, 2, 5)}, "uint8"),
        ({"pixels": torch.zeros(4, 2, 2, 5, dtype=torch.uint8)}, "1 or 3"),
        ({"pixels": torch.zeros(0, 3, 2, 5, dtype=torch.uint8)}, "no images"),
        ({"labels": torch.tensor([0, 1, 2])}, "as many"),
        ({"labels": torch.tensor([0.0, 1, 2, 0])}, "int64"),
        ({"labels": torch.tensor([0, 1, 2, 3])}, r"0\.\.2"),
        ({"labels": torch.tensor([0, 1, 2, -1])}, r"0\.\.2"),
        ({"class_names": ("ant", "ant", "cow")}, "same name"),
        ({"names": ("a",)}, "names"),
    ],
)
def test_parts_that_do_not_fit_are_refused(images: Images, change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(images, **change)  # type: ignore[arg-type]


def test_images_are_an_image_set_of_blocks_and_of_what_is_taken(images: Images) -> None:
    some: ImageSet = images
    assert torch.equal(some.take(torch.tensor([3, 0, 3])), images.pixels[[3, 0, 3]])
    blocks = list(some.blocks(3))
    assert [len(block) for block in blocks] == [3, 1]
    assert torch.equal(torch.cat(blocks), images.pixels)
    assert torch.equal(torch.cat(list(some.blocks())), images.pixels)
