"""What a classifier says of images: the probabilities of the classes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dpvision.networks.classifier import Classifier


@torch.inference_mode()
def log_probabilities(model: Classifier, blocks: Iterable[Tensor]) -> Tensor:
    """Compute the log-probabilities of the classes for N images, in blocks ``[n, C, H, W]``, in evaluation
    mode and on the device of the parameters.

    Returns float64 ``[N, classes]`` on the CPU.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        logits = torch.cat([model(some.to(device)).cpu() for some in blocks])
    finally:
        model.train(was_training)
    return logits.double().log_softmax(dim=1)
