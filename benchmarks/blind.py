"""What the blind attack of `dpvision membership` sees: sets of one kind, and the same after a change.

    python benchmarks/blind.py --data cifar10

Two sets of images are drawn from the training split, disjoint, and one of them is changed. First the training
split against the test split, and at the end how many pairs of unchanged sets are said to differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from near_duplicates import jpeg, resized
from PIL import Image
from torch import Tensor

from dpvision.evaluation.blind import Blind, blind_attack
from dpvision.images import Images, ImageSet, open_images

Change = Callable[[Image.Image], Image.Image]


def brighter(by: int) -> Change:
    return lambda image: image.point(lambda value: min(255, value + by))


CHANGES: dict[str, Change] = {
    "unchanged": lambda image: image,
    "brighter by 2 of 255": brighter(2),
    "brighter by 8 of 255": brighter(8),
    "resized to 3/4 and back": resized(3 / 4, back=True),
    "JPEG, quality 90": jpeg(90),
    "JPEG, quality 50": jpeg(50),
}


def changed(images: ImageSet, change: Change) -> Images:
    def of_one(pixels: Tensor) -> Tensor:
        array = pixels.permute(1, 2, 0).numpy()
        made = np.asarray(change(Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)))
        return torch.from_numpy(made.reshape(array.shape).copy()).permute(2, 0, 1)

    pixels = torch.stack([of_one(one) for one in images.take(torch.arange(len(images)))])
    return Images(pixels, images.labels, images.class_names, images.source)


def fewer_of_half_of_the_classes(images: ImageSet, random: torch.Generator) -> ImageSet:
    assert images.labels is not None
    first = images.labels < len(images.class_names) // 2
    kept = first | (torch.rand(len(images), generator=random) < 0.5)
    return images.subset(kept.nonzero()[:, 0])


def halves(images: ImageSet, count: int, random: torch.Generator) -> tuple[ImageSet, ImageSet]:
    order = torch.randperm(len(images), generator=random)
    one, other = order[:count].sort().values, order[count : 2 * count].sort().values
    return images.subset(one), images.subset(other)


def in_words(found: Blind | None) -> str:
    if found is None:
        return "too few"
    said = "differ" if found.sets_differ else "not seen to differ"
    return f"{found.auc:.3f} ({found.low:.3f} to {found.high:.3f})  {said}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="bundled:digits")
    parser.add_argument("--count", type=int, default=1500, help="images of each set")
    parser.add_argument("--pairs", type=int, default=100, help="pairs of unchanged sets")
    options = parser.parse_args()
    train, test = open_images(options.data), open_images(options.data, "test")
    random = torch.Generator().manual_seed(0)
    count = min(options.count, len(train) // 2)
    one, other = halves(train, count, random)
    print(f"{'training and test images':40}  {in_words(blind_attack(train, test))}")
    for name, change in CHANGES.items():
        print(f"{name:40}  {in_words(blind_attack(one, changed(other, change)))}", flush=True)
    name, fewer = "half as many of half of the classes", fewer_of_half_of_the_classes(other, random)
    print(f"{name:40}  {in_words(blind_attack(one, fewer))}")
    said = [blind_attack(*halves(train, count, random), seed=seed) for seed in range(options.pairs)]
    print(f"unchanged pairs said to differ: {sum(one.sets_differ for one in said if one)} of {len(said)}")


if __name__ == "__main__":
    main()
