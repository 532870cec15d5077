from __future__ import annotations

from collections.abc import Callable

import pytest

from dpvision.cli.main import run


@pytest.fixture
def check_sentence(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str], str], None]:
    """A command ends with exit code 2, one sentence on stderr that has the message in it, no more."""

    def check(arguments: list[str], message: str) -> None:
        assert run(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith("error: ")
        assert message in line

    return check
