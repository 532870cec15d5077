"""Verify a release: compute again what it states, from the release alone."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from dpvision.api.verifying_cards import CARD, Check, accuracy_agrees, forms, is_of_this_version, other_card
from dpvision.images.files import parse_json, read_json, read_text_file, reading
from dpvision.methods.registry import FROM, REFINED
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
    in_words,
    not_private_because,
    sentences,
    unit_of,
)
from dpvision.runs.digests import digests
from dpvision.runs.places import find_release, is_run

MOST_BYTES = 2**23
"""The largest guarantee.json that is read, in bytes: some 80,000 files."""

MOST_EVENTS = 32
"""The most kinds of events that are composed: a run has one for each of its stages."""

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
_LARGEST = 2.0**63
"""The largest number that is read: whole ones can be larger than what is computed with."""

_BY_SELECTION = "the bound on a selection"
_SELECTION_TOLERANCE = 1e-4
"""The most by which the second accountant's δ of a trial is uncertain, and so ε."""

_PLD_TOLERANCE = 0.01
_RDP_TOLERANCE = 0.05
"""How far ε by PLD may differ from that stated, for versions of dp-accounting differ; and how far above the
bound from Rényi divergences ε may be stated, for large ε are stated from a coarser bound.
"""


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
    content = read_text_file(path, MOST_BYTES)
    stated = _stated(path, content)
    epsilons, of_epsilon = _recomputed(stated)
    checks = (
        *_of_files(stated["files"], {name: digest for name, digest in found.items() if name != FILE}),
        *_of_card(folder, stated, own_card, unreadable),
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
    epsilons, of_epsilon = _recomputed(stated)
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


# What is stated ------------------------------------------------------------------------------------------


def _stated(path: Path, content: bytes) -> dict[str, Any]:
    """Return the fields of guarantee.json. InputError where one is missing or is none."""
    with reading(str(path)):
        fields = parse_json(content, MOST_BYTES)
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
        if not fits(value, kind) or (kind in (int, float) and not 0 <= value <= _LARGEST):
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


# Files and card ------------------------------------------------------------------------------------------


def _of_files(stated: Mapping[str, str], found: Mapping[str, str | None]) -> Iterator[Check]:
    changed = [name for name in stated.keys() & found.keys() if stated[name] != found[name]]
    yield _none_of("files unchanged", changed, f"{len(stated)} files have the digests stated", "changed")
    yield _none_of(
        "no file missing", stated.keys() - found.keys(), "all that are listed are there", "missing"
    )
    yield _none_of("no file more", found.keys() - stated.keys(), "nothing else is there", "not listed")


def _none_of(name: str, names: Any, holds: str, fails: str) -> Check:
    """Return the check that there are no such names; a few of them are told."""
    few = sorted(names)[:3]
    more = f", and {len(names) - len(few)} more" if len(names) > len(few) else ""
    return Check(name, not few, f"{fails}: {', '.join(few)}{more}" if few else holds)


def _card(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Return card.json, or why it cannot be read."""
    try:
        return read_json(folder / CARD), ""
    except InputError as error:
        return None, str(error)


def _of_card(
    folder: Path, stated: Mapping[str, Any], card: Mapping[str, Any] | None, unreadable: str
) -> Iterator[Check]:
    if card is None:
        yield Check("card", False, unreadable)
        return
    same = [*STATED, "accountant"]
    differ = [name for name in same if card.get(name) != stated.get(name)]
    try:
        differ += [
            name
            for name, value in (
                ("events", events_of(card)),
                ("not_private_because", not_private_because(card)),
                ("unit", unit_of(card)),
                *_sentences_of(card).items(),
            )
            if value != stated[name]
        ]
        if not _mechanisms_agree(card, stated["events"]):
            differ.append("mechanisms")
        if "beside" in card:
            differ.append("beside")
        if not accuracy_agrees(card):
            differ.append("test")
        if {"events", "mechanisms"} & {*differ}:  # what follows takes long of many, and there may be any
            yield _none_of("card", differ, "", f"{CARD} says otherwise of")
            return
        if not _groups_agree(card):
            differ.append("groups")
        if not _strength_agrees(card):
            differ.append("strength")
        if not _pool_agrees(card):
            differ.append("pool")
        if not _parts_agree(card):
            differ.append("earlier releases")
        differ += [name for name, words in _words_of(card).items() if card[name] != words]
        of_forms = forms(folder, card, folder)
    except Exception as error:  # a card of other types, which draws any
        yield Check("card", False, f"{CARD} is no release card ({type(error).__name__})")
        return
    yield _none_of("card", differ, f"{CARD} and {FILE} say the same", f"{CARD} says otherwise of")
    yield from of_forms


def _sentences_of(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return what this version proves, measures and assumes of such a card; nothing of another version's."""
    return sentences(card) if is_of_this_version(card) else {}


def _words_of(card: Mapping[str, Any]) -> dict[str, str]:
    """Return how this version puts relation and noise of such a card; nothing of another version's."""
    if not is_of_this_version(card):
        return {}
    return in_words(card["neighboring_relation"], unit_of(card), not_private_because(card))


def _mechanisms_agree(card: Mapping[str, Any], events: list[dict[str, Any]]) -> bool:
    """Say whether the mechanisms that people read on the card are the events, and say no more than these."""
    facts = ("noise_multiplier", "sample_rate", "count")

    def told(event: Mapping[str, Any], sensitivity: Any) -> dict[str, Any]:
        return {"sensitivity": sensitivity, **{name: event[name] for name in facts if name in event}}

    if any(one["event"].get("kind", "gaussian") != "gaussian" for one in events):
        return _facts_agree(card["mechanisms"], events)
    return [{**one, "name": ""} for one in card["mechanisms"]] == [
        {"name": "", **told(one["event"], one["sensitivity"])} for one in events
    ]


def _facts_agree(mechanisms: list[dict[str, Any]], events: list[dict[str, Any]]) -> bool:
    """Say whether the mechanisms have the facts of these events, of any kinds that are known."""
    from dpvision.privacy.events import Event, UnknownEvent  # here: it takes seconds to import

    try:
        facts = [Event.from_json(one["event"]).facts() for one in events]
    except UnknownEvent:
        return len(mechanisms) == len(events)
    told = [{**one, "sensitivity": each["sensitivity"]} for one, each in zip(facts, events, strict=True)]
    return [{name: one[name] for name in one if name != "name"} for one in mechanisms] == told


def _groups_agree(card: Mapping[str, Any]) -> bool:
    """Say whether no ε of a person with several images is below what it is by the events, nor one missing. A
    card that was written before it had them has none.
    """
    from dpvision.privacy.events import Event, UnknownEvent  # here: it takes seconds to import
    from dpvision.privacy.group_privacy import SIZES, group_epsilons

    if "groups" not in card and is_of_this_version(card) and unit_of(card) == "image":
        return False
    if "groups" not in card or unit_of(card) != "image":
        return not card.get("groups")
    told = {one["images"]: math.inf if one["epsilon"] is None else one["epsilon"] for one in card["groups"]}
    try:
        events = [Event.from_json(one["event"]) for one in card["events"]]
    except UnknownEvent:
        return True  # which is told of ε
    found = group_epsilons(events, card["delta"], card["neighboring_relation"])
    return told.keys() == set(SIZES) and all(
        told[size] >= (1 - _PLD_TOLERANCE) * bound for size, bound in found.items() if bound < math.inf
    )


def _strength_agrees(card: Mapping[str, Any]) -> bool:
    """Say whether a card states no less of what is given away than the events say. One that was written
    before it did states nothing of it.
    """
    from dpvision.privacy.events import UnknownEvent  # here: it takes seconds to import
    from dpvision.reports.card import strength_of

    if "strength" not in card:
        return True
    try:
        found = strength_of(card)
    except UnknownEvent:
        return True  # which is told of ε
    told = card["strength"]
    rates = ("at", "false_positive_rates")
    deltas = [[delta for delta, _ in of["epsilon_by_delta"]] for of in (told, found)]
    return (
        all(told[name] == found[name] for name in rates)
        and deltas[0] == deltas[1]
        and _states_no_less(told, found)
    )


def _states_no_less(told: Any, found: Any) -> bool:
    """Say whether no number is below what it must be, of two that have the same form; None is no claim."""
    if isinstance(found, dict):
        return told.keys() == found.keys() and all(_states_no_less(told[name], found[name]) for name in found)
    if isinstance(found, list):
        return len(told) == len(found) and all(map(_states_no_less, told, found))
    if told is None or found is None:
        return told is None
    return bool(told >= (1 - _PLD_TOLERANCE) * found - 1e-9)


def _pool_agrees(card: Mapping[str, Any]) -> bool:
    """Say whether a card, where its pool was made of private images, states no less for both runs than what
    the events of both cost.
    """
    from dpvision.privacy.accounting import epsilon  # here: it takes seconds to import
    from dpvision.privacy.events import Event, UnknownEvent

    guarantee = (card.get("pool") or {}).get("guarantee")
    if not guarantee:
        return True
    of_pool = guarantee["events"]
    if len(of_pool) > MOST_EVENTS:
        return False
    stated = guarantee["with_this_run"]
    if not stated:
        return unit_of(guarantee) != unit_of(card)
    try:
        earlier, this = (
            [Event.from_json(one["event"]) for one in some] for some in (of_pool, card["events"])
        )
    except UnknownEvent:
        return True  # which is told of ε
    costs = (
        (guarantee, epsilon(earlier, guarantee["delta"], guarantee["neighboring_relation"])),
        (stated, epsilon([*earlier, *this], stated["delta"], card["neighboring_relation"])),
    )
    return all(told["epsilon"] >= (1 - _PLD_TOLERANCE) * cost for told, cost in costs)


def _parts_agree(card: Mapping[str, Any]) -> bool:
    """Say whether a card that counts earlier releases has the events of each, and states no less for it than
    they cost. On a card of before it is not said which are whose.
    """
    from dpvision.privacy.accounting import epsilon  # here: it takes seconds to import
    from dpvision.privacy.events import Event, UnknownEvent

    parts = card.get("parts", [])
    if str(card["method"]).startswith((REFINED, FROM)) and len(parts) < 2:
        return False
    if not all("events" in part for part in parts):
        return True
    counts = [part["events"] for part in parts]
    if not all(fits(count, int) and count >= 1 for count in counts):
        return False
    if parts and sum(counts) != len(card["events"]):
        return False
    events = iter(card["events"])
    try:
        for part in parts:
            own = [Event.from_json(one["event"]) for one in islice(events, part["events"])]
            cost = epsilon(own, part["delta"], part["neighboring_relation"])
            if part["epsilon"] < (1 - _PLD_TOLERANCE) * cost:
                return False
    except UnknownEvent:
        return True  # which is told of ε
    return True


# The promise ---------------------------------------------------------------------------------------------


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


def _recomputed(stated: Mapping[str, Any]) -> tuple[dict[str, float | None], list[Check]]:
    """Return ε by every accountant, and whether that stated fits them."""
    from dpvision.privacy.events import Event, UnknownEvent  # here: it takes seconds to import

    try:
        with reading("an event of the release"):
            events = [Event.from_json(one["event"]) for one in stated["events"]]
    except UnknownEvent as error:
        return {}, [Check("events", False, f"epsilon cannot be recomputed: {error}")]
    with warnings.catch_warnings():
        # Where the integral does not converge, its numbers overflow first.
        warnings.simplefilter("ignore", RuntimeWarning)
        return _compared(events, stated)


def _compared(events: list[Any], fields: Mapping[str, Any]) -> tuple[dict[str, float | None], list[Check]]:
    from dpvision.privacy.accounting import epsilon
    from dpvision.privacy.events import GaussianSumEvent, SelectionEvent
    from dpvision.privacy.second_accountant import renyi

    selections = [event for event in events if isinstance(event, SelectionEvent)]
    sums = [event for event in events if not isinstance(event, SelectionEvent)]
    of_trials = [one for event in selections for trial in event.trials for one in trial]
    if not all(type(event) in get_args(GaussianSumEvent) for event in (*sums, *of_trials)):
        return {}, [
            Check("events", False, "epsilon cannot be recomputed: the second accountant knows none such")
        ]
    stated, delta, relation = (fields[name] for name in ("epsilon", "delta", "neighboring_relation"))
    by_pld = epsilon(events, delta, relation)
    if selections:
        by_renyi, epsilons, independently = _with_selections(selections, sums, stated, delta, relation)
    else:
        by_renyi = renyi(events, delta, relation)
        epsilons, independently = _independently(events, stated, delta, relation, by_renyi)
    near = abs(stated - by_pld) <= _PLD_TOLERANCE * by_pld + 1e-6
    told, least = _told_by_rdp(fields), _least_known(epsilons)
    modest = stated <= (1 + _RDP_TOLERANCE) * by_renyi + 1e-6
    epsilons |= {"pld": by_pld, "renyi": _finite(by_renyi)}
    return epsilons, [
        independently,
        Check("epsilon, as stated", near, f"{stated:.6g} stated, {by_pld:.6g} by PLD"),
        Check(
            "epsilon, not above RDP",
            modest,
            f"{stated:.6g} stated, at most {by_renyi:.6g} by Rényi divergences",
        ),
        Check(
            "epsilon by RDP, no less",
            told >= (1 - _PLD_TOLERANCE) * least - 1e-6,
            f"{told:.6g} stated by RDP, {least:.6g} independently",
        ),
    ]


def _least_known(epsilons: Mapping[str, float | None]) -> float:
    """Return what the second accountant found, or its lower bound."""
    names = ("exact Gaussian", "integral", "grid, rounded down", _BY_SELECTION)
    found = (epsilons.get(name) for name in names)
    return next((one for one in found if one is not None), 0.0)


def _told_by_rdp(fields: Mapping[str, Any]) -> float:
    """Return the bound by Rényi divergences that is stated; not a number where none is."""
    accountant = fields["accountant"]
    told = accountant.get("epsilon_by_rdp") if isinstance(accountant, dict) else None
    return float(told) if isinstance(told, int | float) and abs(told) <= _LARGEST else math.nan


def _independently(
    events: list[Any], stated: float, delta: float, relation: Any, by_renyi: float
) -> tuple[dict[str, float | None], Check]:
    """Return ε by the second accountant, and whether that stated is at least as large.

    The integral does not converge where hardly anyone is sampled, and would take long to say so.
    """
    from dpvision.privacy.loss_bracket import bracket
    from dpvision.privacy.second_accountant import FEW_DRAWN, exact_gaussian, numerical

    def check(enough: bool, found: str) -> Check:
        return Check("epsilon, independently", enough, f"{stated:.6g} stated, {found}")

    exact = exact_gaussian(events, delta, relation)
    epsilons: dict[str, float | None] = {"exact Gaussian": exact, "integral": None}
    if exact is not None:
        return epsilons, check(stated >= exact * (1 - 1e-9), f"{exact:.6g} by the closed form")
    sampled = [event for event in events if event.sample_rate < 1]
    drawn = sum(event.count * event.sample_rate for event in sampled)
    found = numerical(events, delta, relation) if drawn > FEW_DRAWN else None
    if found:
        epsilons["integral"] = found.epsilon
        return epsilons, check(stated >= found.epsilon - found.error, f"{found.epsilon:.6g} by the integral")
    bounds = bracket(events, delta, relation)
    epsilons |= {"grid, rounded down": bounds.low, "grid, rounded up": _finite(bounds.high)}
    if bounds.is_narrow:
        return epsilons, check(stated >= bounds.low, f"{bounds.low:.8g} to {bounds.high:.8g} by a grid")
    least = min(bounds.high, by_renyi)
    return epsilons, check(
        stated >= least, f"at least {bounds.low:.6g} and at most {least:.6g} by a grid and Rényi divergences"
    )


def _with_selections(
    selections: list[Any], sums: list[Any], stated: float, delta: float, relation: Any
) -> tuple[float, dict[str, float | None], Check]:
    """Return the bound of the second accountant where settings were tuned, and whether ε is at least that."""
    from dpvision.privacy.second_selection import renyi_with_selections

    found = renyi_with_selections(selections, sums, delta, relation)
    enough = stated >= (1 - _SELECTION_TOLERANCE) * found
    said = f"{stated:.6g} stated, {found:.6g} by the bound on a selection"
    return found, {_BY_SELECTION: _finite(found)}, Check("epsilon, independently", enough, said)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
