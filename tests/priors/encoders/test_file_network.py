from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dpvision.images import open_images
from dpvision.networks import Normalize
from dpvision.priors import build_encoder
from dpvision.privacy.errors import InputError

RGB = (3, 32, 32)
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class Reference(nn.Module):
    """A network as torchvision defines it. ``forward`` gives the outputs that encoders expose by default."""

    def randomize(self) -> Reference:
        """Weights under which signals keep their size, and statistics that are not those of a new network."""
        torch.manual_seed(1)
        for name, tensor in self.state_dict().items():
            if tensor.ndim == 4:
                nn.init.kaiming_normal_(tensor)
            elif tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5) if "var" in name or "weight" in name else tensor.normal_(0, 0.3)
        return self.eval()


class VGG19(Reference):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for entry in [64, 64, "M", 128, 128, "M", *4 * [256], "M", *4 * [512], "M", *4 * [512], "M"]:
            if isinstance(entry, str):
                layers += [nn.MaxPool2d(kernel_size=2, stride=2)]
            else:
                layers += [nn.Conv2d(channels, entry, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
                channels = entry
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.Conv2d):
                outputs.append(x.clone())
        return outputs


class Fire(nn.Module):
    def __init__(self, inplanes: int, squeeze: int, expand1x1: int, expand3x3: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inplanes, squeeze, kernel_size=1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze, expand1x1, kernel_size=1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze, expand3x3, kernel_size=3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat(
            [self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))], 1
        )


class SqueezeNet(Reference):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, kernel_size=7, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            Fire(96, 16, 64, 64),
            Fire(128, 16, 64, 64),
            Fire(128, 32, 128, 128),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            Fire(256, 32, 128, 128),
            Fire(256, 48, 192, 192),
            Fire(384, 48, 192, 192),
            Fire(384, 64, 256, 256),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            Fire(512, 64, 256, 256),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.Conv2d | Fire):
                outputs.append(x.clone())
        return outputs


class BasicBlock(nn.Module):
    def __init__(self, inplanes: int, planes: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet18(Reference):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        inplanes = 64
        for number, planes in enumerate([64, 128, 256, 512], start=1):
            downsample = None
            if number > 1:
                downsample = nn.Sequential(
                    nn.Conv2d(inplanes, planes, kernel_size=1, stride=2, bias=False), nn.BatchNorm2d(planes)
                )
            first = BasicBlock(inplanes, planes, 1 if number == 1 else 2, downsample)
            setattr(self, f"layer{number}", nn.Sequential(first, BasicBlock(planes, planes, 1, None)))
            inplanes = planes

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = [self.relu(self.bn1(self.conv1(x)))]
        x = self.maxpool(outputs[0])
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
            outputs.append(x)
        return outputs


class SmallResNet18(ResNet18):
    """The same with another beginning, and with the ReLUs inside of its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs: list[Tensor] = []
        hooks = [
            module.register_forward_hook(lambda *given: outputs.append(given[-1].clone()))
            for module in self.modules()
            if isinstance(module, nn.ReLU)
        ]
        x = self.relu(self.bn1(self.conv1(x)))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        for hook in hooks:
            hook.remove()
        assert len(outputs) == 17
        return outputs[:16]


REFERENCES: dict[str, Callable[[], Reference]] = {
    "vgg19": VGG19,
    "squeezenet1_0": SqueezeNet,
    "resnet18": ResNet18,
    "resnet18-small": SmallResNet18,
}


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Reference, str]]:
    """Each network, and the path of a file of its weights, with those of a classifier."""
    folder = tmp_path_factory.mktemp("weights")
    made = {}
    for name, network in REFERENCES.items():
        reference, path = network().randomize(), folder / f"{name}.safetensors"
        classifier = "fc.weight" if name.startswith("resnet18") else "classifier.1.weight"
        save_file(reference.state_dict() | {classifier: torch.zeros(2, 2)}, path)
        made[name] = reference, str(path)
    return made


@pytest.mark.parametrize("name", REFERENCES)
def test_features_are_those_of_torchvisions_definition(
    name: str, references: dict[str, tuple[Reference, str]]
) -> None:
    reference, path = references[name]
    x = images(2, *RGB)
    encoder = build_encoder(name, RGB, weights=path)
    normalised = (x * 0.25 + 0.5 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
    with torch.no_grad():
        expected, features = reference(normalised), encoder(x)
    assert len(expected) == len(encoder.config["layers"])
    assert features.shape == (2, encoder.out_features)
    assert features.dtype == torch.float32
    for found, output in zip(features.split([o[0].numel() for o in expected], dim=1), expected, strict=True):
        torch.testing.assert_close(found, output.flatten(1), rtol=1e-3, atol=1e-4 * output.abs().max())
    if name == "vgg19":
        assert all((output < 0).any() for output in expected)  # they are from before the ReLUs


@pytest.mark.parametrize(("side", "count"), [(32, 303_104), (64, 1_212_416)])
def test_vgg19_has_the_features_of_dp_mepf(side: int, count: int) -> None:
    encoder = build_encoder("vgg19", (3, side, side), provenance={"source": "to be loaded"})
    assert encoder.out_features == count
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 20_024_384


def test_chosen_layers_come_in_the_order_given_and_no_others_are_built(
    references: dict[str, tuple[Reference, str]],
) -> None:
    reference, path = references["squeezenet1_0"]
    options: dict[str, Any] = {"weights": path, "size": 48, "mean": [0.5] * 3, "std": [0.25] * 3}
    layers = ["features.4", "features.0", "features.4.squeeze"]
    encoder = build_encoder("squeezenet1_0", RGB, layers=layers, **options)
    assert not any(name.startswith("model.features.5") for name in encoder.state_dict())
    x = images(2, *RGB)
    scaled = F.interpolate(x, (48, 48), mode="bilinear", antialias=True)
    with torch.no_grad():
        stem, _, last, *_ = reference(scaled)
        squeezed = reference.get_submodule("features.4.squeeze")(reference.features[:4](scaled))
        torch.testing.assert_close(
            encoder(x), torch.cat([o.flatten(1) for o in (last, stem, squeezed)], dim=1)
        )

        averaged = build_encoder(
            "squeezenet1_0", RGB, layers=["features.12", "features.0"], cells=4, **options
        )
        last = reference(scaled)[-1]
        assert last.shape[-1] == 2  # positions, fewer than cells: a pool in ceil_mode leaves as many
        expected = torch.cat([last.flatten(1), F.adaptive_avg_pool2d(stem, 4).flatten(1)], dim=1)
        torch.testing.assert_close(averaged(x), expected, rtol=1e-4, atol=1e-3)
    assert averaged.out_features == 512 * 4 + 96 * 16


@pytest.mark.parametrize("name", REFERENCES)
def test_config_and_state_rebuild_the_encoder_without_the_file(
    name: str, references: dict[str, tuple[Reference, str]]
) -> None:
    _, path = references[name]
    encoder = build_encoder(name, RGB, weights=path, cells=1, mean=[0.4, 0.5, 0.6])
    assert encoder.provenance == {
        "source": f"{name}.safetensors",
        "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        "architecture": name,
    }
    assert str(Path(path).parent) not in json.dumps(encoder.config)
    assert "weights" not in encoder.config
    again = build_encoder(**json.loads(json.dumps(encoder.config)))
    again.load_state_dict(encoder.state_dict())
    x = images(2, *RGB)
    assert torch.equal(again(x), encoder(x))
    assert again.config == encoder.config


def test_grey_images_are_seen_as_rgb(references: dict[str, tuple[Reference, str]]) -> None:
    _, path = references["resnet18"]
    x = images(2, 1, 32, 32)
    grey, colour = (build_encoder("resnet18", (c, 32, 32), weights=path) for c in (1, 3))
    torch.testing.assert_close(grey(x), colour(x.repeat(1, 3, 1, 1)))


@pytest.fixture
def stem() -> dict[str, Tensor]:
    """The weights of SqueezeNet's first convolution."""
    return {"features.0.weight": images(96, 3, 7, 7), "features.0.bias": torch.zeros(96)}


def test_weights_behind_the_last_layer_may_be_absent_and_of_half_precision(
    stem: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "stem.safetensors"
    save_file({name: tensor.half() for name, tensor in stem.items()}, path)
    encoder = build_encoder("squeezenet1_0", RGB, weights=str(path), layers=["features.0"])
    assert torch.equal(
        encoder.state_dict()["model.features.0.weight"], stem["features.0.weight"].half().float()
    )


def test_a_batch_norms_counter_may_be_absent(
    references: dict[str, tuple[Reference, str]], tmp_path: Path
) -> None:
    _, path = references["resnet18"]
    without = {name: tensor for name, tensor in load_file(path).items() if "num_batches" not in name}
    save_file(without, tmp_path / "old.safetensors")
    x = images(1, *RGB)
    old, new = (
        build_encoder("resnet18", RGB, weights=weights, layers=["bn1"])
        for weights in (str(tmp_path / "old.safetensors"), path)
    )
    assert torch.equal(old(x), new(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.0.bias": None}, r"features\.0\.bias should be of shape \[96\] and is absent"),
        ({"features.0.bias": torch.zeros(64)}, r"should be of shape \[96\] and is of shape \[64\]"),
        ({"module.x": torch.zeros(1)}, r"module\.x should be absent and is of shape \[1\]"),
        (
            {"features.12.squeeze.bias": torch.zeros(3)},
            r"does not hold a squeezenet1_0 of torchvision's: features\.12\.squeeze\.bias should be",
        ),
        ({"features.0.bias": torch.full((96,), torch.nan)}, r"features\.0\.bias holds values that are not"),
        ({"features.0.bias": torch.full((96,), 1e300, dtype=torch.float64)}, "not finite"),
    ],
)
def test_a_file_of_other_weights_is_refused(
    change: dict[str, Tensor | None], message: str, stem: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    save_file({name: t for name, t in (stem | change).items() if t is not None}, path)
    with pytest.raises(InputError, match=rf"w\.safetensors.*{message}"):
        build_encoder("squeezenet1_0", RGB, weights=str(path), layers=["features.0"])


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*gone"):
        build_encoder("vgg19", RGB, weights=str(tmp_path / "gone"))
    path = tmp_path / "vgg19.pth"
    path.write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(InputError, match=r"vgg19\.pth is not a safetensors file .*save_file"):
        build_encoder("vgg19", RGB, weights=str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"provenance": None}, "vgg19 needs the option weights, the path of a safetensors file"),
        ({"layers": ["features.50"]}, "has no layer 'features.50'; the names nearest to it: features"),
        ({"layers": []}, "layers must be names of one layer or more"),
        ({"layers": "features.0"}, "layers must be a list, each a name"),
        ({"cells": 0}, "cells must be at least 1, not 0"),
        ({"size": 8}, r"vgg19 does not take images of 8×8 pixels .* choose another size"),
        ({"size": 0}, r"vgg19 does not take images of 0×0 pixels"),
        ({"mean": [0.5]}, "mean and std must be three numbers each"),
        ({"std": [1, 1, 0]}, "those of std above 0"),
        ({"mean": [0, 0, float("nan")]}, "mean and std must be three numbers each"),
        ({"taps": [1]}, "has no option 'taps'; its options: cells, layers, mean, size, std, weights"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_encoder("vgg19", RGB, **{"provenance": {"source": "to be loaded"}, **options})


def test_images_too_small_are_refused() -> None:
    with pytest.raises(InputError, match=r"squeezenet1_0 does not take images of 6×9 pixels"):
        build_encoder("squeezenet1_0", (3, 6, 9), provenance={"source": "to be loaded"})


CLASSES_OF_IMAGENET = {
    "airplane": [404, 895, 908],
    "automobile": [436, 468, 511, 627, 751, 817],
    "bird": [*range(7, 25), *range(80, 101), *range(127, 147)],
    "cat": [*range(281, 286)],
    "deer": [351, 352, 353],
    "dog": [*range(151, 269)],
    "frog": [30, 31, 32],
    "horse": [339],
    "ship": [484, 510, 554, 628, 724, 780, 871, 914],
    "truck": [555, 569, 656, 675, 717, 864, 867],
}


def test_a_real_squeezenet_knows_what_it_sees(shared_data: Path) -> None:
    """Its classifier, on our features, tells CIFAR-10's classes apart: 49 of these 100 right, and 8 where the
    input is normalised in another way.
    """
    path = shared_data.parent / "weights" / "squeezenet1_0-imagenet.safetensors"
    if not path.is_file():
        pytest.skip(f"needs SqueezeNet's weights: there is no file {path}")
    test = open_images(shared_data / "cifar10", "test")
    some = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:100]
    encoder = build_encoder(
        "squeezenet1_0",
        RGB,
        weights=str(path),
        layers=["features.12"],
        size=131,
        mean=[123 / 255, 117 / 255, 104 / 255],
        std=[1 / 255] * 3,
    )
    weights = load_file(path)
    with torch.no_grad():
        features = torch.cat([encoder(Normalize()(pixels)) for pixels in test.pixels[some].split(25)])
        maps = features.unflatten(1, (512, 7, 7))
        logits = (
            F.conv2d(maps, weights["classifier.1.weight"], weights["classifier.1.bias"]).relu().mean((2, 3))
        )
    scores = torch.stack([logits[:, CLASSES_OF_IMAGENET[name]].amax(1) for name in test.class_names], dim=1)
    right = scores.argmax(dim=1) == torch.as_tensor(test.labels)[some]
    assert right.sum() >= 40
