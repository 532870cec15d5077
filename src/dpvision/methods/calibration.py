"""Calibrate a private linear head: learn one number more, the scale of its logits, so that its probabilities
come true.

Clipping, the noise in the weights and few images each leave the logits too large or too small, which no
public fact says how much. The scale that the images ask for (Guo et al., arXiv 1706.04599) takes a small
share of the budget, for the noise falls on one number. It changes no prediction, and no order of images.

On the very images that a head has learned from, the scale would come out too large. What an image has added
to its own logits is known up to how much of it the other images have taken back, so it is taken off first.

Guarantee:
    The head was released, so that given it, what an image adds to a sum of a step follows from that image,
    its label and what is public: one gradient, clipped at `CLIP`, which is the sensitivity of the sum. Each
    step is a Gaussian release of its own in the account, after those of the head.
    ``tests/testing/test_methods.py`` replays such runs on neighbours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.images.rows_on_disk import RowsOnDisk, kept_rows
from dpvision.methods.gradient_descent import GradientSettings
from dpvision.networks.by_row import by_row
from dpvision.privacy.by_example import ExampleDraws
from dpvision.training import schedule_factor

# Chosen by ``benchmarks/calibration.py``.
STEPS = 50
CLIP = 3.0
"""Gradients that are longer are those of images that are confidently wrong, one or two in a hundred."""
LARGEST_RATE = 0.5
"""The curvature of the loss in the logarithm of the scale was 0.1 to 1.5: larger rates may make it swing."""
NOISE = 0.1
"""The noise of all steps moves the logarithm of the scale by no more: with few images it stays at START."""
START = 1 / 1.15
KEPT, CURVATURE = 0.6, 0.48
"""What an image's own steps have added to its logits, others take back, by the curvature of the loss; see
`kept`."""


class Scale(nn.Module):
    """``[N, classes] -> [N, classes]``: logits times one number above zero."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(START).log())

    def forward(self, logits: Tensor) -> Tensor:
        return logits * self.log_scale.exp()

    @torch.no_grad()
    def apply_to(self, head: nn.Linear) -> None:
        """Scale the logits of a head."""
        for parameter in head.parameters():
            parameter.mul_(self.log_scale.exp())


@torch.no_grad()
def logits_and_squares(head: nn.Linear, features: Tensor | RowsOnDisk) -> Tensor | RowsOnDisk:
    """Compute the logits of features ``[N, D]`` and the squared length of each row, that of the intercept
    included: ``[N, classes + 1]``. A row depends on its own features alone, to the last bit.
    """

    def of_rows(rows: Tensor) -> Tensor:
        rows = rows.float()
        squares = rows.square().sum(dim=1, keepdim=True) + (head.bias is not None)
        return torch.cat([head(rows), squares], dim=1)

    return _said(of_rows, features)


@torch.no_grad()
def logits_and_features(head: nn.Linear, features: Tensor | RowsOnDisk) -> Tensor | RowsOnDisk:
    """Compute the logits of features ``[N, D]``, each followed by its features and, where there is an
    intercept, by a one: ``[N, classes + D (+ 1)]``. A row depends on its own features alone, to the last
    bit.
    """

    def of_rows(rows: Tensor) -> Tensor:
        rows = rows.float()
        return torch.cat([head(rows), rows, rows.new_ones(len(rows), head.bias is not None)], dim=1)

    return _said(of_rows, features)


def _said(of_rows: Callable[[Tensor], Tensor], features: Tensor | RowsOnDisk) -> Tensor | RowsOnDisk:
    """Return what is computed of each row of features ``[N, D]``, in a file where that is large."""
    return kept_rows(by_row(of_rows, features.split, features.shape[-1:], features.device), len(features))


class LeftOut:
    """A view policy that makes of :func:`logits_and_squares` about the logits of a head that has not seen the
    image; or of :func:`logits_and_features`, that has not seen the unit.

    Guarantee: as of every :class:`ViewPolicy`. ``tests/methods/test_calibration.py`` shows it.

    Args:
        settings: those of the head's steps, of SGD.
        num_features: D.
        num_examples: N, as it was declared.
    """

    views_per_example = 1
    images_of_a_unit = None

    def __init__(self, settings: GradientSettings, num_features: int, num_examples: int) -> None:
        self.clip, self.way = settings.max_grad_norm, way(settings)
        self.num_features, self.num_examples = num_features, num_examples

    def __call__(self, pixels: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        """Return ``[B, classes + 1], [B] -> [B, 1, classes], [B, 1]``."""
        logits, squares = pixels[:, :-1].float(), pixels[:, -1:].float()
        residuals = logits.softmax(dim=1) - F.one_hot(targets, logits.shape[1])
        norms = residuals.norm(dim=1, keepdim=True) * squares.sqrt()
        gradients = squares * residuals * (self.clip / norms.clamp(min=self.clip))
        return (logits + self._own(squares, gradients)).unsqueeze(1), targets.unsqueeze(1)

    def of_units(self, pixels: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        """Return the logits ``[B, M, classes]`` of rows of :func:`logits_and_features`, about as if the head
        had not seen the unit, and their targets as they are.
        """
        num_classes = targets.shape[2]
        logits = pixels[..., :num_classes].float()
        counts = targets.sum(dim=2, keepdim=True)  # 0 of rows that fill up
        residuals = (counts * logits.softmax(dim=2) - targets) / targets.shape[1]
        own = [self._of_unit(*unit) for unit in zip(pixels[..., num_classes:], residuals, strict=True)]
        return logits + torch.stack(own) if own else logits, targets

    def _of_unit(self, features: Tensor, residuals: Tensor) -> Tensor:
        """Return what a unit has added to its logits, ``[M, classes]``. Units go one by one, for
        a product of many matrices may round each by how many there are.

        Args:
            features: ``[M, D]``, with that of the intercept.
            residuals: ``[M, classes]``, of the mean over the unit's images.
        """
        features, residuals = features.double(), residuals.double()
        products = features @ features.T  # [M, M]
        norm = float((products * (residuals @ residuals.T)).sum().clamp(min=0).sqrt())
        gradients = products @ residuals * (self.clip / max(norm, self.clip))
        return self._own(products.diagonal()[:, None], gradients).float()

    def _own(self, squares: Tensor, gradients: Tensor) -> Tensor:
        """Return what is still in logits of the steps' clipped gradients along features of these squares."""
        share = kept(self.way * squares / self.num_features, gradients.shape[1])
        return share * self.way / self.num_examples * gradients


def kept(way_of_a_direction: Tensor, classes: int) -> Tensor:
    """Return about what share of an image's own steps is still in its logits at the end.

    It is less, the longer the way was, for features of norm one; the fewer directions share it; and the more
    the softmax curves, at even probabilities p by p·(1 − p).
    """
    return KEPT / (1 + CURVATURE * (classes - 1) / classes**2 * way_of_a_direction)


def way(settings: GradientSettings) -> float:
    """Return the sum of the learning rates of all steps of SGD, each with what momentum makes of it."""
    factors = sum(schedule_factor(settings.schedule, step, settings.steps) for step in range(settings.steps))
    return settings.learning_rate * factors / (1 - settings.momentum)


def learning_rate(images: float, share: float) -> float:
    """Choose the learning rate of the scale's steps by what their noise does.

    Args:
        images: N/σ of a single release with the whole budget, see ``images_over_noise``.
        share: of the budget, in terms of 1/σ², that is the scale's.
    """
    return min(NOISE * share**0.5 * images / CLIP / STEPS, LARGEST_RATE)
