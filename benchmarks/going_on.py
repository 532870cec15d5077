"""What a second run reaches that goes on from the release of a first, beside runs that begin afresh.

    python benchmarks/going_on.py fashion-mnist --images 5000 --runs 5
    python benchmarks/going_on.py cifar10 --images 5000 --runs 5 --method dp-randp --set encoder=scattering

The private images are the first so many of the training split, and accuracy is measured on the next 5,000
of it. Each repetition makes one release at ε = 1 and goes on from that several times: with the settings that
this has by default, and with parts of that learning rate. Beside them are runs that begin afresh, at ε = 2
and at what two runs cost together. Every run is a real one, with noise from the system's entropy, on a ledger
that is thrown away. Each line has the ε on the card, the mean over repetitions and their standard deviation.
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
        self.images, self.held_out, self.folder, self.options = images, held_out, folder, options
        self.found: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def train(self, what: str, epsilon: float, **more: Any) -> Path:
        """Do a run and keep what it reached. Returns its directory."""
        out = self.folder / f"run{sum(map(len, self.found.values()))}"
        ledger = self.folder / "ledger.jsonl"
        result = dpvision.train(
            self.images, epsilon=epsilon, test=self.held_out, out=out, ledger=ledger, **self.options | more
        )
        assert result.test_accuracy is not None
        self.found[what].append((result.test_accuracy.value, result.epsilon))
        return out

    def repeat(self) -> None:
        """Do one run of each kind."""
        first = self.train(f"afresh, at {FIRST:g}", FIRST)
        for epsilon in MORE:
            what = f"{FIRST:g}, then {epsilon:g}"
            self.train(what, epsilon, from_run=first, config=None)
            both = self.found[what][-1][1]
            self.train(f"afresh, at what {FIRST:g} and {epsilon:g} cost together", both)
        rate = read_json(first / "config.json")["config"]["learning_rate"]
        for part in RATES:
            what = f"{FIRST:g}, then {FIRST:g}, learning rate × {part:g}"
            self.train(what, FIRST, from_run=first, config={"learning_rate": part * rate})
        self.train("afresh, at 2", 2.0)

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
    parser.add_argument("--method", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    every = open_images(given.data, "train")
    images = every.subset(range(given.images))
    held_out = every.subset(range(given.images, given.images + HELD_OUT))
    with tempfile.TemporaryDirectory() as folder, features_remembered():
        settings = with_settings({}, given.set)
        bench = Bench(images, held_out, Path(folder), delta=1e-5, method=given.method, config=settings)
        for _ in range(given.runs):
            bench.repeat()
        bench.print()


if __name__ == "__main__":
    main()
