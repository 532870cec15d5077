"""Optional libraries, imported only where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from dpvision.privacy.errors import InputError


def import_extra(module: str, what: str, extra: str | None = None) -> Any:
    """Return the module of an optional library that ``what`` needs; ``extra`` installs it, by default of its
    name.

    Raises:
        InputError: it is not installed, or not for this torch.
    """
    library = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # a RuntimeError if it was built for another torch
        raise InputError(
            f"{what} needs {library}, which cannot be imported ({error}); "
            f"install it with pip install 'dpvision[{extra or library}]'"
        ) from error
