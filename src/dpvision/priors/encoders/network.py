"""An encoder around any network that reads RGB images."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.networks import Normalize
from dpvision.priors.encoders.encoder import Encoder, Provenance, Shape, as_rgb
from dpvision.priors.encoders.exposed_layers import check_layers, layer_outputs
from dpvision.privacy.errors import InputError


class NetworkEncoder(Encoder):
    """An encoder made of a network: it gives the network's output, or that of layers inside it.

    Images are scaled and normalised as the network wants them.

    Args:
        name: the encoder's name.
        image_shape: the images' shape (C, H, W); grey ones are repeated to RGB.
        provenance: where the weights came from.
        model: maps RGB images to features ``[B, …]``, which are flattened.
        mean: the means of red, green and blue, for pixels in [0, 1], by which model's input is normalised.
        std: the standard deviations, likewise.
        size: the side in pixels to which images are scaled, or None to leave them as they are.
        layers: names of model's submodules whose outputs are the features instead, one after the other.
        cells: the outputs ``[B, C', H', W']`` of layers are averaged over a grid of cells×cells positions, or
            of as many as they have; by default not. Outputs ``[B, D']`` stay as they are.

    Raises:
        InputError: model does not take images of that size; layers that do not exist or give no features;
            cells without layers, or less than 1.
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
        size: int | None,
        layers: Sequence[str] | None,
        cells: int | None,
    ) -> None:
        config = {
            "name": name,
            "image_shape": list(image_shape),
            "size": size,
            "layers": None if layers is None else list(layers),
            "cells": cells,
            "provenance": provenance,
        }
        super().__init__(0, config)
        if layers is not None:
            check_layers(f"encoder {name}", model, layers)
        elif cells is not None:
            raise InputError(f"encoder {name}: cells are of the outputs of layers; choose some with layers")
        if cells is not None and cells < 1:
            raise InputError(f"encoder {name}: cells must be at least 1, not {cells}")
        self.model = model.eval()
        self.size, self.layers, self.cells = size, layers, cells
        # From our normalisation to model's in one step.
        ours, mean_of_rgb, std_of_rgb = Normalize(), *(torch.tensor(s).view(3, 1, 1) for s in (mean, std))
        self.register_buffer("scale", ours.std / std_of_rgb, persistent=False)
        self.register_buffer("shift", (ours.mean - mean_of_rgb) / std_of_rgb, persistent=False)
        try:
            with torch.no_grad():
                outputs = self._shapes(image_shape)
        except (AssertionError, RuntimeError) as error:
            height, width = (size, size) if size is not None else image_shape[1:]
            raise InputError(
                f"encoder {name} does not take images of {height}×{width} pixels ({error}); "
                f"choose another size"
            ) from error
        for layer, output in zip(layers or [], outputs, strict=False):
            _check_output(f"layer '{layer}' of encoder {name}", output, 2, cells)
        self.out_features = sum(self._flat(output).shape[1] for output in outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._flat(output) for output in self._outputs(x)], dim=1)

    def _shapes(self, image_shape: Shape) -> list[Tensor]:
        """Return what `_outputs` gives for two images, with or without numbers in it."""
        try:
            shapes_only = copy.deepcopy(self).to("meta")  # whatever size somebody asks for
            return shapes_only._outputs(torch.empty(2, *image_shape, device="meta"))
        except (NotImplementedError, RuntimeError):  # for networks that look at numbers on their way
            return self._outputs(torch.zeros(2, *image_shape))

    def _outputs(self, x: Tensor) -> list[Tensor]:
        """Return what model, or each of its layers, gives for images as :class:`Encoder` takes them."""
        x = as_rgb(x) * self.scale + self.shift
        if self.size is not None and x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return [self.model(x)] if self.layers is None else layer_outputs(self.model, self.layers, x)

    def _flat(self, output: Tensor) -> Tensor:
        """Flatten outputs: ``[B, …] -> [B, D']``."""
        if self.cells is not None and output.ndim == 4:
            rows, columns = (min(self.cells, side) for side in output.shape[2:])
            output = F.adaptive_avg_pool2d(output, (rows, columns))
        return output.flatten(1)


def _check_output(what: str, output: Tensor, count: int, cells: int | None) -> None:
    """Raise InputError unless ``output``, for ``count`` images, is of features of each of them."""
    shape = list(output.shape)
    if not output.is_floating_point() or output.ndim < 2 or shape[0] != count:
        raise InputError(
            f"{what} gives {shape} for {count} images, not features of each; choose another layer"
        )
    if cells is not None and output.ndim not in (2, 4):
        raise InputError(f"{what} gives {shape[1:]} for an image, no grid to average over; leave cells out")
