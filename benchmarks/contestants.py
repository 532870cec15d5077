"""Those who compute gradients in ``gradients.py``: ours, plain SGD, Opacus and ``torch.func``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.gradients import ClippedGradient, Precision
from dpvision.networks import WeightStandardizedConv2d

MAX_GRAD_NORM = 1.0

CONTESTANTS = (
    "ours", "plain", "compiled", "opacus-hooks", "opacus-ghost", "vmap", "vmap-compiled",
)  # fmt: skip

Sums = dict[str, Tensor] | None
"""The clipped gradient sum by parameter name; None from who computes something else."""


@dataclass(frozen=True)
class Task:
    """What every contestant is given.

    Attributes:
        network: of the contestant alone.
        views: ``[B, K, C, H, W]``.
        targets: ``[B, K]``.
        precision: "float32", "tf32" or "bfloat16" of forward and backward.
    """

    network: nn.Module
    views: Tensor
    targets: Tensor
    precision: str

    def lower(self) -> torch.autocast:
        enabled = self.precision == "bfloat16"
        return torch.autocast(self.views.device.type, dtype=torch.bfloat16, enabled=enabled)

    def rows(self) -> Tensor:
        return self.views.flatten(0, 1).contiguous(memory_format=torch.channels_last)


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="none")


def prepare(name: str, task: Task) -> Callable[[], Sums]:
    """Return a function that computes one batch's gradient."""
    if name in ("ours", "before"):
        return _ours(task)
    if name in ("plain", "compiled"):
        return _plain(task, compiled=name == "compiled")
    if name in ("vmap", "vmap-compiled"):
        return _vmap(task, compiled=name == "vmap-compiled")
    return _opacus_hooks(task) if name == "opacus-hooks" else _opacus_ghost(task)


def _ours(task: Task) -> Callable[[], Sums]:
    # The engine of an earlier commit is not told the size of batches.
    sizes = {"expected_batch_size": len(task.views)}
    sizes = sizes if sizes.keys() <= inspect.signature(ClippedGradient).parameters.keys() else {}
    # It has no TensorFloat-32: there it takes float32.
    precision: Precision = "bfloat16" if task.precision == "bfloat16" else "float32"
    engine = ClippedGradient(task.network, losses, MAX_GRAD_NORM, precision=precision, **sizes)
    return lambda: engine.sum(task.views, task.targets).gradients


def _plain(task: Task, compiled: bool) -> Callable[[], Sums]:
    rows, labels = task.rows(), task.targets.flatten()

    def mean_loss() -> Tensor:
        with task.lower():
            logits = task.network(rows)
        return losses(logits, labels).mean()

    chosen = torch.compile(mean_loss) if compiled else mean_loss

    def plain() -> None:
        task.network.zero_grad()
        chosen().backward()

    return plain


def _vmap(task: Task, compiled: bool) -> Callable[[], Sums]:
    parameters = {key: value.detach() for key, value in task.network.named_parameters()}

    def mean_loss(values: dict[str, Tensor], own: Tensor, own_targets: Tensor) -> Tensor:
        with task.lower():
            logits = torch.func.functional_call(task.network, values, (own,))
        return losses(logits, own_targets).mean()

    per_example = torch.func.vmap(torch.func.grad(mean_loss), in_dims=(None, 0, 0))

    def clipped(values: dict[str, Tensor], views: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return dict(zip(values, _clipped(list(per_example(values, views, targets).values())), strict=True))

    chosen = torch.compile(clipped) if compiled else clipped
    return lambda: chosen(parameters, task.views, task.targets)


def _clipped(gradients: list[Tensor]) -> list[Tensor]:
    """Clip gradients ``[B, …]`` of one example each, and sum them up."""
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
    factors = (MAX_GRAD_NORM / norms).clamp(max=1)
    return [torch.einsum("b,b...->...", factors.to(g.dtype), g) for g in gradients]


def _opacus_hooks(task: Task) -> Callable[[], Sums]:
    from opacus.grad_sample import GradSampleModule

    network = without_standardization(task.network)
    sampled = GradSampleModule(network)
    rows, labels = task.views.flatten(0, 1), task.targets.flatten()  # wrong of channels last

    def hooks() -> Sums:
        sampled.zero_grad()
        with task.lower():
            logits = sampled(rows)
        losses(logits, labels).mean().backward()
        views = task.views.shape[:2]
        # Opacus multiplies by the number of rows, of which the loss is the mean.
        gradients = [p.grad_sample.unflatten(0, views).mean(dim=1) for p in sampled.parameters()]
        return dict(zip(dict(network.named_parameters()), _clipped(gradients), strict=True))

    return hooks


def _opacus_ghost(task: Task) -> Callable[[], Sums]:
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    network = without_standardization(task.network)
    ghostly = GradSampleModuleFastGradientClipping(
        network, max_grad_norm=MAX_GRAD_NORM, use_ghost_clipping=True
    )
    rows, labels = task.views.flatten(0, 1), task.targets.flatten()

    def ghost() -> Sums:
        ghostly.zero_grad()
        with task.lower():
            logits = ghostly(rows)
        each = losses(logits, labels)
        each.mean().backward(retain_graph=True)  # the first pass takes norms
        factors = ghostly.get_clipping_coef()
        ghostly.zero_grad()
        ghostly.disable_hooks()
        (factors * each).sum().backward()
        ghostly.enable_hooks()
        if task.views.shape[1] > 1:
            return None  # every view was clipped by itself
        return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}

    return ghost


def without_standardization(network: nn.Module) -> nn.Module:
    """Put nn.Conv2d in the place of every WeightStandardizedConv2d, for which Opacus has no rule."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, WeightStandardizedConv2d):
                conv = nn.Conv2d(
                    child.in_channels, child.out_channels, child.kernel_size, child.stride, child.padding
                )
                setattr(module, name, conv.to(child.weight.device))
    return network
