"""The features of a set of images under an encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dpvision.images import ImageSet
from dpvision.images.rows_on_disk import gathered
from dpvision.networks import Normalize
from dpvision.priors.encoders import Encoder
from dpvision.privacy.errors import InputError
from dpvision.runs.progress import Progress

LONGEST_OPTION = 40


@torch.no_grad()
def image_features(
    images: ImageSet,
    encoder: Encoder,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 250,
    progress: Progress | None = None,
) -> Tensor:
    """Return the features of images, float32 ``[N, D]``, on the CPU. They reveal what the images do.

    Args:
        images: images of the shape that the encoder was built for.
        encoder: stays on the device afterwards.
        device: the device to compute on.
        batch_size: images at a time; does not change the result beyond rounding.
        progress: see `Progress`.

    Raises:
        InputError: images of another shape, or features that are not finite.
    """
    name, shape = encoder.config["name"], encoder.config["image_shape"]
    if list(images.shape) != shape:
        raise InputError(
            f"encoder {name} was built for images of shape {shape}, and {images.source} has images of shape "
            f"{list(images.shape)}; build it for these"
        )
    encoder, normalize = encoder.to(device), Normalize().to(device)

    def parts() -> Iterator[Tensor]:
        done = 0
        for pixels in images.blocks(batch_size):
            features = encoder(normalize(pixels.to(device))).cpu()
            finite = features.isfinite().all(dim=1)
            if not finite.all():
                raise InputError(
                    f"encoder {name} gives no finite features of image {done + int(finite.int().argmin())} "
                    f"of {images.source}; choose another encoder"
                )
            yield features
            done += len(pixels)

    def tell(done: int) -> None:
        if progress:
            progress(f"features by {name}", done, len(images))

    return gathered(parts(), len(images), tell)


def names_of(encoders: Sequence[Encoder]) -> list[str]:
    """Return the names of encoders; of those of one name all but the first have some of their digest too."""
    names: list[str] = []
    for encoder in encoders:
        name = encoder.config["name"]
        names.append(f"{name} {encoder.digest().hex()[:8]}" if name in names else name)
    return names


def features_in_words(encoder: Encoder) -> str:
    """Say whose features were compared: the encoder's name, its options in so far as they are short, and the
    digest of all that its features follow from. Of one that is fitted it is to be asked afterwards.
    """
    apart = ("name", "image_shape", "provenance")
    options = [f"{name} {value}" for name, value in encoder.config.items() if name not in apart and value]
    short = [option for option in options if len(option) <= LONGEST_OPTION]
    return f"features by {encoder.config['name']} ({', '.join([*short, encoder.digest().hex()[:8]])})"
