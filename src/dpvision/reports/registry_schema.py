"""What an entry of the OpenDP deployments registry may hold: its fields by name, and what each must be.

Written from the schema and template of opendp/deployments-registry-data in 2026, with its names, order and
enumerations, which it extends as needed. It requires few fields; tier 3, the fullest, is to have all of them,
and so has an entry here, but for those that are marked as optional.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol


class Kind(Protocol):
    """What a field must be."""

    def faults(self, value: Any, path: str) -> Iterator[str]:
        """Yield a sentence for each thing that is wrong with a value, which lies at ``path``."""


@dataclass(frozen=True)
class Text:
    """Text that is not blank, of this pattern. The registry takes it for Markdown."""

    pattern: str = r"(?s).*\S.*"
    in_words: str = "text"

    def faults(self, value: Any, path: str) -> Iterator[str]:
        """See `Kind`."""
        if not (isinstance(value, str) and re.fullmatch(self.pattern, value)):
            yield f"{path} must be {self.in_words}, not {value!r}"


@dataclass(frozen=True)
class Day:
    """A day, as text."""

    def faults(self, value: Any, path: str) -> Iterator[str]:
        """See `Kind`."""
        if not is_day(value):
            yield f"{path} must be a day such as '2026-11-30', not {value!r}"


@dataclass(frozen=True)
class OneOf:
    """One of some values, of the same type."""

    values: tuple[str | int, ...]

    def faults(self, value: Any, path: str) -> Iterator[str]:
        """See `Kind`."""
        if not any(type(value) is type(one) and value == one for one in self.values):
            yield f"{path} must be one of {', '.join(map(str, self.values))}, not {value!r}"


@dataclass(frozen=True)
class Number:
    """A finite number of at least 0 and at most ``most``; a whole one of at least 1 where ``whole``."""

    most: float = math.inf
    whole: bool = False

    def faults(self, value: Any, path: str) -> Iterator[str]:
        """See `Kind`."""
        kind, least = (int, 1) if self.whole else (int | float, 0)
        if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= self.most:
            yield f"{path} must be a {'whole ' if self.whole else ''}number from {least}, not {value!r}"
        elif not math.isfinite(value):
            yield f"{path} must be finite"


@dataclass(frozen=True)
class ListOf:
    """A list of at least one."""

    of: Kind

    def faults(self, value: Any, path: str) -> Iterator[str]:
        """See `Kind`."""
        if not (isinstance(value, list) and value):
            yield f"{path} must be a list of at least one, not {value!r}"
            return
        for index, one in enumerate(value):
            yield from self.of.faults(one, f"{path}[{index}]")


@dataclass(frozen=True)
class Named:
    """A table with names of one's own, of letters, digits and underscores."""

    of: Kind

    def faults(self, value: Any, path: str) -> Iterator[str]:
        """See `Kind`."""
        if not isinstance(value, dict):
            yield f"{path} must be a table, not {value!r}"
            return
        for name in value:
            if not (isinstance(name, str) and re.fullmatch(r"\w+", name)):
                yield f"{path} has the name {name!r}, which is not of letters, digits and underscores"
        for name, one in value.items():
            yield from self.of.faults(one, f"{path}.{name}")


@dataclass(frozen=True)
class Source:
    """A source of evidence: its type, and one table of BibTeX's fields under the name of BibTeX's entry."""

    def faults(self, value: Any, path: str) -> Iterator[str]:
        """See `Kind`."""
        kinds = [name for name in value if name in BIBTEX_ENTRIES] if isinstance(value, dict) else []
        if len(kinds) != 1:
            yield f"{path} must be a table with one of {', '.join(BIBTEX_ENTRIES)} in it, not {value!r}"
            return
        fields = {name: Text() for name in BIBTEX_FIELDS}
        entry = Table(fields, frozenset(fields))
        yield from Table({"evidence_source_type": EVIDENCE_TYPE, kinds[0]: entry}).faults(value, path)


@dataclass(frozen=True)
class Table:
    """A table with these fields, of which some are optional, and no others."""

    fields: Mapping[str, Kind]
    optional: frozenset[str] = frozenset()

    def faults(self, value: Any, path: str) -> Iterator[str]:
        """See `Kind`."""
        if not isinstance(value, dict):
            yield f"{path or 'the entry'} must be a table, not {value!r}"
            return
        for name in value:
            if name not in self.fields:
                yield f"{path or 'the entry'} has no field {name!r}"
        for name, kind in self.fields.items():
            inner = f"{path}.{name}" if path else name
            if name in value:
                yield from kind.faults(value[name], inner)
            elif name not in self.optional:
                yield f"{inner} is missing"


def is_day(value: Any) -> bool:
    """Say whether a value is a day, written as YYYY-MM-DD."""
    if not (isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value)):
        return False
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


_TEXT = Text()

CURATOR_TYPE = OneOf(("Government", "Industry", "Nonprofit"))

SECTOR = OneOf(("Technology", "Healthcare", "Education", "Government", "Energy", "Finance"))

EVIDENCE_TYPE = OneOf(
    (
        "Peer-reviewed publication",
        "Formal publication by the deploying organization",
        "Authorized organizational attestation",
        "Other public source",
    )
)

BIBTEX_ENTRIES = (
    *("article", "book", "booklet", "conference", "inbook", "incollection", "inproceedings", "manual"),
    *("mastersthesis", "misc", "phdthesis", "proceedings", "techreport", "unpublished"),
)

BIBTEX_FIELDS = (
    *("address", "annote", "author", "booktitle", "chapter", "doi", "edition", "editor", "email"),
    *("howpublished", "institution", "issn", "isbn", "journal", "month", "note", "number", "organization"),
    *("pages", "publisher", "school", "type", "series", "title", "url", "volume", "year"),
)

BASIC = Table(
    {
        "name": _TEXT,
        "data_curators": ListOf(Table({"data_curator_name": _TEXT, "data_curator_type": CURATOR_TYPE})),
        "description": _TEXT,
        "intended_use": _TEXT,
        "data_product_type": OneOf(
            (
                *("Summary statistics", "Machine learning model", "Dataset", "Synthetic data"),
                *("Interactive API", "SQL queries"),
            )
        ),
        "data_product_region": _TEXT,
        "data_product_sector": SECTOR,
        "publication_date": Day(),
    }
)

DP_VARIANT = Table(
    {
        "variant_name": OneOf(("Pure DP", "Approximate DP", "Zero-concentrated DP", "Renyi DP", "Custom")),
        "data_domain": _TEXT,
        "unprotected_quantities": _TEXT,
    }
)

PRIVACY_LOSS = Table(
    {
        "privacy_unit": _TEXT,
        "privacy_unit_details": _TEXT,
        "number_of_privacy_units": Number(whole=True),
        "privacy_parameters": Table(
            {"epsilon": Number(), "delta": Number(most=1), "rho": Number()},
            frozenset({"epsilon", "delta", "rho"}),  # those that the variant has
        ),
        "privacy_parameters_details": _TEXT,
    }
)

DEPLOYMENT_MODEL = Table(
    {
        "model_name": OneOf(("Local", "Central", "Shuffle", "Federated")),
        "model_name_details": _TEXT,
        "trust_assumptions": _TEXT,
        "actors": _TEXT,
        "release_type": OneOf(("One release", "Many releases")),
        "release_type_details": _TEXT,
        "data_source_type": OneOf(("Static", "Dynamic")),
        "data_source_type_details": _TEXT,
        "access_type": OneOf(("Interactive", "Non-interactive")),
        "access_type_details": _TEXT,
    }
)

IMPLEMENTATION = Table(
    {
        "preprocessing_and_hyperparameter_tuning": _TEXT,
        "mechanisms": _TEXT,
        "composition": _TEXT,
        "post_processing": _TEXT,
        "justification": _TEXT,
        "utility": _TEXT,
        "additional_information": _TEXT,
    }
)

EVIDENCE = Named(Source())

ADMINISTRATIVE = Table(
    {
        "evidence_sources": EVIDENCE,
        "status": OneOf(("Draft",)),
        "registry_authors": ListOf(_TEXT),
        "tier": OneOf((3,)),
    },
    frozenset({"evidence_sources"}),
)

ENTRY = Table(
    {
        "url_slug": Text(r"[a-z0-9]+(-[a-z0-9]+)*", "small letters and digits, with single hyphens between"),
        "deployment": Table(
            {
                "basic": BASIC,
                "dp_variant": DP_VARIANT,
                "privacy_loss": PRIVACY_LOSS,
                "deployment_model": DEPLOYMENT_MODEL,
                "implementation": IMPLEMENTATION,
                "administrative": ADMINISTRATIVE,
            }
        ),
    }
)
"""An entry of tier 3."""
