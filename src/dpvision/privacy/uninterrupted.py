"""Hold interruptions back for as long as something must not be left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals by which people and schedulers ask a process to end."""


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let no handler of an interruption raise before the block is left; then the first that came does.

    A release that is paid for, and the step or the file that is made of it, are one: an exception between
    them would leave weights that are half of one step and half of the next, or lose what was paid for. The
    block should take seconds at most: who asked for an end may not wait for long before killing.

    Signals that are ignored, or end the process at once, stay as they are. Only the main thread has
    handlers; in another this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in INTERRUPTIONS}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    try:
        for number in handlers:
            signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
