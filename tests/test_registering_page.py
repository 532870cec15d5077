"""The page on registering has every field of the registry, every fact, and an example that is complete."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

from dpvision.reports.registry_facts import RegistryFacts
from dpvision.reports.registry_schema import ENTRY, Table

PAGE = (Path(__file__).parents[1] / "docs" / "guide" / "registering.md").read_text(encoding="utf-8")


def test_every_field_has_its_source() -> None:
    deployment = ENTRY.fields["deployment"]
    assert isinstance(deployment, Table)
    fields = ["url_slug"]
    for name, part in deployment.fields.items():
        assert isinstance(part, Table)
        fields += [f"deployment.{name}.{field}" for field in part.fields]
    told = re.findall(r"^\| (.*?) \|", PAGE, re.MULTILINE)
    named = [name for cell in told for name in re.findall(r"`([\w.]+)`", cell)]
    assert sorted(named) == sorted(fields)


def test_every_fact_is_named() -> None:
    for one in dataclasses.fields(RegistryFacts):
        assert f"`{one.name}`" in PAGE


def test_the_example_is_complete() -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    facts = tomllib.loads(text)
    facts["published"] = facts["published"].isoformat()
    RegistryFacts.of(facts).check_complete("unit")
