"""Stack many images to one tensor, on all cores."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dpvision.images.conversion import Conversion, Deep, known_by
from dpvision.images.faults import Faults, Stacked, in_words
from dpvision.images.files import check_expands
from dpvision.images.identity import DIGEST_BYTES, stored_digests
from dpvision.images.room import room
from dpvision.privacy.errors import InputError, named_option

SLOW_SECONDS = 5e-4
"""Seconds per image above which threads pay; 32-pixel PNGs come slower from two threads than from one."""

IMAGES_PER_TASK = 64  # enough that the pool's own work does not show

BYTES_PER_TASK = 2**20
"""Bytes of unpacked images per task: few enough that little waits in memory."""

LEAST_BYTES = 128
"""Bytes that every image is taken to need at least, for its digest, its name and its label."""

LEAST_OF_16_BITS = 2**15
"""The value that the brightest image of 16 bits must reach, if nobody has said what range they have."""

Item = TypeVar("Item")


def stack(
    items: Iterable[tuple[str, Item]],
    count: int,
    make: Callable[[Item, str], NDArray[Any] | Deep],
    source: str,
    conversion: Conversion,
    stored: int | None = None,
    skip_unreadable: bool = False,
) -> Stacked:
    """Stack N = count pairs (name, item): each is made an array of values [C, H, W], as `decode` returns, by
    make(item, name) and then converted.

    Items are drawn as they are needed. Images that take long are made by several threads at once, for Pillow
    decodes without Python's lock; small ones would but fight for it.

    Args:
        stored: the bytes that hold them; None for items in memory.
        skip_unreadable: leave out what make refuses. Each item decides alone.

    Raises:
        InputError: with the first ten of all that make refuses, and how many those are, or likewise of all
            that differ in shape from most; that there is no room for the whole, or it is far more than can be
            in what is stored; that values of 16 bits fill only a part of their range.
    """
    if stored is not None:
        check_expands(count * LEAST_BYTES, stored, f"{source}: {count} images")
    faults, brightest = Faults(source, count), [0]
    numbered = enumerate(items)
    readable = (
        (i, name, values)
        for i, (name, item) in numbered
        if (values := faults.of(i, name, item, make)) is not None
    )
    one = next(readable, None)
    if one is None:
        faults.check_readable(skip_unreadable)
        raise InputError(f"{source} holds no images and not the {count} it states; replace it")
    if one[0] >= count:
        raise InputError(f"{source} holds more than the {count} images it states; replace it")
    converts = conversion != Conversion()
    digests = np.empty((count if converts else 0, 2 * DIGEST_BYTES), dtype=np.uint8)

    def converted(index: int, name: str, values: NDArray[Any] | Deep) -> NDArray[np.uint8]:
        if not isinstance(values, Deep) and values.dtype == np.uint16:
            brightest.append(int(values.max()))
        if converts:
            digests[index] = np.frombuffer(stored_digests(known_by(values)), dtype=np.uint8)
        pixels = conversion.convert(values, name)
        faults.saw(name, pixels.shape)
        return pixels

    first_size = known_by(one[2]).size
    first = converted(*one)
    what = f"{source}: {count} images of {in_words(first.shape)}"
    if stored is not None and conversion.size is None:  # what was asked for may be as large as there is room
        check_expands(count * first.size, stored, what)
    out = room().pixels(count, first.shape, what)
    out.put(one[0], first[None])

    def fill(task: list[tuple[int, tuple[str, Item]]]) -> float:
        """Make some images, and return the seconds that one of them took."""
        began = time.thread_time()
        for index, (name, item) in task:
            values = faults.of(index, name, item, make)
            if values is None:
                continue
            pixels = converted(index, name, values)
            if pixels.shape == first.shape:
                out.put(index, pixels[None])
        return (time.thread_time() - began) / len(task)

    at_once = max(1, min(IMAGES_PER_TASK, BYTES_PER_TASK // first_size))
    cores = os.cpu_count() or 1
    most_pending, held = 1, one[0] + 1
    pending: deque[Future[float]] = deque()
    pool = ThreadPoolExecutor(cores)
    try:
        while task := list(islice(numbered, at_once)):
            held += len(task)
            if held > count:
                raise InputError(f"{source} holds more than the {count} images it states; replace it")
            pending.append(pool.submit(fill, task))
            if len(pending) >= most_pending:
                most_pending = 2 * cores if pending.popleft().result() > SLOW_SECONDS else 1
        while pending:
            pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
    if held < count:
        raise InputError(f"{source} holds {held} images and not the {count} it states; replace it")
    faults.check_readable(skip_unreadable)
    faults.check_shapes()
    if conversion.value_range is None:
        _check_range(max(brightest), source)
    return faults.without_unreadable(out, digests if converts else None)


def _check_range(greatest: int, source: str) -> None:
    """Raise InputError where values of 16 bits leave the high ones unused: the 8 that are taken of them would
    be but a few grey levels.
    """
    if 0 < greatest < LEAST_OF_16_BITS:
        option = named_option("value_range", f"0:{2 ** max(8, greatest.bit_length()) - 1}")
        raise InputError(
            f"{source} has images of 16 bits with no value above {greatest}, of which {(greatest >> 8) + 1} "
            f"grey levels would be left; say what they range over, with {option} (or "
            "0:65535, if they are as dark as that)"
        )
