"""Fixtures that every floor's tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image


@pytest.fixture(scope="session", autouse=True)
def _home_of_wider_fixtures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nor do fixtures that serve a module, which are made before those of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPVISION_HOME", str(tmp_path_factory.mktemp("dpvision-home")))
        yield


@pytest.fixture(autouse=True)
def _ledgers_of_their_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the ledgers of the person who runs it."""
    monkeypatch.setenv("DPVISION_HOME", str(tmp_path_factory.mktemp("dpvision-home")))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets: $DPVISION_DATA, or shared/data beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DPVISION_DATA", default))
    if not folder.is_dir():
        pytest.skip(
            f"needs the real data sets: there is no folder {folder} (set DPVISION_DATA to another one)"
        )
    return folder


@dataclass
class StandInPipeline:
    """In place of a text-to-image pipeline: noise of 16 x 12 pixels. It writes down what it is asked for."""

    prompts: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    dtype: torch.dtype | None = None
    loaded: list[str] = field(default_factory=list)
    fails_after: int | None = None  # calls

    def from_pretrained(self, model: str, use_safetensors: bool) -> StandInPipeline:
        assert use_safetensors
        if model == "missing":
            raise OSError("no file named\nmodel_index.json")
        self.loaded.append(model)
        return self

    def to(self, device: torch.device, dtype: torch.dtype) -> StandInPipeline:
        self.dtype = dtype
        return self

    def set_progress_bar_config(self, disable: bool) -> None:
        assert disable

    def __call__(
        self,
        prompt: list[str],
        generator: list[torch.Generator],
        output_type: str,
        num_inference_steps: int = 50,
    ) -> Any:
        assert output_type == "pil"
        if self.fails_after == 0:
            raise KeyboardInterrupt
        if self.fails_after is not None:
            self.fails_after -= 1
        self.prompts += prompt
        self.seeds += [one.initial_seed() for one in generator]
        self.steps.append(num_inference_steps)
        noise = [torch.randint(256, (12, 16, 3), dtype=torch.uint8, generator=one) for one in generator]
        return SimpleNamespace(images=[Image.fromarray(pixels.numpy()) for pixels in noise])


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> StandInPipeline:
    """What the library diffusers, which is not needed for it, loads for any model but "missing"."""
    library, pipeline = ModuleType("diffusers"), StandInPipeline()
    vars(library).update(AutoPipelineForText2Image=pipeline, __version__="0.0")
    monkeypatch.setitem(sys.modules, "diffusers", library)
    return pipeline
