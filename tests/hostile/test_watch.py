"""The watch sees what it is there to see."""

from __future__ import annotations

import os
import pickle
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
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
    np.full(FREE_BYTES + 2**24, 1, np.uint8)


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


KEPT = f"""
import numpy as np
from checks.fuzzing.watch import peak_bytes, reset_peak
from dpvision.cli.allocator import keep_freed_memory
keep_freed_memory()
np.full({2**26}, 1, np.uint8)  # freed, and kept by the process
before = reset_peak()
np.full({2**26}, 1, np.uint8)
print(peak_bytes() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of the GNU C library")
def test_memory_that_was_freed_before_is_seen_when_it_is_taken_again() -> None:
    """As in a process that ran a command, which keeps what it frees."""
    printed = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True).stdout
    assert int(printed) > 0.9 * 2**26
