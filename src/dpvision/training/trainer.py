"""DP-SGD (Abadi et al., arXiv 1607.00133, algorithm 1) with K views per example (De et al., arXiv
2204.13650): one step.

sample → views → clipped sum → mechanism → optimiser → average.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpvision.gradients import ClippedGradient
from dpvision.images import Images
from dpvision.privacy.errors import InputError
from dpvision.privacy.mechanisms import GaussianSumMechanism, Recorder
from dpvision.privacy.noise import RandomSource
from dpvision.training.ema import ExponentialMovingAverage
from dpvision.training.optimization import Schedule, schedule_factor
from dpvision.views import ViewPolicy, check_no_leak

# Examples whose views are made and held at a time. Fixed, so that memory settings do not change which views
# are drawn.
EXAMPLES_AT_A_TIME = 256


@dataclass(frozen=True)
class StepStatistics:
    """What one step saw: private, without noise, and for ``private/`` only."""

    step: int
    batch_size: int
    mean_loss: float
    median_norm: float
    fraction_clipped: float
    nonfinite: int


class PrivateTrainer:
    """Takes DP-SGD steps on ``model``, which stays an ordinary module.

    Args:
        model: maps ``[N, C, H, W]`` to logits.
        images: the private data, labelled; their number must be the mechanism's sampler's N.
        policy: what an example becomes. It is checked for leaks between examples.
        engine: computes clipped sums of ``model``'s gradients; its clipping norm is the mechanism's
            sensitivity.
        mechanism: adds the noise, and draws the batches by its sampler.
        optimizer: over the model's trainable parameters; its learning rates are those of the first step.
        schedule, steps: the learning rate's course over all the steps.
        ema_decay: of the weights that are released.
        random: where batches, views and noise come from.

    Raises:
        InputError: the parts do not fit together, or the policy or the network let examples mix.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        *,
        policy: ViewPolicy,
        engine: ClippedGradient,
        mechanism: GaussianSumMechanism,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        steps: int,
        ema_decay: float,
        random: RandomSource,
    ) -> None:
        images.check_trainable()
        if mechanism.sampler.num_examples != len(images):
            raise InputError(
                f"{images.source} holds {len(images)} examples, but {mechanism.sampler.num_examples} were "
                "declared; declare N as it is"
            )
        if engine.model is not model or engine.max_grad_norm != mechanism.sensitivity:
            raise InputError(
                "the clipping norm of the gradients must be the sensitivity of the mechanism, on one model"
            )
        check_no_leak(policy, images.shape)
        self.model, self.images, self.policy = model, images, policy
        self.engine, self.mechanism, self.optimizer = engine, mechanism, optimizer
        self.schedule, self.steps, self.random = schedule, steps, random
        self.average = ExponentialMovingAverage(model, ema_decay)
        self.device = next(model.parameters()).device
        self.steps_done = 0
        self._initial_rates = [group["lr"] for group in optimizer.param_groups]
        self._pixels = images.pixels.to(self.device)
        self._labels = images.labels.to(self.device)  # type: ignore[union-attr]  # check_trainable

    def step(self, account: Recorder) -> StepStatistics:
        """One noisy step. The account records it, durably, before the noise is drawn; if it refuses, nothing
        has changed.
        """
        step = self.steps_done
        batch = self.mechanism.sampler.sample(self.random.at("batch", step)).to(self.device)
        sums, statistics = self._clipped_sum(batch, step)
        noisy = self.mechanism.release(sums, account, self.random.at("noise", step))
        expected = self.mechanism.sampler.expected_batch_size
        for name, parameter in self.model.named_parameters():
            if name in noisy:
                parameter.grad = (noisy[name] / expected).to(parameter.dtype)
        factor = schedule_factor(self.schedule, step, self.steps)
        for group, rate in zip(self.optimizer.param_groups, self._initial_rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.model, step)
        self.steps_done += 1
        return statistics

    def _clipped_sum(self, batch: Tensor, step: int) -> tuple[dict[str, Tensor], StepStatistics]:
        """The clipped gradient sum of the examples at the indices ``batch`` ``[B]``, some at a time. B may be
        0.
        """
        generator = torch.Generator().manual_seed(
            int.from_bytes(self.random.at("views", step).bytes(7), "big")
        )
        parts = [
            self.engine.sum(*self.policy(self._pixels[some], self._labels[some], generator))
            for some in batch.split(EXAMPLES_AT_A_TIME)
        ]
        sums = parts[0].gradients
        for part in parts[1:]:
            for name, total in sums.items():
                total += part.gradients[name]
        norms, losses = torch.cat([part.norms for part in parts]), torch.cat([part.losses for part in parts])
        statistics = StepStatistics(
            step=step,
            batch_size=len(batch),
            mean_loss=float(losses.mean()) if len(batch) else 0.0,
            median_norm=float(norms.median()) if len(batch) else 0.0,
            fraction_clipped=float((norms > self.engine.max_grad_norm).float().mean()) if len(batch) else 0.0,
            nonfinite=sum(part.nonfinite for part in parts),
        )
        return sums, statistics

    def state(self) -> dict[str, Tensor]:
        """All that a later process needs to go on, as one flat dictionary of tensors. Weights before
        averaging are covered by the
        account like the average, but a checkpoint is kept private all the same."""
        found = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        found |= {f"average.{name}": tensor for name, tensor in self.average.weights.items()}
        found |= {f"optimizer.{index}.{key}": value for index, key, value in self._optimizer_tensors()}
        return found | {"steps_done": torch.tensor(self.steps_done)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up where :meth:`state` was taken. InputError when it is of another model or optimiser."""
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
        for key, tensor in state.items():
            kind, _, name = key.partition(".")
            if kind in groups:
                groups[kind][name] = tensor
        try:
            self.model.load_state_dict(groups["model"])
            self.average.load(groups["average"])
            saved: dict[int, dict[str, Tensor]] = {}
            for key, tensor in groups["optimizer"].items():
                index, _, name = key.partition(".")
                saved.setdefault(int(index), {})[name] = tensor
            own = self.optimizer.state_dict()
            self.optimizer.load_state_dict({"state": saved, "param_groups": own["param_groups"]})
            self.steps_done = int(state["steps_done"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(
                f"checkpoint: it is of another network or optimiser ({str(error).splitlines()[0]})"
            ) from error

    def _optimizer_tensors(self) -> Iterator[tuple[int, str, Tensor]]:
        for index, values in self.optimizer.state_dict()["state"].items():
            for key, value in values.items():
                if value is not None:
                    yield index, key, torch.as_tensor(value)
