"""Tensors as a file's bytes, with a checksum that tells when they were damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from dpvision.privacy.errors import InputError

FACTS = "dpvision"
"""The one entry of a file's metadata: JSON. (Of several the order, and so the file, would be random.)"""

CHECKSUM = "sha256"
"""The fact that is the SHA-256 of the file as it is with `BLANK` in this one's place."""

BLANK = "0" * 64


def safetensors_bytes(tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> bytes:
    """A safetensors file of them, from whatever device, and of facts about them, JSON types; such files hold
    contiguous tensors that share no memory. It has a checksum, which `checked_facts` compares.
    """
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
        {FACTS: json.dumps({CHECKSUM: BLANK, **(facts or {})})},
    )
    # The metadata come first in a file, and the checksum in these.
    return content.replace(BLANK.encode(), hashlib.sha256(content).hexdigest().encode(), 1)


def checked_facts(path: Path, content: bytes) -> dict[str, Any]:
    """The facts in a file of `safetensors_bytes` that was at ``path``.

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
