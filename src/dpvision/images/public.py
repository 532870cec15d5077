"""Images that no guarantee covers, and that must therefore be none of the private ones."""

from __future__ import annotations

from collections.abc import Iterator

from dpvision.images.identity import identity_of
from dpvision.images.image_set import ImageSet
from dpvision.images.indexed import indexed
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
    known = indexed(images)
    shared = known.index.count_private(known.identities)
    if shared:
        raise InputError(
            f"{shared} of the {len(images)} images of {images.source} are private ones, which runs on this "
            "machine have learned from; give images that are public"
        )


def refuse_private_images(images: ImageSet, private: ImageSet, what: str) -> None:
    """Check that none of the images is a private one, pixel for pixel, as they are stored or as they were
    read.

    Copies that were changed, if only by another compression, are not refused; see `warn_of_look_alikes`.

    Args:
        what: what they are, for the message: "images of the pool".

    Raises:
        InputError: some are. It says how many, and not which.
    """
    theirs = {one for pair in _known_by(private) for one in pair}
    shared = sum(any(one in theirs for one in pair) for pair in _known_by(images))
    if shared:
        raise InputError(
            f"{shared} of the {len(images)} {what} {images.source} are among the private images of "
            f"{private.source}, which no guarantee would cover; give others"
        )


def _known_by(images: ImageSet) -> Iterator[tuple[bytes, bytes]]:
    """Yield what each image is known by, as it is stored and as it was read."""
    identities = (one.tobytes() for one in images.identities.numpy())
    if not images.converted:
        yield from ((one, one) for one in identities)
        return
    read = (image for block in images.blocks() for image in block.numpy())
    for stored, image in zip(identities, read, strict=True):
        yield stored, identity_of(image)
