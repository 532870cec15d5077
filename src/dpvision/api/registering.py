"""What a release says, as an entry of a registry."""

from __future__ import annotations

import os
from typing import Any

from dpvision.api.options import takes
from dpvision.api.publishable import private_card, verified
from dpvision.images.files import reading
from dpvision.reports.guarantee_file import unit_of
from dpvision.reports.registry_facts import RegistryFacts
from dpvision.reports.registry_privacy_loss import Verified


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
    folder, card = private_card(release, "there is nothing to register")
    with reading(f"the card in {folder}"):
        unit = unit_of(card)
    said.check_complete(unit)
    found = verified(folder, "it is not to be registered")
    recomputed = Verified(found.epsilons, str(found.sha256), found.proved, found.measured, found.assumed)
    with reading(f"the card in {folder}"):
        return registry_entry(card, recomputed, said)
