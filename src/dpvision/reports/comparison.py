"""Compare what two cards say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dpvision.reports.guarantee_file import not_private_because, unit_of

SETTING = "config."
"""How the name of a fact begins that is a setting."""


@dataclass(frozen=True)
class AccuracyDifference:
    """The second release's test accuracy less the first's.

    Attributes:
        value: the difference.
        low, high: its 95 % interval, from both accuracies' intervals by squaring and adding (Newcombe,
            Statistics in Medicine 17, 1998, method 10): for test sets drawn independently of each other, and
            wider than need be for one test set. It knows nothing of how training differs from run to run.
        totals: how many test images each release has.
    """

    value: float
    low: float
    high: float
    totals: tuple[int, int]

    @property
    def is_within(self) -> bool:
        """True if there may be no difference: the interval has 0 in it."""
        return self.low <= 0 <= self.high


def accuracy_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> AccuracyDifference | None:
    """Return the difference of two cards' test accuracies; None where one has none."""
    one, other = a.get("test"), b.get("test")
    if not (one and other):
        return None
    (low_a, high_a), (low_b, high_b) = one["interval_95"], other["interval_95"]
    value_a, value_b = one["accuracy"], other["accuracy"]
    value = value_b - value_a
    return AccuracyDifference(
        value,
        value - math.hypot(value_b - low_b, high_a - value_a),
        value + math.hypot(high_b - value_b, value_a - low_a),
        (one["total"], other["total"]),
    )


def differing(
    a: Mapping[str, Any], b: Mapping[str, Any]
) -> tuple[dict[str, tuple[Any, Any]], dict[str, Any]]:
    """Return the facts in which two cards differ, with both values, and those that are the same. A fact that
    one card has not is None there.
    """
    of_a, of_b = dict(_facts(a)), dict(_facts(b))
    names = [*of_a, *(name for name in of_b if name not in of_a)]
    differs, same = {}, {}
    for name in names:
        one, other = of_a.get(name), of_b.get(name)
        if _written(one) == _written(other):
            same[name] = one
        else:
            differs[name] = (one, other)
    return differs, same


def _written(value: Any) -> str:
    """Return a value so that 1 and True, which are equal in Python, are not."""
    return json.dumps(value, sort_keys=True)


def _facts(card: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what is worth comparing of a card, most important first."""
    because = not_private_because(card)
    yield "private", f"NO: {'; '.join(map(str, because))}" if because else "yes"
    for name in ("epsilon", "delta", "neighboring_relation"):
        yield name, card[name]
    yield "unit", unit_of(card)
    yield "N", card["num_examples"]
    yield "method", card["method"]
    yield "released", "synthetic images" if "images" in card else "classifier"
    for relation, value in (card.get("strength") or {}).get("epsilon_by_relation", {}).items():
        yield f"epsilon for {relation}", value
    test = card.get("test")
    yield "test accuracy", test and test["accuracy"]
    yield "its 95 % interval", test and test["interval_95"]
    yield "test images", test and test["total"]
    yield "mechanisms", [_mechanism(one) for one in card["mechanisms"]]
    yield "sampler", card["sampler"]
    yield "noise", card["noise"]
    for name, value in (card.get("made") or {}).items():
        yield name.replace("_", " "), value
    yield "target epsilon", card["target_epsilon"]
    yield "epsilon by RDP", card["accountant"]["epsilon_by_rdp"]
    yield "tuning", card.get("tuning")
    yield "lost steps", card["lost_steps"]
    yield from _makings(card)
    yield "taken as public", card["taken_as_public"]
    yield "not covered", card["not_covered"]
    for package, version in card["versions"].items():
        yield f"version of {package}", version
    for setting, value in card["config"].items():
        yield f"{SETTING}{setting}", value


def _mechanism(mechanism: Mapping[str, Any]) -> str:
    """Say what a mechanism is on one line."""
    facts = [
        f"{name.replace('_', ' ')} {value:.6g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in mechanism.items()
        if name != "name"
    ]
    return f"{mechanism['name']}: {', '.join(facts)}"


def _makings(card: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what was made, and of which prior and pool."""
    made_of = card.get("model") or card.get("generator") or {}
    encoder = (card.get("model") or card.get("embedding") or {}).get("encoder") or {}
    for name in ("network", "parameters", "image_shape", "class_names"):
        yield name.replace("_", " "), made_of.get(name)
    yield "images", card.get("images")
    yield "prior", encoder.get("name")
    yield "prior's provenance", encoder.get("provenance")
    pool = card.get("pool") or {}
    yield "pool", pool.get("digest")
    yield "pool's provenance", pool.get("provenance")
