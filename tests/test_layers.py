"""The rule of the house: a floor imports only floors below it, and nothing that a bare installation lacks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dpvision

PACKAGE = Path(dpvision.__path__[0])
FLOORS = [  # from the ground up
    "_lazy",
    "privacy",
    "parallel",
    "images",
    "networks",
    "priors",
    "gradients",
    "views",
    "training",
    "runs",
    "evaluation",
    "methods",
    "reports",
    "api",
    "testing",
    "cli",
]
ROOF = ("__init__", "__main__")  # the package's own modules, which may import every floor
EXTRAS = {
    "torchvision",
    "timm",
    "open_clip",
    "diffusers",
    "transformers",
    "datasets",
    "huggingface_hub",
    "torch_fidelity",
    "pydicom",
    "tensorboard",
    "onnx",
    "onnxruntime",
    "onnxscript",
}
FILES = sorted(PACKAGE.rglob("*.py"))
DRAWING = Path(__file__).parents[1] / "docs" / "house.md"


def imported_modules(node: ast.AST) -> Iterator[str]:
    """The absolute names that import statements anywhere under node import."""
    for statement in ast.walk(node):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"line {statement.lineno}: imports are absolute in this package"
            if statement.module == "dpvision":
                yield from (f"dpvision.{alias.name}" for alias in statement.names)
            else:
                yield str(statement.module)


def upward_imports(tree: ast.Module, floor: str) -> list[str]:
    allowed = {f"dpvision.{name}" for name in FLOORS[: FLOORS.index(floor) + 1]}
    ours = [name for name in imported_modules(tree) if name.split(".")[0] == "dpvision"]
    return [name for name in ours if ".".join(name.split(".")[:2]) not in allowed]


def extras_needed_to_import(tree: ast.Module) -> set[str]:
    """The optional packages imported outside functions, hence whenever the module is."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    statements = [statement for statement in tree.body if not isinstance(statement, functions)]
    return {name.split(".")[0] for statement in statements for name in imported_modules(statement)} & EXTRAS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_it_may(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    floor = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert extras_needed_to_import(tree) == set(), "optional packages are imported where they are used"
    if floor not in ROOF:
        assert floor in FLOORS, f"{floor} is no floor of the house: give it a place in FLOORS"
        assert upward_imports(tree, floor) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_images_touch_a_whole_tensor_of_pixels(path: Path) -> None:
    """So that images may be larger than memory; see `dpvision.images.ImageSet`."""
    if path.relative_to(PACKAGE).parts[0] != "images":
        assert "pixels" not in attributes_read(ast.parse(path.read_text(encoding="utf-8")))


def attributes_read(tree: ast.Module) -> set[str]:
    reads = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {node.attr for node in reads if isinstance(node.ctx, ast.Load)}


def test_the_rule_sees_pixels_that_are_read() -> None:
    assert "pixels" in attributes_read(ast.parse("def f(images):\n    return images.pixels[0]"))
    assert "pixels" not in attributes_read(ast.parse("from priors.encoders.pixels import x\npixels = 1"))


def test_the_drawing_of_the_floors_is_true() -> None:
    page = DRAWING.read_text(encoding="utf-8")
    assert re.findall(r"^│ (\w+) +│", page, re.MULTILINE) == FLOORS[::-1]
    described = re.findall(r"^\| `(\w+)/` \|", page, re.MULTILINE)
    assert described == [floor for floor in FLOORS[::-1] if (PACKAGE / floor).is_dir()]


def test_every_floor_is_there() -> None:
    assert {path.stem for path in PACKAGE.iterdir() if path.suffix in ("", ".py")} - {"__pycache__"} <= {
        *FLOORS,
        *ROOF,
    }
    assert all((PACKAGE / floor).is_dir() or (PACKAGE / f"{floor}.py").is_file() for floor in FLOORS)


def test_the_rule_sees_every_form_of_upward_import() -> None:
    source = """
import dpvision.training.loop
from dpvision import images, cli
def later():
    from dpvision.views.leak import check_no_leak
from dpvision.privacy.errors import InputError
"""
    found = upward_imports(ast.parse(source), "networks")
    assert sorted(found) == ["dpvision.cli", "dpvision.training.loop", "dpvision.views.leak"]


def test_the_rule_lets_functions_import_extras() -> None:
    assert extras_needed_to_import(ast.parse("def encoder():\n    import timm")) == set()
    assert extras_needed_to_import(ast.parse("try:\n    import timm.models\nexcept ImportError: ...")) == {
        "timm"
    }
