"""Images that are declared public, which no guarantee covers."""

from __future__ import annotations

from dpvision.images.image_set import ImageSet
from dpvision.privacy import InputError, default_ledger_path


def refuse_data_with_ledger(images: ImageSet) -> None:
    """Check that nobody on this machine has treated these images as private.

    Raises:
        InputError: a ledger is kept for them.
    """
    ledger = default_ledger_path(images.digest)
    if ledger.exists():
        raise InputError(
            f"{images.source} is a private data set, with the ledger {ledger}; give images that are public"
        )
