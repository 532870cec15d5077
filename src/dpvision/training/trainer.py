"""DP-SGD (Abadi et al., arXiv 1607.00133, algorithm 1) with K views per example (De et al., arXiv
2204.13650): one step.

sample → views → clipped sum → mechanism → optimiser → average.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dpvision.gradients import ClippedGradient, ClippedSum
from dpvision.gradients.chunks import most_examples
from dpvision.images import ImageSet
from dpvision.images.units import Units
from dpvision.parallel import ALONE, Peers
from dpvision.privacy.by_example import distinct_ids
from dpvision.privacy.errors import InputError, reason_of
from dpvision.privacy.mechanisms import Mechanism, Recorder, Stateful
from dpvision.privacy.noise import RandomSource
from dpvision.privacy.uninterrupted import uninterrupted
from dpvision.training.batch import Batch, Examples, UnitBatch
from dpvision.training.ema import ExponentialMovingAverage
from dpvision.training.optimization import OptimizerName, Schedule, make_optimizer, schedule_factor
from dpvision.training.optimizer_state import load_optimizer_state, optimizer_state
from dpvision.training.saved_state import check_tensors, whole_number
from dpvision.training.together import StepKeys, announce, announce_end, announced, sum_of_all
from dpvision.views import UnitPolicy, ViewPolicy, check_no_leak, check_no_leak_of_units


@dataclass(frozen=True)
class Phase:
    """Consecutive steps that train the same parameters.

    Attributes:
        steps: how many.
        optimizer, learning_rate, momentum: see :func:`dpvision.training.make_optimizer`; it begins afresh.
        schedule: the learning rate's course over the steps of this phase.
        trains: whether a parameter is trained in this phase, by its name in the model; by default those are
            that ask for gradients when it begins.
    """

    steps: int
    optimizer: OptimizerName
    learning_rate: float
    momentum: float = 0.0
    schedule: Schedule = "constant"
    trains: Callable[[str], bool] | None = None


@dataclass(frozen=True)
class StepStatistics:
    """The statistics of one step: private, without noise, and for ``private/`` only."""

    step: int
    batch_size: int
    mean_loss: float
    median_norm: float
    fraction_clipped: float
    nonfinite: int
    learning_rate: float


class OnBatch(Protocol):
    """A callback that is shown what each step takes its sum over, before any release. It changes nothing.

    ``encode``: makes examples of images, where they are not images themselves, ``[N, …]`` where they are few.
    """

    def __call__(
        self,
        trainer: PrivateTrainer,
        batch: Batch | UnitBatch,
        keys: StepKeys,
        encode: Callable[[ImageSet], Tensor | Examples] | None = None,
    ) -> None: ...


class PrivateTrainer:
    """Takes DP-SGD steps on ``model``, which stays an ordinary module.

    Args:
        model: maps ``[N, C, H, W]`` to logits.
        examples: the private data: images, or :class:`Rows` of features: as many as the mechanism's sampler
            draws from, or of as many units. They stay where they are, and are taken some at a time.
        labels: int64 ``[N]``.
        policy: what an example becomes. It is checked for leaks between examples.
        engine: computes clipped sums of ``model``'s gradients; its clipping norm is the mechanism's
            sensitivity.
        mechanism: adds the noise, and draws the batches by its sampler.
        phases: what is trained when, and how. They share the average and the account.
        ema_decay: the decay of the weights that are released.
        random: where batches, views and noise come from.
        ids: int64 ``[N]``, distinct: whose draws an example gets, see :mod:`dpvision.privacy.by_example`. By
            default 0 … N − 1. Units have their own.
        units: of the examples, where the images of one become one gradient; by default each is by itself. The
            policy must be a :class:`dpvision.views.UnitPolicy`.
        num_classes: K, public: for targets of units, whose images may be of several classes.
        on_batch: see `OnBatch`.
        peers: the processes that train together, each with examples of its own. The leader takes the steps,
            the others `follow` it; by default there are none.

    Raises:
        InputError: the parts do not fit together, two examples have one id, or the policy or
            the network let examples mix.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Examples,
        labels: Tensor,
        *,
        policy: ViewPolicy,
        engine: ClippedGradient,
        mechanism: Mechanism,
        phases: Sequence[Phase],
        ema_decay: float,
        random: RandomSource,
        ids: Tensor | None = None,
        units: Units | None = None,
        num_classes: int = 0,
        on_batch: OnBatch | None = None,
        peers: Peers = ALONE,
    ) -> None:
        if len(labels) != len(examples):
            raise InputError(f"{len(examples)} examples need as many labels, not {len(labels)}")
        what, count = ("examples", len(examples)) if units is None else ("units", len(units))
        if mechanism.sampler.num_present != count:
            raise InputError(
                f"there are {count} {what}, but {mechanism.sampler.num_present} were declared; "
                "give the sampler as many (its `over`)"
            )
        if engine.model is not model or engine.max_grad_norm != mechanism.sensitivity:
            raise InputError(
                "the clipping norm of the gradients must be the sensitivity of the mechanism, on one model"
            )
        self._of_units: UnitPolicy | None = None
        if units is None:
            check_no_leak(policy, examples.shape)
        else:
            self._of_units = check_no_leak_of_units(policy, examples.shape, num_classes)
        self._ids = distinct_ids(ids, len(examples), "training") if units is None else units.ids
        self._units, self._num_classes = units, num_classes
        self.model, self.policy = model, policy
        self.engine, self.mechanism, self.phases, self.random = engine, mechanism, tuple(phases), random
        self.on_batch, self.peers = on_batch, peers
        self.average = ExponentialMovingAverage(model, ema_decay)
        self.device = next(model.parameters()).device
        self.steps_done = 0
        self._enter(0)
        self._examples, self._labels = examples, labels.to(self.device)

    def step(self, account: Recorder) -> StepStatistics:
        """Take one noisy step. The account records it, durably, before the noise is drawn; if it refuses,
        nothing has changed.
        """
        step = self.steps_done
        self._be_at(step)
        keys = self.keys(step)
        announce(self.peers, step, keys, self._trained())
        clipped = self._sum_of_batch(keys)
        phase, step_of_phase = self._phase_of(step)
        learning_rate = phase.learning_rate * schedule_factor(phase.schedule, step_of_phase, phase.steps)
        statistics = self._statistics(clipped, step, learning_rate)
        with uninterrupted():  # a checkpoint is of whole steps
            noisy = self.mechanism.release(clipped.gradients, account, self.random.at("noise", step))
            expected = self.mechanism.sampler.expected_batch_size
            for name, parameter in self.model.named_parameters():
                if name in noisy:
                    parameter.grad = (noisy[name] / expected).to(parameter.dtype)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.average.update(self.model, step)
            self.steps_done += 1
        return statistics

    def follow(self) -> None:
        """Add what this process' examples come to, in each step that the leader takes, until it says that
        there is none left. The model then has the weights of the last.
        """
        while (message := announced(self.peers)) is not None:
            step, keys = message
            self._be_at(step)
            self.peers.share(self._trained())
            self._sum_of_batch(keys)

    def end(self) -> None:
        """Tell those that follow that the last step is taken."""
        announce_end(self.peers)

    def _sum_of_batch(self, keys: StepKeys) -> ClippedSum:
        """Compute the clipped sum of the batch that these keys draw, over the examples of all processes."""
        batch = self.batch(self.mechanism.sampler.sample(keys.batch, self._ids))
        if self.on_batch:
            self.on_batch(self, batch, keys)
        return sum_of_all(self.peers, self.clipped_sum(batch, keys))

    def _be_at(self, step: int) -> None:
        """Be in the phase that step ``step`` (from 0) belongs to."""
        phase, _ = self._phase_of(step)
        if phase is not self._phase:
            self._enter(step)

    def _trained(self) -> list[nn.Parameter]:
        """Return the parameters that this phase trains."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _phase_of(self, step: int) -> tuple[Phase, int]:
        """Return the phase that step ``step`` (from 0) belongs to, and its number there."""
        for phase in self.phases[:-1]:
            if step < phase.steps:
                return phase, step
            step -= phase.steps
        return self.phases[-1], step

    def _enter(self, step: int) -> None:
        """Freeze what the phase of this step does not train, and begin its optimiser."""
        phase, _ = self._phase_of(step)
        if phase.trains:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(phase.trains(name))
        self.optimizer = make_optimizer(phase.optimizer, self._trained(), phase.learning_rate, phase.momentum)
        self._phase = phase

    def batch(self, indices: Tensor) -> Batch | UnitBatch:
        """Return the batch of the examples, or units, at ``indices`` ``[B]``, in increasing order."""
        if self._units is not None and self._of_units is not None:
            images = self._of_units.images_of_a_unit
            return UnitBatch(self._examples, self._labels, self._units, indices, self._num_classes, images)
        labels = self._labels[indices.to(self.device)]
        return Batch(self._examples, indices, labels, self._ids[indices])

    def keys(self, step: int) -> StepKeys:
        """Return the keys of a step. A secure source draws new ones at each call: one call serves a batch."""
        return StepKeys(
            batch=self.random.at("batch", step).by_example(),
            views=self.random.at("views", step).by_example(),
            dropout=self.random.at("dropout", step).by_example(),
            images=self.random.at("images", step).by_example(),
        )

    def clipped_sum(self, batch: Batch | UnitBatch, keys: StepKeys) -> ClippedSum:
        """Compute the clipped gradient sum of a batch, which may be empty, in a step with these keys, some
        examples at a time.

        What an example (a unit, where there are any) adds depends on it, its label, its id, the keys and the
        weights: one more changes the sum by what that one adds, and by nothing else.
        """
        total: dict[str, Tensor] = {}
        norms, losses, nonfinite = list[Tensor](), list[Tensor](), 0
        for some, labels, ids in batch.blocks(most_examples(self._examples.shape), keys.images):
            views, targets = self.views(some.to(self.device), labels, ids, keys)
            part = self.engine.sum(views, targets, dropout=keys.dropout.of(ids))
            for name, gradient in part.gradients.items():
                total[name] = total[name].add_(gradient) if name in total else gradient
            norms.append(part.norms)
            losses.append(part.losses)
            nonfinite += part.nonfinite
        return ClippedSum(total, norms=torch.cat(norms), losses=torch.cat(losses), nonfinite=nonfinite)

    def views(self, examples: Tensor, labels: Tensor, ids: Tensor, keys: StepKeys) -> tuple[Tensor, Tensor]:
        """Return views and targets of examples, see :class:`ViewPolicy`; or of units, see `UnitPolicy`."""
        make = self.policy if self._of_units is None else self._of_units.of_units
        return make(examples, labels, keys.views.of(ids))

    def _statistics(self, clipped: ClippedSum, step: int, learning_rate: float) -> StepStatistics:
        norms, losses = clipped.norms, clipped.losses
        count = len(norms)
        return StepStatistics(
            step=step,
            batch_size=count,
            mean_loss=float(losses.mean()) if count else 0.0,
            median_norm=float(norms.median()) if count else 0.0,
            fraction_clipped=float((norms > self.engine.max_grad_norm).float().mean()) if count else 0.0,
            nonfinite=clipped.nonfinite,
            learning_rate=learning_rate,
        )

    def state(self) -> dict[str, Tensor]:
        """Return all that a later process needs to go on, as one flat dictionary of tensors. Weights that are
        not averages are covered by the account like these, but a checkpoint is kept private all the same: a
        mechanism's state may hold the noise (`Stateful`).
        """
        found = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        found |= {f"average.{name}": tensor for name, tensor in self.average.weights.items()}
        found |= {f"optimizer.{name}": tensor for name, tensor in optimizer_state(self.optimizer).items()}
        if isinstance(self.mechanism, Stateful):
            found |= {f"mechanism.{name}": tensor for name, tensor in self.mechanism.state().items()}
        return found | {"steps_done": torch.tensor(self.steps_done)}

    def _load_mechanism(self, state: Mapping[str, Tensor]) -> None:
        if isinstance(self.mechanism, Stateful):
            self.mechanism.load_state(state)
        elif state:
            raise ValueError("its mechanism has a state")

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up where :meth:`state` was taken.

        Raises:
            InputError: it is of another model, optimiser, mechanism or number of steps, or not finite.
        """
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}, "mechanism": {}}
        for key, tensor in state.items():
            kind, _, name = key.partition(".")
            if kind in groups:
                groups[kind][name] = tensor
        try:
            steps_done = whole_number(state, "steps_done", sum(phase.steps for phase in self.phases))
            check_tensors(groups["model"], self.model.state_dict())
            check_tensors(groups["average"], self.average.weights)
            # The optimiser saved after a phase's last step is still that phase's.
            self._enter(max(0, steps_done - 1))
            self.model.load_state_dict(groups["model"])
            self.average.load(groups["average"])
            load_optimizer_state(self.optimizer, groups["optimizer"])
            self._load_mechanism(groups["mechanism"])
            self.steps_done = steps_done
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(
                f"checkpoint: it is of another network or optimiser, or damaged ({reason_of(error)})"
            ) from error
