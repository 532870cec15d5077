"""Whether every rule computes the right gradients on a device.

    python benchmarks/device_rules.py [--device cuda] [--json]

Each kind of layer is the middle of a small network, whose clipped sum on the device, in float32 and bfloat16,
is compared with that of the reference in float64 on a CPU: "error" is their distance over the reference's
length. Where there are several ways to compute a layer's gradients, each is forced in its turn. The command
fails (exit code 1) if an error is above 10⁻³ in float32, or 0.1 in bfloat16, which rounds the pass itself.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.gradients import ClippedGradient, Precision, clipped, reference_clipped_sum, ways
from dpvision.networks import WeightStandardizedConv2d

EXAMPLES, VIEWS, SIDE, CHANNELS, CLASSES = 6, 3, 12, 8, 5
LARGEST_ERROR: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 0.1}

OF_CONVOLUTIONS = ("by_patches", "one_by_one", "by_groups", "by_taps")
OF_GROUP_NORM = ("by_sums", "by_example")


class Positions(nn.Module):
    """Parameters that no layer holds, broadcast over rows."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(CHANNELS, SIDE, SIDE))
        self.scale = nn.Parameter(torch.randn(CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.shift) * torch.tanh(self.scale).view(1, -1, 1, 1)


class ChannelsLast(nn.Module):
    """``layer`` of ``[N, H·W, C]``."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(2).transpose(1, 2)).transpose(1, 2)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "Conv2d": (lambda: nn.Conv2d(CHANNELS, 16, 3, padding=1), OF_CONVOLUTIONS),
    "Conv2d, stride 2": (lambda: nn.Conv2d(CHANNELS, 16, 3, stride=2, padding=1), OF_CONVOLUTIONS[:3]),
    "Conv2d, depthwise": (lambda: nn.Conv2d(CHANNELS, CHANNELS, 5, groups=CHANNELS), OF_CONVOLUTIONS),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(CHANNELS, 4, 3), ("",)),
    "WeightStandardizedConv2d": (
        lambda: WeightStandardizedConv2d(CHANNELS, 16, 3, padding=1),
        OF_CONVOLUTIONS,
    ),
    "GroupNorm": (lambda: nn.GroupNorm(4, CHANNELS), OF_GROUP_NORM),
    "LayerNorm": (lambda: nn.LayerNorm([SIDE, SIDE]), ("",)),
    "Linear": (lambda: ChannelsLast(nn.Linear(CHANNELS, 16)), ("",)),
    "parameters of a module": (Positions, ("",)),
    "a module without a rule": (
        lambda: ChannelsLast(nn.TransformerEncoderLayer(CHANNELS, 2, 16, dropout=0, batch_first=True)),
        ("",),
    ),
}


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


@contextmanager
def forced(name: str) -> Iterator[None]:
    """Let gradients be computed in the way of this name, where there is one."""

    def chosen(candidates: Mapping[str, object], finish: object) -> dict[str, float]:
        return dict.fromkeys(candidates, 1.0) | {way: 0.0 for way in candidates if way == name}

    with (
        mock.patch.object(ways, "_timed", chosen),
        mock.patch.dict(ways._FOUND, clear=True),
        mock.patch.dict(clipped._CHOSEN, clear=True),
    ):
        yield


def error(layer: nn.Module, way: str, precision: Precision, device: str) -> float:
    """Return the distance of the clipped sum to the reference's, over its length."""
    torch.manual_seed(0)
    views, targets = torch.rand(EXAMPLES, VIEWS, 3, SIDE, SIDE), torch.randint(CLASSES, (EXAMPLES, VIEWS))
    model = nn.Sequential(nn.Conv2d(3, CHANNELS, 1), layer, nn.Tanh(), nn.Flatten(), nn.LazyLinear(CLASSES))
    model(views[0])
    exact = reference_clipped_sum(copy.deepcopy(model).double(), losses, views.double(), targets, 1.0)
    with forced(way):
        engine = ClippedGradient(model.to(device), losses, 1.0, precision=precision, expected_batch_size=4)
        found = engine.sum(views.to(device), targets.to(device)).gradients
    length = torch.stack([exact[name].norm() for name in exact]).norm()
    distance = torch.stack([(found[name].cpu() - exact[name]).norm() for name in exact]).norm()
    return float(distance / length)


def rows(device: str) -> Iterator[dict[str, Any]]:
    for name, (make, of_layer) in LAYERS.items():
        for way in of_layer:
            for precision, largest in LARGEST_ERROR.items():
                torch.manual_seed(0)
                found = error(make(), way, precision, device)
                yield {
                    **{"layer": name, "way": way, "precision": precision, "error": found},
                    "right": found <= largest,
                }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    found = []
    for row in rows(options.device):
        found.append(row)
        if not options.json:
            said = "" if row["right"] else "  WRONG"
            print(f"{row['layer']:26} {row['way']:11} {row['precision']:9} {row['error']:9.1e}{said}")
    if options.json:
        print(json.dumps({"device": options.device, "rows": found}))
    return 0 if all(row["right"] for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
