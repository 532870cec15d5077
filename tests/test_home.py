"""No test, and no fixture of one, reaches the ledgers and the index of the person who runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpvision.privacy import default_ledger_path
from dpvision.privacy.image_index import default_index_folder


@pytest.fixture(scope="module")
def seen_by_a_module() -> list[Path]:
    return [default_ledger_path("ab"), default_index_folder()]


def test_their_home_is_out_of_reach(seen_by_a_module: list[Path], tmp_path: Path) -> None:
    temporary = tmp_path.parent.parent
    for path in [*seen_by_a_module, default_ledger_path("ab"), default_index_folder()]:
        assert path.is_relative_to(temporary)
    assert seen_by_a_module[0] != default_ledger_path("ab")
