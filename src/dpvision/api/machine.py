"""Say what a machine computes with: its device, in which precision, and how much room there is."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from dpvision.api.devices import resolve_device
from dpvision.images.files import physical_memory
from dpvision.networks.precision import fast_precision, resolve_precision


def computing() -> dict[str, Any]:
    """Return what a run computes with unless told otherwise, as JSON types.

    Returns:
        ``device``, and its ``name`` if it is a GPU; how many ``gpus`` there are; the ``cuda`` that torch is
        built with, None without; whether there is ``mps``; ``cores`` that this process may use and torch's
        ``threads``; the ``vector_instructions`` of torch's kernels here; whether the processor multiplies
        matrices (``amx``) or vectors (``avx512_bf16``) of bfloat16; and the types in which
        ``clipped_gradients`` and ``public_training`` are computed.
    """
    device = resolve_device(None)
    return {
        "device": str(device),
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "gpus": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
        "mps": torch.backends.mps.is_available(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "clipped_gradients": _name(resolve_precision("auto", device)),
        "public_training": _name(fast_precision(device)),
    }


def room(home: Path) -> dict[str, Any]:
    """Return the bytes that there are, by what they are for: ``memory`` in all, of the GPU (``gpu_memory``,
    free now; None without one), and free on the disks of ``home``, where ledgers and stores lie, and of
    ``temporary`` files.
    """
    return {
        "memory": physical_memory(),
        "gpu_memory": torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None,
        "home": shutil.disk_usage(_that_exists(home)).free,
        "temporary": shutil.disk_usage(tempfile.gettempdir()).free,
    }


def file_system(path: Path) -> str | None:
    """Return the kind of file system that a path is on, such as nfs4; None where the system does not say."""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return None
    at = {bytes(line.split()[1], "ascii").decode("unicode_escape"): line.split()[2] for line in lines}
    there = _that_exists(path.absolute()).resolve()
    return next((at[str(one)] for one in (there, *there.parents) if str(one) in at), None)


def _that_exists(path: Path) -> Path:
    """Return the path, or the nearest folder above it that there is."""
    return next(one for one in (path, *path.absolute().parents) if os.path.exists(one))


def _name(dtype: torch.dtype | None) -> str:
    return str(dtype or torch.float32).removeprefix("torch.")
