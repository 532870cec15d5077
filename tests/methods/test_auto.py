"""The default method is chosen by what is public and the settings that were given, and named everywhere."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

import dpvision
from dpvision.images import Images
from dpvision.methods import known_methods, registry
from dpvision.methods.auto import choose_method
from dpvision.privacy import Account, InputError
from dpvision.runs import RunDirectory

FEW = {"encoder": "pixels", "steps": 4}
SCRATCH = {"network": "linear", "steps": 4}


@pytest.fixture
def images(left_or_right: Callable[[int], Images]) -> Images:
    return left_or_right(120)


@pytest.mark.parametrize(
    ("settings", "shape", "method"),
    [
        ((), (1, 8, 8), "dp-randp"),
        ((), (3, 32, 32), "dp-randp"),
        (("steps", "learning_rate"), (3, 32, 32), "dp-randp"),
        ((), (1, 4, 28), "dp-sgd"),
        (("encoder",), (1, 4, 28), "dp-randp"),
        (("phase_iii", "augmult"), (3, 32, 32), "dp-randp"),
        (("network", "steps"), (3, 32, 32), "dp-sgd"),
        (("network_options",), (3, 32, 32), "dp-sgd"),
        (("augmult",), (3, 32, 32), "dp-sgd"),
        (("pool", "k_diff"), (3, 32, 32), "dp-sgd"),
    ],
)
def test_settings_decide_then_the_size(
    settings: tuple[str, ...], shape: tuple[int, int, int], method: str
) -> None:
    assert choose_method(settings, shape).method == method


def test_a_setting_that_no_method_has_is_named() -> None:
    with pytest.raises(InputError, match=r"there is no setting 'stepz'; choose from .*encoder.*network"):
        choose_method(["steps", "stepz"])
    with pytest.raises(InputError, match="no method has both network and encoder"):
        choose_method(["network", "encoder"])


def test_pixels_do_not_choose(images: Images) -> None:
    """Other images, and other sizes of the classes, with the same public facts have the same plan."""
    other = Images(255 - images.pixels, (torch.arange(120) < 9).long(), images.class_names, "other")
    plans = [dpvision.plan(each, epsilon=1.0, delta=1e-3) for each in (images, other)]
    assert [plan.method for plan in plans] == ["dp-randp", "dp-randp"]
    assert plans[0].config == plans[1].config


def test_the_choice_is_told_in_one_line(images: Images, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dpvision"):
        dpvision.plan(images, epsilon=1.0, config=SCRATCH)
        dpvision.plan(images, epsilon=1.0, config=SCRATCH, method="dp-sgd")
    (line,) = (record.getMessage() for record in caplog.records)
    assert line == "method dp-sgd, because network is a setting of it alone; --method chooses another"


def test_run_and_card_have_the_method_that_was_chosen(images: Images, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int, account: Account | None = None) -> None:
        if account is not None and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dpvision.train(images, epsilon=3.0, out=tmp_path / "run", config=FEW, progress=stop)
    assert RunDirectory.open(tmp_path / "run").config["method"] == "dp-randp"
    result = dpvision.resume(tmp_path / "run", data=images)
    assert json.loads((result.release / "card.json").read_text())["method"] == "dp-randp"


def test_audits_choose_too(images: Images) -> None:
    found = dpvision.audit(images, epsilon=3.0, canaries=20, config=FEW)
    assert found.method == "dp-randp"


def test_a_network_of_ones_own_is_trained_from_scratch(images: Images) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 2))
    assert dpvision.plan(images, epsilon=3.0, config={"steps": 2}, network=network).method == "dp-sgd"


def test_images_without_labels_are_refused(images: Images) -> None:
    unlabelled = Images(images.pixels, None, (), "made up")
    with pytest.raises(InputError, match="label"):
        dpvision.plan(unlabelled, epsilon=1.0)


def test_images_are_made_by_dp_moments_unless_a_method_is_named(images: Images, tmp_path: Path) -> None:
    result = dpvision.synthesize(images, epsilon=1.0, count=3, out=tmp_path / "run")
    assert json.loads((result.release / "card.json").read_text())["method"] == "dp-moments"


def test_no_package_can_call_its_method_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("auto", "their_package:Auto", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    known_methods.cache_clear()
    try:
        with pytest.raises(InputError, match="two methods are called 'auto'"):
            known_methods()
    finally:
        monkeypatch.undo()
        known_methods.cache_clear()
