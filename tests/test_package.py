"""What is built of the package holds what it must and no more, and works where only it is installed.

`python -m checks.package` does the same with the dependencies out of a registry.
"""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("build", reason="needs the extra test")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MADE_BY_COMMANDS = {"build", "dist", "runs", "fuzz-failures"}
"""Folders that .gitignore has, which are no part of the source; docs/api is one too."""

LITTER = (
    "runs/demo/private/checkpoint.safetensors",
    "photos/patient-1/scan.png",
    ".env",
    "src/dpvision/ledger.jsonl",
    "src/dpvision/priors/key",
    "tests/__pycache__/test_home.pyc",
)
"""What may lie about where somebody builds, and must not be published."""


def parts_of_the_source() -> list[Path]:
    """All that is no hidden file and that no command makes, and the list for building containers."""
    shown = (one for one in ROOT.iterdir() if one.name[0] != "." or one.name == ".dockerignore")
    return [one for one in shown if one.name not in MADE_BY_COMMANDS]


def files_in(folder: Path) -> set[str]:
    """The paths of the source files under a folder of the repository."""
    found = (one.relative_to(ROOT) for one in folder.rglob("*") if one.is_file())
    made = ("__pycache__", "dpvision.egg-info")
    return {str(one) for one in found if not set(one.parts) & set(made) and one.parts[:2] != ("docs", "api")}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel, the latter made of the former, from a copy of the source with
    litter in it.
    """
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for part in parts_of_the_source():
        if part.is_dir():
            shutil.copytree(
                part, source / part.name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
            )
        else:
            shutil.copy(part, source)
    for name in LITTER:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("private")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return out


def test_what_is_built_holds_all_that_it_must_and_no_more(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()}
    made = {"PKG-INFO", "setup.cfg"} | {name for name in names if ".egg-info/" in name}
    expected = {name for part in parts_of_the_source() if part.is_dir() for name in files_in(part)}
    expected |= {part.name for part in parts_of_the_source() if part.is_file()} - {"MANIFEST.in"}
    assert names - made - {"MANIFEST.in"} == expected, "MANIFEST.in says what the sdist holds"

    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        about = email.message_from_bytes(archive.read(metadata))
    folder = metadata.partition("/")[0]
    of_package = {f"src/{name}" for name in names if not name.startswith(folder)}
    assert of_package == files_in(ROOT / "src"), "package-data in pyproject.toml says what the wheel holds"
    assert f"{folder}/licenses/LICENSE" in names
    assert (about["Name"], about["License-Expression"]) == ("dpvision", PROJECT["license"])
    assert set(about.get_all("Provides-Extra", [])) == {
        name.replace("_", "-") for name in PROJECT["optional-dependencies"]
    }


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of a fresh environment, which has the wheel and finds the dependencies here."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=True)
    (commands,) = home.glob("bin")
    (packages,) = home.glob("lib/python*/site-packages")
    # A folder that a .pth file names is searched, but no .pth file in it: so not that of the checkout.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (wheel,) = dist.glob("*.whl")
    install = [sys.executable, "-m", "pip", "--python", str(commands / "python"), "install", "--no-index"]
    subprocess.run([*install, "--no-deps", "--no-compile", "--quiet", str(wheel)], check=True)
    return commands


def test_the_wheel_works_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def out_of(*command: str) -> str:
        done = subprocess.run(
            [installed / command[0], *command[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = out_of("python", "-c", "import dpvision; print(dpvision.__file__)").strip()
    assert Path(where).is_relative_to(installed.parent)
    assert out_of("dpvision", "--version") == f"dpvision {version_of_the_source()}\n"
    run = ["train", "bundled:digits", "--epsilon", "2", "--out", "run"]
    run += [part for one in ("network=linear", "steps=3", "augmult=1") for part in ("--set", one)]
    both = f"from dpvision.cli.main import run; exit(run({run}) or run(['verify', 'run/release']))"
    out_of("python", "-c", both)  # in one process, which imports torch once
    assert (tmp_path / "run" / "release" / "card.html").exists()


def version_of_the_source() -> str:
    import dpvision

    return dpvision.__version__
