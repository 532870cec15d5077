"""What the index of images costs: seconds to know, enter and look up images, and bytes of each.

    python benchmarks/image_index.py --count 1000000

The images are random pixels, 3×32×32. The second run is on all of them again, the third on every other one
and as many new ones.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from dpvision.images.identity import identity_of
from dpvision.privacy import Ledger, gaussian_event
from dpvision.privacy.image_index import ImageIndex

BLOCK = 10_000
PLAN = [gaussian_event(4.0, 0.01, 1000)]


def digests(count: int, seed: int) -> Iterator[bytes]:
    random = np.random.default_rng(seed)
    for _ in range(0, count, BLOCK):
        yield from map(identity_of, random.integers(0, 256, (BLOCK, 3, 32, 32), dtype=np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1_000_000, help="images, a multiple of 10,000")
    count = parser.parse_args().count
    print(f"{count} images of 3×32×32, one core of {platform.processor() or platform.machine()}")
    with tempfile.TemporaryDirectory() as folder:
        index = ImageIndex(Path(folder) / "images")

        def enter(run: str, identities: Sequence[bytes]) -> None:
            started = perf_counter()
            ledger = Ledger.for_dataset(
                Path(folder) / f"{run}.jsonl", run.encode().hex().ljust(64, "0"), count
            )
            with index.admitting(run, ledger, PLAN, identities):
                ledger.open_run(run, PLAN)
            seconds = perf_counter() - started
            size = (Path(folder) / "images" / "index.sqlite").stat().st_size
            known = sum(cell.size for cell in index.cells(identities))
            print(f"{run:32} {seconds:6.1f} s {size / 2**20:7.1f} MiB, {known} of {len(identities)} known")

        started = perf_counter()
        first = index.identities(digests(count, seed=0))
        print(f"{'pixels to identities':32} {perf_counter() - started:6.1f} s, drawing them included")
        enter("the first run", first)
        enter("the same images again", first)
        enter("half of them and as many new", [*first[::2], *index.identities(digests(count // 2, seed=1))])


if __name__ == "__main__":
    main()
