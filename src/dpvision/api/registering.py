"""What a release says, as an entry of a registry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dpvision.api.options import takes
from dpvision.api.verifying import Verification, verify
from dpvision.images.files import read_json, reading
from dpvision.privacy.errors import InputError
from dpvision.reports.guarantee_file import not_private_because, unit_of
from dpvision.reports.registry_facts import RegistryFacts
from dpvision.reports.registry_privacy_loss import Verified
from dpvision.runs.places import find_release


@takes(RegistryFacts)
def registry_entry(release: str | os.PathLike[str], **facts: Any) -> dict[str, Any]:
    """Return a release as an entry of the OpenDP deployments registry, of tier 3.

    All of it follows from what may be published, and from what is said here. The release is verified first.

    Args:
        release: a run's directory or release directory.
        {options}

    Raises:
        InputError: names the facts that are missing; or the release is not private, or does not hold.
    """
    from dpvision.reports.registry_entry import registry_entry

    said = RegistryFacts.of({name: value for name, value in facts.items() if value is not None})
    folder = find_release(release)
    card = read_json(folder / "card.json")
    with reading(f"the card in {folder}"):
        because, unit = not_private_because(card), unit_of(card)
    if because:
        raise InputError(
            f"{folder} is NOT PRIVATE ({'; '.join(map(str, because))}), so there is nothing to register; "
            "give a release that is private"
        )
    said.check_complete(unit)
    found = _verified(folder)
    verified = Verified(found.epsilons, str(found.sha256), found.proved, found.measured, found.assumed)
    with reading(f"the card in {folder}"):
        return registry_entry(card, verified, said)


def _verified(folder: Path) -> Verification:
    """Verify a release. InputError where something does not hold."""
    found = verify(folder)
    failing = [f"{check.name}: {check.found}" for check in found.checks if not check.holds]
    if failing:
        raise InputError(
            f"{folder} does not hold what it states ({'; '.join(failing)}), so it is not to be registered"
        )
    return found
