"""The clipped gradient sum: what DP-SGD hands to the Gaussian mechanism."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpvision.gradients.capture import Loss, Plan, per_example_gradients
from dpvision.gradients.plan import make_plan
from dpvision.networks.precision import Precision, resolve_precision
from dpvision.privacy.errors import InputError

# Norms are float32 sums of millions of squares. Clipping to this much less than max_grad_norm keeps the true
# norm below it.
ROUNDING_MARGIN = 1e-4

GIB = 1 << 30
# Beyond this many examples or bytes a chunk gains nothing on a CPU, and its tensors leave the caches.
ENOUGH_EXAMPLES, ENOUGH_BYTES = 32, GIB // 4


@dataclass(frozen=True)
class ClippedSum:
    """gradients: Σ_b g_b · min(1, C/‖g_b‖) by parameter name, float32 (or wider): ‖·‖₂ over all of them
    together changes by at most C when one example is added or removed.

    The rest is private and covered by no mechanism: ``norms`` and ``losses`` ``[B]`` (each the mean over an
    example's views), ``nonfinite``, the number of examples left out because their gradient had a NaN or an
    infinity.
    """

    gradients: dict[str, Tensor]
    norms: Tensor
    losses: Tensor
    nonfinite: int


class ClippedGradient:
    """Computes clipped gradient sums of ``model``, an ordinary ``nn.Module`` that maps ``[N, …]`` to logits
    ``[N, classes]``.

    Args:
        loss: ``(logits [N, classes], targets [N, …]) -> [N]``.
        max_grad_norm: C, the L2 norm that an example's gradient is clipped to.
        precision: of forward and backward; norms, clipping and sums are float32 whatever it is.
        memory_bytes: bound on what a chunk of examples may take; by default 1 GiB on a CPU, half of what is
            free on a GPU.

    The first call, and the first after parameters were frozen or unfrozen, checks the model on random inputs:
    see :func:`dpvision.gradients.plan.make_plan`, also for the errors.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        max_grad_norm: float,
        *,
        precision: Precision = "auto",
        memory_bytes: int | None = None,
    ) -> None:
        if not max_grad_norm > 0:
            raise InputError(f"max_grad_norm: must be above 0, not {max_grad_norm}")
        self.model, self.loss, self.max_grad_norm = model, loss, max_grad_norm
        self.precision, self.memory_bytes = precision, memory_bytes
        self._plan: Plan | None = None
        self._planned_for: frozenset[str] = frozenset()
        self._chunk = 0

    def sum(self, views: Tensor, targets: Tensor) -> ClippedSum:
        """views: ``[B, K, …]``, the K views of each example; targets: ``[B]``, ``[B, K]`` or soft ``[B, K,
        classes]``. B may be 0.
        """
        if views.ndim < 3 or len(views) != len(targets):
            raise InputError(
                f"views: expected [B, K, …] and as many targets, got {list(views.shape)} "
                f"and {list(targets.shape)}"
            )
        if targets.ndim == 1:
            targets = targets.unsqueeze(1).expand(-1, views.shape[1])
        total = {
            name: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
            for name, p in self.model.named_parameters()
            if p.requires_grad
        }
        norms, losses = [views.new_zeros(0, dtype=torch.float32)], [views.new_zeros(0, dtype=torch.float32)]
        if len(views):
            plan = self._prepare(views, targets)
            for some_views, some_targets in zip(
                views.split(self._chunk), targets.split(self._chunk), strict=True
            ):
                chunk_norms, chunk_losses = self._add(total, plan, some_views, some_targets)
                norms.append(chunk_norms)
                losses.append(chunk_losses)
        all_norms = torch.cat(norms)
        return ClippedSum(total, all_norms, torch.cat(losses), int((~all_norms.isfinite()).sum()))

    def _add(
        self, total: dict[str, Tensor], plan: Plan, views: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add the clipped gradients of a chunk to ``total``; its norms and losses, ``[b]`` each."""
        autocast = resolve_precision(self.precision, views.device)
        found = per_example_gradients(self.model, self.loss, plan, views, targets, autocast)
        with torch.no_grad(), _full_precision():
            norms = (
                torch.stack([gradient.squared_norms() for gradient in found.gradients.values()])
                .sum(dim=0)
                .sqrt()
            )
            bound = self.max_grad_norm * (1 - ROUNDING_MARGIN)
            weights = torch.where(norms.isfinite(), (bound / norms).clamp(max=1), 0)
            for name, gradient in found.gradients.items():
                total[name] += gradient.weighted_sum(weights)
        return norms, found.losses

    def _prepare(self, views: Tensor, targets: Tensor) -> Plan:
        trainable = frozenset(name for name, p in self.model.named_parameters() if p.requires_grad)
        if self._plan is None or trainable != self._planned_for:
            self._planned_for = trainable
            self._plan = make_plan(self.model, self.loss, views, targets)
            self._chunk = self._chunk_size(views)
        return self._plan

    def _chunk_size(self, views: Tensor) -> int:
        per_example = bytes_per_example(self.model, views)
        most = max(1, self.memory_limit(views.device) // per_example)
        if views.device.type != "cpu":
            return most
        return min(most, max(ENOUGH_EXAMPLES, ENOUGH_BYTES // per_example))

    def memory_limit(self, device: torch.device) -> int:
        """Bytes that a chunk may take on ``device``."""
        if self.memory_bytes is not None:
            return self.memory_bytes
        return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else GIB


@contextmanager
def _full_precision() -> Iterator[None]:
    """Matrix products of float32 in float32, whatever the user allows elsewhere: with TensorFloat-32 or
    bfloat16 a weighted sum could differ from the one whose norms were taken, and exceed the clipping norm.
    """
    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(chosen)


def bytes_per_example(model: nn.Module, views: Tensor) -> int:
    """About what one example takes: its gradient (twice, while it is pulled back or summed) and its views'
    activations. Those that lead to no gradient, as in a frozen encoder, are freed on the way: there the
    largest counts, not all.
    """
    gradient = sum(p.numel() for p in model.parameters() if p.requires_grad) * 4 * 2
    kept = largest = 0

    def count(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        nonlocal kept, largest
        if isinstance(output, Tensor) and not any(module.children()):
            kept += output.numel() * output.requires_grad
            largest = max(largest, *(leaf.numel() for leaf in (*args, output) if isinstance(leaf, Tensor)))

    handles = [module.register_forward_hook(count) for module in model.modules()]
    try:
        with torch.enable_grad():
            model(torch.zeros_like(views[0, :1]))
    finally:
        for handle in handles:
            handle.remove()
    # Saved, its gradient, and room for a layer's work.
    return gradient + max(kept, largest) * 4 * 3 * views.shape[1]


def clipped_gradient_sum(
    model: nn.Module,
    loss: Loss,
    views: Tensor,
    targets: Tensor,
    max_grad_norm: float,
    *,
    precision: Precision = "auto",
    memory_bytes: int | None = None,
) -> ClippedSum:
    """:class:`ClippedGradient` for a single batch."""
    engine = ClippedGradient(model, loss, max_grad_norm, precision=precision, memory_bytes=memory_bytes)
    return engine.sum(views, targets)
