"""The command's process does not hand large tensors back to the system between steps."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from dpvision.cli.allocator import keep_freed_memory
if {keep}:
    keep_freed_memory()
for _ in range(20):  # until the heap has grown to what aligned blocks need
    torch.zeros(1 << 24)  # 64 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.zeros(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of the GNU C library")
def test_freed_memory_is_used_again() -> None:
    def page_faults(keep: bool) -> int:
        command = [sys.executable, "-c", FAULTS.format(keep=keep)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert page_faults(keep=True) < page_faults(keep=False) / 5
