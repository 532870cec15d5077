"""How much memory it takes, at most, to work on more images than memory holds.

    python benchmarks/peak_memory.py

Each line is of a process of its own: what it held before the work, with what it was given, the most it held,
and the seconds it took. The images are made up when they are taken: their pixels lie nowhere. Features go to
files from a quarter of ``--memory`` on, as on a machine that has no more.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dpvision.evaluation import evaluate_classifier
from dpvision.images import ImageSet, rows_on_disk
from dpvision.images.indexed import indexed
from dpvision.methods import Session, calibrate, find_method
from dpvision.networks import build_classifier
from dpvision.privacy import (
    Account,
    Budget,
    Ledger,
    PoissonSampler,
    PublicFacts,
    SeededRandom,
    gaussian_event,
)

BUDGET = Budget(1.0, 1e-8)
SHAPE = (3, 32, 32)
CLASSES = 10
MADE = 1009  # images are made of so many, in turn


class MadeUp(ImageSet):
    """So many images of noise, each of which is made when it is taken."""

    def __init__(self, count: int) -> None:
        self.labels, self.ids = torch.arange(count) % CLASSES, torch.arange(count)
        self.class_names, self.source, self.names = tuple("abcdefghij"), "made up", None
        generator = torch.Generator().manual_seed(0)
        self._some = torch.randint(256, (MADE, *SHAPE), generator=generator, dtype=torch.uint8)

    @property
    def shape(self) -> tuple[int, int, int]:
        return SHAPE

    def take(self, indices: Tensor) -> Tensor:
        taken = self._some[indices % MADE]
        number = (indices // MADE)[:, None] >> torch.tensor([0, 8, 16])
        taken[:, :, 0, 0] = number.bitwise_and_(255).to(torch.uint8)  # no two are the same
        return taken


def sampling(count: int) -> Callable[[], str]:
    """A batch of one in a thousand."""
    ids, sampler = torch.arange(count), PoissonSampler(count, 0.001)
    return lambda: f"batch of {len(sampler.sample(SeededRandom(0).at('batch', 0), ids))}"


def index(count: int) -> Callable[[], str]:
    """Enter a run on all images in a new index, and look at which there are."""
    images = MadeUp(count)

    def work() -> str:
        known = indexed(images)
        plan = [gaussian_event(4.0, 0.01, 1000)]
        ledger = Ledger.for_dataset(Path(os.environ["DPVISION_HOME"], "ledger.jsonl"), "0" * 64, count)
        with known.index.admitting("run", ledger, plan, known):
            ledger.open_run("run", plan)
        return f"{sum(cell.size for cell in known.index.cells(known.identities))} known"

    return work


def head(count: int) -> Callable[[], str]:
    """Compute the features of all images, and take two steps of a head on all of them."""
    images, method = MadeUp(count), find_method("dp-randp")
    facts = PublicFacts(count, SHAPE, images.class_names)
    settings = {"encoder": "pixels", "encoder_options": {"size": 7}, "calibration_share": 0.0, "steps": 2}
    config = method.default_config(facts, BUDGET, torch.device("cpu"), settings)
    stages = calibrate(lambda noise: method.stages(config, facts, noise), count, BUDGET)
    account = Account(BUDGET, None, "run", stages.events)
    account.open()

    def work() -> str:
        told: dict[str, str] = {}

        def progress(what: str, done: int, total: int, account: Account | None = None) -> None:
            told[what] = f"{what}: {done}"

        random, device = SeededRandom(0), torch.device("cpu")
        session = Session(images, facts, stages, lambda: account, random, device, progress=progress)
        method.learn(config, session)
        return ", ".join(told.values())

    return work


def evaluation(count: int) -> Callable[[], str]:
    """Measure a linear classifier: every figure."""
    images = MadeUp(count)
    model = build_classifier("linear", image_shape=SHAPE, class_names=images.class_names)
    return lambda: f"accuracy {evaluate_classifier(model, images).accuracy.value:.3f}"


JOBS: dict[str, tuple[Callable[[int], Callable[[], str]], int]] = {
    "sampling": (sampling, 40_000_000),
    "index": (index, 2_000_000),
    "head": (head, 10_000_000),
    "evaluation": (evaluation, 1_000_000),
}


def mebibytes() -> int:
    """Return the most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10  # Linux counts in KiB


def do(name: str, count: int, of_machine: float) -> None:
    """Do a job in this process, and print its line."""
    rows_on_disk.physical_memory = lambda: int(of_machine * 2**30)  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    work = JOBS[name][0](count)
    before, started = mebibytes(), time.monotonic()
    found = work()
    seconds = time.monotonic() - started
    print(
        f"{name:12} {count:>11,}  {before:6} MiB  {mebibytes():6} MiB  {seconds:6.1f} s  {found}", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("jobs", nargs="*", help=f"which of {', '.join(JOBS)} (default: all)")
    parser.add_argument("--count", type=int, help="examples, in place of a job's own number")
    parser.add_argument("--memory", type=float, default=4.0, help="GiB that the machine is taken to have")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.here:
        print(f"{'':12} {'examples':>11}  {'before':>10}  {'most':>10}  {'seconds':>8}", flush=True)
    for name in options.jobs or JOBS:
        count = options.count or JOBS[name][1]
        if options.here:
            do(name, count, options.memory)
            continue
        command = [sys.executable, __file__, name, "--count", str(count), "--memory", str(options.memory)]
        with tempfile.TemporaryDirectory() as home:  # for ledgers and the index
            subprocess.run([*command, "--here"], check=True, env={**os.environ, "DPVISION_HOME": home})


if __name__ == "__main__":
    main()
