"""What the index of images costs: processor seconds to know, enter and look up images, bytes of each on disk,
and the most memory that the process has taken so far.

    python benchmarks/image_index.py --count 1000000

The images are random pixels, 3×32×32. The second run is on all of them again, the third on every other one
and as many new ones. The look-alikes of all of them are looked for among as many others.
"""

from __future__ import annotations

import argparse
import platform
import resource
import tempfile
from pathlib import Path
from time import process_time

import numpy as np
import torch

from dpvision.images.identity import identity_of
from dpvision.images.image_set import IMAGES_IN_BLOCK
from dpvision.images.look_alikes import near_some
from dpvision.images.sketch import sketches_of
from dpvision.privacy import Ledger, gaussian_event
from dpvision.privacy.image_index import ImageIndex, IndexedImages

BLOCK = 10_000
PLAN = [gaussian_event(4.0, 0.01, 1000)]


def known(index: ImageIndex, count: int, seed: int) -> IndexedImages:
    """Draw images, and say what the index knows them by."""
    random = np.random.default_rng(seed)
    identities, fingerprints = [], []
    for _ in range(0, count, BLOCK):
        images = random.integers(0, 256, (BLOCK, 3, 32, 32), dtype=np.uint8)
        identities.append(index.identities(map(identity_of, images)))
        sketches = [sketches_of(block) for block in torch.from_numpy(images).split(IMAGES_IN_BLOCK)]
        fingerprints.append(index.fingerprints(torch.cat(sketches).numpy()))
    return IndexedImages(index, np.concatenate(identities), np.concatenate(fingerprints))


def peak() -> str:
    """Say how much memory the process has held at most."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB at most"  # Linux counts in KiB


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1_000_000, help="images, a multiple of 20,000")
    count = parser.parse_args().count
    torch.set_num_threads(1)
    print(f"{count} images of 3×32×32, one core of {platform.processor() or platform.machine()}")
    with tempfile.TemporaryDirectory() as folder:
        index = ImageIndex(Path(folder) / "images")

        def enter(run: str, images: IndexedImages) -> None:
            started = process_time()
            ledger = Ledger.for_dataset(
                Path(folder) / f"{run}.jsonl", run.encode().hex().ljust(64, "0"), count
            )
            with index.admitting(run, ledger, PLAN, images):
                ledger.open_run(run, PLAN)
            seconds = process_time() - started
            size = (Path(folder) / "images" / "index.sqlite").stat().st_size
            found = sum(cell.size for cell in index.cells(images.identities))
            of = len(images.identities)
            print(f"{run:32} {seconds:6.1f} s {size / 2**20:7.1f} MiB, {found} of {of} known, {peak()}")

        started = process_time()
        first = known(index, count, seed=0)
        seconds = process_time() - started
        print(f"{'pixels to what is kept':32} {seconds:6.1f} s, drawing them included, {peak()}")
        enter("the first run", first)
        enter("the same images again", first)
        more = known(index, count // 2, seed=1)
        assert first.fingerprints is not None
        assert more.fingerprints is not None
        identities = np.concatenate([first.identities[::2], more.identities])
        both = np.concatenate([first.fingerprints[::2], more.fingerprints])
        enter("half of them and as many new", IndexedImages(index, identities, both))
        others = known(index, count, seed=2).fingerprints
        assert others is not None
        started = process_time()
        found = near_some(others, index.private_besides(first.identities[:0]))
        seconds = process_time() - started
        print(f"{'look-alikes of as many others':32} {seconds:6.1f} s, {found.sum()} found, {peak()}")


if __name__ == "__main__":
    main()
