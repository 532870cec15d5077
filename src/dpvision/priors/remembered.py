"""Keep the features of the last encoder, while several heads learn from the features of the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, Protocol

from torch import Tensor

from dpvision.images import ImageSet
from dpvision.images.rows_on_disk import RowsOnDisk
from dpvision.networks import Classifier

_Known = list[tuple[ImageSet, bytes, Tensor | RowsOnDisk]]
_known: ContextVar[_Known | None] = ContextVar("known", default=None)


class Encode(Protocol):
    """A function from a model and images to their features, which may be told how far it is."""

    def __call__(
        self, model: Classifier, images: ImageSet, tell: Callable[[int, int], None] | None = None
    ) -> Tensor | RowsOnDisk: ...


@contextmanager
def features_remembered() -> Iterator[None]:
    """While this lasts, compute the features of one set of images and one encoder once. Those of the last
    are kept, also where another such context lasts longer.
    """
    known = _known.get()
    token = _known.set([] if known is None else known)
    try:
        yield
    finally:
        _known.reset(token)


def remembered(encode: Encode) -> Encode:
    """Make such a function look for the features that it has computed: of the same object, by an encoder that
    has the same configuration and the same weights.
    """

    @wraps(encode)
    def found(
        model: Classifier, images: ImageSet, tell: Callable[[int, int], None] | None = None
    ) -> Tensor | RowsOnDisk:
        known = _known.get()
        if known is None:
            return encode(model, images, tell)
        key = _identity(model)
        if not (known and known[0][0] is images and known[0][1] == key):
            known[:] = []  # before others take their place
            known[:] = [(images, key, encode(model, images, tell))]
        return known[0][2]

    return found


def _identity(model: Classifier) -> bytes:
    """Return what tells apart all that features follow from: what is under the head, and where it is."""
    network: Any = model.network
    where = repr((network.mirror, network.feature_norm, model.normalize.mean.device))
    return where.encode() + bytes(network.encoder.digest())
