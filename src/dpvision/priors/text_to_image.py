"""Images of a text-to-image model, through the library diffusers, which is imported only when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dpvision.images.extras import import_extra
from dpvision.networks.precision import resolve_precision
from dpvision.privacy.errors import InputError


class TextToImage:
    """A text-to-image model.

    Args:
        model: its name on the Hugging Face hub, or the folder of a saved pipeline. Weights are read from
            safetensors alone: nothing is unpickled.
        device: where it computes, in bfloat16 where the hardware multiplies its matrices.
        inference_steps: denoising steps; None for the model's own default.
        guidance_scale: the scale of classifier-free guidance; None likewise.

    Raises:
        InputError: diffusers is not there, the model cannot be loaded, or it does not take these options.
    """

    def __init__(
        self,
        model: str,
        device: torch.device,
        inference_steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> None:
        diffusers = import_diffusers()
        options = {"num_inference_steps": inference_steps, "guidance_scale": guidance_scale}
        self._options = {name: value for name, value in options.items() if value is not None}
        try:
            pipeline = diffusers.AutoPipelineForText2Image.from_pretrained(model, use_safetensors=True)
        except (ImportError, OSError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"the text-to-image model {model} cannot be loaded ({reason})") from error
        for name in self._options:
            if name not in signature(pipeline.__call__).parameters:
                raise InputError(f"the text-to-image model {model} takes no {name}; leave it out")
        self._pipeline = pipeline.to(device, resolve_precision("auto", device) or torch.float32)
        self._pipeline.set_progress_bar_config(disable=True)

    def __call__(self, prompt: str, seeds: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Draw one image of the prompt for each seed, uint8 ``[3, H, W]``. The same seed gives the same
        image, up to the rounding that comes with the size of a batch and the device.
        """
        images = self._pipeline(
            prompt=[prompt] * len(seeds),
            # Noise from the CPU is the same whatever the device.
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="pil",
            **self._options,
        ).images
        return [np.asarray(image.convert("RGB")).transpose(2, 0, 1) for image in images]


def import_diffusers() -> Any:
    """Return the library.

    Raises:
        InputError: it is not installed.
    """
    return import_extra("diffusers", "a text-to-image model")
