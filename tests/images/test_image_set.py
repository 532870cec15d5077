"""That a set is what its attributes and `take` make of it: the same as one in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dpvision.images import Images, ImageSet
from dpvision.images.joined import Joined, with_one_more
from dpvision.privacy.errors import InputError
from tests.images.on_disk import OnDisk


@pytest.fixture
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (600, 3, 4, 5), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(600) % 3, ("ant", "bee", "cow"), "here")


@pytest.fixture
def on_disk(images: Images, tmp_path: Path) -> OnDisk:
    return OnDisk(tmp_path / "pixels", images)


def assert_same(found: ImageSet, expected: ImageSet) -> None:
    assert (len(found), found.shape, found.class_names) == (
        len(expected),
        expected.shape,
        expected.class_names,
    )
    assert torch.equal(torch.cat(list(found.blocks(100))), torch.cat(list(expected.blocks())))
    assert (found.labels is None) == (expected.labels is None)
    if found.labels is not None and expected.labels is not None:
        assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.ids, expected.ids)
    assert (found.digest, found.pixel_digest) == (expected.digest, expected.pixel_digest)
    some = torch.tensor([len(found) - 1, 0, 0])
    assert torch.equal(found.take(some), expected.take(some))


def test_all_follows_from_what_is_taken(images: Images, on_disk: OnDisk) -> None:
    assert_same(on_disk, images)
    assert on_disk.summary() == images.summary()
    on_disk.check_trainable()
    assert on_disk.largest == 256


@pytest.mark.parametrize("indices", [[5, 2, 599], range(100, 400), [7, 7, 1], [0]])
def test_subsets(images: Images, on_disk: OnDisk, indices: list[int]) -> None:
    assert_same(on_disk.subset(indices), images.subset(indices))
    few = torch.tensor([0, len(indices) - 1])
    assert_same(on_disk.subset(indices).subset(few), images.subset(indices).subset(few))


def test_other_classes_and_labels(images: Images, on_disk: OnDisk) -> None:
    order = ("cow", "dog", "ant", "bee")
    assert_same(on_disk.with_classes(order), images.with_classes(order))
    assert_same(on_disk.subset([4, 3]).with_classes(order), images.subset([4, 3]).with_classes(order))
    with pytest.raises(InputError, match="has images of class 'ant', which is not among"):
        on_disk.with_classes(("bee", "cow"))
    assert_same(on_disk.relabelled(torch.zeros(600).long()), images.relabelled(torch.zeros(600).long()))


def test_sets_put_together(images: Images, on_disk: OnDisk) -> None:
    first, second = images.subset(range(250)), images.subset(range(250, 600))
    joined = Joined([first, OnDisk(Path(on_disk._file.filename).with_name("rest"), second)])
    assert_same(joined, images)
    order = torch.randperm(600)
    assert torch.equal(joined.take(order), images.take(order))
    assert joined.source == "here"


@pytest.mark.parametrize("at", [0, 300, 600])
def test_one_more(images: Images, on_disk: OnDisk, at: int) -> None:
    one = torch.full((1, 3, 4, 5), 9, dtype=torch.uint8)
    more = with_one_more(on_disk, one, torch.tensor([2]), at)
    pixels = torch.cat([images.pixels[:at], one, images.pixels[at:]])
    labels = torch.cat([images.labels[:at], torch.tensor([2]), images.labels[at:]])  # type: ignore[index]
    assert_same(more, Images(pixels, labels, images.class_names, "more"))


def test_what_is_not_there_is_not_taken(images: Images) -> None:
    for indices in ([599, 600], [600], [-601]):
        with pytest.raises(IndexError):
            images.take(torch.tensor(indices))
    assert images.take(torch.tensor([], dtype=torch.int64)).shape == (0, 3, 4, 5)


def test_consecutive_images_are_not_copied(images: Images) -> None:
    taken = images.take(torch.arange(10, 20))
    assert np.shares_memory(taken.numpy(), images.pixels.numpy())
    assert not np.shares_memory(images.take(torch.tensor([3, 5])).numpy(), images.pixels.numpy())
