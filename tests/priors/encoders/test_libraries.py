from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpvision.priors.encoders import Encoder, build_encoder
from dpvision.privacy.errors import InputError

RGB = (3, 16, 16)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("library", ["torchvision", "timm", "open_clip"])
def test_a_missing_library_is_named_with_its_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf"needs {library}, which .* pip install 'dpvision\[{library}\]'"):
        build_encoder(f"{library}:resnet18", RGB)


class Transpose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1)


class Photographic(nn.Module):
    """A stand-in for a library's network: what it reads is what comes out, but for a BatchNorm."""

    def __init__(self, classifier: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.tokens = nn.Flatten(2)
        self.turn = Transpose()
        self.head = nn.Linear(3 * 8 * 8, 10) if classifier else nn.Identity()
        self.pretrained_cfg = {"architecture": "photographic"}

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens(self.norm(x))
        self.turn(tokens)
        return self.head(tokens.flatten(1))


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand-ins for the libraries, which note which weights they were asked for."""
    asked: dict[str, Any] = {}
    mean, std = [0.4, 0.5, 0.6], [0.1, 0.2, 0.3]

    def get_model(name: str, weights: Any) -> nn.Module:
        asked["torchvision"] = weights
        return Photographic(classifier=True)

    def get_model_weights(name: str) -> Any:
        if name != "photographic":
            raise ValueError(f"Unknown model {name}")
        preprocessing = SimpleNamespace(mean=mean, std=std, crop_size=[8])
        return SimpleNamespace(DEFAULT=SimpleNamespace(transforms=lambda: preprocessing))

    def create_model(name: str, pretrained: bool, num_classes: int) -> nn.Module:
        asked["timm"] = pretrained or None
        if name != "photographic":
            raise RuntimeError(f"Unknown model ({name})")
        return Photographic(classifier=bool(num_classes))

    def create_clip(name: str, pretrained: str | None = None, **options: Any) -> Any:
        asked.update(open_clip=pretrained, options=options)
        if pretrained == "unreachable":
            raise RuntimeError("Failed to download weights")
        return SimpleNamespace(visual=Photographic(classifier=False))

    clips = {
        "photographic": {"laion": False, "unreachable": False, "openai": True},
        "another": {"laion": False},
    }

    torchvision, models, timm, open_clip = (
        ModuleType("torchvision"),
        ModuleType("torchvision.models"),
        ModuleType("timm"),
        ModuleType("open_clip"),
    )
    vars(models).update(get_model=get_model, get_model_weights=get_model_weights)
    resolved = {"mean": mean, "std": std, "input_size": (3, 8, 8)}
    vars(timm).update(
        create_model=create_model, data=SimpleNamespace(resolve_model_data_config=lambda _: resolved)
    )
    vars(open_clip).update(
        __version__="3",
        list_pretrained_tags_by_model=lambda name: list(clips.get(name, {})),
        get_pretrained_cfg=lambda name, tag: {"mean": mean, "std": std, "quick_gelu": clips[name][tag]},
        get_model_config=lambda name: {"vision_cfg": {"image_size": 8}},
        create_model=create_clip,
    )
    for module in (torchvision, models, timm, open_clip):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return asked


def library_encoder(library: str, **options: Any) -> Encoder:
    return build_encoder(f"{library}:photographic", RGB, **options)


@pytest.mark.parametrize("library", ["torchvision", "timm", "open_clip"])
def test_a_librarys_network_reads_pixels_as_it_was_taught(library: str, libraries: dict[str, Any]) -> None:
    encoder = library_encoder(library)
    assert libraries[library] is not None
    assert encoder.out_features == 3 * 8 * 8
    red_green_blue = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1)
    x = ((red_green_blue - 0.5) / 0.25).expand(2, 3, 16, 16)
    expected = torch.tensor([-2.0, 0.0, 1.0]).repeat_interleave(64).expand(2, -1)
    torch.testing.assert_close(encoder(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("library", ["torchvision", "timm", "open_clip"])
def test_layers_of_a_librarys_network_are_exposed(library: str, libraries: dict[str, Any]) -> None:
    x = images(2, 3, 8, 8)
    features = library_encoder(library)(x)
    both = library_encoder(library, layers=["tokens", "norm"])
    assert torch.equal(both(x), torch.cat([features, features], dim=1))
    averaged = library_encoder(library, layers=["norm"], cells=2)
    assert averaged.out_features == 3 * 4
    expected = features.view(2, 3, 2, 4, 2, 4).mean(dim=(3, 5)).flatten(1)
    torch.testing.assert_close(averaged(x), expected)
    assert library_encoder(library, layers=["norm"], cells=9).out_features == 3 * 8 * 8


def test_a_classifier_may_be_among_the_layers(libraries: dict[str, Any]) -> None:
    encoder = library_encoder("torchvision", layers=["head", "norm"], cells=1)
    assert encoder.out_features == 10 + 3


@pytest.mark.parametrize("library", ["torchvision", "timm", "open_clip"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": 2}, "cells are of the outputs of layers; choose some with layers"),
        ({"layers": ["nrm"]}, "photographic has no layer 'nrm'; the names nearest to it: norm"),
        ({"layers": ["tokens"], "cells": 2}, r"'tokens' .* gives \[3, 64\] for an image, no grid to average"),
        ({"layers": ["turn"]}, r"layer 'turn' of .* gives \[3, 2, 64\] for 2 images, not features of each"),
    ],
)
def test_layers_that_have_no_such_features_are_refused(
    library: str, options: dict[str, Any], message: str, libraries: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=message):
        library_encoder(library, **options)


@pytest.mark.parametrize("options", [{}, {"layers": ["tokens", "norm"]}, {"layers": ["norm"], "cells": 2}])
@pytest.mark.parametrize("library", ["torchvision", "timm", "open_clip"])
def test_a_librarys_encoder_is_rebuilt_without_fetching(
    library: str, options: dict[str, Any], libraries: dict[str, Any]
) -> None:
    encoder = library_encoder(library, **options)
    again = build_encoder(**json.loads(json.dumps(encoder.config)))
    assert libraries[library] is None
    again.load_state_dict(encoder.state_dict())
    x = images(2, *RGB)
    assert torch.equal(again(x), encoder(x))
    assert again.config == encoder.config


def test_batch_norm_learns_nothing_from_private_images(libraries: dict[str, Any]) -> None:
    encoder = library_encoder("torchvision")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    nn.Sequential(encoder).train()(images(4, *RGB))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize("library", ["torchvision", "timm", "open_clip"])
def test_an_unknown_network_of_a_library_is_refused(library: str, libraries: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{library} .* network 'unheard-of'"):
        build_encoder(f"{library}:unheard-of", RGB)


def test_open_clips_weights_are_openais_unless_there_are_none_or_others_are_named(
    libraries: dict[str, Any],
) -> None:
    for name, options, tag in [
        ("photographic", {}, "openai"),
        ("photographic", {"pretrained": "laion"}, "laion"),
        ("another", {}, "laion"),
    ]:
        encoder = build_encoder(f"open_clip:{name}", RGB, **options)
        assert libraries["open_clip"] == encoder.config["pretrained"] == tag
        assert encoder.provenance == {"source": f"open_clip 3, {name}, {tag}"}


def test_an_open_clip_network_has_the_activation_of_its_weights(libraries: dict[str, Any]) -> None:
    encoder = library_encoder("open_clip")
    assert libraries["options"] == {"force_quick_gelu": True, "force_image_size": None}
    build_encoder(**encoder.config)
    assert libraries["options"] == {"force_quick_gelu": True, "force_image_size": 8, "text_cfg": {}}
    build_encoder("open_clip:photographic", RGB, pretrained="laion", size=16)
    assert libraries["options"] == {"force_quick_gelu": False, "force_image_size": 16}


def test_weights_that_open_clip_lacks_or_cannot_fetch_are_refused(libraries: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="has no weights 'laion5'; pretrained is one of laion, unreach"):
        build_encoder("open_clip:photographic", RGB, pretrained="laion5")
    with pytest.raises(InputError, match=r"weights 'unreachable' .* not be fetched .*Failed to download"):
        build_encoder("open_clip:photographic", RGB, pretrained="unreachable")
