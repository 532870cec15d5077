"""Fit an encoder once in a process: the same one is built to learn with it, and again to be released."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor

from dpvision.priors.encoders.encoder import Encoder, Tell

MOST_KEPT = 2  # each may have some hundred MB

_kept: OrderedDict[bytes, dict[str, Tensor]] = OrderedDict()


def fit_once(encoder: Encoder, tell: Tell | None = None) -> None:
    """Fit it (:meth:`Encoder.fit`), or take what one of the same config and weights was fitted to before."""
    if not encoder.images_to_fit:
        return
    key = encoder.digest()
    if key in _kept:
        encoder.load_state_dict(_kept[key])
        _kept.move_to_end(key)
        return
    encoder.fit(tell)
    _kept[key] = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    while len(_kept) > MOST_KEPT:
        _kept.popitem(last=False)
