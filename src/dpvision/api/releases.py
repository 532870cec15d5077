"""Open what an earlier run released, of which more is made at no cost or which is refined."""

from __future__ import annotations

import os

from dpvision.images.files import reading
from dpvision.methods import Learned
from dpvision.methods.method import GUARANTEE
from dpvision.methods.releases import Reusable, open_release
from dpvision.reports import card_markdown


def open_earlier(place: str | os.PathLike[str]) -> tuple[Reusable, Learned]:
    """Return the method of an earlier run, and what it released of private images, with its guarantee.

    Args:
        place: see :func:`dpvision.methods.releases.open_release`.

    Raises:
        InputError: there is none, a file is damaged, or more cannot be made of it.
    """
    method, learned = open_release(place)
    with reading(f"the guarantee in {place}"):  # the card will state it, once more is made of this
        card_markdown({**learned.facts[GUARANTEE], "released": ""}, "guarantee.md.j2")
    return method, learned
