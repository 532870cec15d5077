"""Refuse to give away, or go on from, a release that does not hold what it states, or is not private."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dpvision.api.verifying import Verification, verify
from dpvision.images.files import read_json, reading
from dpvision.privacy.errors import InputError
from dpvision.reports.guarantee_file import not_private_because
from dpvision.runs.places import find_release


def private_card(release: str | os.PathLike[str], so: str) -> tuple[Path, dict[str, Any]]:
    """Return the release directory and its card. InputError, with what follows, where it is not private."""
    folder = find_release(release)
    card = read_json(folder / "card.json")
    with reading(f"the card in {folder}"):
        because = not_private_because(card)
    if because:
        raise InputError(
            f"{folder} is NOT PRIVATE ({'; '.join(map(str, because))}), so {so}; give a release that is "
            "private"
        )
    return folder, card


def verified(release: str | os.PathLike[str], so: str, *, but: str = "") -> Verification:
    """Verify a release. InputError, with what follows, where a check ``but`` that of this name fails."""
    found = verify(release)
    failing = [f"{one.name}: {one.found}" for one in found.checks if not one.holds and one.name != but]
    if failing:
        raise InputError(f"{release} does not hold what it states ({'; '.join(failing)}), so {so}")
    return found
