"""Whether ``dpvision plan`` tells the truth: the time and memory that it predicts, and those of the run.

    python benchmarks/forecasts.py --cifar10 cifar10/ --fashion-mnist fashion-mnist/ [--only NAME …] [--json]

Each case is planned, then run by the command line, one process each. Time is that of the whole command,
memory the most that its process held (its resident set). The ratio is what was predicted over what was
measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

IMAGES = {"dp-mepf", "dp-distill", "dp-diffusion"}
"""The methods of `CASES` that make images."""

COMMAND = (sys.executable, "-c", "from dpvision.cli.main import main; main()")

CASES: dict[str, tuple[str, str]] = {
    "digits, dp-randp": ("digits", "--epsilon 2 --method dp-randp"),
    "digits, dp-sgd, linear": ("digits", "--epsilon 2 --method dp-sgd"),
    "Fashion-MNIST, dp-randp": ("fashion-mnist", "--epsilon 1 --method dp-randp"),
    "Fashion-MNIST, dp-ridge": ("fashion-mnist", "--epsilon 1 --method dp-ridge"),
    "Fashion-MNIST, dp-sgd, tanh-cnn": (
        "fashion-mnist",
        "--epsilon 3 --method dp-sgd --set network=tanh-cnn --set steps=60 --set expected_batch_size=2048",
    ),
    "CIFAR-10, dp-randp, small prior": (
        "cifar10",
        "--epsilon 1 --method dp-randp --set encoder=wrn-10-4-small",
    ),
    "CIFAR-10, dp-sgd, WRN-16-4, K = 4": (
        "cifar10",
        "--epsilon 8 --method dp-sgd --set network=wrn-16-4 --set augmult=4 --set steps=4 "
        "--set expected_batch_size=256 --set flip=true --set pad=4",
    ),
    "CIFAR-10, dp-mix-self, tanh-cnn": (
        "cifar10",
        "--epsilon 8 --method dp-mix-self --set network=tanh-cnn --set steps=20 "
        "--set expected_batch_size=512",
    ),
    "Fashion-MNIST, dp-mepf": (
        "fashion-mnist",
        "--epsilon 1 --method dp-mepf --set steps=200",
    ),
    "Fashion-MNIST, dp-diffusion": (
        "fashion-mnist",
        "--epsilon 10 --method dp-diffusion --set steps=10 --set pretraining_steps=50 "
        "--set warm_up_steps=50 --count 10000 --format npz",
    ),
    "CIFAR-10, dp-distill": ("cifar10", "--epsilon 1 --method dp-distill --count 10000 --format npz"),
}


def run(arguments: Sequence[str]) -> tuple[dict[str, Any], float, int]:
    """Run dpvision: what it printed as JSON, its seconds, and the bytes that its process held at most."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"dpvision {' '.join(arguments)} failed")
    seconds = time.perf_counter() - started
    return json.loads(output.strip().splitlines()[-1]), seconds, usage.ru_maxrss * 1024


def forecast_and_truth(data: str, options: Sequence[str]) -> dict[str, float]:
    predicted, _, _ = run(["plan", data, *options])
    command = "synthesize" if IMAGES.intersection(options) else "train"
    with tempfile.TemporaryDirectory() as folder:
        out = ["--out", str(Path(folder) / "run"), "--ledger", str(Path(folder) / "ledger")]
        _, seconds, held = run([command, data, *options, *out])
    return {
        "predicted_seconds": predicted["seconds"],
        "seconds": seconds,
        "predicted_bytes": predicted["memory_bytes"],
        "bytes": held,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cifar10", help="CIFAR-10, as `dpvision train` takes it; without it, its cases are left out"
    )
    parser.add_argument("--fashion-mnist", help="Fashion-MNIST, likewise")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="NAME", default=list(CASES))
    parser.add_argument("--json", action="store_true", help="print one JSON object for each case")
    options = parser.parse_args()
    where = {"digits": "bundled:digits", "cifar10": options.cifar10, "fashion-mnist": options.fashion_mnist}
    if not options.json:
        print(
            f"{'':36} {'predicted s':>12} {'s':>8} {'ratio':>6} {'predicted MiB':>14} {'MiB':>6} {'ratio':>6}"
        )
    for name in options.only:
        data, arguments = CASES[name]
        if where[data] is None:
            continue
        found = forecast_and_truth(where[data], arguments.split())
        time_ratio = found["predicted_seconds"] / found["seconds"]
        memory_ratio = found["predicted_bytes"] / found["bytes"]
        if options.json:
            print(json.dumps({"case": name, **found}), flush=True)
            continue
        print(
            f"{name:36} {found['predicted_seconds']:12.1f} {found['seconds']:8.1f} {time_ratio:6.2f} "
            f"{found['predicted_bytes'] / 2**20:14.0f} {found['bytes'] / 2**20:6.0f} {memory_ratio:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
