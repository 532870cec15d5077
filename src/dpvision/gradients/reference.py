"""The definition, one example at a time and slow: what the fast engine must equal.

De et al., arXiv 2204.13650, section 3.2: the gradient of an example is that of its mean loss over its K
views.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpvision.gradients.forward import Loss


@torch.enable_grad()
def reference_gradients(
    model: nn.Module, loss: Loss, views: Tensor, targets: Tensor
) -> list[dict[str, Tensor]]:
    """Compute each example's gradient by trainable parameter: a minibatch of its K views alone, by plain
    autograd.

    views: ``[B, K, …]``; targets: ``[B, K, …]``.
    """
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    found = []
    for own_views, own_targets in zip(views, targets, strict=True):
        mean_loss = loss(model(own_views), own_targets).mean()
        gradients = torch.autograd.grad(mean_loss, parameters, allow_unused=True, materialize_grads=True)
        found.append({name: gradient.to_dense() for name, gradient in zip(names, gradients, strict=True)})
    return found


def reference_clipped_sum(
    model: nn.Module, loss: Loss, views: Tensor, targets: Tensor, max_grad_norm: float
) -> dict[str, Tensor]:
    """Compute Σ_b g_b · min(1, max_grad_norm / ‖g_b‖); an example with a gradient not finite adds nothing."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    for gradient in reference_gradients(model, loss, views, targets):
        norm = torch.stack([g.norm() for g in gradient.values()]).norm()
        if not torch.isfinite(norm):
            continue
        factor = min(1.0, max_grad_norm / max(float(norm), 1e-300))
        for name, g in gradient.items():
            total[name] += factor * g
    return total
