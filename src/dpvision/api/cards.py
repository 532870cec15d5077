"""What a release says, in other forms: an entry of a registry, and beside another release."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpvision.api.options import takes
from dpvision.api.verifying import Verification, verify
from dpvision.images.files import read_json, reading
from dpvision.privacy.errors import InputError
from dpvision.reports.comparison import AccuracyDifference, accuracy_difference, differing
from dpvision.reports.guarantee_file import not_private_because, unit_of
from dpvision.reports.registry_facts import RegistryFacts
from dpvision.reports.registry_privacy_loss import Verified
from dpvision.runs.places import find_release, is_run

if TYPE_CHECKING:
    from dpvision.runs import RunDirectory


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


def _card(release: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]]:
    """Return the release directory, and its card."""
    folder = find_release(release)
    return folder, read_json(folder / "card.json")


def private_card(release: str | os.PathLike[str], so: str) -> tuple[Path, dict[str, Any]]:
    """Return the release directory and its card. InputError, with what follows, where it is not private."""
    folder, card = _card(release)
    with reading(f"the card in {folder}"):
        because = not_private_because(card)
    if because:
        raise InputError(
            f"{folder} is NOT PRIVATE ({'; '.join(map(str, because))}), so {so}; give a release that is "
            "private"
        )
    return folder, card


def verified(folder: Path, so: str) -> Verification:
    """Verify a release. InputError, with what follows, where something does not hold."""
    found = verify(folder)
    failing = [f"{check.name}: {check.found}" for check in found.checks if not check.holds]
    if failing:
        raise InputError(f"{folder} does not hold what it states ({'; '.join(failing)}), so {so}")
    return found


# Two releases --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Together:
    """What two releases cost together an image, or unit, that is in both.

    Attributes:
        says: in words; also why nothing is known.
        same_images: True if both runs were on the same private images; None if that is not known.
        epsilons: the ε of both in one account, by each neighbouring relation that one of them states; empty
            where it is not known.
        delta: the δ of these, the smaller one of both.
    """

    says: str
    same_images: bool | None = None
    epsilons: Mapping[str, float] = field(default_factory=dict)
    delta: float | None = None

    @property
    def is_private(self) -> bool:
        """True if this was read in RUN/private, and must stay with who runs the program."""
        return self.same_images is not None


@dataclass(frozen=True)
class Comparison:
    """Two releases side by side.

    Attributes:
        releases: the two release directories.
        differs: the facts in which they differ, by name, with both values.
        same: the facts that are the same.
        accuracy: the second's test accuracy less the first's; None where one has none.
        together: what both cost together.
    """

    releases: tuple[str, str]
    differs: Mapping[str, tuple[Any, Any]]
    same: Mapping[str, Any]
    accuracy: AccuracyDifference | None
    together: Together

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON types."""
        accuracy = self.accuracy
        return {
            **asdict(self),
            "accuracy": accuracy and {**asdict(accuracy), "is_within": accuracy.is_within},
            "together": {**asdict(self.together), "is_private": self.together.is_private},
        }


def compare(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Comparison:
    """Compare two releases: what differs, what is the same, and what they cost together if that is known.

    Args:
        a, b: runs' directories or release directories. Only runs' directories tell whether both were on the
            same private images; that is private.

    Raises:
        InputError: there is no release, or a card is damaged.
    """
    (folder_a, card_a), (folder_b, card_b) = _card(a), _card(b)
    with reading(f"the card in {folder_a} or {folder_b}"):
        differs, same = differing(card_a, card_b)
        accuracy = accuracy_difference(card_a, card_b)
        together = _together(Path(a), Path(b), card_a, card_b)
    return Comparison((str(folder_a), str(folder_b)), differs, same, accuracy, together)


def _together(a: Path, b: Path, card_a: Mapping[str, Any], card_b: Mapping[str, Any]) -> Together:
    if not (is_run(a) and is_run(b)):
        return Together(
            "releases do not tell whether they are of the same private images, nor so what both cost; the "
            "directories of both runs do"
        )
    from dpvision.runs import RunDirectory  # here: it takes seconds to import

    one, other = RunDirectory.open(a), RunDirectory.open(b)
    if not (one.private and other.private):
        return Together("one of the runs read no private images itself: it made more of an earlier release")
    if one.of_account("run_id") == other.of_account("run_id"):
        return Together("both are the same run", True)
    if one.of_account("digest") != other.of_account("digest"):
        return Together(
            "the runs were on different data sets, or on one with other labels or units; what an image in "
            "both has paid, `dpvision ledger` knows",
            False,
        )
    return _on_the_same_images((one, other), (card_a, card_b))


def _on_the_same_images(runs: Sequence[RunDirectory], cards: Sequence[Mapping[str, Any]]) -> Together:
    """Compose what the ledger has of both runs: a card may hold an earlier run's events too."""
    from dpvision.privacy import Ledger
    from dpvision.privacy.accounting import epsilon

    says = "both runs were on the same private images"
    if any(not_private_because(card) for card in cards):
        return Together(f"{says}; one of them is NOT PRIVATE, so that both have no guarantee", True)
    delta = min(card["delta"] for card in cards)
    relations = dict.fromkeys(card["neighboring_relation"] for card in cards)
    try:
        counted = [Ledger(run.of_account("ledger")).counted()[run.of_account("run_id")] for run in runs]
        events = [event for of_run in counted for event in of_run]
        epsilons = {relation: epsilon(events, delta, relation) for relation in relations}
    except (InputError, KeyError) as error:
        return Together(f"{says}; their ledger does not tell what both cost: {error}", True)
    costs = " and ".join(f"epsilon {value:.6g} ({relation})" for relation, value in epsilons.items())
    return Together(
        f"{says}; all that both have released costs {costs} at delta {delta:g}, in one account",
        True,
        epsilons,
        delta,
    )
