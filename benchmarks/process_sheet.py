"""A sheet of all random processes: eight images of each, in a row with its name.

    python benchmarks/process_sheet.py --out docs/images/processes.png [--size 64] [--seed 0]

The images are the first eight of each process's stream, at their own size: one pixel of theirs is one of the
sheet's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dpvision.priors.processes import PROCESSES, generate

COLUMNS = 8
GAP = 4  # pixels between images
LABEL_WIDTH = 240


def row_of_images(process: str, size: int, seed: int) -> Tensor:
    """uint8 ``[size, COLUMNS · (size + GAP), 3]``, white between the images."""
    images = generate(process, COLUMNS, size, torch.Generator().manual_seed(seed))
    pixels = (255 * images).round().to(torch.uint8)
    pixels = torch.nn.functional.pad(pixels, (0, GAP), value=255)
    return pixels.permute(2, 0, 3, 1).flatten(1, 2)


def sheet(size: int, seed: int) -> Image.Image:
    height = size + GAP
    width = LABEL_WIDTH + COLUMNS * height
    page = Image.new("RGB", (width, GAP + len(PROCESSES) * height), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=14)
    for number, process in enumerate(PROCESSES):
        top = GAP + number * height
        draw.text((GAP, top + size // 2), process, fill="black", font=font, anchor="lm")
        page.paste(Image.fromarray(row_of_images(process, size, seed).numpy()), (LABEL_WIDTH, top))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64, help="side of an image in pixels")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(arguments.size, arguments.seed).save(arguments.out)
    print(f"{len(PROCESSES)} processes: {arguments.out}")


if __name__ == "__main__":
    main()
