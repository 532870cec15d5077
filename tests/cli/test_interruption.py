"""Commands that are asked to end save what is paid for, and say how to go on."""

from __future__ import annotations

import importlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch

from checks.points import spends
from dpvision.cli import interruption

COMMAND = [sys.executable, "-m", "dpvision"]
TRAIN = (
    "train bundled:digits --method dp-sgd --epsilon 2 --device cpu --set network=linear "
    "--set expected_batch_size=32 --set steps=400 --out run"
)
CODES = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 130}


@pytest.fixture
def _handlers() -> Iterator[None]:
    """Leave the handlers of the tests' own process as they are."""
    before = {number: signal.getsignal(number) for number in CODES}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def start(command: str, folder: Path, **options: object) -> subprocess.Popen[str]:
    environment = os.environ | {"DPVISION_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [*COMMAND, *shlex.split(command)], cwd=folder, env=environment, **streams, **options
    )  # type: ignore[call-overload, no-any-return]


def steps_of(folder: Path) -> int:
    return int(safetensors.torch.load_file(folder / "run/private/checkpoint.safetensors")["steps_done"])


@pytest.mark.parametrize("number", CODES)
def test_a_run_is_saved(number: signal.Signals, tmp_path: Path) -> None:
    training = start(TRAIN, tmp_path)
    ends = time.monotonic() + 120
    while len(spends(tmp_path / "home")) <= 5:
        assert training.poll() is None
        assert time.monotonic() < ends
        time.sleep(0.01)
    training.send_signal(number)
    for _ in range(20):  # whoever asked asks again, while it is being saved
        training.send_signal(number)
        time.sleep(0.001)
    _, said = training.communicate(timeout=60)
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert said.splitlines() == [f"{word}; go on with: dpvision resume run"]
    # Once all is said, a signal that comes while Python leaves ends it as any: shells have one code for both.
    assert training.returncode in (CODES[number], -number)
    spent = len(spends(tmp_path / "home"))
    assert 5 < spent < 400
    assert steps_of(tmp_path) == spent, "no step that was paid for is lost"


def test_what_was_not_begun_cost_nothing(tmp_path: Path) -> None:
    training = start(TRAIN, tmp_path)
    time.sleep(1)  # it is importing
    training.send_signal(signal.SIGTERM)
    _, said = training.communicate(timeout=60)
    assert (training.returncode, said) == (143, "terminated; nothing was spent\n")
    assert [path.name for path in tmp_path.iterdir()] == []


def test_other_commands_end_by_one_word(tmp_path: Path) -> None:
    planning = start("plan bundled:digits --epsilon 2", tmp_path)
    time.sleep(1)
    planning.send_signal(signal.SIGTERM)
    said = planning.communicate(timeout=60)
    assert (planning.returncode, *said) == (143, "", "terminated\n")


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As nohup has it, and shells that start commands in the background."""

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    planning = start("methods", tmp_path, preexec_fn=ignore)
    for _ in range(10):
        planning.send_signal(signal.SIGHUP)
        time.sleep(0.05)
    planning.communicate(timeout=60)
    assert planning.returncode == 0


@pytest.mark.usefixtures("_handlers")
def test_an_import_is_not_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library would go on without what it has not imported, or end in an error of its own."""
    (tmp_path / "is_asked_to_end.py").write_text(
        "import signal, time\n"
        "try:\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    time.sleep(0.2)\n"
        "except BaseException:\n"
        "    broken_off = True\n"
        "done = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def import_and_wait() -> None:
        importlib.import_module("is_asked_to_end")
        time.sleep(10)

    with interruption.taking_interruptions(), pytest.raises(interruption.Terminated):
        import_and_wait()
    module = sys.modules["is_asked_to_end"]
    assert module.done
    assert not hasattr(module, "broken_off")


@pytest.mark.usefixtures("_handlers")
def test_an_import_that_never_ends_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "_is_importing", lambda frame: True)
    monkeypatch.setattr(interruption, "LONGEST_IMPORT", 0.3)
    began = time.monotonic()
    with interruption.taking_interruptions(), pytest.raises(interruption.Terminated):
        ask_and_wait()
    assert 0.3 <= time.monotonic() - began < 5


def ask_and_wait() -> None:
    signal.raise_signal(signal.SIGTERM)
    time.sleep(10)


@pytest.mark.usefixtures("_handlers")
def test_who_asks_again_later_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(interruption.time, "monotonic", lambda: now[0])
    heard = []
    with interruption.taking_interruptions():
        for now[0] in (100.0, 100.0 + interruption.GRACE / 2, 100.0 + interruption.GRACE):
            try:
                signal.raise_signal(signal.SIGTERM)
            except interruption.Terminated:
                heard.append(now[0])
    assert heard == [100.0, 100.0 + interruption.GRACE]
