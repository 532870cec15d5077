"""A released model as a graph of operations, traced for any number of images: exports are made of it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dpvision.networks.classifier import Classifier
from dpvision.networks.image_generator import ImageGenerator
from dpvision.privacy.errors import InputError, first_line

Pixels = Literal["uint8", "float32"]
"""The type of the images that a traced classifier takes: 0 to 255, or 0 to 1."""

LONGEST_REASON = 300
"""Characters of what torch says that are told."""


@dataclass(frozen=True)
class Traced:
    """A model as a graph.

    Attributes:
        program: the graph, whose inputs and outputs have these names and any number of rows.
        inputs: names of the inputs.
        outputs: names of the outputs.
    """

    program: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def trace(model: Classifier | ImageGenerator, pixels: Pixels = "uint8") -> Traced:
    """Trace a model on the CPU and in evaluation mode.

    A classifier becomes a graph from ``images`` ``[N, C, H, W]`` to ``logits`` and ``probabilities``
    ``[N, classes]``, its normalisation inside. A generator becomes one from ``labels``, int64 ``[N]``, and
    standard normal ``noise``, ``[N, *noise_shape]``, to ``images`` in [0, 1]: what draws the noise is the
    caller's.

    Args:
        model: which stays as it is.
        pixels: the type of a classifier's images.

    Raises:
        InputError: it cannot be traced; with torch's reason.
    """
    part: nn.Module
    outputs: tuple[str, ...]
    if isinstance(model, Classifier):
        part, outputs = _Probabilities(model), ("logits", "probabilities")
    else:
        part, outputs = _Images(model), ("images",)
    example = examples(model, 2, pixels)  # not 1, which torch would take for a constant
    rows = Dim("batch")
    try:
        with torch.no_grad(), quietly():
            program = torch.export.export(
                part, tuple(example.values()), dynamic_shapes=tuple({0: rows} for _ in example), strict=False
            )
    except InputError:
        raise
    except Exception as error:  # there is no end to what a network of one's own may do
        raise InputError(f"the model cannot be traced for export: {reason(error)}") from error
    return Traced(program, tuple(example), outputs)


def examples(model: Classifier | ImageGenerator, count: int, pixels: Pixels = "uint8") -> dict[str, Tensor]:
    """Return so many random inputs of a model by their names, always the same ones: images of all degrees of
    brightness, or labels and noise.
    """
    random = torch.Generator().manual_seed(count)
    if isinstance(model, Classifier):
        brightness = torch.rand(count, 1, 1, 1, generator=random)
        images = (255 * brightness * torch.rand(count, *model.image_shape, generator=random)).to(torch.uint8)
        return {"images": images if pixels == "uint8" else images / 255}
    classes = len(model.class_proportions)
    return {
        "labels": torch.randint(classes, (count,), generator=random),
        "noise": torch.randn(count, *model.noise_shape, generator=random),
    }


def reason(error: BaseException) -> str:
    """Return the first of what torch says went wrong, on one line."""
    return f"{type(error).__name__}: {first_line(error)}"[:LONGEST_REASON]


@contextmanager
def quietly() -> Iterator[None]:
    """Keep torch from telling of how it traces, which is nothing to the user of a release."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class _Probabilities(nn.Module):
    """Images to logits and probabilities. The checks of `Classifier` look at numbers, and are left out."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model.unchecked(images)
        return logits, torch.softmax(logits, dim=1)


class _Images(nn.Module):
    """Labels and noise to images."""

    def __init__(self, model: ImageGenerator) -> None:
        super().__init__()
        self.model = model
        self._made = model.traceable()

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        return self._made(labels, noise)
