"""A release as an entry of the OpenDP deployments registry: of its card, of what `verify` found, and of what
a person said. Texts are Markdown; what others named or wrote in them is made harmless, as on the card.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from dpvision.privacy.errors import InputError
from dpvision.reports.guarantee_file import unit_of
from dpvision.reports.markdown import in_markdown
from dpvision.reports.registry_deployment import deployment_model
from dpvision.reports.registry_facts import RegistryFacts
from dpvision.reports.registry_implementation import implementation
from dpvision.reports.registry_privacy_loss import Verified, privacy_loss
from dpvision.reports.registry_schema import ENTRY
from dpvision.reports.registry_words import bullets, number, paragraphs, released, shape

_MOST_WORDS = 16


def registry_entry(card: Mapping[str, Any], verified: Verified, facts: RegistryFacts) -> dict[str, Any]:
    """Return the entry, of tier 3.

    Args:
        card: of a release that is private and was verified.
        verified: what was found.
        facts: complete.

    Raises:
        InputError: the entry is not as the registry's schema has it.
    """
    name = facts.name or f"{released(card)}, by {in_markdown(card['method'])}"
    entry = {
        "url_slug": _slug(f"{name} {facts.curator}", str(facts.published)[:4]),
        "deployment": {
            "basic": _basic(card, facts, name),
            "dp_variant": _dp_variant(card),
            "privacy_loss": privacy_loss(card, verified, facts),
            "deployment_model": deployment_model(card, verified.assumed, facts),
            "implementation": implementation(card, verified, facts),
            "administrative": {
                **({"evidence_sources": dict(facts.evidence)} if facts.evidence else {}),
                "status": "Draft",
                "registry_authors": list(facts.author or ()),
                "tier": 3,
            },
        },
    }
    faults = list(ENTRY.faults(entry, ""))
    if faults:
        raise InputError(f"the entry would not be as the registry has it: {'; '.join(faults)}")
    return entry


def _slug(name: str, year: str) -> str:
    """Return what of a name is ASCII, and the year, as a part of an address."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return "-".join([*re.findall(r"[a-z0-9]+", plain)[:_MOST_WORDS], year])


def _basic(card: Mapping[str, Any], facts: RegistryFacts, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "data_curators": [
            {"data_curator_name": facts.curator, "data_curator_type": facts.curator_type},
        ],
        "description": facts.description or _description(card),
        "intended_use": facts.intended_use,
        "data_product_type": "Synthetic data" if "images" in card else "Machine learning model",
        "data_product_region": facts.region,
        "data_product_sector": facts.sector,
        "publication_date": facts.published,
    }


def _description(card: Mapping[str, Any]) -> str:
    made_of = card.get("model") or card["generator"]
    names = in_markdown(", ".join(made_of["class_names"]))
    return (
        f"{released(card)}, learned from {card['num_examples']} private {unit_of(card)}s with differential "
        f"privacy at (ε, δ) = ({number(card['epsilon'])}, {number(card['delta'])}), by the method "
        f"{in_markdown(card['method'])} of dpvision. Images are of {shape(made_of)}; "
        + (f"classes: {names}." if names else "without classes.")
    )


def _dp_variant(card: Mapping[str, Any]) -> dict[str, Any]:
    unit = unit_of(card)
    what = "images, each with its label" if unit == "image" else "units, each of any images with their labels"
    public = bullets(in_markdown(fact) for fact in card["taken_as_public"])
    return {
        "variant_name": "Approximate DP",
        "data_domain": paragraphs(
            f"Any set of {what}: whatever the pixels show, and whichever of the classes each image has. What "
            "all of these sets have in common was taken as public, whatever the private images are:",
            public,
        ),
        "unprotected_quantities": paragraphs("Taken as public:", public, *_unprotected(card)),
    }


def _unprotected(card: Mapping[str, Any]) -> Iterator[str]:
    if card["not_covered"]:
        yield "Read or published without noise:"
        yield bullets(in_markdown(read) for read in card["not_covered"])
    encoder = (card.get("model") or card.get("embedding") or {}).get("encoder")
    pool = card.get("pool") or {}
    of_private = pool.get("guarantee")
    public = [
        *([f"the encoder {in_markdown(encoder['name'])}, and what it was made of"] if encoder else []),
        *(["the public images that the private ones were mixed with"] if pool and not of_private else []),
    ]
    if public:
        yield "Not made of the private images, as its giver declared, and so not protected here:"
        yield bullets(public)
    if of_private:
        yield (
            "The images that the private ones were mixed with are synthetic. They were made of private "
            "images in an earlier release, which has a guarantee of its own."
        )
