"""A network of the user's own goes all the way: plan, train, card, resume, evaluate, audit, release."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dpvision
from dpvision.images import Images
from dpvision.networks import own
from dpvision.privacy import InputError

CONFIG = {"steps": 6, "expected_batch_size": 40, "learning_rate": 0.5}
OPTIONS: dict[str, Any] = {"epsilon": 8.0, "delta": 1e-3, "config": CONFIG}


class Small(nn.Module):
    def __init__(self, in_channels: int, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(in_channels, width, 3, padding=1), nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean(dim=(2, 3)))


def perceptron(image_size: tuple[int, int]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(image_size[0] * image_size[1], 2))


@pytest.fixture(autouse=True)
def _known_to_no_other_test() -> Iterator[None]:
    yield
    own._OWN.clear()


@pytest.mark.parametrize(
    ("network", "name", "options"),
    [
        (Small, f"{__name__}:Small", {"width": 3}),
        (perceptron, f"{__name__}:perceptron", {}),
        (Small(1, 2), f"{__name__}:Small", {}),
    ],
)
def test_it_goes_all_the_way(
    network: Any, name: str, options: dict[str, Any], images: Images, tmp_path: Path
) -> None:
    given = OPTIONS | {"network": network, "config": CONFIG | {"network_options": options}}
    expected = dpvision.plan(images, **given)
    test = replace(images, pixels=images.pixels ^ 1)
    result = dpvision.train(images, test=test, out=tmp_path / "run", **given)
    assert result.epsilon == expected.epsilon
    card = json.loads((result.release / "card.json").read_text())
    assert (card["model"]["network"], card["config"]["network"]) == (name, name)
    assert dpvision.evaluate(result.release, test) == result.test_report
    found = dpvision.audit(images, seed=0, canaries=100, canary_kind="images", **given)
    assert not found.refuted

    own._OWN.clear()  # as in another process
    with pytest.raises(InputError, match="code that dpvision does not have; make it known first"):
        dpvision.load(result.release)
    again = dpvision.load(result.release, network=network)
    assert torch.equal(again(images.pixels), result.model(images.pixels))  # type: ignore[operator]


def test_an_interrupted_run_is_taken_up_where_it_is_known(images: Images, tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int, account: object) -> None:
        if done == 3:
            raise KeyboardInterrupt

    options = OPTIONS | {"seed": 1, "network": Small}
    whole = dpvision.train(images, out=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        dpvision.train(images, out=tmp_path / "run", progress=interrupt, **options)
    own._OWN.clear()
    with pytest.raises(InputError, match="make it known first"):
        dpvision.resume(tmp_path / "run", data=images)
    resumed = dpvision.resume(tmp_path / "run", data=images, network=Small)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])


def test_a_module_is_left_as_it_is(images: Images, tmp_path: Path) -> None:
    """And every run begins with what it was when it was given."""
    module = Small(1, 2)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    first = dpvision.train(images, out=tmp_path / "first", seed=1, network=module, **OPTIONS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    second = dpvision.train(images, out=tmp_path / "second", seed=1, network=module, **OPTIONS)
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name])


class CannotBeCopied(Small):
    def __deepcopy__(self, memo: dict[int, Any]) -> CannotBeCopied:
        raise TypeError("it holds a socket")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (3, "network must be an nn.Module, or a class or function that makes one, not 3"),
        (lambda: 3, "must make an nn.Module, not 3"),
        (lambda: nn.Flatten(), r"gives \[2, 64\] for two images of .*; it should give logits \[2, 2\]"),
        (lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 2)), "BatchNorm2d"),
        (CannotBeCopied(1, 2), "cannot be copied .it holds a socket.; give a function that makes one"),
    ],
)
def test_what_cannot_be_trained_costs_nothing(
    network: Any, message: str, images: Images, tmp_path: Path
) -> None:
    larger = Images(
        images.pixels.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3),
        images.labels,
        images.class_names,
        "larger",
    )
    with pytest.raises(InputError, match=message):
        dpvision.train(larger, out=tmp_path / "run", network=network, **OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_methods_without_a_network_refuse_one(images: Images, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no setting 'network'"):
        dpvision.train(images, epsilon=8.0, out=tmp_path / "run", method="dp-ridge", network=Small)


def test_a_release_names_code_and_runs_none(images: Images, tmp_path: Path) -> None:
    """Whatever module it names."""
    release = dpvision.train(images, out=tmp_path / "run", network=Small, **OPTIONS).release
    config = json.loads((release / "config.json").read_text())
    for name in ("os:system", "subprocess:Popen", ":", f"{__name__}:perceptron"):
        (release / "config.json").write_text(json.dumps({**config, "network": name}))
        own._OWN.clear()
        with pytest.raises(InputError, match="code that dpvision does not have"):
            dpvision.load(release)
