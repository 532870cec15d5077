"""What a launcher's variables say."""

from __future__ import annotations

import pytest

from dpvision.images.files import physical_memory
from dpvision.parallel import are_several, follows
from dpvision.privacy import InputError


@pytest.fixture(autouse=True)
def _without(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_one_process_is_alone() -> None:
    assert not are_several()
    assert not follows()


@pytest.mark.parametrize(("rank", "expected"), [("0", False), ("1", True)])
def test_all_but_the_first_follow(rank: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    assert are_several()
    assert follows() == expected


def test_processes_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = physical_memory()
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert physical_memory() == alone // 4


def test_a_number_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(InputError, match="WORLD_SIZE must be a number, not 'two'"):
        are_several()
