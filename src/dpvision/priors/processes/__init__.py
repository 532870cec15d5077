"""Random processes: images to learn from that show nobody and nothing, as many as one likes, from a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count as counted_from

import numpy as np
import torch
from torch import Tensor

from dpvision.priors.processes import dead_leaves, stylegan
from dpvision.priors.processes.fractals import fractals
from dpvision.priors.processes.process import RandomProcess
from dpvision.priors.processes.statistical import statistical
from dpvision.privacy.errors import InputError

__all__ = ["PROCESSES", "RandomProcess", "generate", "image_batches"]

SMALLEST_SIZE = 16

_NOISE = "Baradad et al., arXiv 2106.05963, section 3"
_FRACTALS = "Kataoka et al., arXiv 2101.08515; Anderson and Farrell, arXiv 2110.03091, section 3"

PROCESSES: dict[str, RandomProcess] = {
    process.name: process
    for process in (
        RandomProcess("dead-leaves-squares", "upright squares over each other", _NOISE, dead_leaves.squares),
        RandomProcess("dead-leaves-oriented", "turned squares over each other", _NOISE, dead_leaves.oriented),
        RandomProcess("dead-leaves-mixed", "six kinds of shapes over each other", _NOISE, dead_leaves.mixed),
        RandomProcess("dead-leaves-textured", "the same shapes with textures", _NOISE, dead_leaves.textured),
        RandomProcess(
            "statistical-spectrum",
            "noise with the spectrum of photographs",
            _NOISE,
            partial(statistical, spectrum=True, wavelets=False, colour=False),
        ),
        RandomProcess(
            "statistical-wmm",
            "noise with the wavelet marginals of photographs",
            _NOISE,
            partial(statistical, spectrum=False, wavelets=True, colour=False),
        ),
        RandomProcess(
            "statistical-spectrum-colour",
            "noise with a spectrum and a palette",
            _NOISE,
            partial(statistical, spectrum=True, wavelets=False, colour=True),
        ),
        RandomProcess(
            "statistical-spectrum-colour-wmm",
            "noise with a spectrum, wavelet marginals and a palette",
            _NOISE,
            partial(statistical, spectrum=True, wavelets=True, colour=True),
        ),
        RandomProcess("stylegan-random", "untrained StyleGANs, plain", _NOISE, stylegan.random),
        RandomProcess(
            "stylegan-high-frequency", "untrained StyleGANs of wavelets", _NOISE, stylegan.high_frequency
        ),
        RandomProcess("stylegan-sparse", "the same with few details, in places", _NOISE, stylegan.sparse),
        RandomProcess(
            "stylegan-oriented", "untrained StyleGANs of edges and lines", _NOISE, stylegan.oriented
        ),
        RandomProcess("fractals", "fractals of random affine maps on noise", _FRACTALS, fractals),
    )
}


def generate(process: str, count: int, size: int, generator: torch.Generator) -> Tensor:
    """Generate independent images of one process.

    Args:
        process: one of the names in `PROCESSES`.
        count: number of images N, at least 1.
        size: side in pixels, at least 16.
        generator: source of all randomness: in the same state, it gives the same images. They are made on its
            device.

    Returns:
        float32 ``[N, 3, size, size]`` in [0, 1].

    Raises:
        InputError: for another process, count or size.
    """
    _check([process], size)
    if count < 1:
        raise InputError(f"the number of images must be at least 1, not {count}")
    return PROCESSES[process].generate(count, size, generator)


def image_batches(
    processes: Sequence[str],
    size: int,
    seed: int,
    device: torch.device | str,
    batch_size: int = 64,
    first: int = 0,
) -> Iterator[Tensor]:
    """Yield batches without end of uint8 images ``[batch_size, 3, size, size]``; the processes take turns.

    Batch i depends on nothing but the arguments and i, so that a stream can go on where another one ended. (A
    GPU draws other random numbers than a CPU.)

    Args:
        processes: names in `PROCESSES`. Batch i is of process i modulo their number.
        size: side in pixels, at least 16.
        seed: the seed of the whole stream, at least 0.
        device: the device on which the images are made.
        batch_size: images per batch, at least 1.
        first: number of the batch to start from.

    Raises:
        InputError: for no process, an unknown one, or a number out of its range; before the first batch is
            asked for.
    """
    _check(processes, size)
    for name, value, least in (("seed", seed, 0), ("batch_size", batch_size, 1), ("first", first, 0)):
        if value < least:
            raise InputError(f"{name} must be at least {least}, not {value}")
    generator = torch.Generator(device)

    def batches() -> Iterator[Tensor]:
        for i in counted_from(first):
            generator.manual_seed(int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0]))
            images = generate(processes[i % len(processes)], batch_size, size, generator)
            yield (255 * images).round().to(torch.uint8)

    return batches()


def _check(processes: Sequence[str], size: int) -> None:
    if not processes:
        raise InputError(f"no random process is named; choose among {', '.join(PROCESSES)}")
    for process in processes:
        if process not in PROCESSES:
            raise InputError(f"there is no random process '{process}'; choose among {', '.join(PROCESSES)}")
    if size < SMALLEST_SIZE:
        raise InputError(f"images of random processes are at least {SMALLEST_SIZE} pixels wide, not {size}")
