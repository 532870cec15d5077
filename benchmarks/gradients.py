"""How fast clipped gradients are: WRN-16-4 on 32-pixel images, against plain SGD, Opacus and torch.func.

    python benchmarks/gradients.py [--views 16] [--examples 8] [--rounds 5] [--precision auto] [--threads 2]
    python benchmarks/gradients.py --before ../other-checkout/src    # our engine of another commit, too

Every contestant lives in a process of its own and is given the same views. They take turns, one batch each a
round, so that a machine that slows down slows all; the table gives medians over the rounds, of views a second
and of the ratio to plain SGD in the same round. Peak memory is what the process grew by once it had the views
(its resident set; on a GPU, allocated memory).

- ours: ``ClippedGradient`` (one gradient per example, of the mean loss over its K views).
- before: the same of another checkout, where ``--before`` names its sources.
- plain: forward and backward of the mean loss: what training without privacy pays.
- opacus-hooks: Opacus has no views; every view is an example of its own there, and the gradients of each K
  are averaged (as users of views with Opacus do) and clipped. Weight-standardised convolutions, for which it
  has no rule, are plain convolutions, in its favour.
- opacus-ghost: the same with ghost clipping, which cannot average: for K > 1 it clips every view by itself,
  and so computes something else, and less.
- vmap: ``torch.func``: vmap of grad over examples, each with its K views.
"""

from __future__ import annotations

import argparse
import inspect
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.gradients import ClippedGradient, resolve_precision
from dpvision.networks import WeightStandardizedConv2d, build_network

CONTESTANTS = ("ours", "plain", "opacus-hooks", "opacus-ghost", "vmap")


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="none")


def without_standardization(network: nn.Module) -> nn.Module:
    """The same network with nn.Conv2d for every WeightStandardizedConv2d."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, WeightStandardizedConv2d):
                conv = nn.Conv2d(
                    child.in_channels, child.out_channels, child.kernel_size, child.stride, child.padding
                )
                setattr(module, name, conv)
    return network


def prepare(name: str, views: Tensor, targets: Tensor, precision: str) -> Callable[[], object]:
    """A function that computes one batch's gradient."""
    device = views.device
    network = build_network("wrn-16-4", in_channels=3, image_size=(32, 32), num_classes=10).to(device)
    autocast = resolve_precision(precision, device)  # type: ignore[arg-type]
    lower = torch.autocast(device.type, dtype=autocast, enabled=autocast is not None)
    rows, labels = views.flatten(0, 1).contiguous(memory_format=torch.channels_last), targets.flatten()

    if name in ("ours", "before"):
        # The engine of an earlier commit is not told the size of batches.
        sizes = {"expected_batch_size": len(views)}
        sizes = sizes if sizes.keys() <= inspect.signature(ClippedGradient).parameters.keys() else {}
        engine = ClippedGradient(network, losses, 1.0, precision=precision, **sizes)  # type: ignore[arg-type]
        return lambda: engine.sum(views, targets)

    if name == "plain":

        def plain() -> None:
            network.zero_grad()
            with lower:
                logits = network(rows)
            losses(logits, labels).mean().backward()

        return plain

    if name == "vmap":
        parameters = {key: value.detach() for key, value in network.named_parameters()}

        def mean_loss(values: dict[str, Tensor], own: Tensor, own_targets: Tensor) -> Tensor:
            with lower:
                logits = torch.func.functional_call(network, values, (own,))
            return losses(logits, own_targets).mean()

        per_example = torch.func.vmap(torch.func.grad(mean_loss), in_dims=(None, 0, 0))

        def by_vmap() -> None:
            found = per_example(parameters, views, targets)
            norms = torch.stack([g.flatten(1).norm(dim=1) for g in found.values()]).norm(dim=0)
            factors = (1.0 / norms).clamp(max=1)
            _ = {key: torch.einsum("b,b...->...", factors, g) for key, g in found.items()}

        return by_vmap

    from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping

    network = without_standardization(network).to(device)
    rows = views.flatten(0, 1)  # of images with channels last Opacus 1.6.0 computes wrong gradients
    if name == "opacus-hooks":
        sampled = GradSampleModule(network)

        def hooks() -> None:
            sampled.zero_grad()
            with lower:
                logits = sampled(rows)
            losses(logits, labels).mean().backward()
            gradients = [
                p.grad_sample.unflatten(0, views.shape[:2]).mean(dim=1) for p in sampled.parameters()
            ]
            norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
            factors = (1.0 / norms).clamp(max=1)
            _ = [torch.einsum("b,b...->...", factors, g) for g in gradients]

        return hooks

    ghostly = GradSampleModuleFastGradientClipping(network, max_grad_norm=1.0, use_ghost_clipping=True)

    def ghost() -> None:
        ghostly.zero_grad()
        with lower:
            logits = ghostly(rows)
        each = losses(logits, labels)
        each.mean().backward(retain_graph=True)  # the first pass takes norms
        factors = ghostly.get_clipping_coef()
        ghostly.zero_grad()
        ghostly.disable_hooks()
        (factors * each).sum().backward()
        ghostly.enable_hooks()

    return ghost


def serve(name: str, connection: Connection, options: argparse.Namespace) -> None:
    """In a process of its own: one batch for every message, answered with seconds and bytes of growth."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    try:
        views = torch.rand(options.examples, options.views, 3, 32, 32, device=device)
        targets = torch.randint(10, (options.examples, options.views), device=device)
        before = memory(device)
        step = prepare(name, views, targets, options.precision)
        while connection.recv():
            wait(device)
            started = time.perf_counter()
            step()
            wait(device)
            connection.send({"seconds": time.perf_counter() - started, "bytes": memory(device) - before})
    except Exception as error:  # reported in the table; the others go on
        connection.send({"error": f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"})


def memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--views", type=int, default=16, help="K, the views per example")
    parser.add_argument("--examples", type=int, help="B, by default 128 / K or 8, whichever is more")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--before", type=Path, metavar="SRC", help="sources of another commit, to compare with"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    options.examples = options.examples or max(8, 128 // options.views)

    context = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    for name in ("before", *CONTESTANTS) if options.before else CONTESTANTS:
        ours, theirs = context.Pipe()
        # A spawned process imports everything anew, from where this says.
        sources = {"PYTHONPATH": str(options.before.resolve())} if name == "before" else {}
        with mock.patch.dict(os.environ, sources):
            context.Process(target=serve, args=(name, theirs, options), daemon=True).start()
        lines[name] = ours

    rounds: dict[str, list[float]] = {name: [] for name in lines}
    peak: dict[str, int] = {}
    failed: dict[str, str] = {}
    for number in range(options.rounds + 1):  # the first warms up
        for name, line in lines.items():
            if name in failed:
                continue
            line.send(True)
            answer = line.recv()
            if "error" in answer:
                failed[name] = answer["error"]
                continue
            peak[name] = answer["bytes"]
            if number:
                rounds[name].append(answer["seconds"])
    for name, line in lines.items():
        if name not in failed:
            line.send(False)

    batch = options.examples * options.views
    precision = "bfloat16" if resolve_precision(options.precision, options.device) else "float32"
    header = (
        f"WRN-16-4, 32 px, B = {options.examples}, K = {options.views}, {precision}, {options.device}, "
        f"{options.threads} threads, {options.rounds} rounds, torch {torch.__version__}, {platform.machine()}"
    )
    rows = [
        {
            "name": name,
            "views_per_second": batch / statistics.median(seconds),
            "of_plain": statistics.median(p / s for p, s in zip(rounds["plain"], seconds, strict=True)),
            "peak_mib": peak[name] / 2**20,
        }
        for name, seconds in rounds.items()
        if name not in failed
    ]
    if options.json:
        print(json.dumps({"setting": header, "rows": rows, "failed": failed}))
        return
    print(header)
    print(f"{'':14} {'views/s':>9} {'of plain':>9} {'peak MiB':>9}")
    for row in rows:
        print(
            f"{row['name']:14} {row['views_per_second']:9.1f} {row['of_plain']:9.2f} {row['peak_mib']:9.0f}"
        )
    for name, error in failed.items():
        print(f"{name:14} failed: {error}")


if __name__ == "__main__":
    main()
