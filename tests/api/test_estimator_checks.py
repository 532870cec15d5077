"""The checks that scikit-learn has for estimators, on DPImageClassifier.

They give rows of a few numbers, of any size, for public ones: here a row is an image of one line, and what is
beyond the range of its pixels is cut off. Every check passes that applies. Those that do not: sample weights
(`fit` takes none), `partial_fit`, `decision_function`, several outputs, sparse matrices (refused), and arrays
of other libraries (scikit-learn skips them without SCIPY_ARRAY_API).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from dpvision import DPImageClassifier
from dpvision.api import publishing
from dpvision.runs.files import json_bytes

ROWS = DPImageClassifier(
    500,
    delta=1e-3,
    method="dp-ridge",
    config={"encoder": "pixels"},
    image_shape=(1, -1),
    value_range=(-4, 4),
    seed=0,
    unpaid=True,
)
"""Fits in some tenths of a second, the same each time."""

ACCURATE = ROWS.__class__(
    **{
        **ROWS.get_params(),
        "epsilon": 8,
        "method": "dp-sgd",
        "config": {"network": "linear", "steps": 10, "learning_rate": 4.0, "expected_batch_size": 150},
    }
)
"""Takes seconds, and tells three blobs apart, for the check that looks at the accuracy."""

SLOW = {  # of four fits or more
    "check_classifier_data_not_an_array",
    "check_classifiers_classes",
    "check_classifiers_train",
    "check_estimators_dtypes",
}
FEWEST = 45
"""There are at least as many checks, or else they are not found any more."""


def checks() -> list[tuple[Any, partial[None]]]:
    """Each check of scikit-learn's, with a classifier for it."""
    found = list(estimator_checks_generator(ROWS))
    return [(ACCURATE if name_of(check) == "check_classifiers_train" else one, check) for one, check in found]


def name_of(check: partial[None]) -> str:
    function: Callable[..., None] = check.func
    return function.__name__


def parameters() -> list[Any]:
    return [
        pytest.param(
            *pair,
            id="-".join([name_of(pair[1]), *map(str, pair[1].keywords.values())]),
            marks=[pytest.mark.slow] if name_of(pair[1]) in SLOW else [],
        )
        for pair in checks()
    ]


@pytest.mark.parametrize(("estimator", "check"), parameters())
@pytest.mark.filterwarnings("ignore")
def test_a_check_of_scikit_learn(
    estimator: DPImageClassifier, check: partial[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "card_files", lambda card, _: {"card.json": json_bytes(dict(card))})
    monkeypatch.setattr(logging.getLogger("dpvision"), "disabled", True)
    check(estimator)


def test_there_are_checks() -> None:
    assert len(checks()) >= FEWEST
    assert {name_of(check) for _, check in checks()} >= SLOW
