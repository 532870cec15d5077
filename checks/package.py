"""Build the package, install it with its dependencies into an empty environment, and use it there.

    python -m checks.package
    python -m checks.package --extras dicom,tensorboard

The wheel is made of the sdist, and the environment takes versions as far as they are in constraints.txt, so
it needs a package registry, minutes, and 2 GB of disk, or 5 where torch comes with CUDA. There a private
classifier is trained and verified, `dpvision doctor` looks over what is there, a user's script passes ``mypy
--strict`` and runs, and each of the extras is installed and imported, which doctor does. The exit code is 1
where an extra fails; whatever else fails ends it with an error.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parents[1]
TRAIN = ("train", "bundled:digits", "--epsilon", "2", "--test", "bundled:digits", "--out", "run")


class Environment:
    """An empty virtual environment in a folder, in which commands are run, with ledgers of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder / "environment", with_pip=True, symlinks=True)

    def run(self, command: str, *arguments: str | Path) -> str:
        """What a command of the environment prints. CalledProcessError where it fails."""
        started = monotonic()
        path = self.folder / "environment" / "bin" / command
        home = {"DPVISION_HOME": str(self.folder / "home")}
        done = subprocess.run(
            [path, *arguments],
            cwd=self.folder,
            env=os.environ | home,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        print(f"{monotonic() - started:6.0f} s  {command} {' '.join(map(str, arguments))}", flush=True)
        return done.stdout

    def install(self, *what: str) -> None:
        """Install packages, in the versions of constraints.txt as far as they are there."""
        self.run("python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", *what)


def check(folder: Path, extras: list[str]) -> list[str]:
    """Build, install and use; the names of the extras that could not be imported."""
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, stdout=subprocess.DEVNULL
    )
    (wheel,) = folder.glob("*.whl")
    there = Environment(folder)
    there.install(str(wheel))
    there.run("dpvision", *TRAIN)
    there.run("dpvision", "verify", "run/release")
    there.run("dpvision", "doctor")
    there.install("mypy")
    there.run("mypy", "--strict", ROOT / "tests" / "user_script.py")
    there.run("python", ROOT / "tests" / "user_script.py", "of-the-script")
    failed = []
    for extra in extras:
        try:
            there.install(f"{wheel}[{extra}]")
            there.run("dpvision", "doctor")
        except subprocess.CalledProcessError:
            failed.append(extra)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--extras", default="dicom,tensorboard", help="which, with commas between them")
    extras = [one for one in parser.parse_args().extras.split(",") if one]
    with tempfile.TemporaryDirectory() as folder:
        failed = check(Path(folder), extras)
    for one in failed:
        print(f"FAILED: the extra {one}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
