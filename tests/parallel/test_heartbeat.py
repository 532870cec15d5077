"""A process that ends without a word is missed, and one that takes its leave is not."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest
from torch.distributed import HashStore

from dpvision.parallel import heartbeat
from dpvision.parallel.heartbeat import Heartbeat


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT", 0.02)
    monkeypatch.setattr(heartbeat, "SILENCE", 0.3)
    monkeypatch.setattr(heartbeat, "GRACE", 0.1)


@pytest.fixture
def interrupts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The signals that the main thread gets, as from Ctrl-C."""
    got: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: got.append(number))
    yield got
    signal.signal(signal.SIGINT, before)


def until(condition: threading.Event, seconds: float = 5.0) -> bool:
    """Wait, in steps in which signals are handled."""
    end = time.monotonic() + seconds
    while not condition.is_set() and time.monotonic() < end:
        time.sleep(0.01)
    return condition.is_set()


class Ender:
    """Stands for the end of a process."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.ended = threading.Event()

    def __call__(self, code: int) -> None:
        self.codes.append(code)
        self.ended.set()


@pytest.mark.parametrize("silent", [0, 1])
def test_a_silent_process_ends_the_other(
    silent: int, interrupts: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    store, end = HashStore(), Ender()
    other = Heartbeat(store, silent, 2, Ender())
    own = Heartbeat(store, 1 - silent, 2, end)
    assert not until(end.ended, 0.5)
    other._ended.set()  # as where its machine has lost power
    assert until(end.ended)
    assert (end.codes, interrupts) == ([1], [signal.SIGINT])
    assert f"process {silent} of this run has ended" in caplog.text
    own.end()


@pytest.mark.parametrize("leaving", [0, 1])
def test_a_process_that_takes_its_leave_is_not_missed(leaving: int, interrupts: list[int]) -> None:
    store, end = HashStore(), Ender()
    other = Heartbeat(store, leaving, 2, Ender())
    own = Heartbeat(store, 1 - leaving, 2, end)
    time.sleep(0.1)
    other.end()
    assert not until(end.ended, 1.0)
    assert interrupts == []
    own.end()


def test_a_store_that_is_gone_ends_the_process(interrupts: list[int]) -> None:
    class Gone(HashStore):
        def add(self, key: str, amount: int) -> int:
            raise RuntimeError("Connection reset by peer")

    end = Ender()
    own = Heartbeat(Gone(), 1, 2, end)
    assert until(end.ended)
    assert interrupts == [signal.SIGINT]
    own.end()


def test_a_process_that_ends_by_itself_when_interrupted_is_left_to_it(interrupts: list[int]) -> None:
    store, end = HashStore(), Ender()
    own = Heartbeat(store, 0, 2, end)
    while not interrupts:
        time.sleep(0.01)
    own.end()
    assert not until(end.ended, 0.5)
