"""Ways to learn a private head from features, against the one that ``dp-randp`` has.

    python benchmarks/other_heads.py cifar10 --recipe recipes/cifar10-eps1-head-long.toml --features kept

The recipe names the encoder; steps, rate and clipping norm are the defaults for each ε. 10,000 images of the
training split are left out: on one half of them every way chooses its rate or its regulariser, from four, by
two runs of each; on the other half it is judged, in other runs that differ in their noise alone. Each line
has the accuracies' mean and standard deviation, the loss, the factor that was chosen, and the difference to
the default with its standard error: a star where that is more than two standard errors.

Noise is that of one budget for every way, but comes from an ordinary generator, and all runs make their steps
at once, in float32 or bfloat16: these are simulations, to choose by, not private runs. "objective
perturbation" has less noise than its proof would ask for (see `perturbed`), so it is judged too kindly.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any, get_args

import torch
import torch.nn.functional as F
from heads import split
from torch import Tensor

from dpvision.cli.options import collect
from dpvision.methods.dp_randp import DPRandP, DPRandPConfig
from dpvision.methods.dp_ridge import SENSITIVITY, ridge, sufficient_statistics
from dpvision.methods.gradient_descent import images_over_noise
from dpvision.networks.precision import Precision, resolve_precision
from dpvision.privacy import Budget
from dpvision.training.ema import warm_decay
from dpvision.training.optimization import Schedule, schedule_factor

CPU = torch.device("cpu")
FACTORS = (0.5, 1.0, 2.0, 4.0)
STEPS_TO_CONVERGE = 300
LONGEST = math.sqrt(2)
"""The largest norm of the gradient of the cross-entropy, of features of norm one."""


@dataclass(frozen=True)
class Data:
    """What is learned from: features ``[N, D]`` of norm one, labels ``[N]``, and the noise multiplier of a
    single release of a sum over all images.
    """

    features: Tensor
    labels: Tensor
    noise: float

    @property
    def shape(self) -> tuple[int, int]:
        """That of a head: ``[D, classes]``."""
        return self.features.shape[1], int(self.labels.max()) + 1


@dataclass(frozen=True)
class Descent:
    """Noisy gradient descent with all images in every step.

    Attributes:
        steps: T.
        rate: of the first step.
        clip: the norm to which gradients are clipped.
        momentum: the share of the last update that the next one keeps.
        schedule: of the rates.
        average: the decay of the averaged weights that are judged.
        adam: divide gradients by the roots of their averaged squares (β₂ = 0.999).
        kalman: κ of DiSK (arXiv 2410.03883) with γ = (1 − κ)/κ: gradients are taken at w + γ·(the last
            update), and filtered as (1 − κ)·(filtered before) + κ·(noisy gradient). 1 is no filter.
        correlated: c of noise z_t − c·z_{t−1}, a matrix factorisation with C⁻¹ = I − c·(shift). Every image
            is in every step, so that z needs the noise of one release times ‖C·1‖ (C has no negative entry).
    """

    steps: int
    rate: float
    clip: float
    momentum: float
    schedule: Schedule
    average: float
    adam: bool = False
    kalman: float = 1.0
    correlated: float = 0.0


Ways = Callable[[Data, Sequence[float], Sequence[int]], Tensor]
"""Learns heads ``[runs, D, classes]``, one for each factor (of the rate or so) and seed."""


def gradients(data: Data, weights: Tensor, clip: float = math.inf) -> Tensor:
    """Return the sum of clipped gradients at each of the heads ``[runs, D, classes]``, of that shape."""
    runs, size, classes = weights.shape
    total = torch.zeros(size, runs * classes)
    flat = weights.permute(1, 0, 2).reshape(size, -1)
    for features, labels in zip(data.features.split(5000), data.labels.split(5000), strict=True):
        residuals = (features @ flat.to(features.dtype)).float().reshape(-1, runs, classes).softmax(dim=2)
        residuals[torch.arange(len(labels)), :, labels] -= 1
        residuals *= (clip / residuals.norm(dim=2, keepdim=True)).clamp(max=1)
        total += features.T @ residuals.reshape(len(labels), -1).to(features.dtype)
    return total.reshape(size, runs, classes).permute(1, 0, 2)


def seeded(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def normal(generators: Sequence[torch.Generator], shape: tuple[int, int]) -> Tensor:
    return torch.stack([torch.randn(shape, generator=some) for some in generators])


def descend(
    how: Descent, data: Data, factors: Sequence[float], seeds: Sequence[int], start: Tensor | None = None
) -> Tensor:
    """Learn heads by `Descent`, each with its factor of the rate."""
    generators = seeded(seeds)
    rates = how.rate * torch.tensor(factors).reshape(-1, 1, 1)
    weights = torch.zeros(len(seeds), *data.shape) if start is None else start.clone()
    update, filtered, before = torch.zeros(3, *weights.shape)
    squares, averaged = torch.zeros_like(weights), weights.clone()
    row_sums = torch.cumsum(how.correlated ** torch.arange(how.steps), dim=0)  # of C
    scale = data.noise * how.clip * float(row_sums.norm())
    for step in range(how.steps):
        at = weights + (1 - how.kalman) / how.kalman * update
        noise = normal(generators, data.shape)
        noisy = gradients(data, at, how.clip) + scale * (noise - how.correlated * before)
        before = noise
        filtered = (1 - how.kalman) * filtered + how.kalman * noisy / len(data.labels)
        direction = filtered
        if how.adam:
            squares = 0.999 * squares + 0.001 * filtered**2
            direction = filtered / ((squares / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        # A filter averages as momentum does, so that it takes momentum's place.
        momentum = how.momentum if how.kalman == 1 else 0.0
        update = momentum * update - rates * schedule_factor(how.schedule, step, how.steps) * direction
        weights = weights + update
        averaged.lerp_(weights, 1 - warm_decay(how.average, step))
    return averaged


def minimum(data: Data, decays: Tensor, tilt: Tensor | float = 0.0) -> Tensor:
    """Return heads that minimise mean loss + decay/2·‖w‖² + ⟨tilt, w⟩, by accelerated gradient descent."""
    weights = torch.zeros(len(decays), *data.shape)
    update, rate = torch.zeros_like(weights), 2.0  # the softmax halves a largest eigenvalue of at most one
    for step in range(STEPS_TO_CONVERGE):
        at = weights + step / (step + 3) * update
        slope = gradients(data, at) / len(data.labels) + decays * at + tilt
        update, weights = at - rate * slope - weights, at - rate * slope
    return weights


def perturbed(data: Data, factors: Sequence[float], seeds: Sequence[int]) -> Tensor:
    """Minimise the regularised loss with a random linear term (Chaudhuri et al., arXiv 0912.0071).

    The term has the noise that a release of the gradient at the minimum needs. The proof has a further price,
    for the determinant of the Hessian, which is left out.
    """
    tilt = data.noise * LONGEST / len(data.labels) * normal(seeded(seeds), data.shape)
    return minimum(data, _decays(data, factors), tilt)


def perturbed_output(data: Data, factors: Sequence[float], seeds: Sequence[int]) -> Tensor:
    """Minimise the regularised loss and add noise: one image moves the minimum by √2/(decay·N)."""
    decays = _decays(data, factors)
    chosen, which = torch.unique(decays.flatten(), return_inverse=True)
    exact = minimum(data, chosen.reshape(-1, 1, 1))[which]
    return exact + data.noise * LONGEST / (len(data.labels) * decays) * normal(seeded(seeds), data.shape)


def _decays(data: Data, factors: Sequence[float]) -> Tensor:
    """Decays about which the noise of the linear term moves a logit by one: noise·√2/N/decay = 1."""
    return torch.tensor(factors).reshape(-1, 1, 1) * data.noise * LONGEST / len(data.labels)


def from_ridge(how: Descent, data: Data, factors: Sequence[float], seeds: Sequence[int]) -> Tensor:
    """Descend from the ridge regression of ``dp-ridge``, which has a third of the budget (1/σ² adds up).

    It is of the first 512 features, for its noise falls on their products; its scores become logits by a
    factor of 8.
    """
    size, classes = data.shape
    few = min(512, size)
    exact = sufficient_statistics(data.features[:, :few].float() * (1 - 1e-5), data.labels, classes)
    noise, starts = data.noise * math.sqrt(3) * SENSITIVITY, []
    for seed in seeds:
        generator = torch.Generator().manual_seed(1000 + seed)
        released = {
            name: value + noise * torch.randn(value.shape, generator=generator, dtype=value.dtype)
            for name, value in exact.items()
        }
        scores, _ = ridge(released, len(data.labels), noise)
        logits = 8 * (scores - scores.mean(dim=0)).T.float()
        starts.append(F.pad(logits, (0, 0, 0, size - few)))
    rest = replace(data, noise=data.noise * math.sqrt(3 / 2))
    return descend(how, rest, factors, seeds, torch.stack(starts))


def projected(size: int, how: Descent, data: Data, factors: Sequence[float], seeds: Sequence[int]) -> Tensor:
    """Descend in random directions, and return heads for the features as they were."""
    directions = torch.randn(data.features.shape[1], size, generator=torch.Generator().manual_seed(0))
    directions = torch.linalg.qr(directions)[0]
    # Features are scaled to norm one again, which a linear map cannot do; their norms hardly differ.
    found = data.features.float() @ directions
    norm = float(found.norm(dim=1).mean())
    scaled = F.normalize(found).to(data.features.dtype)
    heads = descend(how, replace(data, features=scaled), factors, seeds)
    return directions @ heads / norm


def ways(config: DPRandPConfig) -> dict[str, Ways]:
    """Return the ways by name; "default" first."""
    default = Descent(
        config.steps,
        config.learning_rate,
        config.max_grad_norm,
        config.momentum,
        config.schedule,
        config.ema_decay,
    )
    one, many = default.rate, default.steps
    without_momentum: dict[str, Any] = {"momentum": 0.0, "rate": 4 * one}  # larger rates make the loss swing
    to_zero: dict[str, Any] = {"rate": math.sqrt(3) * one, "average": 0.5}
    changed: dict[str, dict[str, Any]] = {
        "default": {},
        "clipped at 1": {"clip": 1.0, "rate": 0.4 * one},
        "clipped at 0.2": {"clip": 0.2, "rate": 2 * one},
        "twice the steps": {"steps": 2 * many, "rate": one / 2},
        "half the steps": {"steps": many // 2, "rate": 2 * one},
        "no momentum": without_momentum,
        "momentum 0.97": {"momentum": 0.97, "rate": 0.3 * one},
        "rates to zero linearly": {"schedule": "linear", **to_zero},
        "rates to zero by the cosine": {"schedule": "cosine", **to_zero},
        "averaged at 0.95": {"average": 0.95},
        "averaged at 0.5": {"average": 0.5},
        "Adam": {"adam": True, "momentum": 0.0, "rate": 0.1},
        "DiSK, κ = 0.7": {**without_momentum, "kalman": 0.7},
        "DiSK, κ = 0.3": {**without_momentum, "kalman": 0.3},
        "correlated noise, c = 0.5": {"correlated": 0.5},
    }
    found: dict[str, Ways] = {
        name: partial(descend, replace(default, **change)) for name, change in changed.items()
    }
    found["projected to 1,024"] = partial(projected, 1024, default)
    found["from ridge"] = partial(from_ridge, default)
    found["objective perturbation"] = perturbed
    found["output perturbation"] = perturbed_output
    return found


def judged(heads: Tensor, features: Tensor, labels: Tensor) -> list[tuple[float, float]]:
    """Return accuracy (%) and loss of each head."""
    all_logits = [features @ head for head in heads]
    return [
        (100 * float((logits.argmax(dim=1) == labels).float().mean()), float(F.cross_entropy(logits, labels)))
        for logits in all_logits
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="where the data set is")
    parser.add_argument("--recipe", required=True, type=Path, help="a file that names the encoder")
    parser.add_argument("--epsilon", nargs="+", type=float, default=(0.5, 1.0, 2.0, 4.0, 8.0))
    parser.add_argument("--seeds", type=int, default=10, help="runs of each, at least 2")
    parser.add_argument("--only", nargs="*", default=(), help="names of ways beside the default")
    parser.add_argument("--held-out", type=int, default=10_000, help="so many training images to test on")
    parser.add_argument("--features", type=Path, help="a folder that keeps features for the next call")
    parser.add_argument("--precision", default="auto", choices=get_args(Precision), help="of the steps")
    options = parser.parse_args()

    dtype = resolve_precision(options.precision, CPU) or torch.float32
    kept, private, targets = split(options.data, False, options.held_out, options.features)
    chosen = collect(options.recipe)["config"]
    encoder = {name: chosen[name] for name in ("encoder", "encoder_options", "mirror") if name in chosen}
    half = options.held_out // 2
    for epsilon in options.epsilon:
        budget = Budget(epsilon, 1e-5)
        config = DPRandP().default_config(kept.facts, budget, CPU, encoder)
        features, _ = kept.of(config)
        learned, left = features[: len(private)], features[len(private) :]
        labels = torch.as_tensor(private.labels)
        data = Data(learned.to(dtype), labels, len(private) / images_over_noise(len(private), budget))
        best: list[float] = []
        for name, way in ways(config).items():
            if options.only and name not in ("default", *options.only):
                continue
            tried = judged(way(data, 2 * FACTORS, 4 * [-1] + 4 * [-2]), left[:half], targets[:half])
            means = [first + second for (first, _), (second, _) in zip(tried[:4], tried[4:], strict=True)]
            factor = FACTORS[means.index(max(means))]
            heads = way(data, [factor] * options.seeds, range(1, 1 + options.seeds))
            accuracies, losses = zip(*judged(heads, left[half:], targets[half:]), strict=True)
            best = best or list(accuracies)
            more = mean(accuracies) - mean(best)
            error = math.sqrt((stdev(accuracies) ** 2 + stdev(best) ** 2) / options.seeds)
            star = " *" if more > 2 * error else ""
            print(
                f"ε = {epsilon:g} {name:32} {mean(accuracies):.2f} ± {stdev(accuracies):.2f} %, "
                f"loss {mean(losses):.3f}, × {factor:g}, {more:+.2f} ± {error:.2f}{star}",
                flush=True,
            )


if __name__ == "__main__":
    main()
