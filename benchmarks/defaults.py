"""What the defaults of the classifiers' methods are worth on sets that differ in kind.

    python benchmarks/defaults.py --cifar10 cifar10 --fashion fashion-mnist
    python benchmarks/defaults.py --method dp-randp --only digits --set steps=20    # other settings

The sets are parts of training splits: of 2 to 100 classes, of 300 to 40,000 images, balanced and 1 to 20,
grey and colour; those of 40 and 100 classes are made, of ten that are turned by quarters and whose colours
change places. Each is trained on with a method's defaults at ε = 0.2, 1 and 4 (δ = 1e-5), and tested on
images of the same training split that were left out. The table has accuracy, the mean of the classes'
accuracies, the loss of the classifier and of guessing on the images that were left out, and the seconds of
training. Features are computed once for a set; every run counts the time that its own would take.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.cli.options import with_settings
from dpvision.images import Images, open_images
from dpvision.methods import Method, Session, Workplace, calibrate, find_method
from dpvision.methods.features import EncoderSettings, features_of
from dpvision.priors.feature_classifier import encoded
from dpvision.privacy import Account, Budget, PublicFacts, SecureRandom

METHODS = ("dp-sgd", "dp-randp", "dp-ridge")
EPSILONS = (0.2, 1.0, 4.0)
CPU = torch.device("cpu")


def some(images: Images, classes: Sequence[int], counts: Sequence[int]) -> Images:
    """So many images of each of these classes, in a random order that is always the same."""
    assert images.labels is not None
    generator = torch.Generator().manual_seed(0)
    found = []
    for label, count in zip(classes, counts, strict=True):
        of_class = (images.labels == label).nonzero().squeeze(1)
        found.append(of_class[torch.randperm(len(of_class), generator=generator)[:count]])
    chosen = torch.cat(found)
    chosen = chosen[torch.randperm(len(chosen), generator=generator)]
    labels = torch.tensor([classes.index(label) for label in images.labels[chosen].tolist()])
    names = tuple(images.class_names[label] for label in classes)
    return Images(images.pixels[chosen], labels, names, images.source)


def turned(images: Images) -> Images:
    """Each image turned by some quarters, and its class and these together as a class of their own."""
    assert images.labels is not None
    quarters = torch.arange(len(images)) % 4
    pixels = torch.stack(
        [torch.rot90(p, int(q), (1, 2)) for p, q in zip(images.pixels, quarters, strict=True)]
    )
    names = tuple(f"{name} {quarter}" for name in images.class_names for quarter in range(4))
    return Images(pixels, images.labels * 4 + quarters, names, images.source)


def coloured(images: Images) -> Images:
    """Each image turned by a quarter or not, its colours in one of five orders, some of them inverted, and
    its class and these together as a class of their own.
    """
    assert images.labels is not None
    kinds = torch.arange(len(images)) % 10
    pixels = []
    for image, kind in zip(images.pixels, kinds.tolist(), strict=True):
        turned_, colours = kind % 2, kind // 2
        image = torch.rot90(image, turned_, (1, 2)).roll(colours % 3, dims=0)
        pixels.append(255 - image if colours > 2 else image)
    names = tuple(f"{name} {kind}" for name in images.class_names for kind in range(10))
    return Images(torch.stack(pixels), images.labels * 10 + kinds, names, images.source)


def sets(options: argparse.Namespace) -> Iterator[tuple[str, Images]]:
    """Names and images; a fifth of each, at least 200, will be left out."""
    everything = list(range(10))

    digits = open_images("bundled:digits")
    yield "digits", digits
    yield "digits, 300 images", some(digits, everything, [50] * 10)
    if options.fashion:
        fashion = open_images(options.fashion)
        yield "fashion, 10 classes, 300 images", some(fashion, everything, [50] * 10)
        yield "fashion, 2 classes", some(fashion, [0, 6], [2900] * 2)
        yield "fashion, 2 classes, 1 to 20", some(fashion, [0, 6], [250, 5000])
        yield "fashion, 10 classes", some(fashion, everything, [700] * 10)
        yield "fashion, 10 classes, 40,000 images", some(fashion, everything, [5000] * 10)
    if options.cifar10:
        cifar = open_images(options.cifar10)
        yield "cifar, 2 classes", some(cifar, [3, 5], [2900] * 2)
        yield "cifar, 2 classes, 300 images", some(cifar, [1, 8], [250] * 2)
        yield "cifar, 2 classes, 1 to 20", some(cifar, [0, 1], [250, 5000])
        yield "cifar, 5 classes", some(cifar, [0, 2, 4, 6, 8], [1300] * 5)
        yield "cifar, 10 classes", some(cifar, everything, [1000] * 10)
        yield "cifar turned, 40 classes", turned(some(cifar, everything, [1000] * 10))
        yield "cifar coloured, 100 classes", coloured(some(cifar, everything, [625] * 10))


class Features:
    """Features of the images of a set, computed once for a choice of encoder; in a folder, if one is given,
    also for later processes that run the same code.
    """

    def __init__(self, images: Images, facts: PublicFacts, folder: Path | None = None) -> None:
        self.images, self.facts, self.folder = images, facts, folder
        self.found: dict[str, tuple[Tensor, float]] = {}

    def of(self, config: EncoderSettings) -> tuple[Tensor, float]:
        """Features of all images, and the seconds that one image takes."""
        key = f"{config.encoder} {config.encoder_options} {config.mirror}"
        if key not in self.found:
            self.found[key] = self._kept(key) or self._computed(key, config)
        return self.found[key]

    def _computed(self, key: str, config: EncoderSettings) -> tuple[Tensor, float]:
        started = perf_counter()
        features = encoded(config.build_model(self.facts), self.images)
        found = features, (perf_counter() - started) / len(features)
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            torch.save(found, self._file(key))
        return found

    def _kept(self, key: str) -> tuple[Tensor, float] | None:
        file = self._file(key)
        return tuple(torch.load(file)) if file and file.exists() else None

    def _file(self, key: str) -> Path | None:
        if self.folder is None:
            return None
        of_images = hashlib.sha256(self.images.pixels.numpy()).hexdigest()
        return self.folder / f"{hashlib.sha256(f'{of_images} {key}'.encode()).hexdigest()[:16]}.pt"


def trained(
    method: Method, features: Features, private: Images, budget: Budget, overrides: Mapping[str, object]
) -> dict[str, Any]:
    """Settings, seconds, and the classifier's logits on the images that were left out."""
    facts, count, encoding = features.facts, len(private), 0.0
    config = method.default_config(facts, budget, CPU, overrides)
    stages = calibrate(partial(method.stages, config, facts), count, budget)
    account = Account(budget, None, "benchmark", stages.events)
    account.open()
    given = nullcontext()
    if isinstance(config, EncoderSettings):
        computed, seconds = features.of(config)
        encoding = seconds * count
        given = mock.patch.object(
            sys.modules[type(method).__module__], "encoded", return_value=computed[:count]
        )
    started = perf_counter()
    with given:
        session = Session(private, facts, stages, lambda: account, SecureRandom(), CPU)
        learned = method.learn(config, session)
    model = method.finish(config, learned, facts, Workplace(CPU)).model.eval()
    seconds = perf_counter() - started + encoding
    with torch.no_grad():
        if isinstance(config, EncoderSettings):
            logits = features_of(model).head(computed[count:])
        else:
            logits = torch.cat([model(some) for some in features.images.pixels[count:].split(500)])
    settings = {name: getattr(config, name, None) for name in ("network", "steps", "learning_rate")}
    return {"logits": logits, "seconds": seconds, **settings}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar10", help="where CIFAR-10 is")
    parser.add_argument("--fashion", help="where Fashion-MNIST is")
    parser.add_argument("--method", nargs="+", default=METHODS, help="names of methods")
    parser.add_argument("--only", nargs="*", help="names of sets")
    parser.add_argument("--epsilon", nargs="+", type=float, default=EPSILONS, help="of the budgets")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each, of which the mean is shown")
    parser.add_argument("--json", action="store_true", help="a JSON object for each row instead of a table")
    options = parser.parse_args()
    overrides = with_settings({}, options.settings)
    if not options.json:
        columns = (
            f"{'ε':>4} {'steps':>5} {'rate':>7} {'accuracy':>9} {'by class':>8} {'loss':>5} {'guess':>5}"
        )
        print(f"{'':35} {'method':8} {columns} {'seconds':>7}")
    for name, images in sets(options):
        if options.only and name not in options.only:
            continue
        left_out = max(len(images) // 5, 200)
        assert images.labels is not None
        private, targets = images.subset(range(len(images) - left_out)), images.labels[-left_out:]
        features = Features(images, PublicFacts(len(private), images.shape, images.class_names))
        for method in map(find_method, options.method):
            for epsilon in options.epsilon:
                rows = []
                for _ in range(options.seeds):
                    found = trained(method, features, private, Budget(epsilon, 1e-5), overrides)
                    logits = found["logits"]
                    right = (logits.argmax(dim=1) == targets).float()
                    by_class = [float(right[targets == k].mean()) for k in targets.unique()]
                    loss = float(F.cross_entropy(logits, targets))
                    rows.append((float(right.mean()), sum(by_class) / len(by_class), loss, found["seconds"]))
                accuracy, mean, loss, seconds = (
                    sum(column) / len(rows) for column in zip(*rows, strict=True)
                )
                row = {
                    "set": name, "images": len(private), "method": method.name, "epsilon": epsilon,
                    "network": found["network"], "steps": found["steps"],
                    "learning_rate": found["learning_rate"], "accuracy": accuracy, "by_class": mean,
                    "loss": loss, "guessing": math.log(len(images.class_names)), "seconds": seconds,
                }  # fmt: skip
                if options.json:
                    print(json.dumps(row), flush=True)
                    continue
                steps, rate = found["steps"] or 1, found["learning_rate"] or 0
                print(
                    f"{name:35} {method.name:8} {epsilon:4g} {steps:5} {rate:7.3g} {accuracy:9.2%} "
                    f"{mean:8.2%} {loss:5.2f} {row['guessing']:5.2f} {seconds:7.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
