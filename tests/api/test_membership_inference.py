from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dpvision
from dpvision.api import membership_inference
from dpvision.images import Images
from dpvision.privacy import InputError, Ledger, default_ledger_path

RIDGE = {"encoder": "pixels"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("runs") / "run"
    dpvision.train("bundled:digits", epsilon=4, method="dp-ridge", config=RIDGE, out=out)
    return out


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_knows_its_members(run: Path) -> None:
    before, steps = contents(run), []
    found = dpvision.membership(run, shadow_models=4, progress=lambda *told: steps.append(told))
    assert (found.members, found.non_members) == (1437, 360)
    assert 3.9 < found.epsilon <= 4
    assert "private" in found.notice
    names = [attack.name for attack in found.attacks]
    assert names == ["confidence", "confidence by class", "online LiRA, 4 shadow models"]
    for attack in found.attacks:
        assert 0.4 < attack.auc < 0.6
        for rate in attack.rates:
            assert rate.low <= rate.most_private  # as it must be, of a private release
    assert found.blind is not None
    assert found.blind.low < 0.5 < found.blind.high
    assert (found.blind.sets_differ, found.warning) == (False, None)
    assert [done for _, done, _ in steps] == [0, 1, 2, 3]
    assert contents(run) == before


def test_a_release_is_told_its_members(run: Path) -> None:
    by_name = dpvision.membership(run / "release", "bundled:digits", "bundled:digits")
    images = dpvision.open_images("bundled:digits"), dpvision.open_images("bundled:digits", "test")
    assert by_name == dpvision.membership(run / "release", *images) == dpvision.membership(run)


def test_sets_of_different_kinds_are_warned_of(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Blurred images are harder, whatever the classifier remembers: an attack succeeds without a cause."""
    digits, test = (dpvision.open_images("bundled:digits", split) for split in ("train", "test"))
    blurred = torch.nn.functional.avg_pool2d(test.pixels.float(), 3, 1, 1).to(torch.uint8)
    others = Images(blurred, test.labels, test.class_names, "blurred digits")
    found = dpvision.membership(run, digits, others)
    assert found.attacks[0].low > 0.6
    assert found.blind is not None
    assert found.blind.low > 0.9
    assert found.warning in caplog.messages
    assert found.warning is not None
    assert found.warning.startswith("members and non-members differ in kind")
    assert f"{found.blind.auc:.3f}" in found.warning


def test_what_was_learned_by_heart_is_found(tmp_path: Path) -> None:
    """At an ε that protects nobody, with wrong labels that must be learned by heart."""
    digits = dpvision.open_images("bundled:digits")
    random = np.random.default_rng(0)
    labels = digits.labels[random.permutation(len(digits))]  # type: ignore[index]
    shuffled = Images(digits.pixels, labels, digits.class_names, "shuffled digits")
    half, rest = shuffled.subset(range(700)), shuffled.subset(range(700, 1437))
    config = RIDGE | {"encoder_options": {"products": True}}
    dpvision.train(half, epsilon=1e5, method="dp-ridge", config=config, out=tmp_path / "run")
    found = dpvision.membership(tmp_path / "run", half, rest)
    assert found.attacks[0].auc > 0.8


def test_nothing_is_spent(images: Images, tmp_path: Path) -> None:
    config = {"network": "linear", "steps": 3, "expected_batch_size": 20, "learning_rate": 0.5}
    dpvision.train(images, epsilon=3, out=tmp_path / "run", config=config)
    ledger = default_ledger_path(images.digest).read_bytes()
    dpvision.membership(tmp_path / "run", images, images, shadow_models=4)
    assert default_ledger_path(images.digest).read_bytes() == ledger
    assert len(Ledger(default_ledger_path(images.digest)).summary()["runs"]) == 1


def test_units_are_attacked_as_a_whole(tmp_path: Path) -> None:
    """By a classifier that protects nobody: ten images tell more than one."""
    digits = dpvision.open_images("bundled:digits")
    random = np.random.default_rng(0)
    labels = digits.labels[random.permutation(len(digits))]  # type: ignore[index]
    shuffled = Images(digits.pixels, labels, digits.class_names, "shuffled digits")
    of_units = shuffled.with_units(np.arange(1437) // 10)
    half, rest = of_units.subset(range(700)), of_units.subset(range(700, 1437))
    config = RIDGE | {"encoder_options": {"products": True}}
    dpvision.train(half, epsilon=1e5, method="dp-ridge", config=config, out=tmp_path / "run")
    found = dpvision.membership(tmp_path / "run", half, rest, shadow_models=4)
    assert (found.members, found.non_members) == (70, 74)
    single = dpvision.membership(tmp_path / "run", half.with_units(None), rest.with_units(None))
    assert found.attacks[0].auc > max(0.95, single.attacks[0].auc)
    assert found.attacks[2].auc > 0.9
    with pytest.raises(InputError, match="both have units"):
        dpvision.membership(tmp_path / "run", half, rest.with_units(None))
    with pytest.raises(InputError, match="of the 74 units"):
        dpvision.membership(tmp_path / "run", half, rest.with_units(np.arange(737) // 10))


def test_every_image_is_in_half_of_the_shadow_models() -> None:
    inside = membership_inference._halves(6, 500)
    assert (inside.sum(axis=0) == 3).all()
    assert len(np.unique(inside, axis=1).T) == 20


def test_bad_input(run: Path, images: Images, tmp_path: Path) -> None:
    def refused(message: str, *arguments: Any, **options: Any) -> None:
        with pytest.raises(InputError, match=message):
            dpvision.membership(*arguments, **options)

    refused("does not say what it learned from", run / "release")
    refused("must be 0 or at least 4, not 2", run, shadow_models=2)
    digits = dpvision.open_images("bundled:digits")
    refused("does not say what it learned from", run / "release", digits, digits, shadow_models=4)
    refused("among the known classes", run, images, images)
    dpvision.train(images, epsilon=3, out=tmp_path / "run", config={"network": "linear", "steps": 2})
    refused("does not say where such images are; name the members", tmp_path / "run")
