"""Stack many images to one tensor, on all cores."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpvision.images.decode import Conversion
from dpvision.images.files import check_expands, check_fits_memory
from dpvision.images.identity import DIGEST_BYTES, stored_digests
from dpvision.privacy.errors import InputError

SLOW_SECONDS = 5e-4
"""Seconds per image above which threads pay; 32-pixel PNGs come slower from two threads than from one."""

IMAGES_PER_TASK = 64  # enough that the pool's own work does not show

BYTES_PER_TASK = 2**20
"""Bytes of unpacked images per task: few enough that little waits in memory."""

LEAST_BYTES = 128
"""Bytes that every image is taken to need at least, for its digest, its name and its label."""

Item = TypeVar("Item")


def stack(
    items: Iterable[tuple[str, Item]],
    count: int,
    make: Callable[[Item, str], NDArray[np.uint8]],
    source: str,
    conversion: Conversion,
    stored: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Stack N = count pairs (name, item) as uint8 [N, C, H, W]: each is made an array [C, H, W] by make(item,
    name) and then converted. With it come the `stored_digests` of the images before that, uint8 [N, 64], or
    None where nothing is to be converted. ``stored`` is the bytes that hold them; None for items in memory.

    Items are drawn as they are needed. Images that take long are made by several threads at once, for Pillow
    decodes without Python's lock; small ones would but fight for it.

    Raises:
        InputError: what make raises of the first item that fails; that an image differs in shape from the
            first; that the whole would not fit in memory, or is far more than can be in what is stored.
    """
    if stored is not None:
        check_expands(count * LEAST_BYTES, stored, f"{source}: {count} images")
    items = iter(items)
    one = next(items, None)
    if one is None:
        raise InputError(f"{source} holds no images and not the {count} it states; replace it")
    first_name, first_item = one
    converts = conversion != Conversion()
    digests = np.empty((count if converts else 0, 2 * DIGEST_BYTES), dtype=np.uint8)

    def converted(index: int, pixels: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        if not converts:
            return pixels
        digests[index] = np.frombuffer(stored_digests(pixels), dtype=np.uint8)
        return conversion.convert(pixels, name)

    first_made = make(first_item, first_name)
    first = converted(0, first_made, first_name)
    what = f"{source}: {count} images of {_shape_in_words(first)}"
    check_fits_memory(count * first.size, what)
    if stored is not None and conversion.size is None:  # what was asked for may be as large as memory is
        check_expands(count * first.size, stored, what)
    out = np.empty((count, *first.shape), dtype=np.uint8)
    out[0] = first

    def fill(start: int, task: list[tuple[str, Item]]) -> float:
        """Make the images from index start on, and return the seconds that one of them took."""
        began = time.thread_time()
        for index, (name, item) in enumerate(task, start):
            pixels = converted(index, make(item, name), name)
            if pixels.shape != first.shape:
                option = "channels" if len(pixels) != len(first) else "size"
                raise InputError(
                    f"{name} is {_shape_in_words(pixels)} but {first_name} is {_shape_in_words(first)}; "
                    f"pass {option}= to make all images alike"
                )
            out[index] = pixels
        return (time.thread_time() - began) / len(task)

    at_once = max(1, min(IMAGES_PER_TASK, BYTES_PER_TASK // first_made.size))
    cores = os.cpu_count() or 1
    most_pending = 1
    pending: deque[Future[float]] = deque()  # awaited in order, so the first failing image is the one named
    start = 1
    pool = ThreadPoolExecutor(cores)
    try:
        while task := list(islice(items, at_once)):
            if start + len(task) > count:
                raise InputError(f"{source} holds more than the {count} images it states; replace it")
            pending.append(pool.submit(fill, start, task))
            start += len(task)
            if len(pending) >= most_pending:
                most_pending = 2 * cores if pending.popleft().result() > SLOW_SECONDS else 1
        while pending:
            pending.popleft().result()
        if start < count:
            raise InputError(f"{source} holds {start} images and not the {count} it states; replace it")
    finally:
        pool.shutdown(cancel_futures=True)
    return torch.from_numpy(out), torch.from_numpy(digests) if converts else None


def _shape_in_words(pixels: NDArray[np.uint8]) -> str:
    channels, height, width = pixels.shape
    return f"{'grey' if channels == 1 else 'colour'}, {width} x {height}"
