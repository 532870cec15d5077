"""Pairs of data sets that a run must hardly tell apart, as unlike each other as pairs can be."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from dpvision.images import Images
from dpvision.privacy import InputError, NeighboringRelation


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Two data sets that differ by one example, the last of ``data``.

    Attributes:
        name: in words, by what.
        data: D.
        neighbour: D′, which lacks that example, or has another one in its place.
    """

    name: str
    data: Images
    neighbour: Images


def neighbours(
    images: Images, neighboring_relation: NeighboringRelation, example: int = -1
) -> list[Neighbours]:
    """Neighbours of these images, and of those that are left when a class loses all images but one.

    Args:
        images: at least three.
        neighboring_relation: in which sense.
        example: the index of the example that leaves, or changes.

    Raises:
        InputError: there are fewer images.
    """
    count = len(images)
    if count < 3:
        raise InputError(f"{images.source} has {count} images; neighbours need at least three")
    order = torch.arange(count).roll(-1 - example % count)
    data = images.subset(order)  # the example is the last one: what is drawn for others stays the same
    if neighboring_relation == "add_or_remove_one":
        pairs = [_without_last("one image less", data)]
        if data.labels is not None:
            others = data.labels[:-1] != data.labels[-1]
            only = torch.cat([others.nonzero().flatten(), torch.tensor([count - 1])])
            if len(only) >= 3:
                pairs.append(_without_last("a class without its only image", data.subset(only)))
        return pairs
    last = data.pixels[-1]
    pairs = [
        Neighbours("another image", data, _with_last(data, pixels=255 - last)),
        Neighbours("a black image", data, _with_last(data, pixels=torch.zeros_like(last))),
    ]
    if data.labels is not None:
        label = (int(data.labels[-1]) + 1) % len(data.class_names)
        both = _with_last(data, pixels=255 - last, label=label)
        pairs += [
            Neighbours("another label", data, _with_last(data, label=label)),
            Neighbours("another image and label", data, both),
        ]
    return pairs


def _without_last(name: str, data: Images) -> Neighbours:
    return Neighbours(name, data, data.subset(torch.arange(len(data) - 1)))


def _with_last(data: Images, pixels: torch.Tensor | None = None, label: int | None = None) -> Images:
    changed, labels = data.pixels.clone(), data.labels
    if pixels is not None:
        changed[-1] = pixels
    if label is not None and labels is not None:
        labels = labels.clone()
        labels[-1] = label
    return replace(data, pixels=changed, labels=labels)
