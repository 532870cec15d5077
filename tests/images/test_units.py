"""Whose images are whose."""

from __future__ import annotations

import pytest
import torch

from dpvision.images import Images
from dpvision.images.joined import Joined
from dpvision.images.units import Units, refuse_units_of_both
from dpvision.privacy import InputError

NAMES = ["ann", "bob", "ann", "cas", "bob", "ann"]


def images_of(names: list[object] | None) -> Images:
    count = len(NAMES) if names is None else len(names)
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()
    images = Images(pixels, torch.arange(count) % 2, ("a", "b"), "here")
    found = images if names is None else images.with_units(names)
    assert isinstance(found, Images)
    return found


def test_each_image_has_its_unit() -> None:
    units = Units.named(NAMES, "here")
    assert units.names == ("ann", "bob", "cas")
    assert units.of_images == NAMES
    assert units.sizes.tolist() == [3, 2, 1]
    assert units.shares.tolist() == pytest.approx([1 / 3, 1 / 2, 1 / 3, 1, 1 / 2, 1 / 3])
    assert units.images_at(torch.tensor([1, 0]), torch.tensor([[0, 1], [2, 0]])).tolist() == [[1, 4], [5, 0]]


def test_what_is_protected_is_counted() -> None:
    assert images_of(None).num_protected == 6
    assert images_of(list(NAMES)).num_protected == 3
    assert images_of(list(NAMES)).protected_ids.tolist() == [0, 1, 2]


def test_a_part_keeps_the_units_of_its_images_and_their_ids() -> None:
    some = images_of(list(NAMES)).subset([5, 1, 3])
    assert some.units is not None
    assert some.units.of_images == ["ann", "bob", "cas"]
    others = images_of(list(NAMES)).subset([4, 3, 1, 1])
    assert others.units is not None
    assert others.units.of_images == ["bob", "cas", "bob", "bob"]
    assert others.units.ids.tolist() == [1, 2]


def test_sets_that_are_joined_share_units_of_one_name() -> None:
    joined = Joined([images_of(list(NAMES)), images_of(["bob", "dan"])])
    assert joined.units is not None
    assert joined.units.of_images == [*NAMES, "bob", "dan"]
    assert len(joined.units) == 4


def test_the_identity_of_a_data_set_sees_its_units() -> None:
    digests = {
        images_of(names).digest
        for names in (None, list(NAMES), ["ann"] * 6, [*NAMES[:5], "bob"], ["x", *NAMES[1:]])
    }
    assert len(digests) == 5


def test_units_are_known_by_name_whichever_set_they_come_in() -> None:
    units, others = Units.named(NAMES, "here"), Units.named(["bob", "eve"], "there")
    assert set(units.digests) & set(others.digests) == {others.digests[0]}


def test_nothing_is_shown_of_names() -> None:
    images = images_of(list(NAMES))
    assert "ann" not in repr(images) + repr(images.units) + repr(images.summary())
    assert "3 units" in repr(images)


def test_three_lines_say_what_there_is() -> None:
    assert str(images_of(list(NAMES))).splitlines() == [
        "6 images of 1×2×2 (channels, height, width)",
        "2 classes",
        "of 3 units, each protected as a whole",
    ]
    unlabelled = Images(torch.zeros(2, 3, 4, 5, dtype=torch.uint8), None, (), "there")
    assert str(unlabelled).splitlines() == [
        "2 images of 3×4×5 (channels, height, width)",
        "without labels",
        "each is protected by itself",
    ]


def test_numbers_name_units_too() -> None:
    units = images_of(None).with_units(torch.tensor([7, 7, 3, 3, 3, 1])).units
    assert units is not None
    assert units.names == ("7", "3", "1")


@pytest.mark.parametrize("names", [["ann"] * 5, [*NAMES[:5], ""], [*NAMES[:5], None], [*NAMES[:5], "  "]])
def test_every_image_needs_a_unit(names: list[object]) -> None:
    with pytest.raises(InputError, match="unit"):
        images_of(None).with_units(names)


@pytest.mark.parametrize(
    ("of_image", "names"), [([0, 1], ("a", "a")), ([0, 2], ("a", "b")), ([0, 0], ("a", "b"))]
)
def test_units_without_images_or_names_of_their_own_are_refused(
    of_image: list[int], names: tuple[str, ...]
) -> None:
    with pytest.raises(InputError):
        Units(torch.tensor(of_image), names)


def test_a_unit_to_train_on_and_to_test_is_refused() -> None:
    with pytest.raises(InputError, match="1 of the 2 units of the test images"):
        refuse_units_of_both(images_of(list(NAMES)), images_of(["bob", "dan"]))
    refuse_units_of_both(images_of(list(NAMES)), images_of(["eve", "dan"]))
    refuse_units_of_both(images_of(list(NAMES)), images_of(None))
