"""Pairs of data sets that a run must hardly tell apart, as unlike each other as pairs can be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dpvision.images import Images
from dpvision.privacy import InputError, NeighboringRelation


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Two data sets that differ by one example.

    Attributes:
        name: what they differ by, in words.
        data: D.
        neighbour: D′, which lacks that example, or has another one in its place. All others have the same ids
            in both.
        index: the index of the example in D.
    """

    name: str
    data: Images
    neighbour: Images
    index: int


def neighbours(
    images: Images, neighboring_relation: NeighboringRelation, example: int = -1
) -> list[Neighbours]:
    """Return neighbours of these images, and of those left when a class loses all images but one.

    Args:
        images: at least three.
        neighboring_relation: the relation in which they are neighbours.
        example: the index of the example that leaves, or changes. Negative ones count from the end.

    Raises:
        InputError: there are fewer images, or not that one.
    """
    count = len(images)
    if count < 3:
        raise InputError(f"{images.source} has {count} images; neighbours need at least three")
    if not -count <= example < count:
        raise InputError(f"{images.source} has {count} images, and none at index {example}")
    index, labels = example % count, images.labels
    if neighboring_relation == "add_or_remove_one":
        pairs = [_without("one image less", images, index)]
        if labels is not None:
            kept = labels != labels[index]
            before = int(kept[:index].sum())
            kept[index] = True
            if kept.sum() >= 3:
                only = images.subset(kept.nonzero().squeeze(1))
                pairs.append(_without("a class without its only image", only, before))
        return pairs
    inverted = 255 - images.take(torch.tensor([index]))[0]
    changes: dict[str, dict[str, Tensor]] = {
        "another image": {"pixels": inverted},
        "a black image": {"pixels": torch.zeros_like(inverted)},
    }
    if labels is not None:
        label = (labels[index] + 1) % len(images.class_names)
        changes |= {
            "another label": {"labels": label},
            "another image and label": {"pixels": inverted, "labels": label},
        }
    return [
        Neighbours(name, images, replace(images, **_changed(images, index, change)), index)
        for name, change in changes.items()
    ]


def _without(name: str, data: Images, index: int) -> Neighbours:
    others = torch.arange(len(data)) != index
    return Neighbours(name, data, data.subset(others.nonzero().squeeze(1)), index)


def _changed(data: Images, index: int, change: dict[str, Tensor]) -> dict[str, Any]:
    """Return the tensors of the data, with others for one example."""
    return {name: getattr(data, name).index_put((torch.tensor(index),), one) for name, one in change.items()}
