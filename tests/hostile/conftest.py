from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch._dynamo  # noqa: F401  (it makes a folder of its own where it is first imported)

from checks.fuzzing.bundles import pack
from checks.fuzzing.targets import TARGETS
from checks.fuzzing.watch import Watch
from dpvision.cli.main import run


@pytest.fixture
def check_refused(tmp_path: Path) -> Callable[..., None]:
    """A target refuses these files, with nothing that it must not do on the way."""

    def check(name: str, parts: Sequence[bytes], refused: bool = True, most_mib: int | None = None) -> None:
        if sys.platform != "linux":
            pytest.skip("memory is watched by Linux's /proc")
        found = Watch(TARGETS[name], tmp_path / "watched").give(pack(parts))
        assert found.violation is None
        assert found.refused is refused
        assert most_mib is None or found.peak_bytes < most_mib << 20

    return check


@pytest.fixture
def check_sentence(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str], str], None]:
    """A command ends with exit code 2 and one sentence on stderr that has the message in it."""

    def check(arguments: list[str], message: str) -> None:
        assert run(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line

    return check
