"""Run a network and its loss on the views of a batch, and say in a line where one of them fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from dpvision.gradients.notices import rms_norms_in_full
from dpvision.gradients.per_example import widened
from dpvision.privacy.errors import InputError, first_line

# Maps the network's output (mostly logits [N, classes]) and targets [N, …] to one loss per row, [N]: e.g.
# cross-entropy with reduction="none".
Loss = Callable[[Any, Tensor], Tensor]

_FAILURES = (
    *(RuntimeError, ValueError, IndexError, TypeError, AssertionError, AttributeError, KeyError),
    NotImplementedError,
)

_OF_SIZES = ("shape", "size", "dimension", "channels", "match", "broadcast")


class CannotRun(InputError):  # noqa: N818 (reads as what happened)
    """The network, or the loss, fails on an input; the message says how."""


class RowsMoved(InputError):  # noqa: N818
    """A layer was called on other rows than in the trial: which row is whose is not known."""


def example_losses(
    model: nn.Module, loss: Loss, views: Tensor, targets: Tensor, autocast: torch.dtype | None
) -> Tensor:
    """Compute the mean loss of each example over its views, ``[B]``. CannotRun where network or loss fail;
    InputError where they return something else than they must.
    """
    rows, labels = _laid_out(views.flatten(0, 1)), targets.flatten(0, 1)
    lowered = autocast is not None
    with (
        torch.autocast(views.device.type, dtype=autocast, enabled=lowered),
        rms_norms_in_full(model) if lowered else nullcontext(),
    ):
        output = forward(model, rows)
    output = tree_map_only(Tensor, lambda leaf: widened(leaf) if leaf.is_floating_point() else leaf, output)
    try:
        losses = loss(output, labels)
    except _FAILURES as error:
        raise CannotRun(
            f"loss: it fails on what the network returns for {len(rows)} views and targets of shape "
            f"{list(labels.shape)} ({told(error)})"
        ) from error
    if not isinstance(losses, Tensor) or losses.shape != (len(rows),):
        found = f"shape {list(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise InputError(
            f"loss: one value per view is needed, shape [{len(rows)}], not {found}; use reduction='none'"
        )
    return losses.view(views.shape[:2]).mean(dim=1)


def forward(model: nn.Module, rows: Tensor) -> Any:
    """Return the output for rows ``[N, …]``. CannotRun where it fails; InputError without a tensor."""
    try:
        output = model(rows)
    except RowsMoved:
        raise
    except _FAILURES as error:
        said = told(error)
        hint = "; does it fit the image size?" if any(word in said.lower() for word in _OF_SIZES) else ""
        raise CannotRun(
            f"network: its forward fails on an input of shape {list(rows.shape)} and type {rows.dtype} "
            f"({said}){hint}"
        ) from error
    if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(output)):
        raise InputError(
            f"network: its forward returns a {type(output).__name__}; return a tensor, or a tuple or "
            "dictionary of tensors that the loss takes"
        )
    return output


def told(error: BaseException) -> str:
    """Describe an error of another library in one line."""
    return f"{type(error).__name__}: {first_line(error)}"


def _laid_out(rows: Tensor) -> Tensor:
    """Return images ``[N, C, H, W]`` with channels last in memory, in which most layers are faster; features
    ``[N, D]`` with every row at a multiple of 64 bytes, for on a CPU a matrix product may round by where a
    row is; others as they are.
    """
    if rows.ndim == 2 and rows.is_floating_point():
        count, width = rows.shape
        return rows.new_zeros(count, -(-width // 16) * 16)[:, :width].copy_(rows)
    if rows.ndim != 4:
        return rows
    if rows.shape[1] > 1:
        return rows.contiguous(memory_format=torch.channels_last)
    # A single channel is last and first at once. Only the strides say which is meant, and contiguous() would
    # leave them at "first", also for all that the layers make of it.
    height, width = rows.shape[2:]
    return rows.contiguous().as_strided(rows.shape, (height * width, 1, width, 1))
