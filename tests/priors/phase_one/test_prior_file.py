from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from dpvision.networks import build_network
from dpvision.priors.phase_one import places, prior_file
from dpvision.priors.phase_one.places import list_priors
from dpvision.priors.phase_one.prior_file import PROVENANCE, Prior, load_prior, save_prior
from dpvision.privacy.errors import InputError

OPTIONS = {"groups": 8, "stem_stride": 2}


def small_prior(**changes: Any) -> Prior:
    network = build_network("wrn-10-1", in_channels=3, image_size=(32, 32), num_classes=1, **OPTIONS)
    weights = {
        name: tensor for name, tensor in network.state_dict().items() if name.startswith(("stem.", "stages."))
    }
    provenance = dict.fromkeys(PROVENANCE, 0) | {
        "processes": ["dead-leaves-mixed", "fractals"],
        "normalization": {"mean": 0.5, "std": 0.25},
        "figure": "61.3 % ± 0.2 (ε = 1)",
    }
    return replace(Prior("ignored", "wrn-10-1", OPTIONS, weights, provenance), **changes)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "small.safetensors"
    save_prior(path, small_prior())
    return path


def rewritten(path: Path, provenance: dict[str, Any] | str | None, **weights: torch.Tensor) -> Path:
    """The file with other metadata or further tensors, as someone else's program might write it."""
    text = json.dumps(provenance) if isinstance(provenance, dict) else provenance
    tensors = safetensors.torch.load_file(path) | weights
    safetensors.torch.save_file(tensors, path, metadata=None if text is None else {"provenance": text})
    return path


def test_what_is_loaded_is_what_was_saved(saved: Path) -> None:
    prior, loaded = small_prior(), load_prior(saved)
    assert loaded.name == "small"
    assert (loaded.network, loaded.network_options) == ("wrn-10-1", OPTIONS)
    assert loaded.provenance == prior.provenance | {"network": "wrn-10-1", "network_options": OPTIONS}
    saved_again = saved.with_name("again.safetensors")
    save_prior(saved_again, loaded)
    assert saved_again.read_bytes() == saved.read_bytes()
    assert sorted(path.name for path in saved.parent.iterdir()) == [
        "again.json", "again.safetensors", "small.json", "small.safetensors",
    ]  # fmt: skip


def test_weights_are_the_body_in_float16(saved: Path) -> None:
    torch.manual_seed(0)
    prior = small_prior()
    save_prior(saved, prior)
    weights = load_prior(saved).weights
    assert weights.keys() == prior.weights.keys()
    assert all(torch.equal(weights[name], prior.weights[name].half()) for name in weights)
    assert saved.stat().st_size < 2 * sum(tensor.numel() for tensor in weights.values()) + 5000


def test_provenance_lies_in_the_file_and_beside_it(saved: Path) -> None:
    with safetensors.safe_open(saved, framework="pt") as file:
        inside = file.metadata()["provenance"]
    assert saved.with_suffix(".json").read_text(encoding="utf-8") == inside
    assert "61.3 % ± 0.2 (ε = 1)" in inside


def test_bundled_priors_are_found_by_name(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match="there is no prior 'small'; give the path of a prior file, or one of"
    ):
        load_prior("small")
    monkeypatch.setattr(places, "WEIGHTS", saved.parent)
    assert list_priors() == ["small"]
    assert load_prior("small").network == "wrn-10-1"
    with pytest.raises(InputError, match="one of these names: small"):
        load_prior("large")


def test_bundled_priors_are_whole() -> None:
    assert "wrn-10-4-small" in list_priors()
    for name in list_priors():
        assert load_prior(name).name == name
        assert (places.WEIGHTS / f"{name}.safetensors").stat().st_size <= 8e6
        beside = json.loads((places.WEIGHTS / f"{name}.json").read_text(encoding="utf-8"))
        assert beside == load_prior(name).provenance


def test_a_file_that_is_not_safetensors_is_refused(saved: Path) -> None:
    torch.save({"stem.weight": torch.ones(1)}, saved)
    with pytest.raises(InputError, match="is not a safetensors file"):
        load_prior(saved)


def test_a_truncated_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(InputError, match="is not a safetensors file"):
        load_prior(saved)


def test_a_header_that_claims_more_than_the_file_holds_is_refused(saved: Path) -> None:
    header = b'{"stem.weight":{"dtype":"F16","shape":[4000000000,1000],"data_offsets":[0,8000000000000]}}'
    saved.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(InputError, match="is not a safetensors file"):
        load_prior(saved)
    saved.write_bytes((2**60).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match="is not a safetensors file"):
        load_prior(saved)


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.truncate(prior_file.MAX_BYTES + 1)
    with pytest.raises(InputError, match="too large for a prior: more than 256 MiB"):
        load_prior(path)


@pytest.mark.parametrize("text", [None, "", "{", "[" * 100_000])
def test_no_provenance_is_refused(saved: Path, text: str | None) -> None:
    with pytest.raises(InputError, match="has no readable provenance; give a file that"):
        load_prior(rewritten(saved, text))


@pytest.mark.parametrize("key", PROVENANCE)
def test_each_part_of_the_provenance_must_be_there(saved: Path, key: str) -> None:
    provenance = load_prior(saved).provenance
    del provenance[key]
    with pytest.raises(InputError, match=f"does not say '{key}'"):
        load_prior(rewritten(saved, provenance))


def test_provenance_of_another_form_is_refused(saved: Path) -> None:
    with pytest.raises(InputError, match="not a JSON object"):
        load_prior(rewritten(saved, "[1]"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "wrn-10-2"}, "does not hold a wrn-10-2: stages.0.residual.1.bias should be of shape"),
        ({"network": "wrn-4000-4"}, "network 'wrn-4000-4'; a prior is a wrn-D-K"),
        ({"network": "linear"}, "network 'linear'; a prior is a wrn-D-K"),
        ({"network": ["wrn-10-1"]}, "a prior is a wrn-D-K"),
        ({"network": "wrn-11-1"}, "does not describe a network that can be built"),
        ({"network_options": {"unheard_of": 1}}, "has no option 'unheard_of'"),
        ({"network_options": {"in_channels": 1}}, "does not describe a network that can be built"),
        ({"network_options": [1]}, "does not describe a network that can be built"),
        ({"normalization": {"mean": 0.0, "std": 1.0}}, "normalised by {'mean': 0.0, 'std': 1.0}, but here"),
    ],
)
def test_a_provenance_that_does_not_fit_is_refused(
    saved: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_prior(rewritten(saved, load_prior(saved).provenance | changes))


def test_other_tensors_are_refused(saved: Path) -> None:
    provenance = load_prior(saved).provenance
    with pytest.raises(InputError, match=r"head.weight should be absent and is of shape \[1, 64\]"):
        load_prior(rewritten(saved, provenance, **{"head.weight": torch.zeros(1, 64)}))
    safetensors.torch.save_file({}, saved)
    with pytest.raises(
        InputError, match=r"stages.0.residual.0.norm.bias should be of shape \[16\] and is absent"
    ):
        load_prior(rewritten(saved, provenance))


@pytest.mark.parametrize("bad", [torch.full((16,), float("nan")), torch.ones(16, dtype=torch.int64)])
def test_weights_that_are_no_finite_numbers_are_refused(saved: Path, bad: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"stem\.bias holds values that are not finite"):
        load_prior(rewritten(saved, load_prior(saved).provenance, **{"stem.bias": bad}))


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    prior = small_prior()
    beyond_float16 = prior.weights | {"stem.bias": torch.full((16,), 1e5)}
    for unfit in (
        small_prior(weights=beyond_float16), small_prior(provenance={}), small_prior(network="wrn-10-2")
    ):  # fmt: skip
        with pytest.raises(InputError):
            save_prior(path, unfit)
    with pytest.raises(InputError, match=r"should end in \.safetensors"):
        save_prior(tmp_path / "prior.pt", prior)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        save_prior(tmp_path / "file" / "prior.safetensors", prior)
