"""What several laws for each class could gain in dp-moments, if it cost nothing to find the groups.

    python benchmarks/several_laws.py DATA --out RUNS.json [--laws 1 2 4] [--epsilon 1 10] [--count 10000]

The images of a class are put into groups by k-means of their averages at 8 pixels a side, without noise: that
is no private release, and its figures are an upper bound of one that pays for the groups. Each group then is
a class of its own to dp-moments. An MLP learns from the synthetic images, with the labels of the classes, and
is tested on --held-out of the training images of DATA; its test split is not read. Runs that are done stay in
--out, and a later call goes on with the others.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from kept_runs import KeptRuns
from sklearn.cluster import KMeans
from synthesis import DELTA, split

import dpvision
from dpvision.evaluation.downstream import train_and_test
from dpvision.images import Images

SIDE = 8


def grouped(images: Images, laws: int) -> Images:
    """The same images, where a class is "CLASS/GROUP"."""
    assert images.labels is not None
    small = torch.cat([F.adaptive_avg_pool2d(block.float(), SIDE).flatten(1) for block in images.blocks()])
    groups = torch.zeros_like(images.labels)
    for label in range(len(images.class_names)):
        (of_class,) = (images.labels == label).nonzero(as_tuple=True)
        found = KMeans(laws, n_init=1, random_state=0).fit_predict(small[of_class].numpy())
        groups[of_class] = torch.from_numpy(found).long()
    names = [f"{name}/{group}" for name in images.class_names for group in range(laws)]
    pixels = images.take(torch.arange(len(images)))
    return Images(pixels, images.labels * laws + groups, tuple(names), images.source)


def run(private: Images, test: Images, laws: int, epsilon: float, count: int) -> dict[str, Any]:
    """One release, and the accuracy of an MLP that learned from it."""
    parts = grouped(private, laws)
    with tempfile.TemporaryDirectory() as folder:
        dpvision.synthesize(
            parts,
            method="dp-moments",
            epsilon=epsilon,
            delta=DELTA,
            count=count,
            formats=["parquet"],
            out=Path(folder) / "run",
            ledger=Path(folder) / "ledger.jsonl",
        )
        drawn = dpvision.open_images(f"{folder}/run")
        pixels = drawn.take(torch.arange(len(drawn)))
    assert drawn.labels is not None
    of_class = torch.tensor([private.class_names.index(n.rpartition("/")[0]) for n in drawn.class_names])
    synthetic = Images(pixels, of_class[drawn.labels], private.class_names, "the synthetic images")
    return {"accuracy": train_and_test("mlp", synthetic, test).value}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file of the runs that are done")
    parser.add_argument("--laws", type=int, nargs="+", default=[1, 2, 4], help="of each class")
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1.0, 10.0])
    parser.add_argument("--seeds", type=int, default=1, help="runs of each")
    parser.add_argument("--held-out", type=int, default=6000, metavar="N")
    parser.add_argument("--count", type=int, default=10_000, help="synthetic images of each run")
    arguments = parser.parse_args()
    made_with = {"data": arguments.data, "held_out": arguments.held_out, "count": arguments.count}
    kept = KeptRuns(arguments.out, made_with)
    private, test = split(arguments.data, arguments.held_out)
    for seed in range(arguments.seeds):
        for epsilon in arguments.epsilon:
            for laws in arguments.laws:
                title = f"ε = {epsilon:g}, {laws} laws"
                if kept.count(title) <= seed:
                    kept.add(title, run(private, test, laws, epsilon, arguments.count))
                    print(f"{title}: {kept.by_title[title][-1]}", file=sys.stderr, flush=True)
    for title, runs in kept.by_title.items():
        print(f"{title} ({len(runs)} runs): MLP {mean(each['accuracy'] for each in runs):.2%}")


if __name__ == "__main__":
    main()
