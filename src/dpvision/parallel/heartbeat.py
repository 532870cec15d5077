"""Notice that another process has ended, also one whose machine has lost power or whose network is cut: what
waits for it would wait for ever.
"""

from __future__ import annotations

import _thread
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from torch.distributed.distributed_c10d import Store

BEAT = 2.0
"""Seconds between beats."""
SILENCE = 25.0
"""Seconds without a beat after which a process is taken to have ended. The leader minds all others and they
mind the leader, so that all know of it within twice that.
"""
FAREWELL = 2**40
"""More beats than there ever are: what a process adds that leaves."""
GRACE = 5.0
"""Seconds that the interrupted main thread has to keep what there is, before the process is ended: it may
wait, where nothing can interrupt it, for the one that has ended.
"""

logger = logging.getLogger("dpvision")


class Heartbeat:
    """Beats for this process in a store that all can reach, and minds the beats of others, from now on.

    A process that ends in an orderly way says so, and is minded no more. Where another is silent, or the
    store is, the main thread is interrupted as by Ctrl-C, and the process ended if it does not end by itself.

    Args:
        store: for this alone.
        rank: this process' number. Rank 0 minds all others, these mind rank 0.
        size: the number of processes.
        end_process: ends it at once.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        end_process: Callable[[int], None] = os._exit,
    ) -> None:
        self._store, self._rank, self._end_process = store, rank, end_process
        self._minded = range(1, size) if rank == 0 else range(1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Beat no longer, mind nobody, and tell the others that this is as it should be."""
        self._ended.set()
        self._thread.join(GRACE)
        with suppress(RuntimeError):  # who would have to know is gone
            self._store.add(str(self._rank), FAREWELL)

    def _work(self) -> None:
        heard = {rank: (0, time.monotonic()) for rank in self._minded}
        while not self._ended.wait(BEAT):
            try:
                self._store.add(str(self._rank), 1)
                beats = {rank: self._store.add(str(rank), 0) for rank in self._minded}
            except RuntimeError:  # whoever has the store is gone
                return self._give_up(())
            now = time.monotonic()
            for rank, beat in beats.items():
                if beat != heard[rank][0]:
                    heard[rank] = beat, now
            silent = [
                rank for rank, (beat, since) in heard.items() if beat < FAREWELL and now - since > SILENCE
            ]
            if silent:
                return self._give_up(silent)

    def _give_up(self, silent: Sequence[int]) -> None:
        """Interrupt the main thread, and end the process where that does not help."""
        if self._ended.is_set():
            return
        who = f"process {', '.join(map(str, silent))}" if silent else "the process that all others meet at"
        logger.warning(f"{who} of this run has ended, or cannot be reached any more: this one ends too")
        _thread.interrupt_main()
        if not self._ended.wait(GRACE):
            self._end_process(1)
