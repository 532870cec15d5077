from __future__ import annotations

import hashlib
import json
import sys
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpvision.networks import Normalize
from dpvision.priors.encoders import build_encoder, scales_images
from dpvision.privacy.errors import InputError

RGB = (3, 16, 16)


class FeatureExtractor(nn.Module):
    """A stand-in for torch-fidelity's: features are sums of the pixels of each channel, weighted.

    Like it, it reads weights when it is made, and takes only uint8.
    """

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: BytesIO | str
    ) -> None:
        super().__init__()
        assert features_list == ["2048"]
        self.weight = nn.Parameter(torch.rand(3))
        self.norm = nn.BatchNorm1d(3)
        state = torch.load(feature_extractor_weights_path, weights_only=False)
        self.load_state_dict(state)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        return (self.norm(self.weight * x.float().sum(dim=(2, 3))),)


@pytest.fixture(autouse=True)
def _library(monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("torch_fidelity")
    vars(library).update(FeatureExtractorInceptionV3=FeatureExtractor, __version__="0.0")
    monkeypatch.setitem(sys.modules, "torch_fidelity", library)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.tensor([1.0, 2.0, 3.0]), **_norm_state()}, path)
    return str(path)


def _norm_state() -> dict[str, Tensor]:
    return {f"norm.{key}": value for key, value in nn.BatchNorm1d(3, eps=0).state_dict().items()}


@pytest.mark.parametrize("channels", [1, 3])
def test_gets_the_pixels_back_as_they_were(channels: int, weights: str) -> None:
    pixels = torch.arange(2 * channels * 256).remainder(256).view(2, channels, 16, 16).to(torch.uint8)
    pixels[1] = pixels[1].flip(1) // 2
    encoder = build_encoder("inception", (channels, 16, 16), weights=weights)
    assert encoder.out_features == 3
    features = encoder(Normalize()(pixels))
    expected = torch.tensor([1.0, 2.0, 3.0]) * pixels.expand(-1, 3, -1, -1).double().sum(dim=(2, 3))
    torch.testing.assert_close(features.double(), expected, rtol=1e-5, atol=0)
    # Beyond the range of pixels there is none to wrap around to.
    too_bright = Normalize()(torch.full((1, channels, 16, 16), 1.1))
    assert encoder(too_bright)[0, 0].item() == pytest.approx(255 * 256, rel=1e-5)


def test_weights_and_their_provenance_are_the_files(weights: str) -> None:
    encoder = build_encoder("inception", RGB, weights=weights)
    digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    assert encoder.provenance == {"source": "torch_fidelity 0.0, Inception of 2015", "sha256": digest}
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not nn.Sequential(encoder).train()[0].model.training


def test_is_rebuilt_without_the_file(weights: str) -> None:
    encoder = build_encoder("inception", RGB, weights=weights)
    Path(weights).unlink()
    assert weights not in json.dumps(encoder.config)
    again = build_encoder(**json.loads(json.dumps(encoder.config)))
    again.load_state_dict(encoder.state_dict())
    x = torch.randn(2, *RGB)
    assert torch.equal(again(x), encoder(x))
    assert again.config == encoder.config
    assert scales_images("inception")


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("code of the file was run",))


@pytest.mark.parametrize("content", [{}, {"weight": torch.ones(2)}, Malicious(), 3, None])
def test_a_file_of_something_else_is_refused_and_not_run(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    if content is None:
        path.write_bytes(b"no weights")
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=r"weights\.pth does not hold the weights of Inception; give the"):
        build_encoder("inception", RGB, weights=str(path))


def test_weights_are_asked_for_and_must_be_there() -> None:
    with pytest.raises(InputError, match=r"needs the option weights, .* https://github\.com/toshas"):
        build_encoder("inception", RGB)
    with pytest.raises(InputError, match=r"missing\.pth cannot be read: No such file"):
        build_encoder("inception", RGB, weights="missing.pth")


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(InputError, match=r"needs torch_fidelity, which .* pip install 'dpvision\[fid\]'"):
        build_encoder("inception", RGB, weights="any")
