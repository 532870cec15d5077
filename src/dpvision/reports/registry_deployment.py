"""Who holds what, who is trusted with it and who sees it, for an entry of the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpvision.reports.guarantee_file import unit_of
from dpvision.reports.markdown import in_markdown
from dpvision.reports.registry_facts import RegistryFacts
from dpvision.reports.registry_words import bullets, paragraphs, released


def deployment_model(
    card: Mapping[str, Any], assumed: Sequence[Mapping[str, str]], facts: RegistryFacts
) -> dict[str, Any]:
    """Return the part of the entry.

    Args:
        card: the release's card.
        assumed: what guarantee.json says is assumed.
        facts: what a person said.
    """
    return {
        "model_name": "Central",
        "model_name_details": (
            "The curator holds the private images and runs the program on them. Noise is added there, once "
            "for each release, and nothing else of them leaves."
        ),
        "trust_assumptions": _trust(assumed),
        "actors": _actors(card, facts),
        "release_type": "One release",
        "release_type_details": _releases(card, facts),
        "data_source_type": "Static",
        "data_source_type_details": paragraphs(
            facts.data_source,
            f"The card calls them: {in_markdown(name)}." if (name := _data_name(card)) else None,
            f"The images were read as one set of {card['num_examples']} {unit_of(card)}s, which did not "
            "change meanwhile.",
        ),
        "access_type": "Non-interactive",
        "access_type_details": (
            "Files are published once. Whoever has them computes with them as they like, at no further cost: "
            "nobody asks the private images anything."
        ),
    }


def _data_name(card: Mapping[str, Any]) -> str | None:
    """Return what the private images are called; a card of an earlier version does not say it."""
    return (card.get("made") or {}).get("data_name")


def _trust(assumed: Sequence[Mapping[str, str]]) -> str:
    return paragraphs(
        "The curator is trusted with the images, and so is the machine that the program runs on: its memory, "
        "its disk, its clock, the program's private folder and its ledger are not the adversary's to see or "
        "to change.",
        "What the guarantee assumes besides:",
        bullets(in_markdown(one["says"]) for one in assumed),
    )


def _actors(card: Mapping[str, Any], facts: RegistryFacts) -> str:
    is_image = unit_of(card) == "image"
    who, but_one = ("an image", "one") if is_image else ("a unit's images", "those of one unit")
    return bullets(
        (
            f"The curator, {facts.curator}: holds the private images and runs the program. Sees everything.",
            f"Who gets the release: {facts.audience or 'anyone'}. Any of them may be the adversary, who has "
            "this release and all others of the same images, knows the program and every setting, has all "
            f"private images but {but_one}, may have chosen them, and has any side knowledge, now or later.",
            f"Whoever has {who} among the private ones: is protected as stated.",
            "Who made what was taken as public (an encoder, public images, test images): is protected by "
            "nothing here, and may be the adversary.",
        )
    )


def _releases(card: Mapping[str, Any], facts: RegistryFacts) -> str:
    earlier = card.get("parts")
    how = ", each refining the one before" if "images" in card else ", each trained from the one before"
    return paragraphs(
        f"{released(card)}. The loss that is stated is that of this release.",
        f"It was made of {len(earlier)} releases{how}, all of which are counted." if earlier else None,
        facts.other_releases
        or "What else was released of the same images, and cost them, cannot be known from this release: it "
        "is in the curator's ledger, which composes all runs and refuses what would exceed the limit that "
        "was set.",
    )
