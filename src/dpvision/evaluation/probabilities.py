"""What a classifier says of images: the probabilities of the classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from dpvision.evaluation.accuracy import IMAGES_AT_A_TIME
from dpvision.images import ImageSet
from dpvision.images.rows_on_disk import gathered
from dpvision.networks.classifier import Classifier
from dpvision.runs.progress import Progress


def log_probabilities(model: Classifier, images: ImageSet, progress: Progress | None = None) -> Tensor:
    """Compute the log-probabilities of the classes for all images, in evaluation mode and on the device of
    the parameters: float64 ``[N, classes]`` on the CPU. Few images are held at a time.
    """

    def tell(done: int) -> None:
        if progress:
            progress("classifying images", done, len(images))

    return gathered(log_probabilities_in_parts(model, images.blocks(IMAGES_AT_A_TIME)), len(images), tell)


@torch.no_grad()
def log_probabilities_in_parts(model: Classifier, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the same for images that come in blocks ``[n, C, H, W]``, block by block: ``[n, classes]``. The
    model is in evaluation mode until all are there.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        for some in blocks:
            yield model(some.to(device)).cpu().double().log_softmax(dim=1)
    finally:
        model.train(was_training)
