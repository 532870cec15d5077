"""What recipes of private heads are worth, over several runs: features are computed once for all of them.

    python benchmarks/heads.py cifar10 --recipe recipes/cifar10-eps1-head.toml --held-out 5000  # to choose
    python benchmarks/heads.py cifar10 --recipe recipes/cifar10-eps*-head.toml --test           # in the end

The runs differ in their noise alone, which is as in earnest. With ``--held-out`` so many images of the
training split, always the same, are not learned from and tested on; with ``--test`` the data set's own test
images. Each line has the recipe, ε, the accuracies' mean and standard deviation, the mean loss, and the
seconds that a run would take by itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from defaults import Features, trained

from dpvision.cli.options import collect, with_settings
from dpvision.images import Images, open_images
from dpvision.methods import find_method
from dpvision.privacy import Budget, PublicFacts


def joined(first: Images, second: Images) -> Images:
    """The images of both, one after the other."""
    assert first.labels is not None
    assert second.labels is not None
    pixels, labels = torch.cat([first.pixels, second.pixels]), torch.cat([first.labels, second.labels])
    return Images(pixels, labels, first.class_names, first.source)


def split(data: str, test: bool, held_out: int) -> tuple[Images, int]:
    """All images, and how many of them are learned from: the first."""
    images = open_images(data)
    if test:
        return joined(images, open_images(data, split="test")), len(images)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.subset(order.tolist()), len(images) - held_out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="where the data set is")
    parser.add_argument("--recipe", nargs="+", required=True, type=Path, help="files of settings")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--epsilon", nargs="+", type=float, help="instead of the recipe's")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each")
    parser.add_argument("--features", type=Path, help="a folder that keeps features for the next call")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--held-out", type=int, default=0, help="so many training images to test on")
    which.add_argument("--test", action="store_true", help="the test images")
    options = parser.parse_args()

    images, count = split(options.data, options.test, options.held_out)
    assert images.labels is not None
    private, targets = images.subset(range(count)), images.labels[count:]
    features = Features(images, PublicFacts(count, images.shape, images.class_names), options.features)
    for recipe in options.recipe:
        chosen = collect(recipe)
        overrides = with_settings(chosen.get("config", {}), options.settings)
        overrides["expected_batch_size"] = count  # all of them, as in the recipe
        for epsilon in options.epsilon or [chosen["epsilon"]]:
            rows: list[Sequence[float]] = []
            for _ in range(options.seeds):
                budget = Budget(epsilon, chosen["delta"])
                found = trained(find_method(chosen["method"]), features, private, budget, overrides)
                right = 100 * float((found["logits"].argmax(dim=1) == targets).float().mean())
                rows.append((right, float(F.cross_entropy(found["logits"], targets)), found["seconds"]))
            accuracies, losses, seconds = zip(*rows, strict=True)
            spread = stdev(accuracies) if len(rows) > 1 else 0.0
            print(
                f"{recipe.stem:28} ε = {epsilon:g}: {mean(accuracies):.2f} ± {spread:.2f} % "
                f"({', '.join(f'{a:.2f}' for a in accuracies)}; n = {len(targets)}), "
                f"loss {mean(losses):.3f}, {mean(seconds):.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
