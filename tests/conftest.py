"""Fixtures that every floor's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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
