"""What must not be left half done is not interrupted, and is interrupted afterwards."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from dpvision.privacy.uninterrupted import INTERRUPTIONS, uninterrupted


def interrupt(number: int, _: object) -> None:
    raise KeyboardInterrupt(number)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Handlers that raise, as those of the command line do."""
    before = {number: signal.signal(number, interrupt) for number in INTERRUPTIONS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", INTERRUPTIONS)
def test_a_block_is_done_whole_and_then_interrupted(number: int) -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            for part in range(3):
                signal.raise_signal(number)  # raises KeyboardInterrupt outside of the block
                done.append(part)

    with pytest.raises(KeyboardInterrupt, match=str(int(number))):
        work()
    assert done == [0, 1, 2]
    assert all(signal.getsignal(each) is interrupt for each in INTERRUPTIONS)


def test_an_interruption_comes_through_though_the_block_fails() -> None:
    def work() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            raise OSError("the disk is full")

    with pytest.raises(KeyboardInterrupt) as caught:
        work()
    assert isinstance(caught.value.__context__, OSError)
    assert signal.getsignal(signal.SIGTERM) is interrupt


def test_blocks_within_blocks_are_whole_too() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            with uninterrupted():
                signal.raise_signal(signal.SIGINT)
                done.append("inner")
            done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["inner", "outer"]


def test_what_is_ignored_or_deadly_stays_so() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with uninterrupted():
        signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_other_threads_may_use_it() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [interrupt]
