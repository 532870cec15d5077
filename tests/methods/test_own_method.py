"""The method of docs/guide/own-method.md goes through all that those of this package do, unchanged."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import dpvision
from dpvision.cli.main import run
from dpvision.images import Images
from dpvision.methods import find_method, known_methods, registry
from dpvision.privacy import InputError, Ledger, default_ledger_path
from dpvision.testing import GuaranteeBroken, check_guarantee, method_run

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "own-method.md"
NAME = "class-directions"
OPTIONS: dict[str, Any] = {"method": NAME, "epsilon": 20.0, "delta": 1e-3}


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def register(patch: pytest.MonkeyPatch, **entries: Any) -> None:
    """As if packages with these entry points were installed."""
    names: list[EntryPoint] = []
    for name, value in entries.items():
        entry = EntryPoint(name.replace("_", "-"), f"their_package:{name}", registry.GROUP)
        object.__setattr__(entry, "load", lambda value=value: value)
        names.append(entry)
    patch.setattr(registry, "entry_points", lambda group: names if group == registry.GROUP else [])
    forget()


def forget() -> None:
    known_methods.cache_clear()
    registry._load.cache_clear()


@pytest.fixture(autouse=True)
def method(monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    package = ModuleType("their_package")
    monkeypatch.setitem(sys.modules, "their_package", package)
    exec(blocks()[0], vars(package))
    register(monkeypatch, class_directions=package.ClassDirections)
    yield package.ClassDirections
    monkeypatch.undo()
    forget()


@pytest.fixture
def images(left_or_right: Callable[[int], Images]) -> Images:
    return left_or_right(240)


def test_it_is_as_short_as_the_page_says() -> None:
    assert len(blocks()[0].splitlines()) <= 75


def test_it_learns_and_is_told_of(images: Images, tmp_path: Path) -> None:
    train, test = images.subset(range(200)), images.subset(range(200, 240))
    expected = dpvision.plan(train, **OPTIONS)
    result = dpvision.train(train, test=test, out=tmp_path / "run", **OPTIONS)
    assert result.epsilon == expected.epsilon <= 20
    assert result.test_accuracy is not None
    assert result.test_accuracy.value > 0.8
    card = json.loads((result.release / "card.json").read_text())
    assert card["method"] == NAME
    assert card["mechanisms"][0]["name"] == "Gaussian noise on class-wise sums of images of norm one"
    assert torch.equal(dpvision.load(result.release)(test.pixels), result.model(test.pixels))


@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
def test_it_keeps_its_guarantee(images: Images, relation: Any) -> None:
    made = method_run(NAME, num_examples=12, neighboring_relation=relation)
    for comparison in check_guarantee(made, images.subset(range(12)), relation):
        assert comparison.releases == 1


def test_a_fault_in_it_is_seen(images: Images, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of images that are not of norm one."""
    monkeypatch.setitem(vars_of(method), "F", type("F", (), {"normalize": staticmethod(lambda x, dim: x)}))
    with pytest.raises(GuaranteeBroken, match="the sums differ by"):
        check_guarantee(method_run(NAME, num_examples=12), images.subset(range(12)), "add_or_remove_one")


def vars_of(method: Any) -> dict[str, Any]:
    """The names that its functions see."""
    found: dict[str, Any] = method.learn.__globals__
    return found


def test_an_interrupted_run_is_taken_up(images: Images, tmp_path: Path, method: Any) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            dpvision.train(images, out=tmp_path / "run", seed=1, **OPTIONS)
    resumed = dpvision.resume(tmp_path / "run")  # it has learned: no private image is needed
    whole = dpvision.train(images, out=tmp_path / "whole", seed=1, **OPTIONS)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])
    assert all(not one["open"] for one in Ledger(default_ledger_path(images.digest)).summary()["runs"])


def test_it_is_audited(images: Images) -> None:
    found = dpvision.audit(images, canary_kind="images", seed=0, canaries=400, **OPTIONS)
    assert not found.refuted
    assert found.largest_contribution is not None
    assert 0.99 < found.largest_contribution.share <= 1


def test_commands_know_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["methods"]) == 0
    assert "Classify by the class whose noisy sum" in capsys.readouterr().out
    assert run(["settings", NAME]) == 0
    assert capsys.readouterr().out == "sharpness  a number: the factor on the cosines that become logits.\n"


def test_methods_that_cannot_be_used_are_named(monkeypatch: pytest.MonkeyPatch, method: type) -> None:
    class Broken:
        def __init__(self) -> None:
            raise RuntimeError("no licence")

    register(monkeypatch, broken=Broken, other=method)
    with pytest.raises(InputError, match=r"'broken' of .* cannot be loaded \(RuntimeError: no licence"):
        find_method("broken")
    with pytest.raises(InputError, match=r"'other' of .*\(ValueError: it calls itself 'class-directions'\)"):
        find_method("other")
    register(monkeypatch, dp_sgd=method)
    with pytest.raises(InputError, match="two methods are called 'dp-sgd'"):
        known_methods()
