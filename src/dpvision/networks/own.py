"""Networks of users: built by name like those of this package, once they are registered."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dpvision.networks.options import check_options
from dpvision.privacy.errors import InputError

Factory = Callable[..., nn.Module]

_OWN: dict[str, Factory] = {}


def register_network(network: nn.Module | Factory, name: str | None = None) -> str:
    """Make a network of yours known to this process, under the name that runs and releases have for it.

    A release holds its weights and its name, and no code: whoever loads it registers the network first.

    >>> def small(in_channels, num_classes):
    ...     return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, num_classes))
    >>> register_network(small, name="my_package:small")
    'my_package:small'

    Args:
        network: a class or function that makes an ``nn.Module`` from images ``[B, C, H, W]`` to logits
            ``[B, num_classes]``. It is given those of in_channels, image_size (H, W) and num_classes that it
            has parameters for; its others are the settings network_options. Or a module: every run begins
            with a copy of it, so what it has learned must be public.
        name: by default where it is defined, as ``module:Name``.

    Returns:
        The name, for the setting ``network``.

    Raises:
        InputError: it is neither, or the module cannot be copied.
    """
    of: Any = type(network) if isinstance(network, nn.Module) else network
    if not callable(of):
        raise InputError(f"network must be an nn.Module, or a class or function that makes one, not {of!r}")
    factory = _copies_of(network) if isinstance(network, nn.Module) else network
    name = name or f"{of.__module__}:{getattr(of, '__qualname__', type(of).__qualname__)}"
    if ":" not in name:
        raise InputError(f"a network of yours is called 'module:Name', and not '{name}'")
    _OWN[name] = factory
    return name


def is_own(name: str) -> bool:
    """Say whether a name can only be that of a user's network."""
    return ":" in name


def build_own(
    name: str, *, in_channels: int, image_size: tuple[int, int], num_classes: int, **options: Any
) -> nn.Module:
    """Build the registered network of that name; arguments as for :func:`build_network`.

    Raises:
        InputError: it is not registered, or does not take these options.
    """
    if name not in _OWN:
        raise InputError(
            f"the network '{name}' is code that dpvision does not have; make it known first: "
            "dpvision.register_network(network, name)"
        )
    factory = _OWN[name]
    facts = {"in_channels": in_channels, "image_size": image_size, "num_classes": num_classes}
    taken = inspect.signature(factory).parameters
    check_options(f"network {name}", factory, options, facts)
    module = factory(**{key: value for key, value in facts.items() if key in taken}, **options)
    if not isinstance(module, nn.Module):
        raise InputError(f"network {name} must make an nn.Module, not {module!r}")
    return module


def check_logits(name: str, model: nn.Module, image_shape: tuple[int, int, int], num_classes: int) -> None:
    """Raise InputError unless a network gives one logit per class, tried on two black images."""
    was_training = model.training
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.no_grad():
        found = model.eval()(torch.zeros(2, *image_shape, device=device))
    model.train(was_training)
    if not isinstance(found, torch.Tensor) or found.shape != (2, num_classes):
        got = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise InputError(
            f"network {name} gives {got} for two images of {list(image_shape)}; it should give logits "
            f"[2, {num_classes}], one for each class"
        )


def _copies_of(module: nn.Module) -> Factory:
    """Make copies of a module as it is now."""
    try:
        kept = copy.deepcopy(module)
    except Exception as error:  # a module may hold anything
        raise InputError(
            f"network: a {type(module).__name__} cannot be copied ({error}); give a function that makes one"
        ) from error
    return lambda: copy.deepcopy(kept)
