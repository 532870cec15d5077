"""The container file, as far as that can be told without building it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@dataclass
class Stage:
    """A stage: what it begins from, and its instructions with those of the stages that it begins from."""

    image: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all_of(self, instruction: str) -> list[str]:
        return [what for kind, what in self.instructions if kind == instruction]


def stages() -> dict[str, Stage]:
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found: dict[str, Stage] = {}
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        kind, _, what = line.partition(" ")
        if kind == "FROM":
            image, name = re.fullmatch(r"(\S+) AS (\S+)", what).groups()  # type: ignore[union-attr]
            before = found[image].instructions if image in found else []
            found[name] = stage = Stage(image, list(before))
        elif kind and found:
            stage.instructions.append((kind, what))
    return found


STAGES = stages()
TARGETS = ("cpu", "cuda")


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_the_command_as_a_user_who_is_not_root(target: str) -> None:
    stage = STAGES[target]
    assert stage.all_of("ENTRYPOINT") == ['["dpvision"]']
    assert "dpvision" in PYPROJECT["project"]["scripts"]
    assert stage.instructions[-1] == ("USER", "dpvision")
    (useradd,) = (what for what in stage.all_of("RUN") if "useradd" in what)
    assert "--uid 1000 dpvision" in useradd


@pytest.mark.parametrize("target", TARGETS)
def test_ledgers_are_on_a_volume_of_their_own(target: str) -> None:
    (volume,) = STAGES[target].all_of("VOLUME")
    assert f"DPVISION_HOME={volume}" in " ".join(STAGES[target].all_of("ENV")).split()
    assert any(
        f"--owner dpvision --group dpvision --mode 700 {volume}" in what
        for what in STAGES[target].all_of("RUN")
    )


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_installed_is_what_the_tests_pass_with_and_nothing_is_kept(stage: str) -> None:
    installs = [
        part for run in STAGES[stage].all_of("RUN") for part in run.split("&&") if "pip install" in part
    ]
    assert installs or stage == "base"
    for one in installs:
        assert re.search(r"--constraint /?constraints\.txt", one), one
        assert "--no-cache-dir" in one


def test_the_python_is_one_that_the_package_is_for() -> None:
    (version,) = re.findall(r"^ARG PYTHON=(.+)$", (ROOT / "Containerfile").read_text(encoding="utf-8"), re.M)
    assert f"Programming Language :: Python :: {version}" in PYPROJECT["project"]["classifiers"]


def allowed(name: str) -> bool:
    """Whether .dockerignore lets a path of the source into a layer."""
    verdict = True
    for rule in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if rule and not rule.startswith("#"):
            parents = [name, *map(str, Path(name).parents)]
            if any(fnmatch(one, rule.lstrip("!").removeprefix("**/")) for one in [*parents, Path(name).name]):
                verdict = rule.startswith("!")
    return verdict


def test_what_is_copied_is_there_and_allowed_and_nothing_else_is() -> None:
    copied = {
        source
        for stage in STAGES.values()
        for what in stage.all_of("COPY")
        if not what.startswith("--from")
        for source in what.split()[:-1]
    }
    assert copied == {"LICENSE", "MANIFEST.in", "README.md", "constraints.txt", "pyproject.toml", "src"}
    assert all((ROOT / one).exists() and allowed(one) for one in copied)
    assert allowed("src/dpvision/cli/main.py")
    for private in (
        "runs/a/private/run.json",
        "photos/a.png",
        ".git/config",
        "ledger.jsonl",
        "shared/data/x",
    ):
        assert not allowed(private)


@pytest.mark.parametrize("stage", STAGES)
def test_a_shell_understands_every_line(stage: str) -> None:
    for run in STAGES[stage].all_of("RUN"):
        subprocess.run(["sh", "-n", "-c", run], check=True)
        for program in re.findall(r'python -c "(.*?)"', run):
            compile(program, stage, "exec")


STAND_IN = """
import sys
from types import SimpleNamespace as of
sys.modules["torch"] = of(version=of(cuda={!r}))
"""


@pytest.mark.parametrize(("target", "holds"), [("cpu", False), ("cuda", True)])
def test_each_target_refuses_the_other_one_s_torch(target: str, holds: bool) -> None:
    """By the line that asks, run on stand-ins for torch."""
    (program,) = (
        found for run in STAGES[target].all_of("RUN") for found in re.findall(r'python -c "(.*?)"', run)
    )
    for cuda, passes in ((None, not holds), ("12.8", holds)):
        command = [sys.executable, "-c", f"{STAND_IN.format(cuda)}\n{program}"]
        done = subprocess.run(command, capture_output=True, check=False)
        assert (done.returncode == 0) == passes


@pytest.mark.slow
def test_the_wheel_is_built_by_its_lines(tmp_path: Path) -> None:
    """But for the install, of which this environment has the outcome."""
    for source in ("LICENSE", "MANIFEST.in", "README.md", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / source, tmp_path)
    shutil.copytree(
        ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    (build,) = (run for run in STAGES["wheel"].all_of("RUN") if "-m build" in run)
    line = build.replace("python ", f"{shlex.quote(sys.executable)} ").replace(
        "/wheels", str(tmp_path / "wheels")
    )
    subprocess.run(["sh", "-e", "-c", line], cwd=tmp_path, check=True, capture_output=True)
    assert len(list((tmp_path / "wheels").glob("dpvision-*.whl"))) == 1
