"""What a generator says of the classes of images that it made."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dpvision.images import ImageSet
from dpvision.networks.image_generator import ImageGenerator, images_at_a_time


@torch.no_grad()
def soft_labels(generator: ImageGenerator, images: ImageSet) -> NDArray[np.float32] | None:
    """Return the probabilities of the generator's classes for each image, float32 ``[N, K]``, or None where
    it has none to say.

    Args:
        generator: in evaluation mode.
        images: of its shape, with its classes in their order.
    """
    device, found = generator.class_proportions.device, []
    for pixels in images.blocks(images_at_a_time(images.shape)):
        probabilities = generator.soft_labels(pixels.to(device))
        if probabilities is None:
            return None
        found.append(probabilities.float().cpu().numpy())
    return np.concatenate(found)
