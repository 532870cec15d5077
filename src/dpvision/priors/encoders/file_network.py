"""Convolutional networks of the literature as encoders, with weights from a file of the user's."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from dpvision.networks.resnet import resnet18, resnet18_small
from dpvision.networks.squeezenet import squeezenet1_0
from dpvision.networks.vgg import vgg19
from dpvision.networks.weights import opened
from dpvision.priors.encoders.encoder import Encoder, Provenance, Shape
from dpvision.priors.encoders.exposed_layers import check_layers, up_to
from dpvision.priors.encoders.network import NetworkEncoder
from dpvision.privacy.errors import InputError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Architecture:
    """A network whose weights files are torchvision's, or have its names.

    Attributes:
        build: makes it, without its classifier.
        layers: the layers that are exposed by default.
        classifier: what the names of the classifier's weights begin with.
    """

    build: Callable[[], nn.Sequential]
    layers: tuple[str, ...]
    classifier: str


def _features(*indices: int) -> tuple[str, ...]:
    return tuple(f"features.{index}" for index in indices)


ARCHITECTURES = {
    # The 16 convolutions, before their ReLUs, as DP-MEPF has them (arXiv 2205.12900).
    "vgg19": Architecture(
        vgg19, _features(0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34), "classifier."
    ),
    # The first convolution and the fire modules.
    "squeezenet1_0": Architecture(squeezenet1_0, _features(0, 3, 4, 5, 7, 8, 9, 10, 12), "classifier."),
    # The first convolution, after its ReLU, and the four stages.
    "resnet18": Architecture(resnet18, ("relu", "layer1", "layer2", "layer3", "layer4"), "fc."),
    # The first 16 ReLUs of 17, as DP-MEPF has them for grey images of 28 pixels.
    "resnet18-small": Architecture(
        resnet18_small,
        (
            "relu",
            *(f"layer{n}.{block}.relu{relu}" for n in (1, 2, 3, 4) for block in (0, 1) for relu in (1, 2)),
        )[:16],
        "fc.",
    ),
}
"""The architectures, by the name of their encoders."""


def build_file_network(
    name: str,
    image_shape: Shape,
    provenance: Provenance | None,
    *,
    weights: str | None = None,
    layers: Sequence[str] | None = None,
    size: int | None = None,
    cells: int | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Encoder:
    """Build an encoder of layers of one of :data:`ARCHITECTURES`, which is built as far as they need it.

    Args:
        name: the name of the architecture.
        image_shape: (C, H, W) of the images.
        provenance: the provenance of weights that the caller is going to load, or None to read the file
            ``weights``.
        weights: the path of a safetensors file with torchvision's names. Those of the classifier are ignored.
        layers: the layers exposed, by default those of the architecture.
        size, cells: as in :class:`NetworkEncoder`.
        mean: the means of red, green and blue, for pixels in [0, 1], by which the network's input is
            normalised.
        std: the standard deviations, likewise.

    Raises:
        InputError: as :class:`NetworkEncoder`; no file, or one that holds other weights.
    """
    architecture = ARCHITECTURES[name]
    _check_normalization(name, mean, std)
    whole = architecture.build()
    layers = architecture.layers if layers is None else layers
    check_layers(f"encoder {name}", whole, layers)
    network = up_to(whole, layers)
    if provenance is None:
        if weights is None:
            raise InputError(
                f"encoder {name} needs the option weights, the path of a safetensors file with torchvision's "
                f"names"
            )
        path = Path(weights)
        network.load_state_dict(_read(path, name, whole, network), strict=False)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        provenance = {"source": path.name, "sha256": digest, "architecture": name}
    encoder = NetworkEncoder(name, image_shape, provenance, network, mean, std, size, layers, cells)
    encoder.config |= {"mean": list(mean), "std": list(std)}
    return encoder


def _check_normalization(name: str, mean: Sequence[float], std: Sequence[float]) -> None:
    finite = all(math.isfinite(value) for value in (*mean, *std))
    if not finite or not len(mean) == len(std) == 3 or min(std) <= 0:
        raise InputError(
            f"encoder {name}: mean and std must be three numbers each, for red, green and blue in [0, 1], "
            f"those of std above 0; not {list(mean)} and {list(std)}"
        )


def _read(path: Path, name: str, whole: nn.Module, network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of ``network``, a part of the architecture ``whole`` of that name, from a file of
    it.

    Nothing is unpickled. Tensors are read only once the file's header has shown that they fit.
    """
    if not path.is_file():
        raise InputError(
            f"encoder {name}: there is no file {path}; give weights the path of a safetensors file"
        )
    needed = {key for key in network.state_dict() if not _counts_batches(key)}
    expected = {key: list(tensor.shape) for key, tensor in whole.state_dict().items()}
    with opened(path) as file:
        found = {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        for key in sorted(needed | found.keys()):
            ignored = key.startswith(ARCHITECTURES[name].classifier) or _counts_batches(key)
            if not ignored and found.get(key) != expected.get(key):
                raise InputError(
                    f"{path} does not hold a {name} of torchvision's: {key} should be "
                    f"{_describe(expected.get(key))} and is {_describe(found.get(key))}"
                )
        weights = {key: file.get_tensor(key).float() for key in sorted(needed)}
    for key, tensor in weights.items():
        if not tensor.isfinite().all():
            raise InputError(f"{path}: {key} holds values that are not finite; get the file anew")
    return weights


def _counts_batches(key: str) -> bool:
    """Say whether a key is a BatchNorm's counter, which older files lack and nobody reads."""
    return key.endswith(".num_batches_tracked")


def _describe(shape: list[int] | None) -> str:
    return "absent" if shape is None else f"of shape {shape}"
