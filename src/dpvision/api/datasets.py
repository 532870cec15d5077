"""The images that a run released, as a data set of PyTorch."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dpvision.api.options import check_seed
from dpvision.api.using import load_generator
from dpvision.evaluation.soft_labels import soft_labels
from dpvision.images import ImageSet, open_images
from dpvision.privacy.errors import InputError
from dpvision.runs.places import find_release


class SyntheticDataset(Dataset[Any]):
    """Synthetic images, for a ``DataLoader``: pairs of an image and what is to be learned of it, or images
    alone where there are no classes.

    An image is float32 ``[C, H, W]`` in [0, 1], or what ``transform`` makes of it. What is to be learned is
    the class, an int; or, where the generator says so, how probable each class is, float32 ``[K]``.
    ``torch.nn.functional.cross_entropy`` takes batches of either.

    Attributes:
        class_names: the names of the classes, in the order of their indices; ``classes`` too, as
            torchvision's data sets call them.
        labels: the class of each image, int64 ``[N]``, or None.
        probabilities: float32 ``[N, K]``, or None where the class is all that is to be learned.
        transform: is given each image, float32 ``[C, H, W]``.
    """

    def __init__(
        self,
        images: ImageSet,
        probabilities: Tensor | None = None,
        transform: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self._images = images
        self.class_names = self.classes = images.class_names
        self.labels, self.probabilities, self.transform = images.labels, probabilities, transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Any:
        if not hasattr(index, "__index__"):
            raise TypeError(
                f"an image is taken by an int, not by {index!r}; torch.utils.data.Subset takes several"
            )
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} images, and none has the index {index}")
        index %= len(self)
        image: Any = self._images.take(torch.tensor([index]))[0].float() / 255
        if self.transform is not None:
            image = self.transform(image)
        if self.labels is None:
            return image
        if self.probabilities is not None:
            return image, self.probabilities[index]
        return image, int(self.labels[index])

    def __repr__(self) -> str:
        shape = "×".join(map(str, self._images.shape))
        return f"<SyntheticDataset: {len(self)} of {shape}, {len(self.class_names)} classes>"


def synthetic_dataset(
    run: str | os.PathLike[str],
    *,
    count: int | None = None,
    seed: int | None = None,
    hard_labels: bool = False,
    transform: Callable[[Tensor], Any] | None = None,
) -> SyntheticDataset:
    """Return the images that a run of `synthesize` released as a ``torch.utils.data.Dataset``, or as many
    others of its generator as are asked for. Either costs the private images nothing.

    Args:
        run: a run's directory or release directory.
        count: how many new images to draw; by default those of the release are read, in whichever format
            they were written.
        seed: of the draws, for images that can be drawn again; with ``count`` only.
        hard_labels: take the class alone, also where the generator says how probable each class is.
        transform: is given each image, float32 ``[C, H, W]`` in [0, 1], whenever it is taken.

    Raises:
        InputError: the run is not complete, or released a classifier, or no images; an option is wrong.
    """
    if seed is not None and count is None:
        raise InputError("seed is for new images; say how many with count=, or leave it out")
    check_seed(seed)
    generator = load_generator(run)
    if count is None:
        images = open_images(find_release(run), labelled=bool(generator.class_names))
    else:
        images = generator.sample(count, seed=seed)
    soft = None if hard_labels else soft_labels(generator, images)
    return SyntheticDataset(images, None if soft is None else torch.from_numpy(soft), transform)
