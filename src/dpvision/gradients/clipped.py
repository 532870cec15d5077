"""The clipped gradient sum: what DP-SGD hands to the Gaussian mechanism."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dpvision.gradients.capture import Pass, per_example_gradients
from dpvision.gradients.chunks import GIB, blank, chunk_sizes, fastest, is_the_same_everywhere
from dpvision.gradients.compiled import CannotCompile, compiled_pass
from dpvision.gradients.dropout import Draws, active_dropout
from dpvision.gradients.forward import Loss
from dpvision.gradients.ownership import Ownership
from dpvision.gradients.proof import proved_ownership
from dpvision.gradients.refusals import refuse_unusable
from dpvision.gradients.ways import Engine, Ways, check_engine
from dpvision.networks.precision import Precision, full_precision, resolve_precision
from dpvision.privacy.errors import InputError
from dpvision.privacy.noise import SecureRandom

ROUNDING_MARGIN = 1e-4
"""Gradients are clipped to this much less than max_grad_norm.

Norms are never under-reported (rounding.py), so all that can lengthen what one example adds is the rounding
of the sum, in float64. A batch of n examples, in chunks of c, goes through c + n/c additions, and the errors
with and without an example are together below 2·(c + n/c)·n·2⁻⁵³·C: 5·10⁻⁸·C for 4,096 examples, and for a
million in chunks of eight 3·10⁻⁵·C. Each of several processes adds one sum more. Where terms
cancel, see `per_example.SMALLEST_SHARE`.
"""

WORTH_SAYING = 1.0
"""Seconds: what was chosen is told where it took longer."""

logger = logging.getLogger("dpvision")

_CHOSEN: dict[object, tuple[int, Ways]] = {}
"""Chunks and ways of networks and shapes, kept for the process: a later trainer of an equal network takes the
same, so that their sums are the same to the last bit, and tries nothing.
"""

CLIPPING_NORMS = (1e-10, 1e10)
"""The range of max_grad_norm: within it, squares are far from the ends of float32's range."""


@dataclass(frozen=True, repr=False)
class ClippedSum:
    """The clipped gradient sum of a batch, with private figures about it.

    Attributes:
        gradients: Σ_b g_b · min(1, C/‖g_b‖) by parameter name, float64: ‖·‖₂ over all of them together
            changes by at most C when one example is added or removed.
        norms: the examples' norms, as they are reported, ``[B]``.
        losses: the losses ``[B]``, each the mean over an example's views.
        nonfinite: the number of examples left out because their gradient had a NaN or an infinity.

    All but the gradients is private and covered by no mechanism.
    """

    gradients: dict[str, Tensor]
    norms: Tensor
    losses: Tensor
    nonfinite: int


class ClippedGradient:
    """Computes clipped gradient sums of ``model``, an ordinary ``nn.Module`` that maps ``[N, …]`` to logits
    ``[N, classes]``, or whatever else the loss takes.

    Guarantee: what one example adds to the sum is a function of that example, its targets and its draws, of
    the weights and of public facts, at most C long, and nothing else of the sum depends on it, but for
    double-precision rounding that `ROUNDING_MARGIN` covers. It rests on this: all chunks have one shape; on
    random examples the gradient of each was the same to the last bit wherever in a chunk it was and whatever
    the others were (else chunks are smaller, down to one example); no operation of the network moves rows by
    their values (else examples go one by one). Shown by tests/gradients/test_sensitivity.py and
    tests/gradients/test_rounding.py, and searched for by ``python -m checks.clip``.

    >>> model = nn.Linear(2, 3, bias=False)
    >>> def loss(logits, targets):
    ...     return nn.functional.cross_entropy(logits, targets, reduction="none")
    >>> engine = ClippedGradient(model, loss, max_grad_norm=0.5)
    >>> views = torch.ones(4, 1, 2)  # B = 4 examples of K = 1 view
    >>> found = engine.sum(views, torch.tensor([0, 1, 2, 0]))
    >>> found.gradients["weight"].shape, bool(found.gradients["weight"].norm() <= 4 * 0.5)
    (torch.Size([3, 2]), True)

    Args:
        loss: ``(logits [N, classes], targets [N, …]) -> [N]``.
        max_grad_norm: C, the L2 norm that an example's gradient is clipped to, from 1e-10 to 1e10.
        precision: the precision of forward and backward; norms, clipping and sums do not depend on it.
            "float32" is float32, also where a GPU would rather use TensorFloat-32, or within autocast.
        expected_batch_size: public. Chunks are chosen by it, for the last one of a batch is filled up.
        memory_bytes: bound on what a chunk of examples may take; by default 2 GiB on a CPU, half of what is
            free on a GPU.
        engine: "measured" tries, on random examples, several ways to compute each layer's gradients and
            several sizes of chunks, and takes the fastest; "by-size" takes those that sizes speak for,
            whatever the machine; "compiled" takes ``torch.compile(vmap(grad))`` of the whole network where
            it can be had, and tells where it cannot.

    What sizes or measurements choose changes how sums are rounded, and nothing of the guarantee: it is chosen
    before a private example is read, and what is said above is tried with it.

    The first call, and the first with other parameters frozen, a module in another mode or views of another
    shape, checks the model on random inputs: see
    :func:`dpvision.gradients.proof.proved_ownership`, also for the errors. The module is left as it was, also
    by an error.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        max_grad_norm: float,
        *,
        precision: Precision = "auto",
        expected_batch_size: float = 64,
        memory_bytes: int | None = None,
        engine: Engine = "measured",
    ) -> None:
        check_clipping_norm(max_grad_norm)
        check_engine(engine)
        self.model, self.loss, self.max_grad_norm = model, loss, max_grad_norm
        self.precision, self.memory_bytes = precision, memory_bytes
        self.expected_batch_size, self.engine = expected_batch_size, engine
        self.ways = Ways()
        """How layers compute their gradients, where it is not by their sizes."""
        self._run: Callable[..., Pass] = partial(self._pass, Ownership(), Ways())
        self._proved: dict[object, tuple[Callable[..., Pass], Ways, int]] = {}
        self.chunk = 0
        """The number of examples that pass the network at a time (the last are filled up); 0 until known."""

    def share(self, processes: int) -> None:
        """Choose chunks for one of so many processes that share a batch; by sizes they stay as they are, and
        gradients the same to the last bit.
        """
        if self.engine != "by-size":
            self.expected_batch_size /= processes

    def sum(self, views: Tensor, targets: Tensor, dropout: Draws | None = None) -> ClippedSum:
        """Compute the clipped gradient sum over a batch.

        Args:
            views: ``[B, K, …]``, the K views of each example. B may be 0.
            targets: ``[B]``, ``[B, K]`` or soft ``[B, K, classes]``.
            dropout: random numbers of each example for the network's dropout layers; by default new ones
                from the system's entropy.
        """
        if views.ndim < 3 or len(views) != len(targets):
            raise InputError(
                f"views: expected [B, K, …] and as many targets, got {list(views.shape)} "
                f"and {list(targets.shape)}"
            )
        if torch.is_inference_mode_enabled():
            raise InputError("there are no gradients within torch.inference_mode(); call sum outside of it")
        if targets.ndim == 1:
            targets = targets.unsqueeze(1).expand(-1, views.shape[1])
        refuse_unusable(self.model)
        total = {
            name: torch.zeros_like(parameter, dtype=torch.float64)
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }
        norms, losses = [views.new_zeros(0, dtype=torch.float32)], [views.new_zeros(0, dtype=torch.float32)]
        if len(views):
            with full_precision(), torch.autocast(views.device.type, enabled=False):  # of the caller
                self._prepare(views, targets)
                if dropout is None and active_dropout(self.model):
                    dropout = SecureRandom().by_example().of(torch.arange(len(views)))
                for first in range(0, len(views), self.chunk):
                    some = slice(first, first + self.chunk)
                    chunk_norms, chunk_losses = self._add(total, views[some], targets[some], dropout, first)
                    norms.append(chunk_norms)
                    losses.append(chunk_losses)
        all_norms = torch.cat(norms)
        return ClippedSum(total, all_norms, torch.cat(losses), int((~all_norms.isfinite()).sum()))

    def _add(
        self, total: dict[str, Tensor], views: Tensor, targets: Tensor, dropout: Draws | None, first: int
    ) -> tuple[Tensor, Tensor]:
        """Add the clipped gradients of a chunk's examples, from the ``first`` of the batch on, to ``total``;
        their norms and losses, ``[b]`` each.
        """
        count = len(views)
        missing = self.chunk - count
        if missing:
            views = torch.cat([views, blank(views, missing)])
            targets = torch.cat([targets, targets.new_zeros(missing, *targets.shape[1:])])
        if dropout is not None:
            dropout = dropout[torch.arange(first, first + self.chunk).clamp(max=first + count - 1)]
        found = self._run(views, targets, dropout)
        with torch.no_grad():
            squares = torch.stack([gradient.squared_norms() for gradient in found.gradients.values()])
            norms = squares.sum(dim=0).sqrt()[:count]
            bound = self.max_grad_norm * (1 - ROUNDING_MARGIN)
            weights = torch.where(norms.isfinite(), (bound / norms).clamp(max=1), 0)
            for name, gradient in found.gradients.items():
                total[name] += gradient.weighted_sum(weights)
        return norms.to(found.losses.dtype), found.losses[:count]

    def _prepare(self, views: Tensor, targets: Tensor) -> None:
        """Take the owners, ways and size of chunks that were found for a model and shapes like these."""
        proved_for = (
            *((name, p.requires_grad, p.dtype, p.device) for name, p in self.model.named_parameters()),
            *(module.training for module in self.model.modules()),
            *((tensor.shape[1:], tensor.dtype, tensor.device) for tensor in (views, targets)),
        )
        if proved_for not in self._proved:
            self._prove(views, targets)
            self._proved[proved_for] = self._run, self.ways, self.chunk
        self._run, self.ways, self.chunk = self._proved[proved_for]

    def _prove(self, views: Tensor, targets: Tensor) -> None:
        """Find owners, ways and a size of chunks for a model and shapes like these."""
        ownership, sizes = proved_ownership(self.model, self.loss, views, targets), [1]
        run = partial(self._pass, ownership)
        if not ownership.one_by_one:
            memory = self.memory_limit(views.device)
            sizes = chunk_sizes(self.model, views, self.expected_batch_size, memory)
        key = (*self._told_apart_by(views, targets), *sizes)
        chunk, ways = _CHOSEN.get(key, (sizes[0], Ways()))
        if key not in _CHOSEN and self.engine == "measured" and not ownership.one_by_one:
            started = time.perf_counter()
            chunk, ways = fastest(run, sizes, views, targets, self.expected_batch_size)
            seconds = time.perf_counter() - started
            if seconds > WORTH_SAYING:
                logger.info(f"engine: chunks of {chunk} examples, {ways}; tried in {seconds:.1f} s")
        while not is_the_same_everywhere(partial(run, ways), views, targets, chunk):
            if ways.chosen:
                ways = Ways()
            else:
                chunk //= 2
        _CHOSEN[key] = chunk, ways
        self._run, self.ways, self.chunk = partial(run, ways), ways, chunk
        if self.engine == "compiled":
            self._compile(views, targets)

    def _compile(self, views: Tensor, targets: Tensor) -> None:
        """Put one compiled program in the place of the layers' ways, if it can be."""
        started, autocast = time.perf_counter(), resolve_precision(self.precision, views.device)
        try:
            self._run = compiled_pass(self.model, self.loss, autocast, self._run, views, targets, self.chunk)
        except CannotCompile as reason:
            logger.warning(f"engine: not compiled, layers by size instead: {reason}")
        else:
            logger.info(f"engine: compiled in {time.perf_counter() - started:.1f} s")

    def _told_apart_by(self, views: Tensor, targets: Tensor) -> tuple[object, ...]:
        """Return all that the time of a pass depends on."""
        shapes = [(p.shape, p.dtype, p.device, p.requires_grad) for p in self.model.parameters()]
        examples = [(tensor.shape[1:], tensor.dtype) for tensor in (views, targets)]
        settings = (self.engine, self.precision, self.expected_batch_size, torch.get_num_threads())
        return (str(self.model), *shapes, *examples, *settings)

    def _pass(
        self,
        ownership: Ownership,
        ways: Ways,
        views: Tensor,
        targets: Tensor,
        dropout: Draws | None = None,
    ) -> Pass:
        autocast = resolve_precision(self.precision, views.device)
        return per_example_gradients(
            self.model, self.loss, ownership, views, targets, autocast, dropout, ways
        )

    def memory_limit(self, device: torch.device) -> int:
        """Return the bytes that a chunk may take on ``device``."""
        if self.memory_bytes is not None:
            return self.memory_bytes
        return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 2 * GIB


def check_clipping_norm(max_grad_norm: float) -> None:
    """Raise InputError unless max_grad_norm is a number that can be clipped to."""
    low, high = CLIPPING_NORMS
    is_number = isinstance(max_grad_norm, (int, float)) and not isinstance(max_grad_norm, bool)
    if not (is_number and low <= max_grad_norm <= high):
        raise InputError(f"max_grad_norm: must be a number from {low:g} to {high:g}, not {max_grad_norm!r}")


def clipped_gradient_sum(
    model: nn.Module,
    loss: Loss,
    views: Tensor,
    targets: Tensor,
    max_grad_norm: float,
    *,
    precision: Precision = "auto",
    expected_batch_size: float = 64,
    memory_bytes: int | None = None,
) -> ClippedSum:
    """Compute the clipped gradient sum of a single batch, by :class:`ClippedGradient`."""
    engine = ClippedGradient(
        model,
        loss,
        max_grad_norm,
        precision=precision,
        expected_batch_size=expected_batch_size,
        memory_bytes=memory_bytes,
        engine="by-size",  # for one batch, trying takes longer than it saves
    )
    return engine.sum(views, targets)
