"""Networks of timm, trained on public photographs. It is imported only when asked for."""

from __future__ import annotations

from collections.abc import Sequence

from dpvision.images.extras import import_extra
from dpvision.priors.encoders.encoder import Encoder, Provenance, Shape
from dpvision.priors.encoders.network import NetworkEncoder
from dpvision.privacy.errors import InputError


def build_timm(
    name: str,
    image_shape: Shape,
    provenance: Provenance | None,
    *,
    size: int | None = None,
    layers: Sequence[str] | None = None,
    cells: int | None = None,
) -> Encoder:
    """Build the encoder "timm:NAME"."""
    timm = import_extra("timm", f"encoder {name}")
    model_name = name.partition(":")[2]
    try:
        model = timm.create_model(model_name, pretrained=provenance is None, num_classes=0)
    except OSError as error:
        raise InputError(f"the weights of {name} could not be fetched ({error})") from error
    except RuntimeError as error:
        raise InputError(f"timm cannot make a network '{model_name}' ({error})") from error
    published = timm.data.resolve_model_data_config(model)
    return NetworkEncoder(
        name,
        image_shape,
        provenance or {"source": f"timm, {model.pretrained_cfg.get('architecture')}"},
        model,
        published["mean"],
        published["std"],
        size or published["input_size"][-1],
        layers,
        cells,
    )
