"""Searches for an example that adds more than the clipping norm C to a clipped sum.

    python -m checks.clip [--trials 300] [--seed SEED] [--device cpu] [--json]

For every built-in network, one with tokens, positions and scales, and a denoiser, in float32 and bfloat16
(and, on a GPU, with TensorFloat-32 allowed), each layer's gradients computed in a way that is drawn anew with
each size: hill climbing over an example's views (plain, nearly cancelling, random), targets, place in the
batch, the scale and a common offset of the weights, the scale of the loss, and C; from time to time over
other sizes, numbers of views and kinds of targets. What an example adds is the sum with it less the sum
without it, of a batch of four, and the sum of it alone; the longer of the two, over C, is the ratio that is
climbed. The command fails (exit code 1) if one is above 1. docs/guarantee/clip.md has the claim and a table
of what was found.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.gradients import ClippedGradient, ClippedSum, clipped, ways
from dpvision.networks import build_network
from dpvision.networks.denoiser import Denoiser, squared_error
from dpvision.networks.precision import Precision

SIDES = {
    "linear": (8, 32, 224),
    "tanh-cnn": (16, 28),
    "tanh-cnn-deep": (32,),
    "scatter-cnn": (16, 28),
    "wrn-10-1": (8, 16),
    "tokens": (8, 16),
    "denoiser": (8, 28),
}
"""The sizes of images that each network is tried on."""

BATCH = 4
TRIALS_OF_A_SETTING = 30


@dataclass(frozen=True)
class Setting:
    """What a network is planned for: images of ``side``, ``views`` of each, hard or soft targets."""

    side: int
    views: int
    classes: int
    soft: bool


@dataclass(frozen=True)
class Point:
    """What is climbed over. Exponents are of 10.

    kind: of the example's views. level: their mean. difference: exponent, between one half of the views and
        the other. pull: of soft targets, away from one half each, one half of the views either way.
    weights, loss: exponents of their scales. offset: exponent of what is added to all weights.
    clipping_norm: exponent of C. place: the example's in the batch. seed: of all else.
    """

    kind: str
    level: float
    difference: float
    pull: float
    weights: float
    offset: float
    loss: float
    clipping_norm: float
    place: int
    seed: int


KINDS = ("plain", "cancelling", "random")
RANGES = {
    "level": (0.0, 1.5),
    "difference": (-8.0, 0.0),
    "pull": (0.0, 1.0),
    "weights": (-4.0, 1.0),
    "offset": (-8.0, 1.0),
    "loss": (-4.0, 6.0),
    "clipping_norm": (-6.0, 3.0),
}


@dataclass(frozen=True)
class Found:
    """The greatest ``ratio`` of a network in one precision, and where it was."""

    network: str
    precision: str
    tried: int
    ratio: float
    setting: Setting
    point: Point


def some_point(choose: random.Random) -> Point:
    exponents = {name: choose.uniform(low, high) for name, (low, high) in RANGES.items()}
    return Point(
        kind=choose.choice(KINDS), place=choose.randrange(BATCH), seed=choose.getrandbits(31), **exponents
    )


def beside(point: Point, choose: random.Random) -> Point:
    """One or two of its values changed, a number by little or by much."""
    other = some_point(choose)
    changed = {}
    for name in choose.sample([*RANGES, "kind", "place", "seed"], choose.choice((1, 2))):
        changed[name] = getattr(other, name)
        if name in RANGES and choose.random() < 0.7:
            low, high = RANGES[name]
            nudged = getattr(point, name) + choose.gauss(0, 0.05) * (high - low)
            changed[name] = min(max(nudged, low), high)
    return replace(point, **changed)


def some_setting(network: str, choose: random.Random) -> Setting:
    return Setting(
        side=choose.choice(SIDES[network]),
        views=choose.choice((1, 2, 6, 16)),
        classes=choose.choice((2, 10)),
        soft=choose.random() < 0.5,
    )


class Tokens(nn.Module):
    """Parameters that no layer holds: a token, positions and a scale, broadcast over the rows of a batch."""

    def __init__(self, side: int, classes: int, size: int = 12, patch: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, size, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, size))
        self.positions = nn.Parameter(torch.randn((side // patch) ** 2 + 1, size))
        self.scale = nn.Parameter(torch.randn(size))
        self.norm, self.mix, self.head = nn.LayerNorm(size), nn.Linear(size, size), nn.Linear(size, classes)

    def forward(self, x: Tensor) -> Tensor:
        found = self.patches(x).flatten(2).transpose(1, 2)
        found = torch.cat([self.token.expand(len(x), -1, -1), found], dim=1) + self.positions
        found = found + torch.tanh(self.scale) * F.gelu(self.mix(self.norm(found)))
        return self.head(found.mean(dim=1))


def _network(name: str, setting: Setting) -> nn.Module:
    if name == "tokens":
        return Tokens(setting.side, setting.classes)
    if name == "denoiser":  # of two channels: the third has the noise level and the class
        return Denoiser((2, setting.side, setting.side), setting.classes, 8, 1 if setting.side == 8 else 2, 4)
    size = (setting.side, setting.side)
    return build_network(name, in_channels=3, image_size=size, num_classes=setting.classes)


class Trial:
    """One network in one setting, ready to be tried at points."""

    def __init__(self, network: str, setting: Setting, precision: Precision, device: str) -> None:
        self._setting, self._device, self._scale = setting, device, 1.0
        self._model = _network(network, setting).to(device)
        self._weights = [parameter.detach().clone() for parameter in self._model.parameters()]
        self._engine = ClippedGradient(
            self._model, self._loss, 1.0, precision=precision, expected_batch_size=BATCH
        )

    def ratio(self, point: Point) -> float:
        """The length of what the example adds, over C."""
        with torch.no_grad():
            for parameter, weight in zip(self._model.parameters(), self._weights, strict=True):
                parameter.copy_(weight * 10**point.weights + 10**point.offset)
        self._scale = 10**point.loss
        self._engine.max_grad_norm = 10**point.clipping_norm
        views, targets = self._batch(point)
        others = torch.arange(BATCH, device=self._device) != point.place
        whole = self._engine.sum(views, targets)
        without = self._engine.sum(views[others], targets[others])
        alone = self._engine.sum(views[~others], targets[~others])
        change = torch.cat(
            [(whole.gradients[name] - values).flatten() for name, values in without.gradients.items()]
        )
        return max(float(change.norm()), _length(alone)) / self._engine.max_grad_norm

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if logits.ndim == 4:  # a denoiser's: the distance from an even image
            even = targets if targets.ndim == 1 else targets[:, 0]
            return self._scale * squared_error(logits, even[:, None, None, None])
        return self._scale * F.cross_entropy(logits, targets, reduction="none")

    def _batch(self, point: Point) -> tuple[Tensor, Tensor]:
        """Random examples, and in its place the one that is looked at."""
        generator = torch.Generator().manual_seed(point.seed)
        number, classes = self._setting.views, self._setting.classes
        shape = (BATCH, number, 3, self._setting.side, self._setting.side)
        views = torch.rand(shape, generator=generator)
        second = torch.arange(number) % 2 == 1
        if point.kind != "random":
            views[point.place] = point.level
            views[point.place, second] *= 1 + 10**point.difference
        labels = torch.randint(classes, (BATCH, number), generator=generator)
        labels[point.place] = second.long() if point.kind == "cancelling" else labels[point.place, 0]
        targets = labels
        if self._setting.soft:
            even = torch.full((BATCH, number, classes), 1 / classes)
            targets = torch.lerp(even, F.one_hot(labels, classes).float(), point.pull)
        return views.to(self._device), targets.to(self._device)


def _length(found: ClippedSum) -> float:
    return float(torch.cat([gradient.flatten() for gradient in found.gradients.values()]).norm())


def search(network: str, precision: Precision, trials: int, seed: int, device: str = "cpu") -> Found:
    """Climb: the best point of a setting so far with something changed, or now and then a new one."""
    choose = random.Random(f"{seed} {network} {precision}")
    best: Found | None = None
    done = 0
    while done < trials:
        setting = some_setting(network, choose)
        torch.manual_seed(choose.getrandbits(31))
        trial = Trial(network, setting, precision, device)
        here: tuple[float, Point] | None = None
        with ways_drawn(choose):
            for _ in range(min(TRIALS_OF_A_SETTING, trials - done)):
                fresh = here is None or choose.random() < 0.3
                point = some_point(choose) if fresh else beside(here[1], choose)
                ratio = trial.ratio(point)
                done += 1
                if here is None or not ratio <= here[0]:
                    here = ratio, point
        if best is None or not here[0] <= best.ratio:
            best = Found(network, precision, 0, here[0], setting, here[1])
    return replace(best, tried=done)


@contextmanager
def ways_drawn(choose: random.Random) -> Iterator[None]:
    """Let each layer's gradients be computed in a way drawn at random, instead of the fastest."""

    def drawn(candidates: Mapping[str, object], finish: object) -> dict[str, float]:
        return dict.fromkeys(candidates, 1.0) | {choose.choice([*candidates]): 0.0}

    with (
        mock.patch.object(ways, "_timed", drawn),
        mock.patch.dict(ways._FOUND, clear=True),
        mock.patch.dict(clipped._CHOSEN, clear=True),
    ):
        yield


@contextmanager
def lower_precision_allowed() -> Iterator[None]:
    """As a user may allow it, for speed."""
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.set_float32_matmul_precision("highest")


def run(trials: int, seed: int, device: str) -> Iterator[Found]:
    """For each network and precision."""
    for network in SIDES:
        yield search(network, "float32", trials, seed, device)
        yield search(network, "bfloat16", trials, seed, device)
        if device.startswith("cuda"):
            with lower_precision_allowed():
                found = search(network, "float32", trials, seed + 1, device)
            yield replace(found, precision="float32, TF32 allowed")


def where(found: Found) -> str:
    """In words."""
    setting, point = found.setting, found.point
    return (
        f"{setting.views} {point.kind} views {setting.side}×{setting.side}, "
        f"{'soft' if setting.soft else 'hard'} targets of {setting.classes}, place {point.place}, "
        f"C = 1e{point.clipping_norm:.1f}, weights × 1e{point.weights:.1f} + 1e{point.offset:.1f}, "
        f"loss × 1e{point.loss:.1f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=300, help="for each network and precision")
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    if options.trials < 1:
        parser.error("--trials must be 1 or more")

    started = time.perf_counter()
    results = []
    for found in run(options.trials, options.seed, options.device):
        results.append(found)
        if not options.json:
            line = (
                f"{found.network:14} {found.precision:22} {found.tried:6} {found.ratio:.9f}  {where(found)}"
            )
            print(line, flush=True)
    above = [found for found in results if not found.ratio <= 1]
    if options.json:
        print(json.dumps({"results": [asdict(found) for found in results], "above": len(above)}))
    else:
        seconds = time.perf_counter() - started
        print(f"{sum(found.tried for found in results)} tried, {len(above)} above 1, {seconds:.0f} s")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
