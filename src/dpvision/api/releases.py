"""Open what an earlier run released, of which more is made at no cost or which is refined."""

from __future__ import annotations

import os
from pathlib import Path

from dpvision.api.publishable import verified
from dpvision.images.files import reading
from dpvision.images.released import CARD, CONFIG
from dpvision.images.released import GUARANTEE as RECORD
from dpvision.methods import Learned
from dpvision.methods.method import GUARANTEE
from dpvision.methods.releases import Reusable, open_release
from dpvision.reports import card_markdown
from dpvision.runs.places import find_release


def open_earlier(place: str | os.PathLike[str]) -> tuple[Reusable, Learned]:
    """Return the method of an earlier run, and what it released of private images, with its guarantee.

    Args:
        place: see :func:`dpvision.methods.releases.open_release`. A file that is not in a release is believed
            what it states; all else is verified.

    Raises:
        InputError: there is none, a file is damaged, it does not hold what it states, or more cannot be made
            of it.
    """
    method, learned = open_release(place)
    path = Path(place)
    if not path.is_file() or any((path.parent / name).exists() for name in (CARD, CONFIG, RECORD)):
        release = path.parent if path.is_file() else find_release(path)
        # That it is not private is no fault of it: the card of what is made will say so.
        verified(release, "no more can be made of it", but="private")
    with reading(f"the guarantee in {place}"):  # the card will state it, once more is made of this
        card_markdown({**learned.facts[GUARANTEE], "released": ""}, "guarantee.md.j2")
    return method, learned
