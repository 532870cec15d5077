"""The mutants fit the present sources, and the command tells a killed one from any other."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from checks import mutants

ROOT = Path(__file__).parents[2]
FOUND = mutants.read_mutants(ROOT / "checks" / "mutants")


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("mutant", FOUND, ids=lambda mutant: mutant.name)
def test_a_patch_applies_compiles_and_names_a_test(mutant: mutants.Mutant, tmp_path: Path) -> None:
    file, _, name = mutant.killed_by.partition("::")
    assert name in functions_of(ROOT / file)
    lines = mutant.patch.read_text().splitlines()
    changed = [line.removeprefix("+++ b/") for line in lines if line.startswith("+++ b/")]
    assert changed
    for path in changed:
        assert path.startswith("src/")
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    mutants.apply(mutant, tmp_path)
    for path in changed:
        source = (tmp_path / path).read_text()
        assert source != (ROOT / path).read_text()
        compile(source, path, "exec")


def test_the_documented_table_is_that_of_the_patches() -> None:
    assert mutants.table(FOUND) in (ROOT / "docs" / "mutants.md").read_text()


PATCH = """\
A fault of this kind would cost much.
Killed by: tests/test_double.py::test_double
--- a/src/dpvision/__init__.py
+++ b/src/dpvision/__init__.py
@@ -1,2 +1,2 @@
 def double(x: int) -> int:
-    return 2 * x
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A package of one function, a test that sees some faults, and one in another file that sees others."""
    root = tmp_path / "repository"
    test = "import dpvision\n\n\ndef test_{}():\n    assert dpvision.double({}) == {}\n"
    for name, text in {
        "src/dpvision/__init__.py": "def double(x: int) -> int:\n    return 2 * x\n",
        "tests/test_double.py": test.format("double", 2, 4),
        "tests/test_other.py": test.format("other", 3, 6),
        "tests/checks/test_mutants.py": "def test_never_run_on_a_mutant():\n    raise AssertionError\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for command in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def mutant_of(root: Path, line: str, patch: str = PATCH) -> mutants.Mutant:
    (root / "patches").mkdir(exist_ok=True)
    (root / "patches" / "wrong.patch").write_text(patch + line)
    (mutant,) = mutants.read_mutants(root / "patches")
    return mutant


@pytest.mark.parametrize(
    ("line", "failed", "error"),
    [
        ("+    return 3 * x\n", ("tests/test_double.py::test_double",), ""),
        ("+    return x + 2\n", ("tests/test_other.py::test_other",), ""),  # not by the test that is named
        ("+    return x + x\n", (), ""),
        ("+import nosuch\n", (), "pytest ended with"),  # an error of an import shows nothing
    ],
)
def test_a_mutant_is_killed_by_a_test_that_fails_and_by_nothing_else(
    repository: Path, line: str, failed: tuple[str, ...], error: str
) -> None:
    outcome = mutants.try_mutant(mutant_of(repository, line), repository, all_tests=False)
    assert outcome.failed == failed
    assert outcome.is_killed == bool(failed)
    assert bool(outcome.error) == bool(error)
    assert error in outcome.error


def test_all_tests_that_notice_are_listed(repository: Path) -> None:
    outcome = mutants.try_mutant(mutant_of(repository, "+    return 0\n"), repository, all_tests=True)
    assert outcome.failed == ("tests/test_double.py::test_double", "tests/test_other.py::test_other")


def test_a_patch_that_does_not_apply_kills_nothing(repository: Path) -> None:
    mutant = mutant_of(repository, "+    return 0\n", PATCH.replace("2 * x", "x * 2"))
    outcome = mutants.try_mutant(mutant, repository, all_tests=False)
    assert "does not apply" in outcome.error
    assert not outcome.is_killed


def test_a_test_that_fails_without_a_mutant_kills_nothing(repository: Path) -> None:
    mutant = mutant_of(repository, "+    return 0\n")
    mutants.check_unmutated([mutant], repository)
    (repository / "tests" / "test_double.py").write_text("def test_double():\n    raise AssertionError\n")
    with pytest.raises(mutants.Unusable, match="without any mutant"):
        mutants.check_unmutated([mutant], repository)


def test_a_package_of_another_place_is_not_tested(repository: Path) -> None:
    mutant = mutant_of(repository, "+    return 0\n")
    os.remove(repository / "src" / "dpvision" / "__init__.py")
    with pytest.raises(mutants.Unusable, match="would be imported from"):
        mutants.check_unmutated([mutant], repository)


def test_a_patch_may_be_as_git_writes_it(repository: Path) -> None:
    name = "src/dpvision/__init__.py"
    header = f"diff --git a/{name} b/{name}\nindex 1234567..89abcde 100644\n--- "
    mutant = mutant_of(repository, "+    return 0\n", PATCH.replace("--- ", header))
    assert (mutant.fault, mutant.killed_by) == (
        "A fault of this kind would cost much.",
        "tests/test_double.py::test_double",
    )
    mutants.apply(mutant, repository)
    assert "return 0" in (repository / name).read_text()


@pytest.mark.parametrize("patch", ["", PATCH.replace("Killed by", "By"), PATCH.replace("::test_double", "")])
def test_a_patch_that_names_no_fault_or_test_is_refused(repository: Path, patch: str) -> None:
    with pytest.raises(mutants.Unusable, match="must begin with the fault"):
        mutant_of(repository, "+    return 0\n", patch)


@pytest.mark.slow
def test_every_mutant_is_killed_by_the_test_that_it_names() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "checks.mutants", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=4 * 3600,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    outcomes = json.loads(finished.stdout.splitlines()[-1])["outcomes"]
    assert [outcome["name"] for outcome in outcomes] == [mutant.name for mutant in FOUND]
    assert all(outcome["killed_by"] in outcome["failed"] for outcome in outcomes)
