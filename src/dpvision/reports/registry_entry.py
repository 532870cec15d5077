"""A release as an entry of the OpenDP deployments registry: of its card, of what `verify` found, and of what
a person said. Texts are Markdown; what others named or wrote in them is made harmless, as on the card.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpvision.privacy.errors import InputError
from dpvision.reports.guarantee_file import unit_of
from dpvision.reports.markdown import in_markdown
from dpvision.reports.registry_deployment import deployment_model
from dpvision.reports.registry_facts import RegistryFacts
from dpvision.reports.registry_implementation import implementation
from dpvision.reports.registry_schema import ENTRY
from dpvision.reports.registry_words import bullets, number, paragraphs, released, shape, unit_name

_MOST_WORDS = 16
_WAYS = {
    "pld": "privacy loss distributions",
    "renyi": "Rényi divergences, a looser bound",
    "grid, rounded down": "a grid, rounded down: a lower bound",
    "grid, rounded up": "a grid, rounded up: an upper bound",
}


@dataclass(frozen=True)
class Verified:
    """What verifying a release has found.

    Attributes:
        epsilons: ε by each way in which it was computed anew; None where that way knows none.
        other_relation: the neighbouring relation that the card does not state.
        other_epsilon: what the same releases cost under that one, at the card's δ; None if not known.
        sha256: the SHA-256 of guarantee.json.
        proved, measured, assumed: what guarantee.json says of itself, each with "says" and "see".
    """

    epsilons: Mapping[str, float | None]
    other_relation: str
    other_epsilon: float | None
    sha256: str
    proved: Sequence[Mapping[str, str]]
    measured: Sequence[Mapping[str, str]]
    assumed: Sequence[Mapping[str, str]]


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
            "privacy_loss": _privacy_loss(card, verified, facts),
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


def _unprotected(card: Mapping[str, Any]) -> Iterable[str]:
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


def _privacy_loss(card: Mapping[str, Any], verified: Verified, facts: RegistryFacts) -> dict[str, Any]:
    return {
        "privacy_unit": unit_name(card, facts),
        "privacy_unit_details": _unit_details(card, facts),
        "number_of_privacy_units": card["num_examples"],
        "privacy_parameters": {"epsilon": card["epsilon"], "delta": card["delta"]},
        "privacy_parameters_details": _parameters_details(card, verified),
    }


def _unit_details(card: Mapping[str, Any], facts: RegistryFacts) -> str:
    relation = card["neighboring_relation"]
    parts = [
        f"Neighbouring are {in_markdown(card['neighbours'])} (`{relation}`). An image counts with its label."
    ]
    if unit_of(card) == "unit":
        parts.append(f"One unit is: {facts.unit_is}")
    else:
        parts.append("One image is protected, not one person who has several.")
    if card.get("groups"):
        told = [
            f"{one['images']} images: "
            + ("no useful bound" if one["epsilon"] is None else f"ε = {number(one['epsilon'])}")
            for one in card["groups"]
        ]
        parts += ["For a person with several images, all of them together, at the same δ:", bullets(told)]
    return paragraphs(*parts)


def _parameters_details(card: Mapping[str, Any], verified: Verified) -> str:
    accountant, delta = card["accountant"], number(card["delta"])
    told = [
        f"ε = {card['epsilon']:.6g} at δ = {delta} by {in_markdown(accountant['epsilon_by'])} "
        f"({in_markdown(accountant['version'])}), an upper bound",
        f"ε = {accountant['epsilon_by_rdp']:.6g} by Rényi differential privacy, a looser cross-check",
        f"the budget was ε = {card['target_epsilon']:.6g}, which was not exceeded",
        *(
            f"ε = {value:.6g} recomputed from the release, by: {_WAYS.get(way, way)}"
            for way, value in verified.epsilons.items()
            if value is not None
        ),
    ]
    if verified.other_epsilon is not None:
        told.append(
            f"under the other neighbouring relation (`{verified.other_relation}`) the same releases cost "
            f"ε = {verified.other_epsilon:.6g} at the same δ"
        )
    parts = [bullets(told), f"δ is below 1/N = 1/{card['num_examples']}."]
    together = ((card.get("pool") or {}).get("guarantee") or {}).get("with_this_run")
    if together:
        parts.append(
            "For whoever is among the images of both, this release and that of which the pool was made "
            f"together cost ε = {together['epsilon']:.6g} at δ = {number(together['delta'])}."
        )
    return paragraphs(*parts)
