"""A user's script passes mypy, and the mistakes that people make are told before it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="needs the extra dev")

SCRIPT = Path(__file__).parent / "user_script.py"

MISTAKES = {
    'dpvision.train("photos", epsilno=2, out="run")': 'Unexpected keyword argument "epsilno" for "train"',
    'dpvision.train("photos", epsilon="2", out="run")': '"epsilon" to "train" has incompatible type "str"',
    'dpvision.train("photos", epsilon=2)': 'Missing named argument "out" for "train"',
    'dpvision.tune("photos", epsilon=2, out="run")': 'Missing named argument "search" for "tune"',
    'dpvision.plan("photos", epsilon=2, stesp=3)': 'Unexpected keyword argument "stesp" for "plan"',
    'dpvision.synthesize("photos", epsilon=2, out="run", count="all")': '"count" to "synthesize" has',
    'dpvision.audit("photos", epsilon=2, canary=3)': 'Unexpected keyword argument "canary" for "audit"',
    'dpvision.open_images("photos", sise=32)': 'Unexpected keyword argument "sise" for "open_images"',
    'dpvision.predict("run", "photos", resise="pad")': 'Unexpected keyword argument "resise" for "predict"',
    'dpvision.trian("photos", epsilon=2, out="run")': 'has no attribute "trian"',
    'dpvision.train("photos", epsilon=2, out="run").acuracy': '"Result" has no attribute "acuracy"',
}

ONLY_THE_API = """
[mypy]
strict = true
follow_imports = skip
disallow_subclassing_any = false
warn_unused_ignores = false

[mypy-dpvision,dpvision.api,dpvision.api.*,dpvision.images,dpvision.images.choices,dpvision.images.keywords,\
dpvision.images.opening,dpvision.privacy,dpvision.privacy.budget,dpvision.privacy.errors]
follow_imports = silent
"""
"""What lies beneath is not read: that takes most of the time."""


def mypy(folder: Path, *arguments: str) -> list[str]:
    """The lines that mypy prints, where the package is found as a user's is."""
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(folder / "cache"), *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False
    ).stdout.splitlines()


def test_mistakes_are_told(tmp_path: Path) -> None:
    (tmp_path / "mypy.ini").write_text(ONLY_THE_API)
    (tmp_path / "mistakes.py").write_text("\n".join(["import dpvision", *MISTAKES]))
    found = [line for line in mypy(tmp_path, str(SCRIPT), "mistakes.py") if ": error: " in line]
    for number, (call, message) in enumerate(MISTAKES.items(), start=2):
        assert any(f"mistakes.py:{number}: " in line and message in line for line in found), call
    assert len(found) == len(MISTAKES), "the script has none"


@pytest.mark.slow
def test_the_script_passes_strict_and_runs(tmp_path: Path) -> None:
    assert mypy(tmp_path, "--strict", str(SCRIPT))[-1].startswith("Success")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1].startswith("nowhere does not exist")
