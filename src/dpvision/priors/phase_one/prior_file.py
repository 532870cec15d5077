"""A learned prior as a file: the body of a wide residual network in safetensors, and how it came about."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from dpvision.images.atomic import replacing
from dpvision.images.files import parse_json
from dpvision.networks import Normalize, build_network
from dpvision.networks.weights import read_tensors
from dpvision.priors.phase_one.places import check_suffix, find_prior
from dpvision.privacy.errors import InputError

PROVENANCE = (
    "network",
    "network_options",
    "processes",
    "count",
    "steps",
    "batch_size",
    "views",
    "seed",
    "command",
    "figure",
    "normalization",
    "version",
)
"""The keys that a provenance has at least."""

LEARNED_FROM = "public_images_digest"
"""The further key of a provenance where the images were no processes': :attr:`Images.pixel_digest`."""

INITIAL_PRIOR = "initial_prior"
"""The further key of a provenance where a prior began with another's weights: the other's provenance."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

MAX_BYTES = 2**28
"""The bytes above which a file is refused unread. A WRN-28-10, the largest in common use, has a
fourth of it.
"""


@dataclass(frozen=True, eq=False)
class Prior:
    """The body of a wide residual network that was trained on public images.

    Attributes:
        name: the file's name without ".safetensors".
        network: "wrn-D-K", for RGB images.
        network_options: further arguments of :func:`dpvision.networks.build_network`.
        weights: the ``stem.*`` and ``stages.*`` of the network's state_dict: float16 if they were loaded.
        provenance: :data:`PROVENANCE`, as JSON types: what the prior learned from and how, the ``command``
            that made it, a ``figure`` that shows what it is worth, the ``normalization`` of its input.
    """

    name: str
    network: str
    network_options: dict[str, Any]
    weights: dict[str, Tensor]
    provenance: dict[str, Any]


def save_prior(path: str | os.PathLike[str], prior: Prior) -> None:
    """Write a prior's weights, in float16, and its provenance: in the file and as ``<name>.json`` beside it.

    Each of the two files is whole or not there. The network written down is that of the prior's attributes.

    Args:
        path: ends in ".safetensors".

    Raises:
        InputError: the prior lacks a part of its provenance, has weights of another network or beyond
            float16, or the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    weights = {
        name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in prior.weights.items()
    }
    provenance = prior.provenance | {"network": prior.network, "network_options": prior.network_options}
    _check(path, Prior(path.stem, prior.network, prior.network_options, weights, provenance))
    text = json.dumps(provenance, indent=2, ensure_ascii=False) + "\n"
    contents = {
        path.with_suffix(".json"): text.encode(),
        path: safetensors.torch.save(weights, metadata={"provenance": text}),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for target, content in contents.items():
            with replacing(target) as partial:
                partial.write_bytes(content)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def load_prior(path_or_name: str | os.PathLike[str]) -> Prior:
    """Return the prior in a file, or the bundled one of that name, on the CPU.

    Nothing is unpickled and no code of the file is run. What a header claims is believed only as far as it
    fits the file (which safetensors checks) and the network. No file beyond :data:`MAX_BYTES` is read.

    Raises:
        InputError: there is no such prior, or the file is not safetensors, is too large, has no provenance,
            or holds other tensors than its network has.
    """
    path = find_prior(path_or_name)
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} is too large for a prior: more than {MAX_BYTES >> 20} MiB")
    weights, metadata = read_tensors(path)
    try:
        provenance = parse_json(metadata["provenance"])
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path} has no readable provenance; give a file that 'dpvision prior train' wrote"
        ) from error
    if not isinstance(provenance, dict):
        raise InputError(f"the provenance in {path} is not a JSON object; the file was changed or damaged")
    prior = Prior(
        path.stem, provenance.get("network", ""), provenance.get("network_options", {}), weights, provenance
    )
    _check(path, prior)
    return prior


def body_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a wide residual network that make a prior, by their names in its state_dict."""
    return {
        name: tensor for name, tensor in network.state_dict().items() if name.startswith(("stem.", "stages."))
    }


def load_body(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Overwrite a network's body by these weights, in place. InputError if they are of another network."""
    shapes = {name: tensor.shape for name, tensor in body_weights(network).items()}
    if shapes != {name: tensor.shape for name, tensor in weights.items()}:
        raise InputError("the initial weights are of another network; begin with a prior of the same one")
    network.load_state_dict(dict(weights), strict=False)


def learned_from(provenance: Mapping[str, Any]) -> set[str]:
    """Return digests of all the public images that a prior, and those that it began with, learned from."""
    digests: set[str] = set()
    current: object = provenance
    while isinstance(current, Mapping):
        if LEARNED_FROM in current:
            digests.add(str(current[LEARNED_FROM]))
        current = current.get(INITIAL_PRIOR)
    return digests


def input_normalization() -> dict[str, float]:
    """Return how the input of every prior is normalised, as a provenance says it."""
    return {"mean": Normalize.MEAN, "std": Normalize.STD}


def _check(path: Path, prior: Prior) -> None:
    """Raise InputError unless the parts of a prior fit together; path is for the message."""
    missing = [key for key in PROVENANCE if key not in prior.provenance]
    if missing:
        raise InputError(
            f"the provenance in {path} does not say '{missing[0]}'; a prior states how it was made"
        )
    expected_normalization = input_normalization()
    if prior.provenance["normalization"] != expected_normalization:
        raise InputError(
            f"{path} was trained on pixels normalised by {prior.provenance['normalization']}, but here they "
            f"are normalised by {expected_normalization}; train it anew"
        )
    expected = _body_shapes(path, prior)
    found = {name: tensor.shape for name, tensor in prior.weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise InputError(
                f"{path} does not hold a {prior.network}: {name} should be {_describe(expected.get(name))} "
                f"and is {_describe(found.get(name))}; give a prior's file as it was written"
            )
    for name, tensor in prior.weights.items():
        if tensor.dtype not in FLOATS or not tensor.isfinite().all():
            raise InputError(
                f"{path}: {name} holds values that are not finite float16 numbers; train it anew"
            )


def _body_shapes(path: Path, prior: Prior) -> dict[str, torch.Size]:
    """Return the shapes of the tensors that the prior's network has in its body."""
    # Three digits at most, and tensors without memory: a header must not make us build something huge.
    if not isinstance(prior.network, str) or not re.fullmatch(r"wrn-\d{1,3}-\d{1,3}", prior.network):
        raise InputError(f"{path} holds a network {prior.network!r}; a prior is a wrn-D-K, such as wrn-16-4")
    try:
        with torch.device("meta"):
            network = build_network(
                prior.network, in_channels=3, image_size=(32, 32), num_classes=1, **prior.network_options
            )
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{path} does not describe a network that can be built ({error})") from error
    return {name: tensor.shape for name, tensor in body_weights(network).items()}


def _describe(shape: torch.Size | None) -> str:
    return "absent" if shape is None else f"of shape {list(shape)}"
