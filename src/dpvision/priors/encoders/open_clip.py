"""The visual towers of CLIP networks of open_clip. It is imported only when asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dpvision.images.extras import import_extra
from dpvision.priors.encoders.encoder import Encoder, Provenance, Shape
from dpvision.priors.encoders.network import NetworkEncoder
from dpvision.privacy.errors import InputError


def build_open_clip(
    name: str,
    image_shape: Shape,
    provenance: Provenance | None,
    *,
    pretrained: str | None = None,
    size: int | None = None,
    layers: Sequence[str] | None = None,
    cells: int | None = None,
) -> Encoder:
    """Build the encoder "open_clip:NAME"."""
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


@contextmanager
def _without_log() -> Iterator[None]:
    """Silence open_clip, which tells the root logger of its errors before it raises them, and warns of random
    weights that are about to be loaded.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
