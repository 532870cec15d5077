"""What the release of DP-MEPF costs: seconds, against one pass of the encoder, and memory.

    python benchmarks/release.py DATA [--count N] [--encoders vgg19 pixels] [--threads 2]

- vgg19: the outputs of its 16 convolutions, 303,104 features for images of 32 pixels. Its weights are random,
  which changes neither time nor memory.
- pixels: what dp-mepf takes by default, all products of two pixels.

For each, "forward" only computes the features, in the same batches; "φ1", and "φ1, φ2" with
second_moment_weight = 1, make the sums of all classes and then add noise to them, which takes as long for few
images as for many. Each lives in a process of its own, and they take turns, 1,000 images each, so that a
machine that slows down slows all. Seconds are those of all images. Peak memory is that of the process, with
PyTorch and all images in it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dpvision.cli.allocator import keep_freed_memory
from dpvision.images import Images, open_images
from dpvision.methods.dp_mepf import DPMEPF, embedding_sums
from dpvision.networks.vgg import vgg19
from dpvision.priors import build_encoder
from dpvision.privacy import Budget, Event, PublicFacts, SecureRandom
from dpvision.privacy.mean_embedding import MeanEmbedding

CPU = torch.device("cpu")
SECOND_MOMENT_WEIGHTS = {"forward": 0.0, "φ1": 0.0, "φ1, φ2": 1.0}
IMAGES_A_TURN = 1000


class Forward(MeanEmbedding):
    """Adds nothing: what is left is one pass of the encoder."""

    def add(self, sums: Mapping[str, Tensor], features: Tensor, labels: Tensor | None) -> None:
        pass


class NoAccount:
    """What is released here stays here."""

    def record(self, event: Event) -> None:
        pass


def random_weights(path: str) -> None:
    """A weights file of vgg19 as He et al. (arXiv 1502.01852) initialise it."""
    network = vgg19()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    save_file(network.state_dict(), path)


def read(options: argparse.Namespace) -> Images:
    images = open_images(options.data)
    return images if options.count is None else images.subset(range(min(options.count, len(images))))


def serve(
    name: str, encoder_name: str, weights: str, connection: Connection, options: argparse.Namespace
) -> None:
    """In a process of its own. Sends the number of features, the seconds of every turn and of the noise,
    and the peak memory in bytes.
    """
    keep_freed_memory()  # as the command does
    torch.set_num_threads(options.threads)
    images = read(options)
    chosen = (
        {} if encoder_name == "pixels" else {"encoder": encoder_name, "encoder_options": {"weights": weights}}
    )
    facts = PublicFacts(len(images), images.shape, images.class_names)
    overrides = {**chosen, "second_moment_weight": SECOND_MOMENT_WEIGHTS[name]}
    config = DPMEPF().default_config(facts, Budget(1.0, 1e-6), CPU, overrides)
    encoder = build_encoder(config.encoder, images.shape, **config.encoder_options)
    mechanism = config.mechanism(encoder.out_features, len(images.class_names))
    if name == "forward":
        mechanism = Forward(**vars(mechanism))
    embedding_sums(encoder, images.subset(range(50)), mechanism, CPU)  # warms up
    connection.send(encoder.out_features)

    while (indices := connection.recv()) is not None:
        some = images.subset(indices)
        started = time.perf_counter()
        sums = embedding_sums(encoder, some, mechanism, CPU)
        connection.send(time.perf_counter() - started)

    started = time.perf_counter()
    if name != "forward":
        mechanism.mechanism(1.0, len(images)).release(sums, NoAccount(), SecureRandom())
    connection.send(time.perf_counter() - started)
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def compare(
    encoder_name: str, weights: str, count: int, options: argparse.Namespace
) -> list[dict[str, object]]:
    """A row for each contestant."""
    context = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    for name in SECOND_MOMENT_WEIGHTS:
        lines[name], theirs = context.Pipe()
        process = context.Process(
            target=serve, args=(name, encoder_name, weights, theirs, options), daemon=True
        )
        process.start()
        theirs.close()  # if it fails, recv does too
    num_features = {name: line.recv() for name, line in lines.items()}  # once all are ready
    seconds = dict.fromkeys(lines, 0.0)
    for turn in torch.arange(count).split(IMAGES_A_TURN):
        for name, line in lines.items():
            line.send(turn.tolist())
            seconds[name] += line.recv()
    rows: list[dict[str, object]] = []
    for name, line in lines.items():
        line.send(None)
        seconds[name] += line.recv()
        rows.append(
            {
                "encoder": encoder_name,
                "features": num_features[name],
                "name": name,
                "seconds": seconds[name],
                "of_forward": seconds[name] / seconds["forward"],
                "peak_mib": line.recv() / 2**20,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA", help="labelled images, whose train split is read")
    parser.add_argument("--count", type=int, help="take the first so many images; by default all")
    parser.add_argument("--encoders", nargs="+", choices=("vgg19", "pixels"), default=("vgg19", "pixels"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()

    images = read(options)
    count, shape, classes = len(images), "×".join(map(str, images.shape)), len(images.class_names)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "vgg19.safetensors")
        random_weights(weights)
        for encoder_name in options.encoders:
            rows += compare(encoder_name, weights, count, options)
    header = (
        f"{options.data}: {count} images of {shape}, {classes} classes, {options.threads} threads, "
        f"torch {torch.__version__}, {platform.machine()}"
    )
    if options.json:
        print(json.dumps({"setting": header, "rows": rows}))
        return
    print(header)
    print(f"{'':8} {'features':>9} {'':9} {'seconds':>9} {'of forward':>11} {'peak MiB':>9}")
    for row in rows:
        print(
            f"{row['encoder']:8} {row['features']:9} {row['name']:9} {row['seconds']:9.1f} "
            f"{row['of_forward']:11.3f} {row['peak_mib']:9.0f}"
        )


if __name__ == "__main__":
    main()
