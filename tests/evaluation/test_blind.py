"""The blind attack: it sees sets that differ in kind, and seldom a difference where there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dpvision
from dpvision.evaluation import blind
from dpvision.evaluation.blind import blind_attack
from dpvision.images import Images


@pytest.fixture(scope="module")
def digits() -> Images:
    found = dpvision.open_images("bundled:digits")
    assert isinstance(found, Images)
    return found


def halves(images: Images, seed: int, count: int = 600) -> tuple[Images, Images]:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    one, other = images.subset(order[:count]), images.subset(order[count : 2 * count])
    assert isinstance(one, Images)
    assert isinstance(other, Images)
    return one, other


def changed(images: Images, pixels: Tensor) -> Images:
    return replace(images, pixels=pixels.round().clamp(0, 255).to(torch.uint8))


def test_halves_of_a_set_are_seldom_said_to_differ(digits: Images) -> None:
    """At most as often as the interval allows, 2.5 %, within the error of so many."""
    found = [blind_attack(*halves(digits, seed, 300), seed=seed) for seed in range(40)]
    aucs = [one.auc for one in found if one]
    assert len(aucs) == 40
    assert 0.47 < np.mean(aucs) < 0.52
    assert sum(one.sets_differ for one in found if one) <= 3
    widths = [(one.high - one.low) / 2 / 1.96 for one in found if one]
    assert np.std(aucs) < 1.3 * np.mean(widths)  # it would be 1.4 times as much without PAIRS_COUNT


@pytest.mark.parametrize("kind", ["brighter", "blurred", "of more contrast", "of other classes"])
def test_sets_of_different_kinds_are_told_apart(kind: str, digits: Images) -> None:
    members, others = halves(digits, 0)
    pixels = others.pixels.float()
    if kind == "brighter":
        others = changed(others, pixels + 12)
    elif kind == "blurred":
        others = changed(others, torch.nn.functional.avg_pool2d(pixels, 3, 1, 1))
    elif kind == "of more contrast":
        others = changed(others, 128 + 1.3 * (pixels - 128))
    else:
        assert others.labels is not None
        kept = others.subset(((others.labels < 5) | (torch.arange(600) % 3 == 0)).nonzero()[:, 0])
        assert isinstance(kept, Images)
        others = kept
    found = blind_attack(members, others)
    assert found is not None
    assert found.sets_differ
    assert 0.5 < found.low < found.auc <= found.high
    warning = found.warning("the two sets")
    assert warning is not None
    assert f"AUC of {found.auc:.3f}" in warning
    assert "measures the difference of the sets and not what the model remembers" in warning


def test_classes_in_another_order_make_no_difference(digits: Images) -> None:
    members, others = halves(digits, 1)
    reordered = others.with_classes(members.class_names[::-1])
    assert reordered.class_names != members.class_names
    assert blind_attack(members, others) == blind_attack(members, reordered)


def test_sets_without_common_classes_are_compared_by_their_images(digits: Images) -> None:
    members, others = halves(digits, 2)
    without = replace(others, labels=None, class_names=())
    found = blind_attack(members, without)
    assert found is not None
    assert not found.sets_differ
    assert found.warning("the two sets") is None


def test_images_of_a_unit_do_not_betray_each_other(digits: Images) -> None:
    """Ten copies of each of 60 images: by single images they would be known again; by units they are not."""
    few, rest = halves(digits, 3, 60)
    ten = torch.arange(60).repeat_interleave(10)
    images = [some.subset(ten) for some in (few, rest)]
    by_image = blind_attack(*images)
    of_units = [some.with_units(ten.numpy() + 100 * number) for number, some in enumerate(images)]
    by_unit = blind_attack(*of_units)
    assert by_image is not None
    assert by_unit is not None
    assert by_image.sets_differ
    assert not by_unit.sets_differ
    assert by_unit.high - by_unit.low > 0.15  # as of 60 units, not of 600 images


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 9), (1, 40, 30)])
def test_images_of_any_shape_are_taken(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)

    def images() -> Images:
        pixels = torch.randint(256, (60, *shape), dtype=torch.uint8, generator=generator)
        return Images(pixels, None, (), "made up")

    assert blind_attack(images(), images()) is not None


def test_too_few_images_say_nothing(digits: Images) -> None:
    members, others = halves(digits, 4, 60)
    assert blind_attack(members, others.subset(range(19))) is None
    assert blind_attack(members, others.subset(range(20))) is not None
    in_units: Any = others.with_units(np.arange(60) // 4)
    assert blind_attack(members.with_units(np.arange(60) + 100), in_units) is None


def test_of_many_images_some_are_looked_at(digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blind, "MOST_IMAGES", 100)
    members, others = halves(digits, 5)
    found, again, other = (blind_attack(members, others, seed=seed) for seed in (0, 0, 1))
    assert found is not None
    assert found == again != other
    assert found.high - found.low > 0.15
