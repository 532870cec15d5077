"""Data sets that differ in kind, made from a seed: nobody's images, to measure methods and settings with.

    python benchmarks/made_sets.py strokes doodles letters solids textures scans --out FOLDER [--count 60000]

writes FOLDER/strokes.npz and so on, which every command reads, with a train split of that count and a test
split of 10,000, as many images of each class, or as the set's RATIO says. Their names are in
FOLDER/strokes.txt, and ten images of each class on the sheet FOLDER/strokes.png.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from time import perf_counter
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

import dpvision
from dpvision.reports.grid import class_sheet

SETS = ("strokes", "doodles", "letters", "solids", "textures", "scans")


def split(module: ModuleType, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return images, uint8 ``[count, H, W]`` or ``[count, H, W, 3]``, and their labels, all by the seed."""
    random = torch.Generator().manual_seed(seed)
    ratio = torch.tensor(getattr(module, "RATIO", [1] * len(module.NAMES)))
    pattern = torch.arange(len(ratio)).repeat_interleave(ratio)
    labels = pattern[torch.arange(count) % len(pattern)][torch.randperm(count, generator=random)]
    return module.make(labels, random), labels


def write(name: str, out: Path, count: int, test_count: int, seed: int) -> Path:
    """Make a data set and write it with its sheet: the path of the archive."""
    module = import_module(f"making.{name}")
    arrays = {}
    # Seeds next to each other would make the test images of one set the training images of another.
    for of_split, (part, images) in enumerate((("train", count), ("test", test_count))):
        pixels, labels = split(module, images, 2 * seed + of_split)
        arrays |= {f"{part}_images": pixels.numpy(), f"{part}_labels": labels.numpy()}
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.npz"
    np.savez_compressed(path, **arrays)
    path.with_suffix(".txt").write_text("\n".join(module.NAMES) + "\n")
    shown = dpvision.open_images(path, classes=module.NAMES)
    path.with_suffix(".png").write_bytes(class_sheet(shown, columns=10))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="+", choices=SETS, metavar="SET", help=", ".join(SETS))
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--count", type=int, default=60_000, help="training images")
    parser.add_argument("--test-count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name in arguments.sets:
        started = perf_counter()
        path = write(name, arguments.out, arguments.count, arguments.test_count, arguments.seed)
        print(f"{path}: {perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
