"""What dp-randp's classifiers say of rare classes, before all classes count the same and after.

    python benchmarks/class_weights.py --cifar10 cifar10 --fashion fashion-mnist --features kept

The sets are parts of training splits: two classes, 1 to 3 and 1 to 9; ten whose counts fall to a seventh or
an eighth; and ten that are equal. Four ways are judged on images of the same training split that were left
out, whose classes have the same shares:

- before: the defaults;
- balanced: the same with ``class_weight=balanced``, whose noisy counts are paid for;
- raw: these heads and noisy counts, without what is added to counts for their noise; those below one are one;
- exact: these heads with the exact counts, for comparison.

Each line has the means over runs that differ in their noise alone: accuracy, the mean of the classes'
accuracies with the standard deviation over the runs, the least of the classes' accuracies, and the negative
log-likelihood. Noise is that of the budget, but comes from an ordinary generator, and all runs make their
steps at once: these are simulations, as those of ``benchmarks/calibration.py``, and not private runs.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
import torch.nn.functional as F
from calibration import Part, Pool, as_linear, descended, scale_learned
from defaults import some
from torch import Tensor

from dpvision.images import open_images
from dpvision.methods.class_weights import class_counts, smoothed
from dpvision.privacy import Budget

LONG_TAIL = (700, 560, 450, 360, 290, 230, 180, 150, 120, 100)
LONGER_TAIL = (1475, 1100, 900, 720, 580, 460, 370, 290, 230, 190)


@dataclass(frozen=True)
class Figures:
    accuracy: float
    by_class: float
    least: float
    loss: float


def sets(options: argparse.Namespace) -> Iterator[tuple[str, Part]]:
    """Names and parts."""
    everything = list(range(10))
    if options.cifar10:
        counts = [*3 * [700], 1475, 700, 4425, *4 * [700]]
        pool = Pool(some(open_images(options.cifar10), everything, counts), options.features)
        yield "cifar, 2 classes, 1 to 3", pool.part([3, 5], [1475, 4425], 4700)
        yield "cifar, 2 classes, 1 to 9", pool.part([3, 5], [490, 4425], 3900)
        yield "cifar, 10 classes, 1 to 7", pool.part(everything, LONG_TAIL, 2500)
        yield "cifar, 10 equal classes", pool.part(everything, [700] * 10, 5600)
    if options.fashion:
        counts = [1475, *5 * [1100], 4425, *3 * [1100]]
        pool = Pool(some(open_images(options.fashion), everything, counts), options.features)
        yield "fashion, 2 classes, 1 to 3", pool.part([0, 6], [1475, 4425], 4700)
        yield "fashion, 2 classes, 1 to 9", pool.part([0, 6], [490, 4425], 3900)
        yield "fashion, 10 classes, 1 to 8", pool.part(everything, LONGER_TAIL, 5000)
        yield "fashion, 10 equal classes", pool.part(everything, [700] * 10, 5600)


def figures(logits: Tensor, labels: Tensor) -> Figures:
    """Judge logits ``[N, classes]``."""
    right = (logits.argmax(dim=1) == labels).double()
    recalls = [float(right[labels == one].mean()) for one in labels.unique()]
    loss = float(F.cross_entropy(logits.double(), labels))
    return Figures(float(right.mean()), fmean(recalls), min(recalls), loss)


def judged(part: Part, epsilon: float, seeds: Sequence[int], share: float) -> dict[str, list[Figures]]:
    """Train and judge every way, once with each seed."""
    _, labels = part.private
    left_out, targets = part.left_out
    found: dict[str, list[Figures]] = {}
    for given in ({}, {"class_weight": "balanced", "class_count_share": share}):
        config, deviations, heads = descended(part, Budget(epsilon, 1e-5), dict[str, Any](given), seeds)
        for seed, weights in zip(seeds, heads, strict=True):
            scale = scale_learned(config, part, as_linear(weights), deviations[1], seed)
            logits = (left_out @ weights).double() * scale
            if not given:
                found.setdefault("before", []).append(figures(logits, targets))
                continue
            counts, generator = class_counts(labels, logits.shape[1]), torch.Generator().manual_seed(seed)
            noisy = counts + deviations[2] * torch.randn(len(counts), generator=generator)
            for one, shown in (
                ("balanced", smoothed(noisy, deviations[2])),
                ("raw", noisy.clamp(min=1)),
                ("exact", counts),
            ):
                found.setdefault(one, []).append(figures(logits - shown.log(), targets))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar10", help="where CIFAR-10 is")
    parser.add_argument("--fashion", help="where Fashion-MNIST is")
    parser.add_argument("--only", nargs="*", help="names of sets")
    parser.add_argument("--epsilon", nargs="+", type=float, default=(0.5, 2.0, 8.0), help="of the budgets")
    parser.add_argument("--share", type=float, default=0.02, help="of the budget, for the counts")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, of which the mean is shown")
    parser.add_argument("--features", type=Path, help="a folder that keeps features for the next call")
    parser.add_argument("--json", action="store_true", help="a JSON object for each row instead of a table")
    options = parser.parse_args()
    if not options.json:
        print(
            f"{'':28} {'n':>6} {'ε':>4} {'way':8} {'accuracy':>8} {'by class':>14} {'least':>7} {'loss':>6}"
        )
    for name, part in sets(options):
        if options.only and name not in options.only:
            continue
        for epsilon in options.epsilon:
            ways = judged(part, epsilon, range(1, 1 + options.seeds), options.share)
            for one, runs in ways.items():
                rows = [asdict(run) for run in runs]
                row = {figure: fmean(run[figure] for run in rows) for figure in rows[0]}
                public = {"set": name, "images": part.facts.num_examples, "epsilon": epsilon, "way": one}
                if options.json:
                    print(json.dumps({**public, "share": options.share, **row, "runs": rows}), flush=True)
                    continue
                spread = stdev(run.by_class for run in runs) if len(runs) > 1 else math.nan
                print(
                    f"{name:28} {public['images']:6} {epsilon:4g} {one:8} {row['accuracy']:8.2%} "
                    f"{row['by_class']:7.2%} ± {100 * spread:4.2f} {row['least']:7.2%} {row['loss']:6.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
