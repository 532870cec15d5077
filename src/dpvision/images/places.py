"""Say whether there can be images at a place. It imports nothing that takes seconds."""

from __future__ import annotations

import os
from pathlib import Path

from dpvision.images.files import reading
from dpvision.images.hub import check_spec, local_path
from dpvision.privacy.errors import InputError

BUNDLED = ("bundled:digits",)
"""The names of the data sets that are at hand without a download."""


def check_exists(spec: str | os.PathLike[str]) -> None:
    """Raise InputError unless ``spec`` is the path of something or the name of a bundled data set, or may be
    on the Hugging Face Hub.
    """
    if check_spec(spec):
        return
    with reading(str(spec)):  # a name too long, or in a folder that may not be entered
        exists = str(spec) in BUNDLED or local_path(spec).exists()
    if not exists:
        raise InputError(
            f"{spec} does not exist; give the path of a data set, or one of: {', '.join(BUNDLED)}, "
            "hf:OWNER/NAME"
        )


def is_release(path: Path) -> bool:
    """Say whether path is a release, of images or of a classifier."""
    return all((path / name).is_file() for name in ("card.json", "config.json"))
