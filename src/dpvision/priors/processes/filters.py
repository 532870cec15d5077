"""Banks of 3×3 filters, from which untrained networks draw their weights. Each has mean 0 and norm 1."""

from __future__ import annotations

import torch
from torch import Tensor


def oriented_filters(device: torch.device | None = None) -> Tensor:
    """Return the 40 filters of the oriented networks of Baradad et al. (arXiv 2106.05963): ``[40, 3, 3]``.

    Edges and lines at 8 orientations over half a turn, and 4 differences of two adjacent pixels, each with
    both signs (the second half of the bank is the negative of the first).
    """
    # A linear function falls across an edge, a parabola across a line.
    y, x = torch.meshgrid(torch.arange(-1.0, 2.0), torch.arange(-1.0, 2.0), indexing="ij")
    angles = torch.arange(8) * (torch.pi / 8)
    across = angles.cos()[:, None, None] * x + angles.sin()[:, None, None] * y  # [8, 3, 3], 0 on the line
    differences = torch.zeros(4, 3, 3)
    differences[:, 1, 1] = 1
    for i, (row, column) in enumerate([(1, 2), (2, 2), (2, 1), (2, 0)]):
        differences[i, row, column] = -1
    half = _standardized(torch.cat([across, -(across**2), differences]))
    return torch.cat([half, -half]).to(device)


def wavelet_filters(device: torch.device | None = None) -> Tensor:
    """Return the products of a smoothing, first or second difference along each axis, less the twofold
    smoothing: ``[8, 3, 3]``, orthogonal to each other.
    """
    one_dimensional = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]])
    products = torch.einsum("ay,bx->abyx", one_dimensional, one_dimensional).flatten(0, 1)
    return _standardized(products[1:]).to(device)


def _standardized(filters: Tensor) -> Tensor:
    centred = filters - filters.mean(dim=(1, 2), keepdim=True)
    return centred / centred.norm(dim=(1, 2), keepdim=True)
