"""Tensors as a file's bytes, with a checksum that tells when they were damaged; files that others wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dpvision.images.files import check_regular
from dpvision.privacy.errors import InputError

Module = TypeVar("Module", bound=nn.Module)

FACTS = "dpvision"
"""The one entry of a file's metadata: JSON. (Of several the order, and so the file, would be random.)"""

CHECKSUM = "sha256"
"""The fact that is the SHA-256 of the file as it is with `BLANK` in this one's place."""

BLANK = "0" * 64


def safetensors_bytes(tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> bytes:
    """Return a safetensors file of tensors, from whatever device, and of facts about them, JSON types; such
    files hold contiguous tensors that share no memory. It has a checksum, which `checked_facts` compares.
    """
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
        {FACTS: json.dumps({CHECKSUM: BLANK, **(facts or {})})},
    )
    # The metadata come first in a file, and the checksum in these.
    return content.replace(BLANK.encode(), hashlib.sha256(content).hexdigest().encode(), 1)


def checked_facts(path: Path, content: bytes) -> dict[str, Any]:
    """Return the facts in a file of `safetensors_bytes` that was at ``path``.

    Raises:
        InputError: its checksum is not that of the content, or it has none.
    """
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts: dict[str, Any] = json.loads(header["__metadata__"][FACTS])
        checksum = facts.pop(CHECKSUM)
        blanked = content.replace(checksum.encode(), BLANK.encode(), 1)
        if hashlib.sha256(blanked).hexdigest() != checksum:
            raise ValueError("its checksum is that of another content")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} was changed or damaged ({error}); restore it from a copy") from error
    return facts


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file, as ``safe_open`` has it. Nothing is unpickled.

    Raises:
        InputError: in place of whatever is raised about a broken one while it is open: the library checks
            that what the header claims lies in the file, and is surprised by types that torch has not.
    """
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} is not a safetensors file and cannot be read ({reason}); it may be damaged, "
            "or of a kind that safetensors.torch.save_file would make one of"
        ) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return all tensors of a safetensors file, and its metadata.

    Raises:
        InputError: as :func:`opened`.
    """
    with opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        return tensors, file.metadata() or {}


def load_into(build: Callable[[], Module], path: Path, config: str) -> Module:
    """Build the module that ``build`` makes, with the weights of a file.

    A config can describe a network of any size in a few bytes. So one without memory is made first, and the
    real one only when the file has shown that it holds weights of these very shapes.

    Args:
        build: makes a module, the same one every time but for its weights. Raises what it likes.
        path: a safetensors file of its state_dict.
        config: that build goes by, for messages.

    Raises:
        InputError: build fails, as :func:`opened`, or the file holds other tensors, or numbers that are not
            finite.
    """
    expected = _described(without_memory(build, config).state_dict())
    with opened(path) as file:
        shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        for name in sorted(expected.keys() | shapes.keys()):
            wanted = expected[name][0] if name in expected else None
            if wanted != shapes.get(name):
                raise InputError(
                    f"{path} is of another network than {config} describes: {name} should be "
                    f"{_in_words(wanted)} and is {_in_words(shapes.get(name))}"
                )
        weights = {name: file.get_tensor(name) for name in expected}
    for name, tensor in weights.items():
        if tensor.dtype != expected[name][1]:
            raise InputError(
                f"{path} is of another network than {config} describes: {name} should be of type "
                f"{expected[name][1]} and is of {tensor.dtype}"
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(
                f"{path}: {name} holds values that are not finite, as after a training that diverged"
            )
    module = _built(build, config)
    module.load_state_dict(weights)
    return module


def without_memory(build: Callable[[], Module], config: str) -> Module:
    """Build a module whose tensors have shapes and types, and no numbers; arguments and errors are those of
    :func:`load_into`.
    """
    with torch.device("meta"), _WithoutNumbers():
        return _built(build, config)


class _WithoutNumbers(TorchFunctionMode):
    """Leaves new weights as they are: to draw them without memory, torch would load its compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _built(build: Callable[[], Module], config: str) -> Module:
    try:
        return build()
    except InputError as error:
        raise InputError(f"{config} does not describe what can be built: {error}") from error
    except Exception as error:  # there is no end to what torch raises for sizes that cannot be
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{config} does not describe what can be built ({reason})") from error


def _described(tensors: Mapping[str, Tensor]) -> dict[str, tuple[list[int], torch.dtype]]:
    return {name: (list(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def _in_words(shape: list[int] | None) -> str:
    return "absent" if shape is None else f"of shape {shape}"
