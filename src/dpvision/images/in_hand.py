"""Bound the memory of the images that are being decoded at a time, by whichever decoder."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dpvision.images.conversion import MAX_PIXELS
from dpvision.images.files import physical_memory

BYTES_PER_PIXEL = 16
"""Largest memory that decoding takes per pixel, in bytes, with the copies that decoders make on the way."""


class PixelsInHand:
    """Lets several threads decode at once as long as their images are not too large together.

    Args:
        most: pixels of all of them. A larger image has to be alone.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def holding(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for so many more pixels, and hold it until the end of the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._held == 0 or self._held + pixels <= self._most)
            self._held += pixels
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()


IN_HAND = PixelsInHand(max(MAX_PIXELS, physical_memory() // 8 // BYTES_PER_PIXEL))
"""Bound on the pixels that all threads hold: small files can all claim the most. A GiB, or 1/8 of memory."""
