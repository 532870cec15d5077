"""The watch sees what it is there to see."""

from __future__ import annotations

import mmap
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from checks.fuzzing.bundles import pack
from checks.fuzzing.targets import TARGETS
from checks.fuzzing.watch import Watch
from dpvision.images.files import FREE_BYTES
from dpvision.privacy.errors import InputError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is watched by Linux's /proc")


def unpickles(folder: Path) -> None:
    pickle.loads(pickle.dumps(os.path.join))


def takes_memory(folder: Path) -> None:
    # Of the system: an array may be made of memory that the process has, from tests before this one.
    with mmap.mmap(-1, FREE_BYTES + 2**24) as memory:
        for page in range(0, len(memory), mmap.PAGESIZE):
            memory[page] = 1


def writes_elsewhere(folder: Path) -> None:
    (folder.parents[2] / "elsewhere").write_bytes(b"")


def makes_a_folder_elsewhere(folder: Path) -> None:
    (folder.parents[2] / "made").mkdir()


def runs_a_command(folder: Path) -> None:
    os.system("true")


def fails(folder: Path) -> None:
    raise KeyError("surprise")


def hides_the_lack_of_memory(folder: Path) -> None:
    raise InputError("bad input") from MemoryError()


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (unpickles, "pickle.find_class"),
        (takes_memory, "MiB of memory"),
        (writes_elsewhere, "to write"),
        (makes_a_folder_elsewhere, "os.mkdir"),
        (runs_a_command, "os.system"),
        (fails, "KeyError: 'surprise'"),
        (hides_the_lack_of_memory, "MemoryError"),
    ],
)
def test_what_must_not_be_is_a_violation(read: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    target = replace(TARGETS["metrics"], read=read)
    place = tmp_path / "inner" / "place"
    assert message in str(Watch(target, place).give(pack([b""])).violation)
