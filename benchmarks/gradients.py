"""How fast clipped gradients are, against plain SGD, Opacus and torch.func.

    python benchmarks/gradients.py [--network wrn-16-4 vit-s] [--views 1 16] [--precision float32 bfloat16]
    python benchmarks/gradients.py --before ../other-checkout/src    # our engine of another commit, too
    python benchmarks/gradients.py --json found.json                 # the table, and all of it as JSON

Every contestant lives in a process of its own and is given the same views and the same weights. They take
turns, one batch each a round, so that a machine that slows down slows all; the table gives medians over the
rounds, of views a second and of the ratios to plain and compiled SGD in the same round. All keep freed memory
in the process, as the command line does, which makes plain SGD about a fifth faster. Peak memory is what the
process grew by once it had the views (its resident set, on Linux; on a GPU, allocated memory). "error" is the
distance of the clipped sum to that of the reference, which takes one example at a time in float32, over its
length; ours clips to 10⁻⁴ less than the norm, and tf32 means float32 there. "of floor" is the share of the
machine's measured rate of matrix products that the operations of forward and backward take.

- ours: ``ClippedGradient`` (one gradient per example, of the mean loss over its K views).
- before: the same of another checkout, where ``--before`` names its sources.
- plain, compiled: forward and backward of the mean loss: what training without privacy pays, without and with
  ``torch.compile``.
- opacus-hooks: Opacus has no views; every view is an example of its own there, and the gradients of each K
  are averaged (as users of views with Opacus do) and clipped. Weight-standardised convolutions, for which it
  has no rule, are plain convolutions, in its favour.
- opacus-ghost: the same with ghost clipping, which cannot average: for K > 1 it clips every view by itself,
  and so computes something else, and less.
- vmap, vmap-compiled: ``torch.func``: vmap of grad over examples, each with its K views, clipped and summed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from benchmark_networks import NETWORKS, build
from contestants import CONTESTANTS, MAX_GRAD_NORM, Task, losses, prepare, without_standardization
from floor import bandwidth, matrix_rate, operations
from torch import Tensor

import dpvision
from dpvision.cli.allocator import keep_freed_memory
from dpvision.gradients import reference_clipped_sum

PRECISIONS = ("float32", "tf32", "bfloat16")

ROWS_BY_DEFAULT = {"cpu": {32: 256, 224: 16}, "cuda": {32: 4096, 224: 256}}
"""B·K by the kind of the device and the side of the images."""


def task_of(options: argparse.Namespace) -> Task:
    """Return the same task in every process."""
    torch.manual_seed(0)
    device, side = torch.device(options.device), NETWORKS[options.network]
    shape = (options.examples, options.views, 3, side, side)
    network = build(options.network).to(device)
    views, targets = torch.rand(shape), torch.randint(10, shape[:2])
    return Task(network, views.to(device), targets.to(device), options.precision)


def serve(name: str, connection: Connection, options: argparse.Namespace) -> None:
    """In a process of its own: one batch for every message, answered with seconds and bytes of growth."""
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = options.precision == "tf32"
    torch.set_float32_matmul_precision("high" if options.precision == "tf32" else "highest")
    device = torch.device(options.device)
    try:
        if name == "before" and options.before.resolve() not in Path(dpvision.__file__).parents:
            raise ImportError(f"dpvision comes of {dpvision.__file__}")
        task = task_of(options)
        forget_memory()
        before = memory(device)
        step = prepare(name, task)
        while (asked := connection.recv()) == "step":
            wait(device)
            started = time.perf_counter()
            step()
            wait(device)
            connection.send({"seconds": time.perf_counter() - started, "bytes": memory(device) - before})
        found = step()  # compared with what was sent
        connection.send({"error": None if found is None else distance(found, asked) / length(asked)})
    except Exception as error:  # reported in the table; the others go on
        said = (str(error).splitlines() or [""])[0]
        connection.send({"failed": f"{type(error).__name__}: {said[:80]}"})


def exact_sum(options: argparse.Namespace, of_opacus: bool) -> dict[str, Tensor]:
    """Return the reference's clipped sum, on a CPU: of the network, or of what Opacus has in its place."""
    task = task_of(options)
    network = without_standardization(task.network) if of_opacus else task.network
    exact = reference_clipped_sum(network, losses, task.views, task.targets, MAX_GRAD_NORM)
    return {name: values.cpu() for name, values in exact.items()}


def distance(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    assert found.keys() == exact.keys()
    return length({name: found[name].cpu() - exact[name] for name in exact})


def length(sums: dict[str, Tensor]) -> float:
    return float(torch.stack([some.double().norm() for some in sums.values()]).norm())


def memory(device: torch.device) -> int:
    """Return the most bytes that were in use since the start, or since `forget_memory`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def forget_memory() -> None:
    """Let what was in use until now not count: a process begins with the peak of the one that started it."""
    Path("/proc/self/clear_refs").write_text("5")


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@contextmanager
def contestants(options: argparse.Namespace) -> Iterator[dict[str, Connection]]:
    """Start a process for each, and end it."""
    context = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    processes = []
    for name in ("before", *options.only) if options.before else options.only:
        ours, theirs = context.Pipe()
        # A spawned process imports everything anew, from where its parent would.
        sources = [str(options.before.resolve())] if name == "before" else []
        with mock.patch.object(sys, "path", [*sources, *sys.path]):
            process = context.Process(target=serve, args=(name, theirs, options), daemon=True)
            process.start()
        processes.append(process)
        lines[name] = ours
    try:
        yield lines
    finally:
        for process in processes:
            process.kill()
            process.join()


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one network at one K and precision: a row for each contestant, and who failed."""
    seconds: dict[str, list[float]] = {}
    peak: dict[str, int] = {}
    errors: dict[str, float | None] = {}
    failed: dict[str, str] = {}
    with contestants(options) as lines:

        def ask(name: str, what: object) -> dict[str, Any]:
            try:
                lines[name].send(what)
                answer: dict[str, Any] = lines[name].recv()
            except (BrokenPipeError, EOFError):  # the system takes what needs too much memory
                answer = {"failed": "its process was killed"}
            if "failed" in answer:
                failed[name] = answer["failed"]
            return answer

        for number in range(options.rounds + 1):  # the first warms up, and compiles
            for name in lines:
                if name in failed:
                    continue
                answer = ask(name, "step")
                if name not in failed and number:
                    peak[name] = answer["bytes"]
                    seconds.setdefault(name, []).append(answer["seconds"])
        for of_opacus in (False, True):
            names = [name for name in seconds.keys() - failed if name.startswith("opacus") == of_opacus]
            exact = exact_sum(options, of_opacus) if names else None
            for name in names:
                errors[name] = ask(name, exact).get("error")
    views = options.examples * options.views
    device = torch.device(options.device)
    dtype = torch.bfloat16 if options.precision == "bfloat16" else torch.float32
    task = task_of(argparse.Namespace(**(vars(options) | {"examples": 1})))
    floor = matrix_rate(device, dtype) / operations(task.network, task.views)

    def ratio(name: str, to: str) -> float | None:
        if to not in seconds:
            return None
        return statistics.median(p / s for p, s in zip(seconds[to], seconds[name], strict=True))

    rows = [
        {
            "name": name,
            "views_per_second": views / statistics.median(found),
            "of_plain": ratio(name, "plain"),
            "of_compiled": ratio(name, "compiled"),
            "of_floor": views / statistics.median(found) / floor,
            "peak_mib": peak[name] / 2**20,
            "error": errors.get(name),
        }
        for name, found in seconds.items()
        if name not in failed
    ]
    of_task = {name: getattr(options, name) for name in ("network", "examples", "views", "precision")}
    return {**of_task, "rows": rows, "failed": failed}


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """Say what everything ran on, and what it can do at best."""
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        hardware = f"{platform.machine()} {capability}, {options.threads} threads"
    return {
        "hardware": hardware,
        "torch": torch.__version__,
        "rounds": options.rounds,
        "float32_operations": matrix_rate(device, torch.float32),
        "bfloat16_operations": matrix_rate(device, torch.bfloat16),
        "bytes": bandwidth(device),
    }


def shown(value: float | None, form: str) -> str:
    return f"{'–':>9}" if value is None else f"{value:9{form}}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="+", default=["wrn-16-4"], choices=NETWORKS)
    parser.add_argument("--views", nargs="+", type=int, default=[16], help="K, the views per example")
    parser.add_argument(
        "--examples",
        type=int,
        help="B, by default so many that B·K is 256 on a CPU, or 16 at 224 px; 4096 and 256 on a GPU",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=PRECISIONS)
    parser.add_argument("--only", nargs="+", default=CONTESTANTS, choices=CONTESTANTS, metavar="NAME")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--before", type=Path, metavar="SRC", help="sources of another commit, to compare with"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all of it as JSON")
    options = parser.parse_args()

    of_machine = machine(options)
    found: dict[str, Any] = {"machine": of_machine, "tables": []}
    print(
        f"{of_machine['hardware']}, torch {torch.__version__}, {options.rounds} rounds; matrix products: "
        f"{of_machine['float32_operations'] / 1e9:.0f} GFLOP/s in float32, "
        f"{of_machine['bfloat16_operations'] / 1e9:.0f} in bfloat16; memory: "
        f"{of_machine['bytes'] / 1e9:.1f} GB/s"
    )
    examples = options.examples
    for network, precision, views in product(options.network, options.precision, options.views):
        rows = ROWS_BY_DEFAULT[torch.device(options.device).type][NETWORKS[network]]
        chosen = {"network": network, "precision": precision, "views": views}
        chosen["examples"] = examples or max(1, rows // views)
        table = measured(argparse.Namespace(**(vars(options) | chosen)))
        found["tables"].append(table)
        print(f"\n{network}, {NETWORKS[network]} px, B = {table['examples']}, K = {views}, {precision}")
        heads = ("views/s", "of plain", "of comp.", "of floor", "peak MiB", "error")
        print(f"{'':14}" + "".join(f" {head:>9}" for head in heads))
        for row in table["rows"]:
            forms = (".1f", ".2f", ".2f", ".3f", ".0f", ".1e")
            values = [row[key] for key in row if key != "name"]
            print(f"{row['name']:14}", *map(shown, values, forms), flush=True)
        for name, error in table["failed"].items():
            print(f"{name:14} failed: {error}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
