"""Networks of torchvision, trained on public photographs. It is imported only when asked for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dpvision.images.extras import import_extra
from dpvision.priors.encoders.encoder import Encoder, Provenance, Shape
from dpvision.priors.encoders.network import NetworkEncoder
from dpvision.privacy.errors import InputError


def build_torchvision(
    name: str,
    image_shape: Shape,
    provenance: Provenance | None,
    *,
    size: int | None = None,
    layers: Sequence[str] | None = None,
    cells: int | None = None,
) -> Encoder:
    """Build the encoder "torchvision:NAME", with the weights that the library thinks best."""
    models = import_extra("torchvision.models", f"encoder {name}")
    model_name = name.partition(":")[2]
    try:
        weights = models.get_model_weights(model_name).DEFAULT
        model = models.get_model(model_name, weights=None if provenance else weights)
    except ValueError as error:
        raise InputError(f"torchvision has no network '{model_name}' ({error})") from error
    except OSError as error:
        raise InputError(f"the weights of {name} could not be fetched ({error})") from error
    if layers is None:
        linear = [key for key, module in model.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise InputError(f"{name} does not end in a linear classifier; choose some of its layers")
        model.set_submodule(linear[-1], nn.Identity())
    published = weights.transforms()
    return NetworkEncoder(
        name,
        image_shape,
        provenance or {"source": f"torchvision, {weights}"},
        model,
        published.mean,
        published.std,
        size or published.crop_size[0],
        layers,
        cells,
    )
