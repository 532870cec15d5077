"""Check that a card says what guarantee.json does, in each figure that follows from the events."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from dpvision.api.recomputing import MOST_EVENTS, PLD_TOLERANCE
from dpvision.api.verifying_cards import CARD, Check, accuracy_agrees, forms, is_of_this_version, none_of
from dpvision.methods.registry import FROM, REFINED
from dpvision.privacy.values import fits
from dpvision.reports.guarantee_file import (
    FILE,
    STATED,
    events_of,
    in_words,
    not_private_because,
    sentences,
    unit_of,
)


def of_card(
    folder: Path, stated: Mapping[str, Any], card: Mapping[str, Any] | None, unreadable: str
) -> Iterator[Check]:
    """Check the card of a release.

    Args:
        folder: the release.
        stated: its guarantee.json.
        card: its card.json; None where that cannot be read.
        unreadable: why, then.
    """
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
            yield none_of("card", differ, "", f"{CARD} says otherwise of")
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
    yield none_of("card", differ, f"{CARD} and {FILE} say the same", f"{CARD} says otherwise of")
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
        told[size] >= (1 - PLD_TOLERANCE) * bound for size, bound in found.items() if bound < math.inf
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
    return bool(told >= (1 - PLD_TOLERANCE) * found - 1e-9)


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
    return all(told["epsilon"] >= (1 - PLD_TOLERANCE) * cost for told, cost in costs)


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
            if part["epsilon"] < (1 - PLD_TOLERANCE) * cost:
                return False
    except UnknownEvent:
        return True  # which is told of ε
    return True
