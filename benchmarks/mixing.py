"""DP-SGD with one view, with self-augmentation, DP-Mix_Self and DP-Mix_Diff: equal budgets, equal steps.

    python benchmarks/mixing.py DATA --pool POOL [--epsilon 1 8] [--seeds 3] [--only …] [--set KEY=VALUE …]

DATA has a test split and is treated as public here: its ledger is a new one for each run. Rows that are done
stay in --out, and a later call goes on with the others. Initial weights, batches and noise are new in every
run; the "seeds" are how many runs there are of each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any

from kept_runs import KeptRuns

import dpvision
from dpvision.cli.allocator import keep_freed_memory
from dpvision.cli.options import with_settings

DELTA = 1e-5
# K_base, K_self and K_diff: about a fourth of the paper's 16, 18 and 2.
BASE, MIXED, PUBLIC = 4, 4, 1


def contestants(shape: tuple[int, int, int], pool: str | None) -> dict[str, dict[str, Any]]:
    """The views of each row. Only photographs are flipped, as the defaults of dpvision have it; images are
    shifted by half as much as there (on held-out training images of Fashion-MNIST more did worse).
    """
    augmented = {"augmult": BASE, "pad": shape[1] // 16, "flip": shape[0] == 3}
    rows: dict[str, dict[str, Any]] = {
        "one view": {"augmult": 1, "pad": 0, "flip": False},
        "self-augmentation": augmented,
        "DP-Mix_Self": augmented | {"k_self": MIXED},
    }
    if pool is not None:
        rows["DP-Mix_Diff"] = augmented | {"k_self": MIXED, "k_diff": PUBLIC, "pool": pool}
    return rows


def run(data: str, epsilon: float, config: dict[str, Any], method: str) -> dict[str, Any]:
    """One training: its accuracy on the test images, and how long it took."""
    started = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = dpvision.train(
            data,
            epsilon=epsilon,
            delta=DELTA,
            method=method,
            config=config,
            out=Path(folder) / "run",
            ledger=Path(folder) / "ledger.jsonl",
        )
    assert result.test_accuracy is not None
    return {
        "accuracy": result.test_accuracy.value,
        "epsilon": result.epsilon,
        "seconds": perf_counter() - started,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("--pool", help="public images for DP-Mix_Diff, which is else left out")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file of the runs that are done")
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1.0, 8.0])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row")
    parser.add_argument("--method", default="dp-sgd", help="or dp-randp")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these rows alone")
    parser.add_argument("--set", nargs="+", metavar="KEY=VALUE", default=[], help="settings of all runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    keep_freed_memory()
    settings = with_settings({}, arguments.set)
    made_with = {
        "data": arguments.data,
        "pool": arguments.pool,
        "method": arguments.method,
        "settings": settings,
    }
    kept = KeptRuns(arguments.out, made_with)
    rows = contestants(dpvision.open_images(arguments.data).shape, arguments.pool)
    for seed in range(arguments.seeds):
        for epsilon in arguments.epsilon:
            for name in arguments.only or rows:
                title = f"{name}, ε = {epsilon:g}"
                if kept.count(title) <= seed:
                    kept.add(title, run(arguments.data, epsilon, settings | rows[name], arguments.method))
                    print(f"{title}: {kept.by_title[title][-1]}", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps(kept.content))
        return
    for title, runs in kept.by_title.items():
        accuracies = [100 * found["accuracy"] for found in runs]
        spread = f" ± {stdev(accuracies):.2f}" if len(runs) > 1 else ""
        minutes = mean(found["seconds"] for found in runs) / 60
        print(f"{title:30}  {mean(accuracies):5.2f}{spread} %  ({len(runs)} runs, {minutes:.1f} min each)")


if __name__ == "__main__":
    main()
