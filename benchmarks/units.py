"""What it costs to protect units of several images, such as patients, in place of images.

    python benchmarks/units.py --cifar10 cifar10 --fashion fashion-mnist --features kept

Parts of the training splits are grouped at random into units of 1, 2, 5 and 10 images, within the classes
(of one each) and across them. Each grouping is learned from by a method's defaults at ε = 1, 3 and 8
(δ = 1e-5) in two ways that make the same promise to a unit:

- units: with the units;
- group: image by image, at the smaller ε at which k images together have the promised one. Where all images
  enter every release, which this benchmark asks for, that is exactly k times the noise (group privacy of the
  Gaussian mechanism).

Accuracy is that on images of the same training split that were left out. Runs differ in their noise and in
the grouping; noise and account are as in earnest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev

import torch
from defaults import Features, trained
from torch import Tensor

from dpvision.images import Images, open_images
from dpvision.methods import find_method
from dpvision.privacy import Budget, PublicFacts, epsilon, gaussian_event
from dpvision.privacy.accounting import calibrate_noise_multiplier

DELTA = 1e-5
SIZES = (1, 2, 5, 10)


def grouped(labels: Tensor, size: int, within: bool, seed: int) -> Tensor:
    """Group images with these labels ``[N]`` at random into units of ``size``, of which the last of a class,
    or of all, may have fewer: the unit of each, int64 ``[N]``.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    kinds = labels[order] if within else torch.zeros_like(labels)
    units = torch.empty_like(labels)
    for kind in kinds.unique().tolist():
        of_kind = order[kinds == kind]
        units[of_kind] = kind * len(labels) + torch.arange(len(of_kind)) // size
    return units.unique(return_inverse=True)[1]


def of_a_group(promised: float, size: int) -> float:
    """Return the ε of one image at which ``size`` images together have the promised one."""
    once = calibrate_noise_multiplier(lambda sigma: [gaussian_event(sigma)], Budget(promised, DELTA))
    return epsilon([gaussian_event(size * once)], DELTA, "add_or_remove_one")


def ways(sizes: list[int]) -> Iterator[tuple[int, str]]:
    """Yield sizes of units and what is done with them."""
    for size in sizes:
        yield from [(1, "images")] if size == 1 else [(size, way) for way in ("within", "across", "group")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar10", help="where CIFAR-10 is")
    parser.add_argument("--fashion", help="where Fashion-MNIST is")
    parser.add_argument("--images", type=int, default=10_000, help="how many are learned from")
    parser.add_argument("--left-out", type=int, default=5_000, help="how many others are judged on")
    parser.add_argument("--method", default="dp-randp", help="one whose releases are over all images")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="of units")
    parser.add_argument("--epsilon", type=float, nargs="+", default=(1.0, 3.0, 8.0), help="that are promised")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each")
    parser.add_argument("--features", type=Path, help="a folder that keeps features for the next call")
    parser.add_argument("--json", action="store_true", help="a JSON object for each row instead of a table")
    options = parser.parse_args()
    method = find_method(options.method)
    for data in filter(None, (options.cifar10, options.fashion)):
        everything = open_images(data)
        chosen = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
        images = everything.subset(chosen[: options.images + options.left_out])
        assert isinstance(images, Images)
        assert images.labels is not None
        images = Images(images.pixels.contiguous(), images.labels, images.class_names, str(data))
        targets, private = images.labels[options.images :], images.subset(range(options.images))
        features = Features(
            images, PublicFacts(options.images, images.shape, images.class_names), options.features
        )
        for promised in options.epsilon:
            for size, way in ways(options.sizes):
                right = []
                for seed in range(options.seeds):
                    some, budget = private, Budget(promised, DELTA)
                    if way == "group":
                        budget = Budget(of_a_group(promised, size), DELTA)
                    elif way != "images":
                        assert private.labels is not None
                        some = private.with_units(grouped(private.labels, size, way == "within", seed))
                    facts = PublicFacts(some.num_protected, images.shape, images.class_names)
                    features.facts = facts
                    logits = trained(method, features, some, budget, {})["logits"]
                    right.append(100 * float((logits.argmax(dim=1) == targets).float().mean()))
                row = {
                    "set": Path(data).name, "images": options.images, "method": method.name,
                    "epsilon": promised, "size": size, "way": way, "accuracy": fmean(right),
                    "deviation": stdev(right) if len(right) > 1 else 0.0, "runs": right,
                }  # fmt: skip
                if options.json:
                    print(json.dumps(row), flush=True)
                else:
                    print(
                        f"{row['set']:14} {options.images:6} {method.name:9} ε = {promised:3g} units of "
                        f"{size:2} {way:7} {row['accuracy']:6.2f} ± {row['deviation']:.2f} %",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
