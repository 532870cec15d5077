"""Say where priors are, and where a new one may be. It imports nothing that takes seconds."""

from __future__ import annotations

import os
from pathlib import Path

from dpvision.privacy.errors import InputError

WEIGHTS = Path(__file__).parents[1] / "weights"
"""The folder of the bundled priors."""

SUFFIX = ".safetensors"


def list_priors() -> list[str]:
    """Return the names of the bundled priors, in alphabetical order."""
    return sorted(path.stem for path in WEIGHTS.glob(f"*{SUFFIX}"))


def find_prior(path_or_name: str | os.PathLike[str]) -> Path:
    """Return the file of the bundled prior of that name, or else the path. InputError if there is none."""
    path = Path(path_or_name)
    if str(path_or_name) in list_priors():
        path = WEIGHTS / f"{path_or_name}{SUFFIX}"
    if not path.is_file():
        raise InputError(
            f"there is no prior {str(path_or_name)!r}; give the path of a prior file, or one of these names: "
            f"{', '.join(list_priors()) or '(none are bundled)'}"
        )
    return path


def check_prior_files(encoder: str) -> None:
    """Raise InputError if an encoder, or a part of a sum, is named by a prior's file that is not there."""
    for part in [encoder] if Path(encoder).is_file() else encoder.split("+"):
        if part.endswith(SUFFIX) and ":" not in part:  # with a colon it is a library's name
            find_prior(part)


def check_suffix(path: Path) -> None:
    """Raise InputError unless the name is one that a prior's file has."""
    if path.suffix != SUFFIX:
        raise InputError(f"{path} should end in .safetensors, as the file of a prior does")


def check_new_prior(path: Path) -> None:
    """Raise InputError unless a new prior can be written there."""
    check_suffix(path)
    for file in (path, path.with_suffix(".json")):
        if file.exists():
            raise InputError(f"{file} exists already; choose another name for the new prior")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise InputError(f"{path.parent} is not a folder that can be written to; make it, or choose another")
