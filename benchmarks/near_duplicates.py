"""How many changed copies of images are found, and how many other images look like copies.

    python benchmarks/near_duplicates.py --data bundled:digits

Copies are made of some images of the training split and looked for in all of it: by their sketches, as where
both sets are at hand, and by fingerprints alone, as in the index of images. What is found of images that
nobody copied, in the test split or elsewhere in the training split, is a false alarm or was a copy before.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dpvision.images import ImageSet, available_splits, open_images
from dpvision.images.look_alikes import fingerprint_look_alikes, look_alikes
from dpvision.images.sketch import sketches_of

Pixels = NDArray[np.uint8]


def jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def changed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return changed


def resized(scale: float, back: bool) -> Callable[[Image.Image], Image.Image]:
    def changed(image: Image.Image) -> Image.Image:
        width, height = image.size
        other = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
        return other.resize(image.size, Image.Resampling.BICUBIC) if back else other

    return changed


def shifted(image: Image.Image, by: Pixels) -> Image.Image:
    return Image.fromarray(np.clip(np.asarray(image).astype(int) + by, 0, 255).astype(np.uint8))


def rounded(image: Image.Image) -> Image.Image:
    shape = np.asarray(image).shape
    return shifted(image, np.random.default_rng(0).integers(-1, 2, shape))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 95": jpeg(95),
    "JPEG, quality 75": jpeg(75),
    "JPEG, quality 50": jpeg(50),
    "to 3/4 and back": resized(3 / 4, back=True),
    "to 1/2 and back": resized(1 / 2, back=True),
    "to 1/2": resized(1 / 2, back=False),
    "to 2": resized(2, back=False),
    "flipped": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "flipped, JPEG 75": lambda image: jpeg(75)(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "grey": lambda image: image.convert("L"),
    "values ± 1": rounded,
    "10 levels brighter": lambda image: shifted(image, np.asarray(10)),
}


def sketch_of(image: Image.Image) -> Tensor:
    pixels = np.asarray(image)
    channels_first = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return sketches_of(torch.from_numpy(channels_first.copy())[None])


def original(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="bundled:digits", help="what open_images takes")
    parser.add_argument("--copies", type=int, default=1000, help="images that are copied")
    parser.add_argument("--key", default="a key", help="of the fingerprints")
    given = parser.parse_args()
    key = given.key.encode()
    train = open_images(given.data, "train")
    some = torch.arange(0, len(train), max(1, len(train) // given.copies))[: given.copies]
    print(f"{given.data}: {len(some)} copies of {len(train)} images of {train.shape}")
    print(f"{'':20} by sketches  by fingerprints")

    def row(name: str, sketches: Tensor, own: NDArray[np.int64] | None = None) -> None:
        found = look_alikes(sketches, train.sketches, own)
        by_fingerprints = fingerprint_look_alikes(sketches, train.sketches, key, own)
        print(f"{name:20} {found.mean():11.1%} {by_fingerprints.mean():15.1%}")

    images = [original(pixels) for pixels in train.take(some)]
    for name, change in CHANGES.items():
        row(name, torch.cat([sketch_of(change(image)) for image in images]))
    print("no copies:")
    sample = torch.arange(0, len(train), -(-len(train) // 10_000))
    row(f"train, {len(sample)}", train.sketches[sample], sample.numpy())
    if "test" in available_splits(given.data):
        test: ImageSet = open_images(given.data, "test")
        row(f"test, {len(test)}", test.sketches)


if __name__ == "__main__":
    main()
