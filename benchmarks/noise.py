"""What exact noise costs: against noise in floating point, one DP-SGD step, and one release of DP-MEPF.

    python benchmarks/noise.py [--count 2748890] [--rounds 7] [--step]

The two add noise to the same sums by turns, in one thread; the table has medians over the rounds. Times are
those of the processor, so that other work on the machine counts little.

- exact: `GaussianSumMechanism.release`.
- floating point: what it replaced, and other libraries do: a float64 normal of Box and Muller's method, made
  float32, times σ, plus the sum.

``--count`` is the parameters of WRN-16-4 by default; the sums of DP-MEPF are 303,104 in float64. ``--step``
times the clipped gradient sum of WRN-16-4 too, and says what share of it the release is.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.cli.allocator import keep_freed_memory
from dpvision.gradients import ClippedGradient
from dpvision.networks import build_network
from dpvision.privacy import Event, FullBatch, GaussianSumMechanism, RandomSource, SecureRandom

MECHANISM = GaussianSumMechanism(1.0, 1.3, FullBatch(1000))
EMBEDDING = 303_104
BLOCK = 1 << 17


class NoAccount:
    """What is released here stays here."""

    def record(self, event: Event) -> None:
        pass


def floating_point(sums: Tensor, random: RandomSource) -> Tensor:
    noise = torch.empty(sums.shape, dtype=torch.float32)
    for block in noise.split(BLOCK):
        radius, angle = random.uniform((2, (len(block) + 1) // 2))
        radius = torch.log1p(-radius).mul_(-2).sqrt_()
        angle = angle.mul_(2 * math.pi)
        block.copy_(torch.cat([radius * angle.cos(), radius * angle.sin()])[: len(block)])
    return noise.to(sums.dtype).mul_(MECHANISM.standard_deviation).add_(sums).float()


def exact(sums: Tensor, random: RandomSource) -> Tensor:
    return MECHANISM.release({"sums": sums}, NoAccount(), random)["sums"]


def seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def compare(sums: Tensor, rounds: int) -> dict[str, float]:
    """Median seconds of each, by turns."""
    random = SecureRandom()
    found: dict[str, list[float]] = {"floating point": [], "exact": []}
    for turn in range(rounds + 1):
        for name, release in (("floating point", floating_point), ("exact", exact)):
            took = seconds(lambda release=release: release(sums, random))
            if turn:  # the first warms up
                found[name].append(took)
    return {name: statistics.median(times) for name, times in found.items()}


def step_seconds(examples: int, views: int) -> float:
    """One clipped gradient sum, of WRN-16-4 and images of 32 pixels."""
    network = build_network("wrn-16-4", in_channels=3, image_size=(32, 32), num_classes=10)
    engine = ClippedGradient(
        network, lambda logits, targets: F.cross_entropy(logits.float(), targets, reduction="none"), 1.0
    )
    images, labels = torch.rand(examples, views, 3, 32, 32), torch.randint(10, (examples, views))
    engine.sum(images[:8], labels[:8])  # warms up
    return seconds(lambda: engine.sum(images, labels))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2_748_890, help="float32 sums")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--step", action="store_true", help="time a step of WRN-16-4 as well")
    parser.add_argument("--examples", type=int, default=256, help="of that step")
    parser.add_argument("--views", type=int, default=4, help="of each example")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the command does

    rows: list[dict[str, Any]] = []
    for name, sums in (
        ("gradients", torch.randn(options.count)),
        ("mean embedding", torch.randn(EMBEDDING, dtype=torch.float64)),
    ):
        for construction, took in compare(sums, options.rounds).items():
            rows.append({"sums": name, "count": len(sums), "construction": construction, "seconds": took})
    step = step_seconds(options.examples, options.views) if options.step else None
    if options.json:
        print(json.dumps({"rows": rows, "step_seconds": step}))
        return
    print(f"1 thread, torch {torch.__version__}, {platform.machine()}")
    for row in rows:
        each = 1e9 * row["seconds"] / row["count"]
        print(
            f"{row['sums']:15} {row['count']:>9} {row['construction']:15} {1e3 * row['seconds']:8.2f} ms"
            f" {each:6.1f} ns each"
        )
    if step is not None:
        released = rows[1]["seconds"]
        print(f"a step of {options.examples} examples, {options.views} views: {step:.1f} s")
        print(f"the exact release is {released / step:.2%} of it")


if __name__ == "__main__":
    main()
