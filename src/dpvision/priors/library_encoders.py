"""Encoders of other libraries, trained on public photographs. They are imported only when asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from dpvision.priors.encoder import Encoder, Provenance, Shape
from dpvision.priors.extras import import_extra
from dpvision.priors.network_encoder import NetworkEncoder
from dpvision.privacy.errors import InputError


def _torchvision(
    name: str,
    image_shape: Shape,
    provenance: Provenance | None,
    *,
    size: int | None = None,
    layers: Sequence[str] | None = None,
    cells: int | None = None,
) -> Encoder:
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


def _timm(
    name: str,
    image_shape: Shape,
    provenance: Provenance | None,
    *,
    size: int | None = None,
    layers: Sequence[str] | None = None,
    cells: int | None = None,
) -> Encoder:
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


def _open_clip(
    name: str,
    image_shape: Shape,
    provenance: Provenance | None,
    *,
    pretrained: str | None = None,
    size: int | None = None,
    layers: Sequence[str] | None = None,
    cells: int | None = None,
) -> Encoder:
    open_clip = import_extra("open_clip", f"encoder {name}")
    model_name = name.partition(":")[2]
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if not tags:
        raise InputError(f"open_clip has no weights of a network '{model_name}'")
    if pretrained is None:
        pretrained = "openai" if "openai" in tags else tags[0]
    if pretrained not in tags:
        raise InputError(f"{name} has no weights '{pretrained}'; pretrained is one of {', '.join(tags)}")
    published = open_clip.get_pretrained_cfg(model_name, pretrained)
    try:
        with _without_log():
            clip = open_clip.create_model(
                model_name,
                # The activation belongs to the weights. Open_clip only warns if the network has another.
                force_quick_gelu=published.get("quick_gelu", False),
                force_image_size=size,
                # Without weights to load, the text tower, which is dropped, need not be of their shape: by
                # default it fetches none of its own.
                **({"text_cfg": {}} if provenance else {"pretrained": pretrained}),
            )
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"the weights '{pretrained}' of {name} could not be fetched or do not fit ({error})"
        ) from error
    clip.visual.output_tokens = False  # CoCa's tower would return them beside the features
    encoder = NetworkEncoder(
        name,
        image_shape,
        provenance or {"source": f"open_clip {open_clip.__version__}, {model_name}, {pretrained}"},
        clip.visual,
        published["mean"],
        published["std"],
        size or open_clip.get_model_config(model_name)["vision_cfg"]["image_size"],
        layers,
        cells,
    )
    encoder.config["pretrained"] = pretrained
    return encoder


LIBRARIES: dict[str, Callable[..., Encoder]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "open_clip": _open_clip,
}
"""By the name before the colon: builders from (name, image shape, provenance) and options."""


@contextmanager
def _without_log() -> Iterator[None]:
    """For open_clip, which tells the root logger of its errors before it raises them, and warns of random
    weights that are about to be loaded.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
