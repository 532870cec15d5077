"""Encoders of other libraries, trained on public photographs. They are imported only when asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.networks import Normalize
from dpvision.priors.encoder import Encoder, Provenance, Shape, as_rgb
from dpvision.priors.extras import import_extra
from dpvision.privacy.errors import InputError


class LibraryEncoder(Encoder):
    """Another library's network without its classifier, with images scaled and normalised as it wants them.

    Args:
        name: of the encoder.
        image_shape: (C, H, W) of the images.
        provenance: of the weights.
        model: maps RGB images ``[B, 3, size, size]`` to features ``[B, …]``.
        mean: of red, green and blue, for pixels in [0, 1], by which model's input is normalised.
        std: likewise.
        size: in pixels.

    Raises:
        InputError: model does not take images of that size.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        name: str,
        image_shape: Shape,
        provenance: Provenance,
        model: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        size: int,
    ) -> None:
        config = {"name": name, "image_shape": list(image_shape), "size": size, "provenance": provenance}
        super().__init__(0, config)
        self.model = model.eval()
        self.size = size
        # From our normalisation to model's in one step.
        ours, mean_of_rgb, std_of_rgb = Normalize(), *(torch.tensor(s).view(3, 1, 1) for s in (mean, std))
        self.register_buffer("scale", ours.std / std_of_rgb, persistent=False)
        self.register_buffer("shift", (ours.mean - mean_of_rgb) / std_of_rgb, persistent=False)
        try:
            with torch.no_grad():
                self.out_features = self(torch.zeros(1, *image_shape)).shape[1]
        except (AssertionError, RuntimeError) as error:
            raise InputError(
                f"encoder {name} does not take images of {size}×{size} pixels ({error}); choose another size"
            ) from error

    def forward(self, x: Tensor) -> Tensor:
        x = as_rgb(x) * self.scale + self.shift
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return self.model(x).flatten(1)


def _torchvision(
    name: str, image_shape: Shape, provenance: Provenance | None, *, size: int | None = None
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
    linear = [key for key, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise InputError(f"{name} does not end in a linear classifier; choose another network")
    model.set_submodule(linear[-1], nn.Identity())
    published = weights.transforms()
    return LibraryEncoder(
        name,
        image_shape,
        provenance or {"source": f"torchvision, {weights}"},
        model,
        published.mean,
        published.std,
        size or published.crop_size[0],
    )


def _timm(
    name: str, image_shape: Shape, provenance: Provenance | None, *, size: int | None = None
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
    return LibraryEncoder(
        name,
        image_shape,
        provenance or {"source": f"timm, {model.pretrained_cfg.get('architecture')}"},
        model,
        published["mean"],
        published["std"],
        size or published["input_size"][-1],
    )


def _open_clip(
    name: str,
    image_shape: Shape,
    provenance: Provenance | None,
    *,
    pretrained: str | None = None,
    size: int | None = None,
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
    encoder = LibraryEncoder(
        name,
        image_shape,
        provenance or {"source": f"open_clip {open_clip.__version__}, {model_name}, {pretrained}"},
        clip.visual,
        published["mean"],
        published["std"],
        size or open_clip.get_model_config(model_name)["vision_cfg"]["image_size"],
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
