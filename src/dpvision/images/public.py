"""Images that no guarantee covers, and that must therefore be none of the private ones."""

from __future__ import annotations

from dpvision.images.identity import digest_of_one
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


def refuse_private_images(images: ImageSet, private: ImageSet, what: str) -> None:
    """Check that none of the images is a private one, pixel for pixel, where both have the same shape.

    Copies that were changed, if only by another compression, go unnoticed.

    Args:
        what: what they are, for the message: "images of the pool".

    Raises:
        InputError: some are. It says how many, and not which.
    """
    theirs = {digest_of_one(image) for block in private.blocks() for image in block.numpy()}
    ours = (digest_of_one(image) for block in images.blocks() for image in block.numpy())
    shared = sum(digest in theirs for digest in ours)
    if shared:
        raise InputError(
            f"{shared} of the {len(images)} {what} {images.source} are among the private images of "
            f"{private.source}, which no guarantee would cover; give others"
        )
