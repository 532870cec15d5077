"""A script of somebody who uses the package, as `tests/test_typing.py` checks it and runs it."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import dpvision
from dpvision import Budget, Images, InputError
from dpvision.images import ImageSet

SETTINGS = {"steps": 3, "expected_batch_size": 64, "augmult": 1}


class Network(nn.Module):
    """A classifier of digits."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))  # type: ignore[no-any-return]


def classify(images: ImageSet, test: ImageSet, folder: Path) -> float | None:
    """Train, load and predict; the accuracy."""
    dpvision.register_network(Network)
    forecast = dpvision.plan(images, epsilon=2, network=Network, config=SETTINGS)
    print(forecast.epsilon, Budget(2, 1e-5).epsilon)
    result = dpvision.train(
        images,
        epsilon=2.0,
        delta=1e-5,
        out=folder / "run",
        test=test,
        network=Network,
        config=SETTINGS,
    )
    model = dpvision.load(result.release)
    pixels = torch.zeros(2, *images.shape, dtype=torch.uint8)
    print(type(model).__name__, model(pixels).shape, result.epsilon)
    for prediction in dpvision.predict(folder / "run", images)[:3]:
        print(prediction.class_name, prediction.probability)
    return None if result.test_accuracy is None else result.test_accuracy.value


def release(folder: Path) -> int:
    """Make images in place of private ones; how many."""
    made = dpvision.synthesize("bundled:digits", epsilon=1, out=folder / "images", count=20, formats=["npz"])
    return made.count


def main(folder: Path) -> None:
    """Do both."""
    images, test = (dpvision.open_images("bundled:digits", split, size=8) for split in ("train", "test"))
    assert isinstance(images, Images)
    print(classify(images, test, folder), release(folder))
    try:
        dpvision.train("nowhere", epsilon=2, out=folder / "none")
    except InputError as error:
        print(error)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
