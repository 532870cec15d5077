"""What was measured of a release beside its guarantee, for its card: results of other commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from dpvision.evaluation.classifier_report import ClassifierReport
from dpvision.evaluation.rows import Reference, Row
from dpvision.images.files import reading
from dpvision.privacy.errors import InputError
from dpvision.reports.card_charts import curve

KINDS = {
    "test": "figures of a classifier",
    "evaluation": "figures of synthetic images",
    "audit": "an audit",
    "membership": "membership inference",
}
"""What a card can have beside its guarantee."""

_TOLD_BY = {
    "test": ("confusion", "by_class"),
    "evaluation": ("rows",),
    "audit": ("canaries", "epsilon_lower_bound"),
    "membership": ("attacks", "members"),
}
"""Names of fields by which each kind is known."""


def result_kind(found: Mapping[str, Any], source: str) -> str:
    """Return which of :data:`KINDS` a result is.

    Args:
        found: what a command has printed with --json, or RUN/private/test.json.
        source: where it is from, for messages.

    Raises:
        InputError: it is none, or damaged.
    """
    kinds = [kind for kind, names in _TOLD_BY.items() if all(name in found for name in names)]
    if not kinds:
        raise InputError(
            f"{source} is no result of evaluate, audit or membership; give what one of them has printed with "
            "--json, or private/test.json of a run"
        )
    with reading(source):
        _check(kinds[0], found)
    return kinds[0]


def for_card(kind: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a card has of a result of a kind: of figures of images not where their sheet is, which is a
    place on its owner's machine.
    """
    kept = {"notice", "rows"} if kind == "evaluation" else found.keys()
    return {name: value for name, value in found.items() if name in kept}


def _check(kind: str, found: Mapping[str, Any]) -> None:
    """Raise any error where a result lacks what a card shows of it."""
    if kind == "test":
        report = ClassifierReport.from_json(found)
        if ClassifierReport.from_json(report.to_json()) != report:
            raise ValueError("figures")
    elif kind == "evaluation":
        names = {one.name for one in fields(Row)}
        for row in found["rows"]:
            Row(**{name: row[name] for name in names})
            if row["reference"] is not None:
                Reference(**row["reference"])
    elif kind == "audit":
        for name in ("target_epsilon", "epsilon", "tested_epsilon", "delta", "confidence"):
            float(found[name])
        float(found["epsilon_lower_bound"]), float(found["epsilon_lower_bound_any"]), bool(found["refuted"])
        str(found["neighboring_relation"]), str(found["tested_relation"]), str(found["canary_kind"])
    else:
        blind = found["blind"]
        if blind is not None:
            float(blind["auc"]), float(blind["low"]), float(blind["high"]), bool(blind["sets_differ"])
        for attack in found["attacks"]:
            float(attack["auc"]), float(attack["low"]), float(attack["high"]), str(attack["name"])
            for rate in attack["rates"]:
                float(rate["true_positive_rate"]), float(rate["false_positive_rate"])
                float(rate["most_private"])


def result_charts(beside: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the charts of results as SVG, by name: "reliability" and "roc" of a classifier that has them."""
    test = beside.get("test", {})
    charts = {}
    if test.get("reliability"):
        charts["reliability"] = curve(
            "How often the classifier is right, by how sure it is",
            [(sure, right / total) for sure, right, total in test["reliability"]],
            ("how sure it is", "how often it is right"),
        )
    if test.get("roc"):
        charts["roc"] = curve(
            f"ROC curve of class {test['classes'][1]}",
            test["roc"],
            ("false-positive rate", "true-positive rate"),
        )
    return charts
