"""What a second run reaches that goes on from the release of a first, beside runs that begin afresh.

    python benchmarks/going_on.py fashion-mnist --images 5000 --runs 5
    python benchmarks/going_on.py cifar10 --images 5000 --runs 5 --method dp-randp --set encoder=scattering
    python benchmarks/going_on.py fashion-mnist --images 10000 --runs 3 --method dp-distill

The private images are the first so many of the training split, and accuracy is measured on the 5,000 of it
that follow, or as many as there are: of a method for images that of `evaluate`'s MLP, which learns from them.
Each repetition makes one release at ε = 1 and goes on from that several times: with the settings that this
has by default, and, of a classifier, with parts of that learning rate. Beside them are runs that begin
afresh, at ε = 2 and at what two runs cost together. Every run is a real one, with noise from the system's
entropy, on a ledger that is thrown away. Each line has the ε on the card, the mean over repetitions and their
standard deviation.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import dpvision
from dpvision.cli.options import with_settings
from dpvision.images import ImageSet, open_images
from dpvision.methods.registry import AUTO, find_method
from dpvision.priors.remembered import features_remembered
from dpvision.runs.files import read_json

HELD_OUT = 5000
FIRST = 1.0
MORE = (0.5, 1.0, 2.0)
"""What a second run spends."""
RATES = (0.5, 0.25)
"""Parts of the first run's learning rate, for a second one that spends as much."""


class Bench:
    """Runs of one method on the same images, whose accuracies it keeps by what the runs were."""

    def __init__(self, images: ImageSet, held_out: ImageSet, folder: Path, **options: Any) -> None:
        self.images, self.held_out, self.folder = images, held_out, folder
        self.options = {"delta": 1e-5, "ledger": folder / "ledger.jsonl", **options}
        self.found: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def run(self, what: str, epsilon: float, start: Path | None = None, **more: Any) -> Path:
        """Do a run, from an earlier one if there is one, and keep what it reached. Returns its directory."""
        out = self.folder / f"run{sum(map(len, self.found.values()))}"
        options = self.options | {"epsilon": epsilon, "out": out} | more
        self.found[what].append((self.train if self.makes_a_classifier else self.synthesize)(start, options))
        return out

    @property
    def makes_a_classifier(self) -> bool:
        method = self.options["method"]
        return method == AUTO or find_method(method).makes == "a classifier"

    def train(self, start: Path | None, options: dict[str, Any]) -> tuple[float, float]:
        """Return the accuracy of a classifier, and its ε."""
        result = dpvision.train(self.images, from_run=start, test=self.held_out, **options)
        assert result.test_accuracy is not None
        return result.test_accuracy.value, result.epsilon

    def synthesize(self, start: Path | None, options: dict[str, Any]) -> tuple[float, float]:
        """Return the accuracy of what learns from synthetic images, and their ε."""
        result = dpvision.synthesize(self.images, refine=start, formats=["npz"], **options)
        rows = dpvision.evaluate_images(options["out"], self.held_out, classifiers=["mlp"])
        return next(row.value for row in rows if row.name == "accuracy of mlp"), result.epsilon

    def repeat(self) -> None:
        """Do one run of each kind."""
        first = self.run(f"afresh, at {FIRST:g}", FIRST)
        for epsilon in MORE:
            what = f"{FIRST:g}, then {epsilon:g}"
            self.run(what, epsilon, first, config=None)
            both = self.found[what][-1][1]
            self.run(f"afresh, at what {FIRST:g} and {epsilon:g} cost together", both)
        for part in RATES if self.makes_a_classifier else ():
            rate = read_json(first / "config.json")["config"]["learning_rate"]
            what = f"{FIRST:g}, then {FIRST:g}, learning rate × {part:g}"
            self.run(what, FIRST, first, config={"learning_rate": part * rate})
        self.run("afresh, at 2", 2.0)

    def print(self) -> None:
        for what, reached in self.found.items():
            accuracies = [100 * accuracy for accuracy, _ in reached]
            spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
            epsilon = fmean(epsilon for _, epsilon in reached)
            print(f"{what:44} ε {epsilon:5.3f}  {fmean(accuracies):6.2f} % ± {spread:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--method", default=AUTO)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    every = open_images(given.data, "train")
    images = every.subset(range(given.images))
    held_out = every.subset(range(given.images, min(len(every), given.images + HELD_OUT)))
    with tempfile.TemporaryDirectory() as folder, features_remembered():
        settings = with_settings({}, given.set)
        bench = Bench(images, held_out, Path(folder), method=given.method, config=settings)
        for _ in range(given.runs):
            bench.repeat()
        bench.print()


if __name__ == "__main__":
    main()
