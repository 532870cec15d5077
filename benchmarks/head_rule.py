"""Whether steps, rate and clipping by default are near the best for a head, on public images alone.

    python benchmarks/head_rule.py [--images 10000] [--epsilon 0.5 1 2 4 8] [--seeds 3] [--shape 1 28 28]

The images are of random processes, not those that encoders are whitened by, and a network with random
weights labels them: a class is drawn from the softmax of a linear function of its features. The head sees the
features of another encoder, and is tested on images of its own. For each ε a setting is multiplied by powers
of two; the others follow from it as they do in ``dpvision train --set``. Each line has the accuracies' mean
and standard deviation over runs that differ in their noise alone, and a star where that is better than by
default by more than two standard errors.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from statistics import mean, stdev

import torch
from defaults import CPU, Features, trained

from dpvision.images import Images
from dpvision.methods import find_method
from dpvision.priors import build_encoder
from dpvision.priors.encoders.process_images import process_images
from dpvision.privacy import Budget, PublicFacts

FACTORS = (0.25, 0.5, 2.0, 4.0)
SETTINGS = ("learning_rate", "steps", "max_grad_norm")
CLASSES = 10
SURE = 3.0
"""The standard deviation of the teacher's logits."""
METHOD = "dp-randp"


def labelled(shape: tuple[int, int, int], count: int) -> Images:
    """Return images of random processes with labels by a random teacher."""
    pixels = torch.cat([*process_images(shape, count, seed=1)])
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        teacher = build_encoder("random-wrn-10-1", shape)
        found = torch.cat([teacher(some.float() / 127.5 - 1) for some in pixels.split(100)])
    logits = (found - found.mean(dim=0)) @ torch.randn(found.shape[1], CLASSES, generator=generator)
    logits = SURE * (logits - logits.mean(dim=0)) / logits.std(dim=0)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)
    return Images(pixels, labels, tuple(map(str, range(CLASSES))), "random processes")


def changes(default: Mapping[str, float]) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield a name and overrides for the defaults and for each change of one setting."""
    yield "as by default", {}
    for name in SETTINGS:
        for factor in FACTORS:
            value = type(default[name])(default[name] * factor)
            yield f"{name} × {factor:g}", {name: value}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000, help="to learn from; half as many to test on")
    parser.add_argument("--shape", type=int, nargs=3, default=(3, 32, 32), metavar=("C", "H", "W"))
    parser.add_argument("--encoder", default="wrn-10-4-small", help="the encoder, whitened")
    parser.add_argument("--epsilon", nargs="+", type=float, default=(0.5, 1.0, 2.0, 4.0, 8.0))
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, at least 2")
    options = parser.parse_args()
    shape = tuple(options.shape)

    images = labelled(shape, options.images + options.images // 2)
    private, targets = images.subset(range(options.images)), torch.as_tensor(images.labels)[options.images :]
    features = Features(images, PublicFacts(options.images, shape, images.class_names))
    method, encoder = find_method(METHOD), {"encoder": options.encoder, "encoder_options": {"whiten": 0.2}}
    for epsilon in options.epsilon:
        budget, best = Budget(epsilon, 1e-5), (0.0, 0.0)
        config = method.default_config(features.facts, budget, CPU, encoder)
        for name, overrides in changes({setting: getattr(config, setting) for setting in SETTINGS}):
            accuracies = []
            for _ in range(options.seeds):
                logits = trained(method, features, private, budget, encoder | overrides)["logits"]
                accuracies.append(100 * float((logits.argmax(dim=1) == targets).float().mean()))
            found = mean(accuracies), stdev(accuracies)
            best = best if overrides else found
            error = ((found[1] ** 2 + best[1] ** 2) / options.seeds) ** 0.5
            star = " *" if found[0] - best[0] > 2 * error else ""
            print(f"ε = {epsilon:g} {name:22} {found[0]:.2f} ± {found[1]:.2f} %{star}", flush=True)


if __name__ == "__main__":
    main()
