"""Verify a release: compute again what it states, from the release alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from dpvision.api.recomputing import LARGEST, MOST_EVENTS, recomputed
from dpvision.api.verifying_cards import CARD, Check, none_of, other_card
from dpvision.api.verifying_facts import of_card
from dpvision.images.files import MAX_GUARANTEE_BYTES, parse_json, read_json, read_text_file, reading
from dpvision.privacy.errors import InputError
from dpvision.privacy.facts import Unit
from dpvision.privacy.values import fits
from dpvision.reports.guarantee_file import (
    FIELDS,
    FILE,
    FORMAT,
    STATED,
    canonical,
    events_of,
    not_private_because,
    unit_of,
)
from dpvision.runs.digests import digests
from dpvision.runs.places import find_release, is_run

_SENTENCES = ("proved", "measured", "assumed")
_KINDS: dict[str, Any] = {
    "is_private": bool,
    "not_private_because": list,
    "epsilon": float,
    "delta": float,
    "target_epsilon": float,
    "neighboring_relation": str,
    "num_examples": int,
    "events": list,
}


@dataclass(frozen=True)
class Verification:
    """The outcome of `verify`.

    Attributes:
        release: the directory of the release.
        epsilon, delta, neighboring_relation: as the release states them.
        unit: what is protected, "image" or "unit", likewise.
        checks: all that was checked.
        epsilons: ε at that δ, by each way in which it was computed anew; None where it is not known.
        sha256: the SHA-256 of guarantee.json; None where there is none. Nothing in the release guards that
            file: compare this with what the publisher tells you by another way.
        proved, measured, assumed: what the release says of itself, each with "says" and "see".
    """

    release: str
    epsilon: float
    delta: float
    neighboring_relation: str
    unit: str
    checks: tuple[Check, ...]
    epsilons: Mapping[str, float | None]
    sha256: str | None
    proved: tuple[Mapping[str, str], ...] = field(default=())
    measured: tuple[Mapping[str, str], ...] = field(default=())
    assumed: tuple[Mapping[str, str], ...] = field(default=())

    @property
    def holds(self) -> bool:
        """True if every check holds."""
        return all(check.holds for check in self.checks)


def verify(release: str | os.PathLike[str], *, card: str | os.PathLike[str] | None = None) -> Verification:
    """Check a release against what it states of itself: every file, the card, and ε by other accountants.

    Nothing private is needed and nothing is written: a copy of the release will do. What cannot be seen from
    a release, such as that the noise was drawn at all, is listed as assumed.

    Args:
        release: a run's directory or release directory.
        card: the folder of a card that :func:`dpvision.write_card` made of it, to be checked too.

    Raises:
        InputError: there is no release, or its guarantee.json is damaged.
    """
    folder = _find(release)
    found = digests(folder)
    path = folder / FILE
    own_card, unreadable = _card(folder)
    if path.name not in found:
        return _without_file(folder, own_card, unreadable)
    if found[path.name] is None:
        raise InputError(f"{path} is no file of the release itself, but a link or a folder")
    content = read_text_file(path, MAX_GUARANTEE_BYTES)
    stated = _stated(path, content)
    epsilons, of_epsilon = recomputed(stated)
    checks = (
        *_of_files(stated["files"], {name: digest for name, digest in found.items() if name != FILE}),
        *of_card(folder, stated, own_card, unreadable),
        *_of_promise(stated),
        *of_epsilon,
        *(other_card(Path(card), folder, own_card) if card is not None else ()),
    )
    return Verification(
        str(folder),
        stated["epsilon"],
        stated["delta"],
        stated["neighboring_relation"],
        stated["unit"],
        checks,
        epsilons,
        hashlib.sha256(content).hexdigest(),
        tuple(stated["proved"]),
        tuple(stated["measured"]),
        tuple(stated["assumed"]),
    )


def _find(release: str | os.PathLike[str]) -> Path:
    """Return the release directory. InputError where there is none; one that lacks files is there."""
    path = Path(release)
    if is_run(path):
        return find_release(path)
    with reading(str(path)):
        return path if (path / FILE).is_file() else find_release(path)


def _without_file(folder: Path, card: Mapping[str, Any] | None, unreadable: str) -> Verification:
    """Verify what can be of a release that was made before there was guarantee.json."""
    if card is None:
        raise InputError(f"{folder} has no {FILE}, and {unreadable}; give the release of a run")
    no_file = Check("files", False, f"there is no {FILE}, so no file can be checked against its digest")
    path = folder / CARD
    with reading(f"the guarantee in {path}"):
        stated = {
            **{name: card[name] for name in (*STATED, "accountant")},
            "not_private_because": not_private_because(card),
            "unit": unit_of(card),
            "events": events_of(card),
        }
    _check_promise(path, stated)
    epsilons, of_epsilon = recomputed(stated)
    return Verification(
        str(folder),
        stated["epsilon"],
        stated["delta"],
        stated["neighboring_relation"],
        stated["unit"],
        (no_file, *_of_promise(stated), *of_epsilon),
        epsilons,
        None,
    )


def _stated(path: Path, content: bytes) -> dict[str, Any]:
    """Return the fields of guarantee.json. InputError where one is missing or is none."""
    with reading(str(path)):
        fields = parse_json(content, MAX_GUARANTEE_BYTES)
        if canonical(fields) != content:
            raise ValueError("it is not in the one form that it can have")
    if not isinstance(fields, dict) or repr(fields.get("format")) != repr(FORMAT):  # and not 1.0, or true
        raise InputError(f"{path} is not of format {FORMAT}, which this version reads; it may be newer")
    if fields.keys() != FIELDS:
        names = ", ".join(map(repr, sorted(fields.keys() ^ FIELDS)[:3]))
        raise InputError(f"{path} lacks {names}, or has what it should not; it was changed or damaged")
    _check_promise(path, fields)
    files = fields.get("files")
    if not isinstance(files, dict) or not all(
        isinstance(digest, str) and not _leaves(name) for name, digest in files.items()
    ):
        raise InputError(f"{path}: 'files' must have names within the release, and their digests")
    for name in _SENTENCES:
        if not _are_sentences(fields.get(name)):
            raise InputError(f"{path}: '{name}' must be a list of sentences, each with what says so")
    return fields


def _check_promise(path: Path, fields: Mapping[str, Any]) -> None:
    """Raise InputError unless all that ε is recomputed from is there, and can be."""
    for name, kind in _KINDS.items():
        value: Any = fields.get(name)
        if not fits(value, kind) or (kind in (int, float) and not 0 <= value <= LARGEST):
            raise InputError(
                f"{path}: '{name}' is missing or is not what it must be; it was changed or damaged"
            )
    if not fields["num_examples"] or not 0 < fields["delta"] < 1:
        raise InputError(f"{path}: 'num_examples' must be at least 1, and 'delta' between 0 and 1")
    if fields.get("unit", "image") not in get_args(Unit):
        raise InputError(f"{path}: 'unit' is none that is known")
    if fields["neighboring_relation"] not in ("add_or_remove_one", "replace_one"):
        raise InputError(f"{path}: 'neighboring_relation' is none that is known")
    events = fields["events"]
    if not 1 <= len(events) <= MOST_EVENTS or not all(
        isinstance(one, dict) and isinstance(one.get("event"), dict) for one in events
    ):
        raise InputError(f"{path}: 'events' must be a list of 1 to {MOST_EVENTS} events")


def _leaves(name: str) -> bool:
    """Say whether a name is not that of a file within the release."""
    return any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name or name == FILE


def _are_sentences(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and one.keys() == {"says", "see"}
        and all(isinstance(v, str) for v in one.values())
        for one in value
    )


def _of_files(stated: Mapping[str, str], found: Mapping[str, str | None]) -> Iterator[Check]:
    changed = [name for name in stated.keys() & found.keys() if stated[name] != found[name]]
    yield none_of("files unchanged", changed, f"{len(stated)} files have the digests stated", "changed")
    yield none_of("no file missing", stated.keys() - found.keys(), "all that are listed are there", "missing")
    yield none_of("no file more", found.keys() - stated.keys(), "nothing else is there", "not listed")


def _card(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Return card.json, or why it cannot be read."""
    try:
        return read_json(folder / CARD), ""
    except InputError as error:
        return None, str(error)


def _of_promise(stated: Mapping[str, Any]) -> Iterator[Check]:
    because = [str(one) for one in stated["not_private_because"]]
    private = stated["is_private"] and not because
    yield Check(
        "private", private, "as stated" if private else f"NOT PRIVATE: {'; '.join(because) or 'as stated'}"
    )
    delta, n = stated["delta"], stated["num_examples"]
    yield Check(
        "delta", delta < 1 / n, f"{delta:g} is {'' if delta < 1 / n else 'not '}below 1/N = {1 / n:.3g}"
    )
    epsilon, target = stated["epsilon"], stated["target_epsilon"]
    within = epsilon <= target
    yield Check("target", within, f"epsilon {epsilon:.6g} is {'within' if within else 'above'} {target:g}")
