"""Check the gradients that owners compute against plain autograd, on random inputs, before any private
example is read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpvision.gradients.capture import per_example_gradients
from dpvision.gradients.data_flow import decides_by_values
from dpvision.gradients.dropout import active_dropout
from dpvision.gradients.forward import CannotRun, Loss, example_losses, forward, told
from dpvision.gradients.ownership import Ownership, assign_owners, given_to_the_whole
from dpvision.gradients.reference import reference_gradients
from dpvision.gradients.refusals import refuse_leaks, refuse_replayed_dropout
from dpvision.gradients.trial import as_a_twin, random_like, tolerance
from dpvision.privacy.errors import InputError


def proved_ownership(model: nn.Module, loss: Loss, views: Tensor, targets: Tensor) -> Ownership:
    """Give every trainable parameter an owner, and prove on random weights and inputs that its gradients are
    right, in float64 (or in the network's own type, where its forward asks for that).

    Only shapes and dtypes of ``views`` ``[B, K, …]`` and ``targets`` ``[B, K, …]`` are used. A parameter
    whose gradient an owner gets wrong (a weight used outside its layer's forward, say) is given to the whole
    model, which is replayed. A network that decides by the values of a batch what it does with its rows is
    given one example at a time.

    Raises InputError when layers mix examples, when a forward changes buffers, or when gradients cannot be
    had.
    """
    try:
        return _proved_in(model, loss, views, targets, torch.float64)
    except CannotRun as error:
        try:
            return _proved_in(model, loss, views, targets, None)
        except CannotRun:
            raise _with_views_hint(model, views, error) from error.__cause__


def _proved_in(
    model: nn.Module, loss: Loss, views: Tensor, targets: Tensor, dtype: torch.dtype | None
) -> Ownership:
    inputs = random_like(views, (2, 2), dtype or views.dtype)
    labels = random_like(targets, (2, 2), dtype or targets.dtype, low=0, high=1)
    dropping = [path for path, _ in active_dropout(model)]
    with as_a_twin(model, dtype):
        refuse_leaks(model, inputs)
        example_losses(model, loss, inputs, labels, None)
        ownership = Ownership(one_by_one=True)
        if not decides_by_values(model, inputs.flatten(0, 1)):
            ownership = assign_owners(model, inputs.flatten(0, 1), dropping)
        try:
            expected = reference_gradients(model, loss, inputs, labels)
        except RuntimeError as error:
            raise InputError(
                f"network: its backward pass fails ({told(error)}); where an operation modifies a "
                "tensor in place, set inplace=False"
            ) from error
        wrong = _wrong(model, loss, ownership, inputs, labels, expected)
        if wrong and not ownership.one_by_one:
            ownership = given_to_the_whole(ownership, wrong)
            wrong = _wrong(model, loss, ownership, inputs, labels, expected)
        if wrong:
            raise InputError(
                f"network: the per-example gradient of parameter '{min(wrong)}' cannot be computed: "
                "it differs from that of a minibatch of one; does the forward mix examples or draw "
                "random numbers?"
            )
    refuse_replayed_dropout(model, ownership)
    return ownership


def _wrong(
    model: nn.Module,
    loss: Loss,
    ownership: Ownership,
    inputs: Tensor,
    labels: Tensor,
    expected: list[dict[str, Tensor]],
) -> set[str]:
    """Return the names of the parameters whose per-example gradients are not those expected."""
    at_a_time = 1 if ownership.one_by_one else len(inputs)
    wrong: set[str] = set()
    scale = max(float(g.abs().max()) for gradient in expected for g in gradient.values() if g.numel())
    for first in range(0, len(inputs), at_a_time):
        some = slice(first, first + at_a_time)
        try:
            found = per_example_gradients(model, loss, ownership, inputs[some], labels[some]).gradients
        except RuntimeError as error:
            raise InputError(
                f"network: its per-example gradients cannot be computed ({told(error)}); "
                "activation checkpointing and modules with a backward pass of their own are not supported"
            ) from error
        for name, gradient in found.items():
            with torch.no_grad():
                instantiated = gradient.instantiate()
            wrong |= {
                name
                for ours, theirs in zip(instantiated, expected[some], strict=True)
                if not torch.allclose(
                    ours, theirs[name].to(ours.dtype), **tolerance(ours.dtype, scale), equal_nan=True
                )
            }
    return wrong


def _with_views_hint(model: nn.Module, views: Tensor, error: CannotRun) -> InputError:
    """Return the same error, unless the views of an example were given no dimension of their own."""
    rows = random_like(views.unsqueeze(1), (2, 1), views.dtype).flatten(0, 1)
    try:
        with as_a_twin(model, None), torch.no_grad():
            forward(model, rows)
    except InputError:
        return error
    return InputError(
        f"views: expected [B, K, …], the K views of each example; {list(views.shape)} looks like a batch "
        "[B, …] without them; give views.unsqueeze(1)"
    )
