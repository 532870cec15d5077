"""How a step scales over processes, and what travels in it.

    python benchmarks/processes.py
    python benchmarks/processes.py --kind features

Each process has a core of its own, as far as there are cores, and one thread; the batch is the same for any
number of them. A line has the median seconds of a step; how many times as fast as one process that is; the
seconds in which the first process makes noise and moves the weights while the others wait; and the bytes that
travel in a step from or to each process, counted where torch sends them.

The last lines say what is to be expected of more processes than there are cores here: the seconds of all
examples over the number of processes, those of the first process alone, and the bytes over a network of 10 or
of 100 Gbit/s, where a sum and the new weights pass each process once (rings do so), or log₂ of the number of
times (trees).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import Any

SECONDS_OF_A_BYTE = {"10 Gbit/s": 8 / 10e9, "100 Gbit/s": 8 / 100e9}
CLASSES = 10


def of_one_process(options: argparse.Namespace) -> None:
    """Take steps in this process, which is one of several, and print what they took."""
    import torch
    from torch import Tensor, nn

    from dpvision.gradients import ClippedGradient
    from dpvision.images import Images
    from dpvision.methods.gradient_descent import cross_entropy
    from dpvision.methods.session import own_share
    from dpvision.networks import build_classifier
    from dpvision.parallel import peers, share_of
    from dpvision.privacy import Account, Budget, FullBatch, GaussianSumMechanism, SecureRandom
    from dpvision.training import Examples, Phase, PrivateTrainer, Rows
    from dpvision.views import SelfAugmentation, Unchanged, ViewPolicy

    torch.set_num_threads(1)
    group, generator = peers(), torch.Generator().manual_seed(0)
    labels = torch.arange(options.examples) % CLASSES
    model: nn.Module
    examples: Examples
    policy: ViewPolicy
    if options.kind == "features":
        rows = torch.randn(options.examples, 2048, generator=generator)
        own = share_of(group, torch.arange(options.examples), options.examples)
        model, policy = nn.Linear(2048, CLASSES), Unchanged()
        examples, labels, ids = Rows(rows[own]), labels[own], own
    else:
        pixels = torch.randint(256, (options.examples, 3, 32, 32), dtype=torch.uint8, generator=generator)
        images = own_share(
            Images(pixels, labels, tuple(map(str, range(CLASSES))), "random"), group, options.examples
        )
        assert images.labels is not None
        model = build_classifier(options.network, image_shape=(3, 32, 32), class_names=images.class_names)
        policy = SelfAugmentation(options.views, pad=4, flip=True)
        examples, labels, ids = images, images.labels, images.ids
    engine = ClippedGradient(
        model, cross_entropy, 1.0, expected_batch_size=options.examples, engine="by-size"
    )
    engine.share(group.size)
    mechanism = GaussianSumMechanism(1.0, 1.0, FullBatch(options.examples))
    trainer = PrivateTrainer(
        model,
        examples,
        labels,
        policy=policy,
        engine=engine,
        mechanism=mechanism.over(len(ids)),
        phases=[Phase(options.steps, "sgd", 0.1)],
        ema_decay=0.9,
        random=SecureRandom(),
        ids=ids,
        peers=group,
    )
    seconds, of_sums = [], list[float]()
    added = trainer._sum_of_batch

    def timed(keys: Any) -> Any:
        began = perf_counter()
        found = added(keys)
        of_sums.append(perf_counter() - began)
        return found

    trainer._sum_of_batch = timed  # type: ignore[method-assign]
    with counted() as travelled:
        if not group.leads:
            trainer.follow()
            return
        account = Account(Budget(1e6, 1e-5), None, "benchmark", [mechanism.cost(options.steps)])
        account.open()
        for _ in range(options.steps):
            began = perf_counter()
            trainer.step(account)
            seconds.append(perf_counter() - began)
        trainer.end()
    some = slice(1, None)  # the first measures, and fills caches
    parameters: list[Tensor] = list(model.parameters())
    print(
        json.dumps(
            {
                "seconds": median(seconds[some]),
                "alone": median(
                    whole - sums for whole, sums in zip(seconds[some], of_sums[some], strict=True)
                ),
                "bytes": travelled[0] / options.steps,
                "parameters": sum(parameter.numel() for parameter in parameters),
            }
        )
    )


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count the bytes of all that this process broadcasts, sums, sends or receives."""
    import torch.distributed as dist

    total = [0]
    names = ("broadcast", "reduce", "send", "recv", "irecv")
    functions = {name: getattr(dist, name) for name in names}

    def counting(name: str) -> Any:
        def call(tensor: Any, *more: Any, **named: Any) -> Any:
            total[0] += tensor.nbytes
            return functions[name](tensor, *more, **named)

        return call

    for name in names:
        setattr(dist, name, counting(name))
    try:
        yield total
    finally:
        for name, function in functions.items():
            setattr(dist, name, function)


def in_processes(size: int, arguments: list[str]) -> dict[str, Any]:
    """Take the steps in so many processes, which torchrun starts."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    command = [*launcher, __file__, "--one", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def take_a_core() -> None:
    """Let this process have a core of its own, as far as there are any."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["RANK"]) % len(cores)]})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=("network", "features"), default="network")
    parser.add_argument("--network", default="wrn-16-4")
    parser.add_argument("--views", type=int, default=4, help="K, of the network")
    parser.add_argument("--examples", type=int, help="of a batch; 128 of the network, 40,000 of features")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.examples = options.examples or (128 if options.kind == "network" else 40_000)
    if options.one:
        take_a_core()
        return of_one_process(options)
    print(f"{os.cpu_count()} cores; {options.examples} examples a step, {options.steps - 1} steps counted")
    print("processes  seconds  faster  first alone  bytes of a step")
    arguments = [word for word in sys.argv[1:] if word != "--one"]
    found = {size: in_processes(size, arguments) for size in options.processes}
    first = found[min(found)]
    for size, one in found.items():
        faster = first["seconds"] / one["seconds"]
        print(f"{size:9}  {one['seconds']:7.3f}  {faster:6.2f}  {one['alone']:11.3f}  {one['bytes']:15,.0f}")
    alone, parameters = first["alone"], first["parameters"]
    print(f"{parameters:,} parameters: 8 bytes of each to be summed, 4 of new weights; expected then:")
    print("processes  seconds alone  " + "  ".join(f"{name + ', faster':>21}" for name in SECONDS_OF_A_BYTE))
    for size in (2, 8, 64):
        computing = (first["seconds"] - alone) / size + alone
        cells = []
        for of_a_byte in SECONDS_OF_A_BYTE.values():
            ring = computing + 12 * parameters * of_a_byte
            tree = computing + 12 * parameters * of_a_byte * math.log2(size)
            cells.append(f"{first['seconds'] / ring:.2f} to {first['seconds'] / tree:.2f}")
        print(f"{size:9}  {computing:13.3f}  " + "  ".join(f"{cell:>21}" for cell in cells))


if __name__ == "__main__":
    main()
