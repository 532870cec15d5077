from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from dpvision.networks import Classifier, build_classifier
from dpvision.privacy.errors import InputError
from dpvision.runs import classifier_files, load_release


@pytest.fixture
def model() -> Classifier:
    return build_classifier("linear", image_shape=(1, 4, 4), class_names=("cat", "dog"))


@pytest.fixture
def release(tmp_path: Path, model: Classifier) -> Path:
    for name, content in classifier_files(model).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_a_loaded_classifier_is_the_released_one(release: Path, model: Classifier) -> None:
    loaded = load_release(release)
    assert not loaded.training
    assert (loaded.class_names, loaded.image_shape) == (("cat", "dog"), (1, 4, 4))
    pixels = torch.randint(256, (5, 1, 4, 4), dtype=torch.uint8)
    assert torch.equal(loaded(pixels), model(pixels))
    assert torch.equal(loaded(pixels / 255), model(pixels))  # normalisation is inside


def test_offsets_of_the_classes_come_back_from_the_configuration(
    tmp_path: Path, release: Path, model: Classifier
) -> None:
    pixels = torch.randint(256, (5, 1, 4, 4), dtype=torch.uint8)
    plain = model(pixels)
    names = set(model.state_dict())
    model.shift([0.1, -1.3])
    files = classifier_files(model)
    assert set(model.state_dict()) == names
    assert json.loads(files["config.json"])["offsets"] == [0.1, -1.3]
    (release / "config.json").write_bytes(files["config.json"])
    loaded = load_release(release)
    assert torch.equal(loaded(pixels), model(pixels))
    assert torch.equal(loaded(pixels), plain + torch.tensor([0.1, -1.3]))
    assert json.loads(classifier_files(loaded)["config.json"]) == json.loads(files["config.json"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "offsets", [[0.1], [0.1, 0.2, 0.3], [0.1, math.nan], [0.1, math.inf], ["a", "b"], 3, {"cat": 0.1}]
)
def test_offsets_that_do_not_fit_are_refused(release: Path, model: Classifier, offsets: object) -> None:
    config = {**model.config, "offsets": offsets}  # type: ignore[dict-item]
    (release / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json (does not describe what can be built|is not JSON)"):
        load_release(release)


def test_a_classifier_takes_no_offsets_but_finite_ones(model: Classifier) -> None:
    with pytest.raises(InputError, match="2 classes need as many finite offsets"):
        model.shift([0.1, math.nan])
    for beyond in (1e39, 10**400, "0.1", True, None):  # of float32, and of numbers
        with pytest.raises(InputError, match="2 classes need as many finite offsets"):
            model.shift([0.1, beyond])  # type: ignore[list-item]
    assert model.offsets is None


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(release: Path, name: str) -> None:
    (release / name).unlink()
    with pytest.raises(InputError, match=name):
        load_release(release)


class _Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("a file was unpickled",))


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, pickle.dumps(_Bomb())])
def test_only_safetensors_are_read(release: Path, content: bytes) -> None:
    (release / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="not a safetensors file"):
        load_release(release)


@pytest.mark.parametrize("change", ["shape", "missing", "extra"])
def test_weights_must_fit(release: Path, model: Classifier, change: str) -> None:
    weights = dict(model.state_dict())
    name = "network.linear.bias" if "network.linear.bias" in weights else next(iter(model.state_dict()))
    if change == "shape":
        weights[name] = torch.zeros(7)
    elif change == "missing":
        del weights[name]
    else:
        weights["more"] = torch.zeros(1)
    safetensors.torch.save_file(weights, release / "model.safetensors")
    with pytest.raises(InputError, match="of another network"):
        load_release(release)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"network": "linear"},
        {"network": "no-such", "image_shape": [1, 4, 4], "class_names": ["a"], "options": {}},
        {"network": "linear", "image_shape": [1, 4], "class_names": ["a"], "options": {}},
        {"network": "linear", "image_shape": [1, 4, 4], "class_names": ["a"], "options": {}, "more": 1},
        {"network": 3, "image_shape": [1, 4, 4], "class_names": ["a"], "options": {}},
    ],
)
def test_a_config_that_builds_nothing_is_named(release: Path, config: dict[str, object]) -> None:
    (release / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json"):
        load_release(release)
