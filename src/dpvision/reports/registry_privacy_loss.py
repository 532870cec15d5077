"""What is protected and how strongly, for an entry of the registry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpvision.reports.guarantee_file import unit_of
from dpvision.reports.markdown import in_markdown
from dpvision.reports.registry_facts import RegistryFacts
from dpvision.reports.registry_words import bullets, number, paragraphs, unit_name
from dpvision.reports.shares_found import shares_found

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
        sha256: the SHA-256 of guarantee.json.
        proved, measured, assumed: what guarantee.json says of itself, each with "says" and "see".
    """

    epsilons: Mapping[str, float | None]
    sha256: str
    proved: Sequence[Mapping[str, str]]
    measured: Sequence[Mapping[str, str]]
    assumed: Sequence[Mapping[str, str]]


def privacy_loss(card: Mapping[str, Any], verified: Verified, facts: RegistryFacts) -> dict[str, Any]:
    """Return the part of the entry.

    Args:
        card: the release's card.
        verified: what verifying the release has found.
        facts: what a person said.
    """
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
        f"Neighbours are {in_markdown(card['neighbours'])} (`{relation}`). An image counts with its label."
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
    parts = [
        bullets(told),
        *_in_other_terms(card),
        f"δ is below 1/N = 1/{card['num_examples']}.",
    ]
    together = ((card.get("pool") or {}).get("guarantee") or {}).get("with_this_run")
    if together:
        parts.append(
            "For whoever is among the images of both, this release and that of which the pool was made "
            f"together cost ε = {together['epsilon']:.6g} at δ = {number(together['delta'])}."
        )
    return paragraphs(*parts)


def _in_other_terms(card: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the same releases cost under each relation and at other δ, and what an attacker gains. A
    card of an earlier version does not say it.
    """
    strength = card.get("strength")
    if not strength:
        return
    yield "The same in other terms, each a bound:"
    found = shares_found(strength)
    yield bullets(
        [
            *(
                f"ε for `{in_markdown(relation)}`, at δ = {number(card['delta'])}: {_bound(value)}"
                for relation, value in strength["epsilon_by_relation"].items()
            ),
            *(f"ε at δ = {number(delta)}: {_bound(value)}" for delta, value in strength["epsilon_by_delta"]),
            f"ε without amplification by sampling: {_bound(strength['epsilon_unsampled'])}",
            f"μ of Gaussian differential privacy: {_bound(strength['mu'])}, with regret "
            f"{_bound(strength['regret'])}",
            f"the share of those in the data that an attacker finds at {100 * strength['at']:g} % of false "
            f"alarms, at most: {_bound(found['1'])}, and with ten such releases {_bound(found['10'])}",
        ]
    )


def _bound(value: float | None) -> str:
    return "no useful bound" if value is None else number(value)
