"""What the defaults of dp-randp are worth on sets that differ in kind.

    python benchmarks/defaults.py --cifar10 cifar10 --fashion fashion-mnist
    python benchmarks/defaults.py --only digits --set steps=20    # other settings

The sets are parts of training splits: of 2 to 40 classes, of 240 to 8,000 images, balanced and 1 to 20, grey
and colour; the one of 40 classes is made, of ten that are turned by quarters. Each is trained on with the
defaults at ε = 0.2, 1 and 4 (δ = 1e-5), and tested on images of the same training split that were left out.
The table has accuracy, the mean of the classes' accuracies, and the loss of the classifier and of guessing on
the images that were left out. Features are computed once for a set.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.cli.options import with_settings
from dpvision.images import Images, open_images
from dpvision.methods import Session, Workplace, calibrate, dp_randp
from dpvision.methods.dp_randp import DPRandP
from dpvision.priors.feature_classifier import encoded
from dpvision.privacy import Account, Budget, PublicFacts, SecureRandom

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


def sets(options: argparse.Namespace) -> Iterator[tuple[str, Images]]:
    """Names and images; a fifth of each, at least 200, will be left out."""
    yield "digits", open_images("bundled:digits")
    if options.fashion:
        fashion = open_images(options.fashion)
        yield "fashion, 2 classes", some(fashion, [0, 6], [2900] * 2)
        yield "fashion, 10 classes", some(fashion, list(range(10)), [700] * 10)
    if options.cifar10:
        cifar = open_images(options.cifar10)
        yield "cifar, 2 classes", some(cifar, [3, 5], [2900] * 2)
        yield "cifar, 2 classes, 300 images", some(cifar, [1, 8], [250] * 2)
        yield "cifar, 2 classes, 1 to 20", some(cifar, [0, 1], [250, 5000])
        yield "cifar, 5 classes", some(cifar, [0, 2, 4, 6, 8], [1300] * 5)
        yield "cifar, 10 classes", some(cifar, list(range(10)), [1000] * 10)
        yield "cifar turned, 40 classes", turned(some(cifar, list(range(10)), [1000] * 10))


def trained(
    images: Images, features: Tensor, epsilon: float, overrides: dict[str, object]
) -> dict[str, object]:
    """Settings and the classifier's logits on the features that were left out."""
    method, budget = DPRandP(), Budget(epsilon, 1e-5)
    facts = PublicFacts(len(images), images.shape, images.class_names)
    config = method.default_config(facts, budget, CPU, overrides)
    stages = calibrate(partial(method.stages, config, facts), len(images), budget)
    account = Account(budget, None, "benchmark", stages.events)
    account.open()
    with mock.patch.object(dp_randp, "encoded", return_value=features[: len(images)]):
        session = Session(images, facts, stages, lambda: account, SecureRandom(), CPU)
        learned = method.learn(config, session)
    model = method.finish(config, learned, facts, Workplace(CPU)).model
    with torch.no_grad():
        logits = model.network.get_submodule("head")(features[len(images) :])
    return {"logits": logits, "steps": config.steps, "learning_rate": config.learning_rate}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar10", help="where CIFAR-10 is")
    parser.add_argument("--fashion", help="where Fashion-MNIST is")
    parser.add_argument("--only", nargs="*", help="names of sets")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each, of which the mean is shown")
    parser.add_argument("--json", action="store_true", help="a JSON object for each row instead of a table")
    options = parser.parse_args()
    overrides = with_settings({}, options.settings)
    if not options.json:
        columns = (
            f"{'ε':>4} {'steps':>6} {'rate':>6} {'accuracy':>9} {'by class':>9} {'loss':>6} {'guess':>6}"
        )
        print(f"{'':30} {columns}")
    for name, images in sets(options):
        if options.only and name not in options.only:
            continue
        left_out = max(len(images) // 5, 200)
        assert images.labels is not None
        private, targets = images.subset(range(len(images) - left_out)), images.labels[-left_out:]
        facts = PublicFacts(len(private), images.shape, images.class_names)
        config = DPRandP().default_config(facts, Budget(1.0, 1e-5), CPU, overrides)
        features = encoded(config.build_model(facts), images.pixels)
        for epsilon in EPSILONS:
            rows = []
            for _ in range(options.seeds):
                found = trained(private, features, epsilon, overrides)
                logits = found["logits"]
                right = (logits.argmax(dim=1) == targets).float()
                by_class = [float(right[targets == k].mean()) for k in targets.unique()]
                loss = float(F.cross_entropy(logits, targets))
                rows.append((float(right.mean()), sum(by_class) / len(by_class), loss))
            accuracy, mean, loss = (sum(column) / len(rows) for column in zip(*rows, strict=True))
            row = {
                "set": name, "images": len(private), "epsilon": epsilon, "steps": found["steps"],
                "learning_rate": found["learning_rate"], "accuracy": accuracy, "by_class": mean, "loss": loss,
                "guessing": math.log(len(images.class_names)),
            }  # fmt: skip
            if options.json:
                print(json.dumps(row), flush=True)
                continue
            print(
                f"{name:30} {epsilon:4g} {found['steps']:6} {found['learning_rate']:6.3g} {accuracy:9.2%} "
                f"{mean:9.2%} {loss:6.2f} {row['guessing']:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
