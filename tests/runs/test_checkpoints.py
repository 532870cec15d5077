from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dpvision.privacy.errors import InputError
from dpvision.runs import FileCheckpoints, checkpoints


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    store = FileCheckpoints(tmp_path / "checkpoint.safetensors")
    assert store.load() is None
    shared = torch.arange(6.0).reshape(2, 3)
    state = {"a": shared, "tied": shared, "turned": shared.T, "step": torch.tensor(7)}
    store.save(lambda: state, final=False)
    loaded = FileCheckpoints(store.path).load()
    assert loaded is not None
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_saving_takes_under_5_percent_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock)
    saves = []

    def state() -> dict[str, Tensor]:
        nonlocal clock
        clock += 2.0  # seconds that a save takes
        saves.append(clock)
        return {"step": torch.tensor(len(saves))}

    store = FileCheckpoints(tmp_path / "checkpoint.safetensors")
    for _ in range(400):
        clock += 1.0
        store.save(state, final=False)
    assert 2.0 * len(saves) <= 0.05 * (clock - 100.0) + 2.0
    assert len(saves) >= 9
    store.save(state, final=True)
    assert saves[-1] == clock


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\x80\x04\x95"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoint\.safetensors"):
        FileCheckpoints(path).load()
