"""Synthetic images beside the private images nearest to them, to see with one's own eyes what was copied."""

from __future__ import annotations

import torch
from torch import Tensor

from dpvision.evaluation.downstream import check_same_shape
from dpvision.evaluation.features import image_features
from dpvision.evaluation.pairs import squared_distances
from dpvision.images import ImageSet
from dpvision.images.sheet import sheet
from dpvision.priors.encoders import Encoder
from dpvision.privacy.errors import InputError
from dpvision.runs.progress import Progress


def nearest_neighbours(
    synthetic: ImageSet,
    private: ImageSet,
    encoder: Encoder,
    *,
    count: int = 10,
    k: int = 5,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose synthetic images at random and find the private images that are nearest to each by features.

    Returns the indices ``[count]`` of the synthetic images chosen, and the indices ``[count, k]`` of the k
    private images nearest to each, the nearest first. Private.

    Args:
        synthetic: images to choose from.
        private: images to search, of the same shape.
        encoder: an encoder for images of that shape; stays on the device.
        count: the number of synthetic images to choose, or all where there are fewer.
        k: the number of private images for each, or all where there are fewer.
        seed: the seed of the choice.
        device: the device to compute on.
        progress: see `Progress`.

    Raises:
        InputError: count or k is less than 1, or as :func:`image_features`.
    """
    for name, value in (("count", count), ("k", k)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")
    check_same_shape(synthetic, private)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(synthetic), generator=generator)[:count]
    x, y = (
        image_features(images, encoder, device=device, progress=progress)
        for images in (synthetic.subset(chosen), private)
    )
    # A stable order, so that among equally near images the first come first.
    nearest = [d.sort(dim=1, stable=True).indices[:, :k] for _, d in squared_distances(x, y)]
    return chosen, torch.cat(nearest)


def neighbours_sheet(synthetic: ImageSet, private: ImageSet, chosen: Tensor, nearest: Tensor) -> bytes:
    """Return a PNG with one row per ``chosen`` synthetic image: the image, then its ``nearest`` ones.

    It shows private images. It is for the owner of the data and the run's private/ folder, and never to be
    published: no privacy budget covers a pixel of it. Nor is a sheet without copies a guarantee; that is the
    budget's alone.

    Args:
        synthetic, private: as in :func:`nearest_neighbours`.
        chosen, nearest: what it returned.
    """
    return sheet(
        [
            [synthetic.take(one[None]), private.take(others)]
            for one, others in zip(chosen, nearest, strict=True)
        ]
    )
