"""Synthetic images by a method: what they are worth to a classifier, and how far from the real ones.

    python benchmarks/synthesis.py DATA --out RUNS.json [--method dp-mepf] [--epsilon .2 1 10] [--seeds 3] …

DATA has a test split, on which figures are measured, and is treated as public here: its ledger is a new one
for each run. With --held-out, N of its training images are that, the others the private ones, and the test
split is not read: to choose settings. Runs that are done stay in --out, and a later call goes on with the
others. Noise and initial weights are new in every run; the "seeds" are how many runs there are of each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any

import torch
from kept_runs import KeptRuns

import dpvision
from dpvision.api.measuring import DEFAULT_ENCODER
from dpvision.cli.allocator import keep_freed_memory
from dpvision.cli.options import with_settings
from dpvision.evaluation import evaluate_synthetic, named_classifiers
from dpvision.evaluation.resnet9_training import ResNet9Training
from dpvision.images import Images
from dpvision.priors import build_encoder

DELTA = 1e-5

REFERENCE = "private images"
"""Their title among the runs."""


def split(data: str, held_out: int) -> tuple[Images, Images]:
    """The private images and those to measure with."""
    images = dpvision.open_images(data)
    if not held_out:
        return images, dpvision.open_images(data, "test")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.subset(order[held_out:]), images.subset(order[:held_out])


def run(
    private: Images,
    test: Images,
    method: str,
    epsilon: float,
    count: int,
    config: dict[str, Any],
    classifiers: list[str] | None,
    resnet9: ResNet9Training,
    keep: Path | None,
) -> dict[str, Any]:
    """One release and its figures, how long each took, and the sheet of samples in keep."""
    with tempfile.TemporaryDirectory() as folder:
        started = perf_counter()
        result = dpvision.synthesize(
            private,
            method=method,
            epsilon=epsilon,
            delta=DELTA,
            count=count,
            formats=["npz"],
            config=config,
            out=Path(folder) / "run",
            ledger=Path(folder) / "ledger.jsonl",
        )
        released = perf_counter()
        rows = dpvision.evaluate_images(Path(folder) / "run", test, classifiers=classifiers, resnet9=resnet9)
        if keep:
            keep.write_bytes((result.release / "samples.png").read_bytes())
    return {
        "epsilon": result.epsilon,
        "seconds": released - started,
        "evaluation_seconds": perf_counter() - released,
        "rows": [asdict(row) for row in rows],
    }


def reference(
    private: Images, test: Images, count: int, classifiers: list[str] | None, resnet9: ResNet9Training
) -> dict[str, Any]:
    """The same figures of as many private images in place of synthetic ones."""
    started = perf_counter()
    chosen = torch.randperm(len(private), generator=torch.Generator().manual_seed(0))[:count]
    rows = evaluate_synthetic(
        private.subset(chosen),
        test,
        classifiers=named_classifiers(classifiers) if classifiers else None,
        encoders=[build_encoder(DEFAULT_ENCODER, private.shape, cells=1)],
        resnet9=resnet9,
    )
    return {"seconds": 0.0, "evaluation_seconds": perf_counter() - started, "rows": [*map(asdict, rows)]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("--method", default="dp-mepf", help="one that makes images; by default %(default)s")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file of the runs that are done")
    parser.add_argument("--epsilon", type=float, nargs="+", default=[0.2, 1.0, 10.0])
    parser.add_argument("--seeds", type=int, default=1, help="runs of each ε")
    parser.add_argument("--held-out", type=int, default=0, metavar="N")
    parser.add_argument("--count", type=int, default=10_000, help="synthetic images of each run")
    parser.add_argument("--set", nargs="+", metavar="KEY=VALUE", default=[], help="settings of all runs")
    parser.add_argument("--classifiers", nargs="+", metavar="NAME", help="others than the usual ones")
    parser.add_argument("--resnet9", nargs="+", metavar="KEY=VALUE", default=[], help="of its training")
    parser.add_argument(
        "--reference", action="store_true", help="also measure as many private images in place of synthetic"
    )
    parser.add_argument("--samples", type=Path, help="a folder for the sheet of samples of each first run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    keep_freed_memory()
    settings = with_settings({}, arguments.set)
    made_with = {
        "data": arguments.data,
        "method": arguments.method,
        "held_out": arguments.held_out,
        "count": arguments.count,
        "settings": settings,
        "classifiers": arguments.classifiers,
        "resnet9": arguments.resnet9,
    }
    kept = KeptRuns(arguments.out, made_with)
    if arguments.samples:
        arguments.samples.mkdir(parents=True, exist_ok=True)
    resnet9 = ResNet9Training(**with_settings({}, arguments.resnet9))
    private, test = split(arguments.data, arguments.held_out)
    for seed in range(arguments.seeds):
        for epsilon in arguments.epsilon:
            title = f"{epsilon:g}"
            if kept.count(title) > seed:
                continue
            keep = arguments.samples / f"epsilon-{title}.png" if arguments.samples and seed == 0 else None
            done = run(
                private,
                test,
                arguments.method,
                epsilon,
                arguments.count,
                settings,
                arguments.classifiers,
                resnet9,
                keep,
            )
            kept.add(title, done)
            print(f"ε = {title}, run {seed + 1}: {kept.by_title[title][-1]}", file=sys.stderr, flush=True)
    if arguments.reference and not kept.count(REFERENCE):
        kept.add(REFERENCE, reference(private, test, arguments.count, arguments.classifiers, resnet9))
    if arguments.json:
        print(json.dumps(kept.content))
        return
    for title, runs in kept.by_title.items():
        minutes = mean(each["seconds"] for each in runs) / 60
        named = title if title == REFERENCE else f"ε = {title}"
        print(f"{named} ({len(runs)} runs, {minutes:.1f} min each without evaluation)")
        for column in zip(*(each["rows"] for each in runs), strict=True):
            values = [row["value"] for row in column]
            spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
            print(f"  {column[0]['name']:40} {mean(values):.4f}{spread}  {column[0]['how']}")


if __name__ == "__main__":
    main()
