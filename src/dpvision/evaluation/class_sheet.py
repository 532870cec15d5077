"""Synthetic images beside real ones, class by class, to see with one's own eyes what a release is like."""

from __future__ import annotations

import torch

from dpvision.evaluation.downstream import check_same_shape
from dpvision.images import ImageSet
from dpvision.images.sheet import sheet

OF_A_CLASS = 8
"""Images of each class and kind."""

MOST_CLASSES = 100

UNLABELLED_ROWS = 8


def class_sheet(synthetic: ImageSet, real: ImageSet, *, seed: int = 0) -> bytes:
    """Return a PNG with a row for each class, of the first hundred: its name, synthetic images of it, and
    real ones; of images without labels, eight rows of any.

    It shows real images as they are: no privacy budget covers them.

    Args:
        synthetic: labelled, or not.
        real: of the same shape, labelled with the same classes if the synthetic ones are.
        seed: the seed of the choice of images.

    Raises:
        InputError: the images have other shapes or classes.
    """
    check_same_shape(synthetic, real)
    generator = torch.Generator().manual_seed(seed)
    names = synthetic.class_names[:MOST_CLASSES] if synthetic.labels is not None else ()
    sets = (synthetic, real.with_classes(synthetic.class_names) if names else real)
    shuffled = [torch.randperm(len(images), generator=generator) for images in sets]
    rows = []
    for row in range(len(names) or UNLABELLED_ROWS):
        groups = []
        for images, order in zip(sets, shuffled, strict=True):
            if images.labels is not None and names:
                chosen = order[images.labels[order] == row][:OF_A_CLASS]
            else:
                chosen = order[row * OF_A_CLASS : (row + 1) * OF_A_CLASS]
            groups.append(images.take(chosen))
        rows.append(groups)
    return sheet(rows, names, ("synthetic", "real"))
