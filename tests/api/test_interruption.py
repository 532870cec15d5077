"""A signal between a release and what is made of it: what was paid for is kept, and no step is half taken."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import dpvision
from dpvision.images import Images
from dpvision.privacy import Ledger
from dpvision.runs import checkpoints
from dpvision.runs.files import write_atomically
from dpvision.training import ExponentialMovingAverage

INTERRUPTED = 3
"""The step that the signal comes in."""
JOBS: dict[str, dict[str, Any]] = {
    "dp-sgd": {
        "network": "linear",
        "steps": 6,
        "expected_batch_size": 40,
        "learning_rate": 0.5,
        "momentum": 0.9,
    },
    "dp-ridge": {"encoder": "pixels"},
}
PLACES: dict[str, tuple[type, str]] = {
    "once it is paid for": (Ledger, "record"),
    "in the optimiser": (torch.optim.SGD, "step"),
    "before the average": (ExponentialMovingAverage, "update"),
}


def signalling(real: Callable[..., Any], at: int) -> Callable[..., Any]:
    """A function after whose call of number ``at``, from 1, the signal of Ctrl-C comes."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        found, calls = real(*args, **kwargs), calls + 1
        if calls == at:
            signal.raise_signal(signal.SIGINT)
        return found

    return call


def weights(release: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(release / "model.safetensors")


def check_nothing_is_lost(images: Images, tmp_path: Path, method: str, interrupt: Callable[[], Any]) -> None:
    """Whether a run goes on after ``interrupt()`` has interrupted it as if it had not."""
    options: dict[str, Any] = {"epsilon": 3.0, "method": method, "config": JOBS[method], "seed": 1}
    expected = dpvision.train(images, out=tmp_path / "uninterrupted", **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*interrupt())
        with pytest.raises(KeyboardInterrupt):
            dpvision.train(images, out=tmp_path / "run", **options)
    release = dpvision.resume(tmp_path / "run", data=images).release
    assert json.loads((release / "card.json").read_text())["lost_steps"] == 0
    found = weights(release)
    assert all(torch.equal(found[name], tensor) for name, tensor in weights(expected.release).items())


@pytest.mark.parametrize("place", PLACES)
def test_a_step_is_taken_whole(images: Images, tmp_path: Path, place: str) -> None:
    owner, name = PLACES[place]
    check_nothing_is_lost(
        images, tmp_path, "dp-sgd", lambda: (owner, name, signalling(getattr(owner, name), INTERRUPTED))
    )


def test_the_one_release_is_kept(images: Images, tmp_path: Path) -> None:
    check_nothing_is_lost(
        images, tmp_path, "dp-ridge", lambda: (Ledger, "record", signalling(Ledger.record, 1))
    )


def test_a_checkpoint_is_written_whole(images: Images, tmp_path: Path) -> None:
    """Signals that come as it is begun, again and again."""

    def write(path: Path, content: bytes) -> None:
        signal.raise_signal(signal.SIGINT)
        write_atomically(path, content)

    check_nothing_is_lost(images, tmp_path, "dp-sgd", lambda: (checkpoints, "write_atomically", write))
