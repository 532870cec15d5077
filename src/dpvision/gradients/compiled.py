"""Per-example gradients by ``torch.compile(vmap(grad))`` of the whole network: one program in the place of a
pass whose layers compute each their own.

Faster on some GPUs; never so on the CPUs that it was measured on (docs/results), where compiling takes a
minute. So it is taken where it is asked for, and where the compiler and the network allow it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.utils._pytree import tree_map_only

from dpvision.gradients.capture import Pass, unchanged_buffers
from dpvision.gradients.chunks import is_the_same_everywhere
from dpvision.gradients.dropout import Draws, active_dropout
from dpvision.gradients.forward import Loss, told
from dpvision.gradients.module_state import left_as_it_was
from dpvision.gradients.notices import quiet_vmap
from dpvision.gradients.per_example import Instantiated, widened
from dpvision.gradients.trial import random_like

SAME = {None: 1e-2, torch.bfloat16: 0.1, torch.float16: 0.1}
"""The distance to the layers' gradients, as a share of their length, that rounding explains, by what forward
and backward are cast to.
"""


class CannotCompile(Exception):  # noqa: N818 (reads as what happened)
    """The network has no compiled gradients here; the message says why."""


class CompiledPass:
    """Computes all examples' gradients in one compiled program: a network that cannot be traced whole, or
    whose rows do not keep to their example, has none.

    Each example is a function call of its own to vmap, so that nothing of one can reach another's gradient.

    Args:
        autocast: the lower precision of forward and backward, or None.
    """

    def __init__(self, model: nn.Module, loss: Loss, autocast: torch.dtype | None) -> None:
        self.model, self.autocast = model, autocast

        def mean_loss(values: dict[str, Tensor], views: Tensor, targets: Tensor) -> Tensor:
            with torch.autocast(views.device.type, dtype=autocast, enabled=autocast is not None):
                output = functional_call(model, values, views)
            output = tree_map_only(
                Tensor, lambda leaf: leaf.float() if leaf.is_floating_point() else leaf, output
            )
            return loss(output, targets).mean()

        each = vmap(grad_and_value(mean_loss), in_dims=(None, 0, 0))
        self._run: Callable[..., tuple[dict[str, Tensor], Tensor]] = torch.compile(
            each, dynamic=False, fullgraph=True
        )

    def __call__(self, views: Tensor, targets: Tensor, dropout: Draws | None = None) -> Pass:
        """Compute per-example gradients of every trainable parameter; arguments as for
        :func:`~dpvision.gradients.capture.per_example_gradients`.
        """
        values = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}
        # Other strides, or another grad mode, would be compiled for anew.
        with left_as_it_was(self.model), unchanged_buffers(self.model), quiet_vmap(), torch.enable_grad():
            gradients, losses = self._run(values, views.contiguous(), targets.contiguous())
        return Pass(losses, {name: Instantiated(widened(found)) for name, found in gradients.items()})


def compiled_pass(
    model: nn.Module,
    loss: Loss,
    autocast: torch.dtype | None,
    proved: Callable[[Tensor, Tensor], Pass],
    views: Tensor,
    targets: Tensor,
    chunk: int,
) -> CompiledPass:
    """Compile, and check against ``proved`` on random examples of the shapes of ``views`` and ``targets``, in
    chunks of this size.

    Raises:
        CannotCompile: it cannot be done, or finds something else.
    """
    if active_dropout(model):
        raise CannotCompile("the network drops units, and an example's draws are its own")
    found = CompiledPass(model, loss, autocast)
    shape = (chunk, views.shape[1])
    examples = random_like(views, shape, views.dtype), random_like(targets, shape, targets.dtype)
    expected = proved(*examples)
    try:
        computed = found(*examples)
        everywhere = is_the_same_everywhere(found, views, targets, chunk)
    except Exception as error:  # whatever the compiler, and the network under it, may raise
        raise CannotCompile(told(error)) from error
    if _distance(computed, expected) > SAME[autocast]:
        raise CannotCompile("its gradients are not those of the layers")
    if not everywhere:
        raise CannotCompile("an example's gradient depends, in its last bits, on its place in the chunk")
    return found


def _distance(found: Pass, expected: Pass) -> float:
    """Return the greatest distance of an example's gradient to the one expected, over the latter's length."""
    squares, lengths = torch.zeros(()), torch.zeros(())
    for name, gradient in expected.gradients.items():
        right = gradient.instantiate().double().flatten(1).cpu()
        squares = squares + (found.gradients[name].instantiate().flatten(1).cpu() - right).square().sum(dim=1)
        lengths = lengths + right.square().sum(dim=1)
    share = (squares / lengths.clamp(min=torch.finfo(torch.float64).tiny)).sqrt()
    return float(share.nan_to_num(nan=torch.inf).max())
