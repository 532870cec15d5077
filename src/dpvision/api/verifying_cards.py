"""Check that the forms of a card say the same, and a card that has more beside that of its release."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dpvision.images.files import read_json, read_text_file
from dpvision.privacy.errors import InputError
from dpvision.reports.markdown import MOST_BYTES, card_markdown, card_template, sheet_of, without_charts

CARD, TEXT, PAGE = "card.json", "card.md", "card.html"
"""The forms of a card."""


@dataclass(frozen=True)
class Check:
    """One thing that was checked: its name, whether it holds, and what was found."""

    name: str
    holds: bool
    found: str


def none_of(name: str, names: Any, holds: str, fails: str) -> Check:
    """Return the check that there are no such names; a few of them are told."""
    few = sorted(names)[:3]
    more = f", and {len(names) - len(few)} more" if len(names) > len(few) else ""
    return Check(name, not few, f"{fails}: {', '.join(few)}{more}" if few else holds)


def is_of_this_version(card: Mapping[str, Any]) -> bool:
    """Say whether this version of the package has written a card."""
    return bool(card["versions"]["dpvision"] == version("dpvision"))


def forms(folder: Path, card: Mapping[str, Any], release: Path) -> list[Check]:
    """Return the checks that a card's text and page say what it does; they are drawn anew.

    Args:
        folder: where the forms are.
        card: card.json there. Where it is none, any error may be raised.
        release: where the sheet of its synthetic images is, if it has one.
    """
    if not is_of_this_version(card):
        told = "was written by another version: its digest alone was checked"
        return [
            Check("card in words", True, f"{TEXT} {told}"),
            Check("card as a page", True, f"{PAGE} {told}"),
        ]
    from dpvision.reports.html import card_html  # here: it takes seconds to import

    drawn = sheet_of(release) if "images" in card else None
    return [
        _same("card in words", folder / TEXT, card_markdown(card, card_template(card)), str),
        _same("card as a page", folder / PAGE, card_html(card, drawn), _compared_of_page(card)),
    ]


def _compared_of_page(card: Mapping[str, Any]) -> Callable[[str], str]:
    """Return what of a page is compared: not its charts, where another matplotlib drew them."""
    return str if card["versions"].get("matplotlib") == version("matplotlib") else without_charts


def _same(name: str, path: Path, expected: str, compared: Callable[[str], str]) -> Check:
    try:
        found = read_text_file(path, MOST_BYTES).decode()
    except (InputError, UnicodeDecodeError):
        found = ""
    is_same = compared(found) == compared(expected)
    return Check(name, is_same, f"{path.name} {'says' if is_same else 'does not say'} what {CARD} does")


def other_card(folder: Path, release: Path, card: Mapping[str, Any] | None) -> Iterator[Check]:
    """Check a card that `dpvision card --out` wrote, with results of other commands on it.

    Args:
        folder: where its forms are.
        release: the release that it is of.
        card: that release's own card; None where it cannot be read.
    """
    try:
        other = read_json(folder / CARD)
        beside = other.pop("beside", {})
        own = card or {}
        differ = sorted(name for name in other.keys() | own.keys() if other.get(name) != own.get(name))
        of_forms = forms(folder, {**other, "beside": beside} if beside else other, release)
        wrong = _wrong_figures(beside.get("test"))
    except Exception as error:  # a card of other types, which draws any
        yield Check("other card", False, f"{folder / CARD} is no card of a release ({type(error).__name__})")
        return
    says = f"says otherwise of: {', '.join(differ[:3])}" if differ else "says what the release's does"
    yield Check("other card", not differ, f"{folder / CARD} {says}")
    yield from (Check(f"other {one.name}", one.holds, one.found) for one in of_forms)
    if "test" in beside:
        found = f"do not follow from its counts: {', '.join(wrong)}" if wrong else "follow from its counts"
        yield Check("other card's figures", not wrong, f"figures of the classifier {found}")


def _wrong_figures(test: Mapping[str, Any] | None) -> list[str]:
    """Return the names of a classifier's figures that do not follow from its confusion matrix."""
    if test is None:
        return []
    from dpvision.evaluation.classifier_report import Measured  # here: it takes seconds to import

    matrix, names = test["confusion"], list(test["classes"])
    count, right = sum(map(sum, matrix)), [row[k] for k, row in enumerate(matrix)]
    given = [sum(column) for column in zip(*matrix, strict=True)]
    of_classes = [sum(row) for row in matrix]
    commonest = max(range(len(matrix)), key=of_classes.__getitem__)
    expected: dict[str, Any] = {
        "number of images": count,
        "classes": names,
        "accuracy": Measured.share(sum(right), count).to_json() | {"correct": sum(right)},
        "majority": {"class": names[commonest]} | Measured.share(of_classes[commonest], count).to_json(),
    }
    told = {
        "number of images": test["total"],
        "classes": [one["name"] for one in test["by_class"]],
        "accuracy": test["accuracy"],
        "majority": test["majority"],
    }
    for k, one in enumerate(test["by_class"]):
        of_class = sum(matrix[k])
        shares = {
            "recall": (right[k], of_class),
            "precision": (right[k], given[k]),
            "specificity": (count - of_class - given[k] + right[k], count - of_class),
        }
        for name, (part, total) in shares.items():
            expected[f"{name} of {one['name']}"] = Measured.share(part, total).to_json()
            told[f"{name} of {one['name']}"] = one[name]
    recalls = [part / total for part, total in zip(right, of_classes, strict=True) if total]
    balanced = test["balanced_accuracy"]["value"]
    wrong = [name for name, figure in expected.items() if told[name] != figure]
    return wrong if abs(balanced - sum(recalls) / len(recalls)) < 1e-9 else [*wrong, "balanced accuracy"]


def accuracy_agrees(card: Mapping[str, Any]) -> bool:
    """Say whether a card's test accuracy and its interval follow from its counts."""
    from dpvision.evaluation.accuracy import Accuracy  # here: it takes seconds to import

    test = card.get("test")
    if test is None:
        return True
    if not 0 <= test["correct"] <= test["total"] < 2**53 or test["total"] < 1:
        return False
    found = Accuracy(test["correct"], test["total"])
    told = (test["accuracy"], *test["interval_95"])
    return all(
        abs(one - other) < 1e-9 for one, other in zip(told, (found.value, *found.interval), strict=True)
    )
