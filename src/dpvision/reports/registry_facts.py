"""What the registry asks of a release that no program knows: it is asked of a person, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, get_type_hints

from dpvision.privacy.errors import InputError, named_option
from dpvision.privacy.values import fits, in_words
from dpvision.reports.registry_schema import CURATOR_TYPE, EVIDENCE, SECTOR, Day, Kind


def _fact(help: str, **more: str) -> Any:
    return field(default=None, metadata={"help": help, **more})


@dataclass(frozen=True, kw_only=True)
class RegistryFacts:
    """What a person says of a release for the registry; texts are Markdown.

    Raises:
        InputError: a text is blank, or what is given for something is none.
    """

    curator: str | None = _fact("Who holds the private images, runs the program and answers for the release.")
    curator_type: str | None = _fact("What the curator is: Government, Industry or Nonprofit.")
    intended_use: str | None = _fact("What the release is for.")
    region: str | None = _fact("Of which country or region the images are.")
    sector: str | None = _fact(
        "Of which sector it is: Technology, Healthcare, Education, Government, Energy or Finance."
    )
    published: str | None = _fact("The day of publication.", metavar="YYYY-MM-DD")
    author: Sequence[str] | None = _fact("Who writes this entry. Repeat for more.", metavar="NAME")
    data_source: str | None = _fact("What the images are, of whom, and when they were collected.")
    preprocessing: str | None = _fact(
        "What was done with the images before the run, looking at them included, and what that tells of them."
    )
    security: str | None = _fact("How the private images are guarded, and who has access to them.")
    justification: str | None = _fact("Why this unit, ε and δ, and who has agreed to them.")
    unit_is: str | None = _fact("What one unit is, such as patient; asked for where units are protected.")
    name: str | None = _fact("The name of the release; by default made of its method.")
    description: str | None = _fact("What the release is; by default what its card says.")
    audience: str | None = _fact("Who gets the release; by default anyone.")
    other_releases: str | None = _fact("What else was, or will be, released of the same images.")
    tuning: str | None = _fact("How settings were chosen, beside what the card says of it.")
    utility: str | None = _fact("What the release is good for, beside the accuracy on the card.")
    additional: str | None = _fact("Whatever else should be known.")
    evidence: Mapping[str, Any] | None = _fact(
        "Sources by name, each with its evidence_source_type and a table of BibTeX's: article, misc, ….",
        python_only="yes",
    )

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            for text in _texts(getattr(self, one.name)):
                if not text.strip():
                    raise InputError(f"{named_option(one.name)} is blank; say it, or leave it out")
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            fault = None if value is None else next(kind.faults(value, name), None)
            if fault:
                raise InputError(fault)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Take facts by their names. InputError where there is none of a name, or it is of another type."""
        hints = get_type_hints(cls)
        for name, value in given.items():
            if name not in hints:
                raise InputError(f"there is no fact '{name}'; choose from {', '.join(hints)}")
            if not fits(value, hints[name]):
                raise InputError(f"{name} must be {_said(in_words(hints[name]))}, not {value!r}")
        return cls(**given)

    def check_complete(self, unit: str) -> None:
        """Refuse facts that lack some of those without which there is no entry.

        Args:
            unit: what the release protects, "image" or "unit".

        Raises:
            InputError: names all that are missing.
        """
        needed = [*NEEDED, *(["unit_is"] if unit == "unit" else [])]
        missing = [one for one in dataclasses.fields(self) if one.name in needed and not self._has(one)]
        if missing:
            told = [
                f"{named_option(one.name)} ({one.name}: {_clause(one.metadata['help'])})" for one in missing
            ]
            raise InputError(
                f"the registry asks for what only a person knows; give {'; '.join(told)}; or write them into "
                "the TOML file of facts under the names in brackets"
            )

    def _has(self, one: dataclasses.Field[Any]) -> bool:
        return bool(getattr(self, one.name))


NEEDED = (
    *("curator", "curator_type", "intended_use", "region", "sector", "published", "author"),
    *("data_source", "preprocessing", "security", "justification"),
)
"""The facts without which there is no entry, of whatever release."""


_KINDS: Mapping[str, Kind] = {
    "curator_type": CURATOR_TYPE,
    "sector": SECTOR,
    "published": Day(),
    "evidence": EVIDENCE,
}
"""The facts that may not be any text, with what each must be."""


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else []


def _said(kind: str) -> str:
    return kind.replace("a name", "a text")


def _clause(help: str) -> str:
    """Return the first sentence of a help text, as a part of another sentence."""
    first = help.partition(". ")[0].removesuffix(".")
    return first[0].lower() + first[1:]
