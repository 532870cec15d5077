"""What the probabilities of dp-randp's classifiers are worth, before their logits are calibrated and after.

    python benchmarks/calibration.py --cifar10 cifar10 --fashion fashion-mnist --features kept

The sets are parts of training splits: of 2 to 100 classes, of 300 to 12,700 images, balanced and 1 to 3; the
100 classes are made of ten as in ``benchmarks/defaults.py``. Five ways are judged on images of the same
training split that were left out:

- before: the defaults with ``calibration_share=0``;
- free: the same, the logits divided by √(1 + π/8·v), where v is the variance that the noise of the steps
  gives a logit (MacKay 1992), which needs no budget;
- after: the defaults;
- best: the heads of "after" with the scale that fits the left-out images best, for comparison;
- shifted: these with the scale and the intercepts that fit the left-out images best.

Each line has the means over runs that differ in their noise alone: accuracy, the mean of the classes'
accuracies, the area under the ROC curve (of two classes), the calibration error (15 bins of equal width), the
negative log-likelihood, the mean confidence, and what the logits were divided by. Before and after draw the
same noise, scaled. Noise is that of the budget, but comes from an ordinary generator, and all runs make their
steps at once: these are simulations, as those of ``benchmarks/other_heads.py``, and not private runs.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from defaults import Features, coloured, some
from other_heads import Data, Descent, descend
from torch import Tensor, nn

from dpvision.images import Images, open_images
from dpvision.methods import calibrate
from dpvision.methods.calibration import LeftOut, Scale, logits_and_squares, way
from dpvision.methods.dp_randp import DPRandP, DPRandPConfig
from dpvision.privacy import Budget, PublicFacts, SeededRandom
from dpvision.training.ema import ExponentialMovingAverage

CPU = torch.device("cpu")
EPSILONS = (0.5, 1.0, 2.0, 8.0)
BINS = 15
SCALES = torch.linspace(-1.5, 2.5, 81).exp()
"""What logits are divided by in the search for the best."""


@dataclass(frozen=True)
class Part:
    """Features ``[N, D]`` and labels of a set, of which the first so many are private, and what is public."""

    features: Tensor
    labels: Tensor
    facts: PublicFacts

    @property
    def private(self) -> tuple[Tensor, Tensor]:
        count = self.facts.num_examples
        return self.features[:count], self.labels[:count]

    @property
    def left_out(self) -> tuple[Tensor, Tensor]:
        count = self.facts.num_examples
        return self.features[count:], self.labels[count:]


@dataclass(frozen=True)
class Figures:
    accuracy: float
    by_class: float
    auc: float
    calibration_error: float
    loss: float
    confidence: float
    divided_by: float


class Pool:
    """Images whose features are computed once, at the first set that is taken of them."""

    def __init__(self, images: Images, folder: Path | None) -> None:
        self.images, self.folder = images, folder
        self.features: Tensor | None = None

    def part(self, classes: Sequence[int], counts: Sequence[int], private: int) -> Part:
        """Take so many of each of these classes, in a random order that is always the same."""
        if self.features is None:
            facts = PublicFacts(len(self.images), self.images.shape, self.images.class_names)
            config = DPRandP().default_config(_few(facts), Budget(1.0, 1e-5), CPU, {})
            self.features, _ = Features(self.images, facts, self.folder).of(config)
        labels, generator = self.images.labels, torch.Generator().manual_seed(0)
        assert labels is not None
        found = []
        for label, count in zip(classes, counts, strict=True):
            of_class = (labels == label).nonzero().squeeze(1)
            found.append(of_class[torch.randperm(len(of_class), generator=generator)[:count]])
        chosen = torch.cat(found)
        chosen = chosen[torch.randperm(len(chosen), generator=generator)]
        names = tuple(self.images.class_names[label] for label in classes)
        facts = PublicFacts(private, self.images.shape, names)
        new = {label: number for number, label in enumerate(classes)}
        return Part(
            self.features[chosen], torch.tensor([new[label] for label in labels[chosen].tolist()]), facts
        )


def _few(facts: PublicFacts) -> PublicFacts:
    """The facts of few images, which have the encoder that the parts have by default."""
    return PublicFacts(5000, facts.image_shape, facts.class_names)


def sets(options: argparse.Namespace) -> Iterator[tuple[str, Part]]:
    """Names and parts."""
    everything = list(range(10))
    yield "digits", Pool(open_images("bundled:digits"), None).part(everything, [170] * 10, 1200)
    if options.fashion:
        counts = [1475, *5 * [1100], 4425, *3 * [1100]]
        pool = Pool(some(open_images(options.fashion), everything, counts), options.features)
        yield "fashion, 2 classes, 1 to 3", pool.part([0, 6], [1475, 4425], 4700)
        yield "fashion, 5 classes", pool.part([0, 2, 4, 6, 8], [1100] * 5, 4000)
        yield "fashion, 10 classes, 300 images", pool.part(everything, [150] * 10, 300)
        yield "fashion, 10 classes, 1 to 4", pool.part(everything, counts, 12_700)
    if options.cifar10:
        cifar = open_images(options.cifar10)
        counts = [*3 * [700], 1475, 700, 4425, *4 * [700]]
        pool = Pool(some(cifar, everything, counts), options.features)
        yield "cifar, 2 classes, 1 to 3", pool.part([3, 5], [1475, 4425], 4700)
        yield "cifar, 2 classes, 300 images", pool.part([1, 8], [700] * 2, 300)
        yield "cifar, 5 classes", pool.part([0, 2, 4, 6, 8], [700] * 5, 2500)
        yield "cifar, 10 classes", pool.part(everything, [700] * 10, 5600)
        made = Pool(coloured(some(cifar, everything, [625] * 10)), options.features)
        hundred = list(range(100))
        yield "cifar coloured, 100 classes", made.part(hundred, [62] * 100, 5000)


def area_under_curve(scores: Tensor, positive: Tensor) -> float:
    """The share of pairs of a positive and a negative in their order, ties as halves."""
    _, which, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[which].double()
    ones = int(positive.sum())
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * (len(scores) - ones)))


def figures(logits: Tensor, labels: Tensor, divided_by: float) -> Figures:
    """Judge logits ``[N, classes]``, divided by a number."""
    logits = logits.double() / divided_by
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    right = (predicted == labels).double()
    bins = (confidence * BINS).ceil().clamp(1, BINS)
    gaps = [float((right - confidence)[bins == one].sum()) for one in range(1, BINS + 1)]
    two = logits.shape[1] == 2
    return Figures(
        accuracy=float(right.mean()),
        by_class=fmean(float(right[labels == one].mean()) for one in labels.unique()),
        auc=area_under_curve(logits[:, 1] - logits[:, 0], labels == 1) if two else math.nan,
        calibration_error=sum(map(abs, gaps)) / len(labels),
        loss=float(F.cross_entropy(logits, labels)),
        confidence=float(confidence.mean()),
        divided_by=divided_by,
    )


def shifts(logits: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """The scale and the intercepts ``[classes]`` that fit best."""
    scale, intercepts = torch.ones(1, requires_grad=True), torch.zeros(logits.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([scale, intercepts], max_iter=100)

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = F.cross_entropy(logits * scale + intercepts, labels)
        found.backward()
        return found

    optimizer.step(loss)
    return scale.item(), intercepts.detach()


def scale_learned(config: DPRandPConfig, part: Part, head: nn.Linear, deviation: float, seed: int) -> float:
    """Simulate the steps of the scale, and return it."""
    features, labels = part.private
    settings = config.parts(len(labels))[-1].settings
    left_out = LeftOut(config, head.in_features, len(labels))
    draws = SeededRandom(0).by_example().of(torch.arange(len(labels)))  # of which it draws nothing
    logits = left_out(logits_and_squares(head, features), labels, draws)[0].squeeze(dim=1)
    scale, generator = Scale(), torch.Generator().manual_seed(seed)
    average = ExponentialMovingAverage(scale, settings.ema_decay)
    for step in range(settings.steps):
        with torch.no_grad():
            scaled = scale(logits)
            residuals = scaled.softmax(dim=1) - F.one_hot(labels, scaled.shape[1])
            gradients = (residuals * scaled).sum(dim=1).clamp(-settings.max_grad_norm, settings.max_grad_norm)
            noise = deviation * torch.randn((), generator=generator)
            scale.log_scale -= settings.learning_rate * (gradients.sum() + noise) / len(labels)
        average.update(scale, step)
    return float(average.weights["log_scale"].exp())


def descended(
    part: Part, budget: Budget, overrides: dict[str, Any], seeds: Sequence[int]
) -> tuple[DPRandPConfig, list[float], Tensor]:
    """Simulate the steps of heads, once with each seed: the settings, the standard deviation of the noise of
    each stage, and the heads ``[runs, D, classes]``.
    """
    features, labels = part.private
    config = DPRandP().default_config(part.facts, budget, CPU, overrides)
    stages = calibrate(partial(DPRandP().stages, config, part.facts), len(labels), budget).stages
    deviations = [stage.mechanism.standard_deviation for stage in stages]
    noise = deviations[0] / config.max_grad_norm / math.sqrt(config.steps)
    how = Descent(
        config.steps, config.learning_rate, config.max_grad_norm, config.momentum, config.schedule,
        config.ema_decay,
    )  # fmt: skip
    return config, deviations, descend(how, Data(features, labels, noise), [1.0] * len(seeds), seeds)


def as_linear(weights: Tensor) -> nn.Linear:
    """Return the layer of a head ``[D, classes]``."""
    head = nn.Linear(*weights.shape, bias=False)
    head.weight = nn.Parameter(weights.T.contiguous())
    return head


def judged(part: Part, epsilon: float, seeds: Sequence[int]) -> dict[str, list[Figures]]:
    """Train and judge every way, once with each seed."""
    left_out, targets = part.left_out
    found: dict[str, list[Figures]] = {}
    for name, overrides in (("before", {"calibration_share": 0.0}), ("after", {})):
        config, deviations, heads = descended(part, Budget(epsilon, 1e-5), dict(overrides), seeds)
        for seed, weights in zip(seeds, heads, strict=True):
            logits = left_out @ weights
            if name == "before":
                noise = deviations[0] / math.sqrt(config.steps)
                moved = way(config) * noise / part.facts.num_examples
                free = math.sqrt(1 + math.pi / 8 * moved**2)
                for one, divided_by in (("before", 1.0), ("free", free)):
                    found.setdefault(one, []).append(figures(logits, targets, divided_by))
                continue
            divided_by = 1 / scale_learned(config, part, as_linear(weights), deviations[1], seed)
            best = min(SCALES.tolist(), key=lambda by: float(F.cross_entropy(logits / by, targets)))
            for one, by in (("after", divided_by), ("best", best)):
                found.setdefault(one, []).append(figures(logits, targets, by))
            scale, intercepts = shifts(logits, targets)
            shifted = figures(logits + intercepts / scale, targets, 1 / scale)
            found.setdefault("shifted", []).append(shifted)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar10", help="where CIFAR-10 is")
    parser.add_argument("--fashion", help="where Fashion-MNIST is")
    parser.add_argument("--only", nargs="*", help="names of sets")
    parser.add_argument("--epsilon", nargs="+", type=float, default=EPSILONS, help="of the budgets")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, of which the mean is shown")
    parser.add_argument("--features", type=Path, help="a folder that keeps features for the next call")
    parser.add_argument("--json", action="store_true", help="a JSON object for each row instead of a table")
    options = parser.parse_args()
    if not options.json:
        columns = f"{'accuracy':>8} {'by class':>8} {'AUC':>6} {'error':>6} {'loss':>6} {'sure':>6} {'÷':>5}"
        print(f"{'':32} {'n':>6} {'ε':>4} {'way':6} {columns}")
    for name, part in sets(options):
        if options.only and name not in options.only:
            continue
        for epsilon in options.epsilon:
            for one, runs in judged(part, epsilon, range(1, 1 + options.seeds)).items():
                rows = [asdict(run) for run in runs]
                row = {figure: fmean(run[figure] for run in rows) for figure in rows[0]}
                public = {"set": name, "images": part.facts.num_examples, "epsilon": epsilon, "way": one}
                if options.json:
                    print(json.dumps({**public, **row, "runs": rows}), flush=True)
                    continue
                print(
                    f"{name:32} {public['images']:6} {epsilon:4g} {one:6} {row['accuracy']:8.2%} "
                    f"{row['by_class']:8.2%} {row['auc']:6.3f} {row['calibration_error']:6.3f} "
                    f"{row['loss']:6.3f} {row['confidence']:6.3f} {row['divided_by']:5.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
