"""Pairs of data sets that a run must hardly tell apart, as unlike each other as pairs can be."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dpvision.images import Images
from dpvision.privacy import InputError, NeighboringRelation


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Two data sets that differ by one example: an image, or where there are units a unit.

    Attributes:
        name: what they differ by, in words.
        data: D.
        neighbour: D′, which lacks that example, or has another one in its place. All others have the same ids
            in both.
        index: the index of the example in D, among the images or the units.
    """

    name: str
    data: Images
    neighbour: Images
    index: int


def neighbours(
    images: Images, neighboring_relation: NeighboringRelation, example: int = -1
) -> list[Neighbours]:
    """Return neighbours of these images, and of those left when a class loses all images but those of one.

    Args:
        images: at least three, or of at least three units.
        neighboring_relation: the relation in which they are neighbours.
        example: the index of the image that leaves, or changes, or whose unit does. Negative ones count from
            the end.

    Raises:
        InputError: there are fewer images or units, or not that one.
    """
    count, protected = len(images), images.num_protected
    if protected < 3:
        what = "images" if images.units is None else "units"
        raise InputError(f"{images.source} has {protected} {what}; neighbours need at least three")
    if not -count <= example < count:
        raise InputError(f"{images.source} has {count} images, and none at index {example}")
    example %= count
    is_of = torch.arange(count) == example
    if images.units is not None:
        is_of = images.units.of_image == images.units.of_image[example]
    if neighboring_relation == "add_or_remove_one":
        return _left(images, is_of)
    return _replaced(images, is_of)


def _left(images: Images, is_of: Tensor) -> list[Neighbours]:
    """Return pairs without the images that ``is_of``, ``[N]``, says are of one example."""
    what = "image" if images.units is None else "unit"
    pairs, labels = [_without(f"one {what} less", images, is_of)], images.labels
    if labels is not None:
        kept = is_of | ~torch.isin(labels, labels[is_of])
        only = images.subset(kept.nonzero().squeeze(1))
        if only.num_protected >= 3:
            pairs.append(_without(f"a class without its only {what}", only, is_of[kept]))
    return pairs


def _without(name: str, data: Images, is_of: Tensor) -> Neighbours:
    return Neighbours(name, data, data.subset((~is_of).nonzero().squeeze(1)), _index(data, is_of))


def _replaced(images: Images, is_of: Tensor) -> list[Neighbours]:
    """Return pairs with other images, labels or numbers of images in the place of those of one example."""
    own = is_of.nonzero().squeeze(1)
    inverted = 255 - images.take(own)
    changes: dict[str, dict[str, Tensor]] = {
        "another image": {"pixels": inverted},
        "a black image": {"pixels": torch.zeros_like(inverted)},
    }
    if images.labels is not None:
        labels = (images.labels[own] + 1) % len(images.class_names)
        changes |= {
            "another label": {"labels": labels},
            "another image and label": {"pixels": inverted, "labels": labels},
        }
    others = {
        name: replace(
            images, **{what: getattr(images, what).index_copy(0, own, new) for what, new in change.items()}
        )
        for name, change in changes.items()
    }
    if images.units is not None:
        one_of_them = (~is_of).index_fill(0, own[:1], True)
        others["one of its images alone"] = images.subset(one_of_them.nonzero().squeeze(1))
        others["its images twice"] = images.subset(torch.cat([torch.arange(len(images)), own]))
        others["images more"] = _with_more(images, own, inverted)
    return [Neighbours(name, images, other, _index(images, is_of)) for name, other in others.items()]


def _with_more(images: Images, own: Tensor, pixels: Tensor) -> Images:
    """Return the images with others, of the same labels and unit as those at ``own``."""
    more = images.subset(torch.cat([torch.arange(len(images)), own]))
    return replace(more, pixels=torch.cat([*images.blocks(), pixels]))


def _index(images: Images, is_of: Tensor) -> int:
    """Return the index of the example, among the images or the units."""
    first = int(is_of.nonzero()[0])
    return first if images.units is None else int(images.units.of_image[first])
