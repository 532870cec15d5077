"""An entry has the fields that the registry asks for, filled from what is said in public."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest

from dpvision.privacy import InputError
from dpvision.reports.registry_entry import registry_entry
from dpvision.reports.registry_facts import NEEDED, RegistryFacts
from dpvision.reports.registry_privacy_loss import Verified
from dpvision.reports.registry_schema import BIBTEX_FIELDS, ENTRY, Kind, ListOf, Named, Table

TEMPLATE = """
url_slug
deployment.basic.name
deployment.basic.data_curators.data_curator_name
deployment.basic.data_curators.data_curator_type
deployment.basic.description
deployment.basic.intended_use
deployment.basic.data_product_type
deployment.basic.data_product_region
deployment.basic.data_product_sector
deployment.basic.publication_date
deployment.dp_variant.variant_name
deployment.dp_variant.data_domain
deployment.dp_variant.unprotected_quantities
deployment.privacy_loss.privacy_unit
deployment.privacy_loss.privacy_unit_details
deployment.privacy_loss.number_of_privacy_units
deployment.privacy_loss.privacy_parameters.epsilon
deployment.privacy_loss.privacy_parameters.delta
deployment.privacy_loss.privacy_parameters.rho
deployment.privacy_loss.privacy_parameters_details
deployment.deployment_model.model_name
deployment.deployment_model.model_name_details
deployment.deployment_model.trust_assumptions
deployment.deployment_model.actors
deployment.deployment_model.release_type
deployment.deployment_model.release_type_details
deployment.deployment_model.data_source_type
deployment.deployment_model.data_source_type_details
deployment.deployment_model.access_type
deployment.deployment_model.access_type_details
deployment.implementation.preprocessing_and_hyperparameter_tuning
deployment.implementation.mechanisms
deployment.implementation.composition
deployment.implementation.post_processing
deployment.implementation.justification
deployment.implementation.utility
deployment.implementation.additional_information
deployment.administrative.evidence_sources.*
deployment.administrative.status
deployment.administrative.registry_authors
deployment.administrative.tier
"""
"""The fields of the registry's template of 2026, in its order."""

BIBTEX = """
address annote author booktitle chapter doi edition editor email howpublished institution issn isbn journal
month note number organization pages publisher school type series title url volume year
"""
"""Those of a source of evidence, in that template."""

FIELDS = [line for line in TEMPLATE.splitlines() if line]

FACTS = RegistryFacts(
    curator="Clinic: {north}\n- east",
    curator_type="Nonprofit",
    intended_use="research",
    region="Europe",
    sector="Healthcare",
    published="2026-11-30",
    author=["A. Writer"],
    data_source="Photographs of 2020.",
    preprocessing="Cropped by hand, each by itself.",
    security="Behind two doors.",
    justification="Agreed with the officer.",
    evidence={
        "paper": {"evidence_source_type": "Other public source", "article": {"title": "x", "year": "2026"}}
    },
)
VERIFIED = Verified(
    {"pld": 1.5, "integral": None}, "ab" * 32,
    [{"says": "it is", "see": "docs"}], [], [{"says": "AES is good", "see": "docs"}],
)  # fmt: skip
HOSTILE = (
    "cat\n# NO HEADING",
    "<script>alert(1)</script>",
    "a: [b](http://c)",
    "!!python/object",
    "医者 'x' \"y\"",
)


def mechanism(**facts: Any) -> dict[str, Any]:
    found = {"name": "Gaussian noise on the sum of clipped gradients", "sensitivity": 1.0}
    return {**found, "noise_multiplier": 2.5, "sample_rate": 0.125, "count": 7, **facts}


def a_card(**facts: Any) -> dict[str, Any]:
    """Return the card of a classifier."""
    return {
        "is_private": True, "not_private_because": [], "epsilon": 1.5, "delta": 1e-5, "target_epsilon": 1.6,
        "neighboring_relation": "add_or_remove_one", "unit": "image", "num_examples": 1234,
        "neighbours": "data sets that differ by the presence of one image", "noise": "AES-256",
        "accountant": {"epsilon_by": "PLD", "version": "dp-accounting 1", "epsilon_by_rdp": 1.75},
        "mechanisms": [mechanism()], "sampler": "Poisson: every image enters", "lost_steps": 0,
        "groups": [{"images": 2, "epsilon": 3.25}, {"images": 10, "epsilon": None}],
        "taken_as_public": ["number of training images: 1234", f"class names: {', '.join(HOSTILE)}"],
        "not_covered": ["training time"], "method": "dp-sgd", "config": {"steps": 7},
        "model": {
            "network": "linear", "encoder": None, "parameters": 3, "image_shape": [1, 8, 8],
            "class_names": list(HOSTILE), "resize": "crop",
        },
        "pool": None, "training_seconds": 3.0,
        "made": {"began": "2026-11-01", "command": "dpvision train DATA --x '<b>'", "data_name": "<i>X-rays"},
        "strength": {
            "epsilon_by_relation": {"add_or_remove_one": 1.5, "replace_one": 2.75},
            "epsilon_by_delta": [[1e-4, 1.25]], "epsilon_unsampled": None, "mu": 0.5, "regret": 0.01,
            "at": 0.01, "false_positive_rates": [0.001, 0.01],
            "true_positive_rates": {"1": [0.01, 0.03], "10": [0.1, 0.4]},
        },
        "test": {"accuracy": 0.5, "interval_95": [0.25, 0.75], "correct": 5, "total": 10},
        "versions": {"dpvision": "0.1.0"},
        **facts,
    }  # fmt: skip


def part(name: str, facts: RegistryFacts = FACTS, **card: Any) -> Any:
    """Return one field of the entry of a card."""
    found: Any = registry_entry(a_card(**card), VERIFIED, facts)["deployment"]
    for one in name.split("."):
        found = found[one]
    return found


def fields_of(kind: Kind, path: str = "") -> Iterator[str]:
    if isinstance(kind, Table):
        for name, inner in kind.fields.items():
            yield from fields_of(inner, f"{path}.{name}" if path else name)
    elif isinstance(kind, Named):
        yield from fields_of(kind.of, f"{path}.*")
    elif isinstance(kind, ListOf):
        yield from fields_of(kind.of, path)
    else:
        yield path


def test_the_schema_has_the_fields_of_the_registry_in_its_order() -> None:
    assert list(fields_of(ENTRY)) == FIELDS
    assert list(BIBTEX_FIELDS) == BIBTEX.split()


def leaves(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, path)
    else:
        yield path


def test_an_entry_fills_all_of_them_in_that_order() -> None:
    entry = registry_entry(a_card(), VERIFIED, FACTS)
    found = [re.sub(r"(evidence_sources)\..*", r"\1.*", one) for one in leaves(entry)]
    only_zero_concentrated = "deployment.privacy_loss.privacy_parameters.rho"
    assert list(dict.fromkeys(found)) == [one for one in FIELDS if one != only_zero_concentrated]
    without = registry_entry(a_card(), VERIFIED, RegistryFacts.of({n: getattr(FACTS, n) for n in NEEDED}))
    assert "evidence_sources" not in without["deployment"]["administrative"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("basic.publication_date", "2026-11-30"),
        ("basic.data_product_type", "Machine learning model"),
        ("basic.description", "1234 private images"),
        ("dp_variant.variant_name", "Approximate DP"),
        ("dp_variant.unprotected_quantities", "- training time"),
        ("dp_variant.unprotected_quantities", "- number of training images: 1234"),
        ("privacy_loss.privacy_unit", "image"),
        ("privacy_loss.privacy_unit_details", "(`add_or_remove_one`)"),
        ("privacy_loss.privacy_unit_details", "- 2 images: ε = 3.25\n- 10 images: no useful bound"),
        ("privacy_loss.privacy_parameters_details", "ε = 1.75 by Rényi"),
        ("privacy_loss.privacy_parameters_details", "ε = 1.5 recomputed"),
        ("privacy_loss.privacy_parameters_details", "- ε for `replace_one`, at δ = 1e-05: 2.75"),
        ("privacy_loss.privacy_parameters_details", "- ε at δ = 0.0001: 1.25"),
        ("privacy_loss.privacy_parameters_details", "amplification by sampling: no useful bound"),
        ("privacy_loss.privacy_parameters_details", "at most: 0.03, and with ten such releases 0.4"),
        ("deployment_model.model_name", "Central"),
        ("deployment_model.trust_assumptions", "- AES is good"),
        ("deployment_model.actors", "all private images but one,"),
        ("deployment_model.release_type_details", "cannot be known from this release"),
        ("deployment_model.data_source_type_details", "Photographs of 2020."),
        ("implementation.preprocessing_and_hyperparameter_tuning", "Cropped by hand"),
        ("implementation.preprocessing_and_hyperparameter_tuning", "is assumed"),
        ("implementation.mechanisms", "7 times, L2 sensitivity 1, noise multiplier 2.5, sample rate 0.125"),
        ("implementation.mechanisms", "As accounted: Poisson sampling at the rates above"),
        ("implementation.mechanisms", "Behind two doors."),
        ("implementation.composition", "PLD (dp-accounting 1)"),
        ("implementation.justification", "Agreed with the officer."),
        ("implementation.justification", "- it is (docs)"),
        ("implementation.utility", "50.00 %, 95 % interval 25.00 to 75.00"),
        ("implementation.utility", "It is exact"),
        ("implementation.additional_information", "ab" * 32),
        ("implementation.additional_information", "dpvision train DATA --x '&lt;b>'"),
        ("deployment_model.data_source_type_details", "&lt;i>X-rays"),
    ],
)
def test_what_a_field_says(name: str, says: str) -> None:
    assert says in part(name)


def test_a_card_of_an_earlier_version_is_taken() -> None:
    old = a_card()
    del old["made"], old["strength"], old["groups"], old["unit"]
    entry = registry_entry(old, VERIFIED, FACTS)["deployment"]
    assert "in other terms" not in entry["privacy_loss"]["privacy_parameters_details"]
    assert entry["privacy_loss"]["privacy_unit"] == "image"


def test_numbers_are_the_cards() -> None:
    assert part("privacy_loss.privacy_parameters") == {"epsilon": 1.5, "delta": 1e-5}
    assert part("privacy_loss.number_of_privacy_units") == 1234
    assert part("administrative.tier") == 3


def test_a_unit_is_what_the_person_says_it_is() -> None:
    said = RegistryFacts(**{n: getattr(FACTS, n) for n in NEEDED}, unit_is="patient")
    assert part("privacy_loss.privacy_unit", said, unit="unit", groups=[]) == "patient"
    assert "One unit is: patient" in part("privacy_loss.privacy_unit_details", said, unit="unit", groups=[])
    assert "but those of one unit," in part("deployment_model.actors", said, unit="unit")


def test_the_sampler_as_it_is_accounted() -> None:
    everyone = "every image enters every release"
    assert everyone in part("implementation.mechanisms", mechanisms=[mechanism(sample_rate=1.0)])
    both = part("implementation.mechanisms", mechanisms=[mechanism(), mechanism(sample_rate=1.0)])
    assert f"amplification; at rate 1, {everyone}" in both


def test_tuning_that_was_paid_for() -> None:
    tuning = {"expected_trials": 8.0, "law": "Poisson's", "search": {"learning_rate": [1, 3]}, "score": {}}
    text = part("implementation.preprocessing_and_hyperparameter_tuning", tuning=tuning)
    assert "paid for by one selection mechanism" in text
    assert "- learning_rate: 1, 3" in text
    assert "is assumed" not in text


def test_synthetic_images_with_a_prior_and_a_pool_of_private_images() -> None:
    encoder = {"name": "patches", "provenance": {"source": "<b>drawn</b>"}}
    card = a_card(images={"count": 55}, embedding={"encoder": encoder}, test=None, parts=[{}, {}])
    card["generator"] = card.pop("model")
    card["pool"] = {
        "digest": "d", "images": 3, "provenance": {"method": "dp-moments"},
        "guarantee": {"with_this_run": {"epsilon": 4.5, "delta": 1e-5}},
    }  # fmt: skip
    found = registry_entry(card, VERIFIED, FACTS)["deployment"]
    assert found["basic"]["data_product_type"] == "Synthetic data"
    assert found["basic"]["name"] == "55 synthetic images, by dp-sgd"
    assert "the encoder patches" in found["dp_variant"]["unprotected_quantities"]
    assert "a guarantee of its own" in found["dp_variant"]["unprotected_quantities"]
    assert "public images that the private ones" not in found["dp_variant"]["unprotected_quantities"]
    assert "together cost ε = 4.5" in found["privacy_loss"]["privacy_parameters_details"]
    assert "2 releases, each refining the one before" in found["deployment_model"]["release_type_details"]
    assert found["implementation"]["utility"] == "The release states no figure of its utility."
    assert "- source: &lt;b>drawn" in found["implementation"]["additional_information"]


def test_what_strangers_named_is_no_markup_and_what_the_person_says_is_theirs() -> None:
    entry = registry_entry(a_card(), VERIFIED, FACTS)["deployment"]
    for text in (entry["basic"]["description"], entry["dp_variant"]["data_domain"]):
        assert "<script" not in text
        assert "\n# NO" not in text
        assert "](http" not in text
        for name in ("cat\\n# NO HEADING", "!!python/object", "医者 'x' \"y\""):
            assert name in text
    assert entry["basic"]["data_curators"][0]["data_curator_name"] == FACTS.curator


def test_an_address_is_made_of_the_name() -> None:
    for name, slug in {
        "Ärzte & Co: X-rays": "arzte-co-x-rays-clinic-north-east-2026",
        "医者": "clinic-north-east-2026",
    }.items():
        said = RegistryFacts(**{n: getattr(FACTS, n) for n in NEEDED}, name=name)
        assert registry_entry(a_card(), VERIFIED, said)["url_slug"] == slug


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("url_slug", "No Slug", "url_slug must be small letters"),
        ("deployment.basic.name", " ", "deployment.basic.name must be text"),
        ("deployment.basic.name", None, "deployment.basic.name is missing"),
        ("deployment.basic.more", "x", "deployment.basic has no field 'more'"),
        ("deployment.basic.data_curators", [], "at least one"),
        ("deployment.basic.data_product_type", "Model", "must be one of Summary statistics"),
        ("deployment.basic.publication_date", "2026-02-30", "must be a day"),
        ("deployment.dp_variant", "x", "deployment.dp_variant must be a table"),
        ("deployment.privacy_loss.number_of_privacy_units", True, "must be a whole number"),
        ("deployment.privacy_loss.number_of_privacy_units", 1.0, "must be a whole number"),
        ("deployment.privacy_loss.privacy_parameters.epsilon", -1.0, "must be a number from 0"),
        ("deployment.privacy_loss.privacy_parameters.epsilon", float("inf"), "must be finite"),
        ("deployment.privacy_loss.privacy_parameters.epsilon", float("nan"), "must be a number"),
        ("deployment.privacy_loss.privacy_parameters.delta", 1.5, "must be a number"),
        ("deployment.administrative.tier", True, "must be one of 3"),
        ("deployment.administrative.tier", 1, "must be one of 3"),
        ("deployment.administrative.status", "Final", "must be one of Draft"),
        (
            "deployment.administrative.evidence_sources",
            {"a": {"article": {}}},
            "evidence_source_type is missing",
        ),
        ("deployment.administrative.registry_authors", "A", "must be a list"),
    ],
)
def test_the_schema_refuses(path: str, value: Any, fault: str) -> None:
    entry = copy.deepcopy(registry_entry(a_card(), VERIFIED, FACTS))
    assert list(ENTRY.faults(entry, "")) == []
    *folders, name = path.split(".")
    inner = entry
    for one in folders:
        inner = inner[one]
    if value is None:
        del inner[name]
    else:
        inner[name] = value
    (found,) = ENTRY.faults(entry, "")
    assert fault in found


def test_facts_that_are_missing_are_named_together() -> None:
    with pytest.raises(InputError) as caught:
        RegistryFacts(curator="x").check_complete("unit")
    told = str(caught.value)
    assert all(f"({name}: " in told for name in (*NEEDED, "unit_is") if name != "curator")
    assert "(curator: " not in told
    FACTS.check_complete("image")
    with pytest.raises(InputError, match="unit_is"):
        FACTS.check_complete("unit")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"curater": "x"}, "there is no fact 'curater'; choose from curator,"),
        ({"curator": 3}, "curator must be a text, not 3"),
        ({"author": "A"}, "author must be a list, each a text"),
        ({"curator": " "}, "is blank"),
        ({"author": ["A", ""]}, "is blank"),
        ({"published": "30.11.2026"}, "published must be a day such as '2026-11-30', not '30.11.2026'"),
        ({"sector": "Zoos"}, "sector must be one of Technology, Healthcare,"),
        ({"curator_type": "Company"}, "curator_type must be one of Government, Industry, Nonprofit"),
        ({"evidence": {"a": {"kind": "b"}}}, "evidence.a must be a table with one of article,"),
        ({"evidence": {"a": {"misc": {"title": 3}}}}, "evidence_source_type is missing|title must be text"),
        ({"evidence": {"a b": {}}}, "the name 'a b', which is not of letters"),
    ],
)
def test_facts_that_are_none_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RegistryFacts.of(given)
