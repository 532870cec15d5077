"""Choose how many examples go through the network at a time, by the time that it takes: their gradients do
not depend on it.

All chunks have one shape: the last is filled up with blank examples, which count for nothing. A matrix
product or a convolution may round otherwise for another shape, and then one example more in a batch would
move the gradients of all others a little.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dpvision.gradients.capture import Pass
from dpvision.gradients.dropout import Draws, dropout_drawn
from dpvision.gradients.forward import CannotRun, RowsMoved, forward
from dpvision.gradients.module_state import left_as_it_was
from dpvision.gradients.per_example import ghost_is_cheaper
from dpvision.gradients.trial import random_like
from dpvision.gradients.ways import SECONDS, Ways, consume
from dpvision.privacy.by_example import ExampleKey

GIB = 1 << 30
# What a pass takes whatever the size of its chunk, as the bytes of examples that it works on in the same
# time: so much, and so much for each byte of the weights.
FIXED_BYTES = {"cpu": 4 << 20, "cuda": 4 * GIB}
PER_BYTE_OF_WEIGHTS = 8
MOST_IMAGES = 256
MOST_ROWS = 2048  # of features: of fewer, half of the time would go to what a pass takes at any size
ENOUGH_BYTES = GIB // 4
"""Bytes beyond which a chunk gains nothing on many CPUs, and its tensors leave the caches."""
WORTH_TIMING = 0.02
"""Seconds: where a pass takes less, no other size of chunks is tried, for the choice would be an accident."""


def most_examples(shape: Sequence[int]) -> int:
    """Return how many examples of a shape, ``[D]`` or ``[C, H, W]``, are held and worked on at a time."""
    return MOST_ROWS if len(shape) == 1 else MOST_IMAGES


def chunk_sizes(model: nn.Module, views: Tensor, expected_batch_size: float, memory_bytes: int) -> list[int]:
    """Return the numbers of examples that a chunk may have, powers of two up to `most_examples`, from public
    numbers: first the one that its sizes speak for, then larger ones that the memory allows.

    A batch of E examples takes E/n + ½ chunks of n, for half of the last one is blank, and each takes a fixed
    cost beside that of its examples: least in all for n = √(2·E·fixed cost / cost of an example).

    Args:
        views: of whose shape an example's are, see `bytes_per_example`.
        expected_batch_size: E.
        memory_bytes: bound on what a chunk takes.
    """
    kind, per_example = views.device.type, bytes_per_example(model, views)
    largest = max(1.0, min(expected_batch_size, memory_bytes / per_example, most_examples(views.shape[2:])))
    weights = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    fixed = FIXED_BYTES.get(kind, 4 * GIB) + PER_BYTE_OF_WEIGHTS * weights
    best = math.sqrt(2 * expected_batch_size * fixed / per_example)
    if kind == "cpu":
        best = min(best, max(ENOUGH_BYTES / per_example, 2))
    first, last = (int(math.log2(max(1.0, size))) for size in (min(best, largest), largest))
    return [1 << power for power in range(first, last + 1)]


def fastest(
    run: Callable[[Ways, Tensor, Tensor], Pass],
    sizes: Sequence[int],
    views: Tensor,
    targets: Tensor,
    expected_batch_size: float,
) -> tuple[int, Ways]:
    """Return the one of ``sizes`` of chunks, in ascending order, with which a batch takes the least time, and
    the ways that were fastest with it. Tried on random examples with the shapes of ``views`` and ``targets``.
    """
    deadline = time.perf_counter() + SECONDS
    best, least = (sizes[0], Ways()), math.inf
    for size in sizes:
        started, ways = time.perf_counter(), Ways()
        shape = (size, views.shape[1])
        examples = random_like(views, shape, views.dtype), random_like(targets, shape, targets.dtype)
        try:
            with ways.timed_until(deadline):
                run(ways, *examples)
            seconds = min(_seconds(run, ways, *examples) for _ in range(2))
        except (RowsMoved, CannotRun, RuntimeError):  # a network, or a memory, with room for so many rows
            break
        of_batch = seconds * (expected_batch_size / size + 0.5)
        if of_batch > least:
            break
        best, least = (size, ways), of_batch
        # The next size takes twice as long as this one took.
        remaining = deadline - time.perf_counter()
        if seconds < WORTH_TIMING or remaining < 2 * (time.perf_counter() - started):
            break
    return best


def _seconds(run: Callable[[Ways, Tensor, Tensor], Pass], ways: Ways, *examples: Tensor) -> float:
    """Time a pass, the norms and the sum."""
    started = time.perf_counter()
    found = run(ways, *examples)
    with torch.no_grad():
        for gradient in found.gradients.values():
            consume(gradient)
        found.losses.sum().item()  # waits for the device
    return time.perf_counter() - started


def bytes_per_example(model: nn.Module, views: Tensor) -> int:
    """Estimate the bytes that one example takes: its gradient (twice, while it is pulled back or summed), but
    for linear layers' that is kept as factors, and its views' activations. Those that lead to no gradient, as
    in a frozen encoder, are freed on the way: there the largest counts, not all. Of ``views`` only the shape
    is used.
    """
    gradient = sum(p.numel() for p in model.parameters() if p.requires_grad)
    kept = largest = 0
    calls: Counter[Tensor] = (
        Counter()
    )  # of weights, which layers may share; one: the gradient is kept as factors

    def count(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        nonlocal kept, largest
        if isinstance(output, Tensor) and not any(module.children()):
            kept += output.numel() * output.requires_grad
            largest = max(largest, *(leaf.numel() for leaf in (*args, output) if isinstance(leaf, Tensor)))
            if type(module) is nn.Linear and module.weight.requires_grad:
                inputs, outputs = module.in_features, module.out_features
                positions = views.shape[1] * output.numel() // outputs
                calls[module.weight] += 1 if ghost_is_cheaper(positions, inputs, outputs) else 2

    with left_as_it_was(model), dropout_drawn(model, None), torch.enable_grad():
        for module in model.modules():
            module.register_forward_hook(count)
        forward(model, torch.zeros_like(views[0, :1]))
    gradient -= sum(weight.numel() for weight, number in calls.items() if number == 1)
    # Saved, its gradient, and room for a layer's work.
    return gradient * 4 * 2 + max(kept, largest) * 4 * 2 * views.shape[1]


def blank(tensor: Tensor, count: int) -> Tensor:
    """Return ``count`` blank examples like those of ``tensor`` ``[B, …]``.

    Their pixels are NaN. In a network that lets examples mix, against all trials, it spreads to the others,
    and these then add nothing to the sum.
    """
    return tensor.new_full((count, *tensor.shape[1:]), math.nan if tensor.is_floating_point() else 0)


def is_the_same_everywhere(
    run: Callable[[Tensor, Tensor, Draws], Pass], views: Tensor, targets: Tensor, size: int
) -> bool:
    """Check that an example's gradient does not depend on its chunk, to the last bit.

    It must be the same wherever in a chunk of ``size`` the example is and whatever the other examples are, a
    blank one among them. This is tried on random examples of the shapes of ``views`` ``[B, K, …]`` and
    ``targets`` ``[B, K, …]``, by passes that ``run`` takes over views, targets and numbers for dropout.
    """
    if size == 1:
        return True
    K = views.shape[1]
    both = random_like(views, (2 * size, K), views.dtype)
    labels = random_like(targets, (size, K), targets.dtype)
    some, others = both[:size], both[size:]
    some[-1:] = blank(some, 1)
    generator = torch.Generator().manual_seed(0)

    def fingerprint(shown: Tensor, order: Tensor) -> Tensor:
        """Return each example's loss and its gradients' squared norms, ``[n, size]``, in that order shown."""
        found = run(shown[order], labels[order], ExampleKey(bytes(32)).of(order))
        with torch.no_grad():
            norms = [gradient.squared_norms() for gradient in found.gradients.values()]
        return torch.stack([found.losses.double(), *norms])[:, order.argsort()]

    try:
        in_order = fingerprint(some, torch.arange(size))
        halves = torch.randperm(size, generator=generator).tensor_split(2)
        # If nobody's changes where all are moved by one place, no place is unlike another. By half of all
        # places more examples cross a border between places that round differently.
        for changed, shift in zip(halves, (1, size // 2), strict=True):
            shown = some.index_copy(0, changed.to(some.device), others[changed])
            elsewhere = fingerprint(shown, torch.arange(size).roll(shift))
            same = (in_order == elsewhere).all(dim=0)
            same[changed] = same[-1] = True  # other examples, and the blank one
            if not same.all():
                return False
    except (RowsMoved, CannotRun):
        return False
    return True
