"""Which images of a unit are taken, and what they count: by the unit, its id and the key alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from dpvision.images.units import Units
from dpvision.privacy.by_example import ExampleKey
from dpvision.training import Rows, UnitBatch
from dpvision.training.batch import MOST_OF_A_UNIT

KEY = ExampleKey(bytes(range(32)))
SIZES = [1, 2, 3, 5, 40, MOST_OF_A_UNIT, MOST_OF_A_UNIT + 1, 300]


def batch_of(sizes: list[int], images: int | None, seed: int = 0) -> UnitBatch:
    """All units of these sizes, of images in random order, whose example is their index."""
    names = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    count = len(names)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    units = Units.named(names[order].tolist(), "here")
    return UnitBatch(
        Rows(torch.arange(count).float()[:, None]),
        torch.arange(count) % 3,
        units,
        torch.arange(len(units)),
        3,
        images,
    )


def taken(batch: UnitBatch, size: int = 1000, key: ExampleKey = KEY) -> dict[int, tuple[Tensor, Tensor]]:
    """The images and targets of each unit, by its id."""
    return {
        unit: (examples[..., 0].long(), targets)
        for some, targets_of_some, ids in batch.blocks(size, key)
        for examples, targets, unit in zip(some, targets_of_some, ids.tolist(), strict=True)
    }


@pytest.mark.parametrize("images", [None, 1, 4, 16])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_blocks_hold_every_unit_once_in_the_order_of_its_ids(images: int | None, size: int) -> None:
    batch = batch_of(SIZES, images)
    ids = torch.cat([ids for _, _, ids in batch.blocks(size, KEY)])
    assert ids.equal(batch.ids)
    assert sorted(ids.tolist()) == list(range(len(SIZES)))


@pytest.mark.parametrize("images", [None, 1, 4, 16])
def test_images_are_those_of_the_unit_with_their_own_labels(images: int | None) -> None:
    batch = batch_of(SIZES, images)
    for unit, (indices, targets) in taken(batch).items():
        assert (batch.units.of_image[indices] == unit).all()
        counts = targets.sum(dim=1)
        assert counts.mean().item() == pytest.approx(1)
        assert (targets.argmax(dim=1) == indices % 3)[counts > 0].all()


def test_all_images_of_a_unit_count_alike_up_to_the_most() -> None:
    batch = batch_of(SIZES, None)
    for unit, (indices, targets) in taken(batch).items():
        size, counts = int(batch.units.sizes[unit]), targets.sum(dim=1)
        inside = indices[counts > 0].tolist()
        assert len(set(inside)) == len(inside) == min(size, MOST_OF_A_UNIT)
        assert counts[counts > 0].unique().numel() == 1
        assert len(indices) < 2 * min(size, MOST_OF_A_UNIT)


def test_as_many_images_as_are_asked_for_distinct_where_there_are_enough() -> None:
    batch = batch_of(SIZES, 4)
    for unit, (indices, _) in taken(batch).items():
        assert len(indices) == 4
        if batch.units.sizes[unit] >= 4:
            assert len(set(indices.tolist())) == 4


@pytest.mark.parametrize(("size", "count"), [(5, 2), (2, 3)])
def test_every_choice_is_as_likely(size: int, count: int) -> None:
    draws = 20_000
    batch = batch_of([size] * draws, count)
    place = torch.zeros(size * draws, dtype=torch.int64)  # of each image in its unit
    place[batch.units.of_image.argsort(stable=True)] = torch.arange(size).repeat(draws)
    found = Counter(
        tuple(sorted(place[indices].tolist())) for indices, _ in taken(batch, size=100_000).values()
    )
    if size >= count:  # each of the 10 pairs
        expected = dict.fromkeys(found, draws / 10)
        assert len(found) == 10
    else:  # sorted triples of two images
        expected = {
            (0, 0, 0): draws / 8,
            (0, 0, 1): draws * 3 / 8,
            (0, 1, 1): draws * 3 / 8,
            (1, 1, 1): draws / 8,
        }
    for choice, mean in expected.items():
        assert abs(found[choice] - mean) < 6 * mean**0.5


@pytest.mark.parametrize("images", [None, 4])
@pytest.mark.parametrize("gone", range(len(SIZES)))
def test_who_leaves_changes_nothing_of_others(images: int | None, gone: int) -> None:
    batch = batch_of(SIZES, images)
    before = taken(batch)
    kept = (batch.units.of_image != gone).nonzero().squeeze(1)
    others = batch.units.subset(kept)
    without = UnitBatch(
        Rows(kept.float()[:, None]), batch.labels[kept], others, torch.arange(len(others)), 3, images
    )
    after = taken(without, size=3)
    assert after.keys() == before.keys() - {gone}
    for unit, (indices, targets) in after.items():
        assert indices.equal(before[unit][0])
        assert targets.equal(before[unit][1])


def test_another_key_takes_others_of_large_units() -> None:
    batch = batch_of(SIZES, None)
    one, other = taken(batch), taken(batch, key=ExampleKey(bytes(32)))
    for unit, size in enumerate(batch.units.sizes.tolist()):
        assert one[unit][0].equal(other[unit][0]) == (size <= MOST_OF_A_UNIT)


@pytest.mark.parametrize("images", [None, 4])
def test_an_empty_batch_is_one_empty_block(images: int | None) -> None:
    batch = batch_of(SIZES, images)
    empty = UnitBatch(batch.examples, batch.labels, batch.units, torch.arange(0), 3, images)
    blocks = list(empty.blocks(10, KEY))
    assert [len(ids) for _, _, ids in blocks] == [0]
    assert len(empty.ids) == 0


@pytest.mark.parametrize("at", [0, 3])
def test_one_more_unit(at: int) -> None:
    batch = batch_of([1, 3, 5], None)
    more = batch.with_one(torch.full((2, 1), 99.0), torch.tensor([1, 2]), own_id=77, at=at)
    before, after = taken(batch), taken(more)
    indices, targets = after.pop(77)
    assert indices.tolist() == [99, 99]
    assert targets.argmax(dim=1).tolist() == [1, 2]
    assert {unit: one.tolist() for unit, (one, _) in after.items()} == {
        unit: one.tolist() for unit, (one, _) in before.items()
    }
