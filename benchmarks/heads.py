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
from torch import Tensor

from dpvision.cli.options import collect, with_settings
from dpvision.images import Images, open_images
from dpvision.methods import find_method
from dpvision.methods.features import EncoderSettings
from dpvision.privacy import Budget, PublicFacts


class Chosen(Features):
    """Features of images of one or more sets, one set after the other."""

    def __init__(self, sets: Sequence[Images], indices: Sequence[Tensor], count: int, folder: Path | None):
        facts = PublicFacts(count, sets[0].shape, sets[0].class_names)
        super().__init__(sets[0], facts)
        self.sets, self.indices = [Features(images, facts, folder) for images in sets], indices

    def _computed(self, key: str, config: EncoderSettings) -> tuple[Tensor, float]:
        found = [some.of(config) for some in self.sets]
        chosen = [features[of] for (features, _), of in zip(found, self.indices, strict=True)]
        return torch.cat(chosen), found[0][1]


def split(data: str, test: bool, held_out: int, folder: Path | None) -> tuple[Chosen, Images, Tensor]:
    """Return features, of the images that are learned from and then of the others; these images, and the
    labels of the others.
    """
    images = open_images(data)
    sets, indices, count = [images], [torch.arange(len(images))], len(images)
    if test:
        sets.append(open_images(data, split="test"))
        indices.append(torch.arange(len(sets[1])))
    else:
        indices = [torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
        count -= held_out
    labels = torch.cat([torch.as_tensor(some.labels)[of] for some, of in zip(sets, indices, strict=True)])
    private = images.subset(indices[0][:count].tolist())
    return Chosen(sets, indices, count, folder), private, labels[count:]


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

    features, private, targets = split(options.data, options.test, options.held_out, options.features)
    for recipe in options.recipe:
        chosen = collect(recipe)
        overrides = with_settings(chosen.get("config", {}), options.settings)
        overrides["expected_batch_size"] = len(private)  # all of them, as in the recipe
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
