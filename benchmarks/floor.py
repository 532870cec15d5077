"""What a machine could do at best: the rate of its matrix products and the bandwidth of its memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

SECONDS = 0.5


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure operations a second (a multiplication and an addition are two) of a large matrix product or a
    large convolution, whichever has more: they may come of libraries that use the hardware unlike well.
    """
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = 2 * side**3 / _seconds(lambda: a @ b, device)
    count, channels = (512, 256) if device.type == "cuda" else (64, 128)
    images = torch.randn(count, channels, 32, 32, device=device).to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device).to(images)
    operations = 2 * 9 * channels * images.numel()
    return max(product, operations / _seconds(lambda: F.conv2d(images, weight, padding=1), device))


def bandwidth(device: torch.device) -> float:
    """Measure bytes a second, read and written, of a copy that no cache holds."""
    source = torch.ones(1 << 27, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _seconds(lambda: target.copy_(source), device)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return the least seconds of a run, of three or of all in half a second."""
    found: list[float] = []
    run()
    while len(found) < 3 or sum(found) < SECONDS:
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return min(found)


def operations(network: nn.Module, views: Tensor) -> float:
    """Count the operations of a forward and a backward pass of one view, in products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        network(views[0, :1]).sum().backward()
    return float(counter.get_total_flops())
