"""The Inception network by whose features the FID is defined."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpvision.images.extras import import_extra
from dpvision.networks import Normalize
from dpvision.priors.encoders.encoder import Encoder, Provenance, Shape, as_rgb
from dpvision.privacy.errors import InputError

NAME = "inception"
WEIGHTS = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)


class InceptionEncoder(Encoder):
    """The 2,048 features after the last pooling of the Inception network of 2015, as torch-fidelity has it
    with the resizing of the original FID (Heusel et al., arXiv 1706.08500).

    It reads whole numbers from 0 to 255, so no gradient reaches the images: it measures images, and trains no
    generator.

    Args:
        image_shape: (C, H, W) of the images; grey ones are repeated to RGB.
        provenance: the provenance of the weights.
        model: maps uint8 ``[B, 3, H, W]`` to a tuple of features ``[B, D]``.
    """

    def __init__(self, image_shape: Shape, provenance: Provenance, model: nn.Module) -> None:
        config = {"name": NAME, "image_shape": list(image_shape), "provenance": provenance}
        super().__init__(0, config)
        self.model = model.eval()
        self.mean, self.std = Normalize.MEAN, Normalize.STD
        with torch.no_grad():
            self.out_features = self(torch.zeros(1, *image_shape)).shape[1]

    def forward(self, x: Tensor) -> Tensor:
        pixels = (as_rgb(x) * self.std + self.mean) * 255
        (features,) = self.model(pixels.round().clamp(0, 255).to(torch.uint8))
        return features


def build_inception(
    name: str, image_shape: Shape, provenance: Provenance | None, *, weights: str | None = None
) -> Encoder:
    """Build the encoder "inception", with the weights of a file.

    Args:
        name: "inception".
        image_shape: (C, H, W) of the images.
        provenance: the provenance of weights that the caller is going to load; no file is then read.
        weights: the path of torch-fidelity's file. It is read without running code of it.

    Raises:
        InputError: torch_fidelity is not installed, there are no weights, or the file holds something else.
    """
    torch_fidelity = import_extra("torch_fidelity", f"encoder {name}", extra="fid")
    model = _untrained(torch_fidelity)
    if provenance is None:
        if weights is None:
            raise InputError(
                f"encoder {name} needs the option weights, the path of the file that is at {WEIGHTS}"
            )
        digest = _load(model, Path(weights))
        source = f"torch_fidelity {torch_fidelity.__version__}, Inception of 2015"
        provenance = {"source": source, "sha256": digest}
    return InceptionEncoder(image_shape, provenance, model)


def _untrained(torch_fidelity: Any) -> nn.Module:
    """Return the network with random weights. The library would fetch weights or unpickle a file of them."""

    class Inception(torch_fidelity.FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, state_dict: dict[str, Tensor], **options: Any) -> Any:
            """Load the weights as ever, but leave them as they are for an empty dictionary."""
            return super().load_state_dict(state_dict, **options) if state_dict else None

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    return Inception("inception-v3-compat", ["2048"], feature_extractor_weights_path=empty)


def _load(model: nn.Module, path: Path) -> str:
    """Load the weights of a file and return its SHA-256 (hex)."""
    try:
        content = path.read_bytes()
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        nn.Module.load_state_dict(model, weights)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # there is no end to what torch.load raises for a damaged file
        raise InputError(
            f"{path} does not hold the weights of Inception; give the file that is at {WEIGHTS}"
        ) from error
    return hashlib.sha256(content).hexdigest()
