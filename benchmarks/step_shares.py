"""What a step of clipped gradients spends its time on, by kind of operation.

    python benchmarks/step_shares.py [--network wrn-16-4] [--views 16] [--examples 8] [--precision float32]

Times are the operations' own, by ``torch.profiler``, over a few batches: on a GPU those of its kernels, on a
CPU those of the calls. Beside each kind are its share and the number of calls of one batch.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import Any

import torch
from benchmark_networks import NETWORKS
from contestants import prepare
from gradients import task_of
from torch.profiler import ProfilerActivity, profile

BATCHES = 3
KINDS = {
    "convolutions": ("conv", "cudnn", "cutlass_tensorop", "implicit_gemm", "fprop", "dgrad", "wgrad"),
    "norms of the network": ("group_norm", "layer_norm", "GroupNorm", "LayerNorm", "RowwiseMoments"),
    "matrix products": ("mm", "addmm", "bmm", "mv", "dot", "gemm", "einsum", "attention"),
    "copies": ("copy", "clone", "contiguous", "cat", "to_copy", "Memcpy", "fill", "zero", "pad"),
    "sums and norms": ("sum", "mean", "norm", "reduce"),
}
"""Parts of the names of operations, looked for in this order."""


def kind_of(name: str) -> str:
    """Return the kind of an operation; "other" is arithmetic element by element, mostly."""
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "other")


def shares(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the share of each kind, and its calls, of one batch."""
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    step = prepare(options.contestant, task_of(options))
    step()  # checks, and the first memory
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as profiler:
        for _ in range(BATCHES):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in profiler.key_averages():
        on_device = event.device_type != torch.autograd.DeviceType.CPU
        if on_device != (device.type == "cuda"):
            continue
        own = event.self_device_time_total if on_device else event.self_cpu_time_total
        times[kind_of(event.key)] += own
        calls[kind_of(event.key)] += event.count
    whole = sum(times.values())
    return {
        "milliseconds": whole / BATCHES / 1000,
        "kinds": [
            {"kind": kind, "share": time / whole, "calls": calls[kind] / BATCHES}
            for kind, time in times.most_common()
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="wrn-16-4", choices=NETWORKS)
    parser.add_argument("--contestant", default="ours", help="one of gradients.py")
    parser.add_argument("--views", type=int, default=16, help="K, the views per example")
    parser.add_argument("--examples", type=int, default=8, help="B")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    found = shares(options)
    if options.json:
        print(json.dumps(found))
        return
    print(
        f"{options.network}, B = {options.examples}, K = {options.views}, {options.precision}, "
        f"{options.device}: {found['milliseconds']:.0f} ms a batch, torch {torch.__version__}"
    )
    for row in found["kinds"]:
        print(f"{row['kind']:22} {100 * row['share']:5.1f} %  {row['calls']:7.0f} calls")


if __name__ == "__main__":
    main()
