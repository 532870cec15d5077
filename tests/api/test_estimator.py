"""dpvision.DPImageClassifier: it learns as scikit-learn's estimators do, and spends once."""

from __future__ import annotations

import copy
import gc
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SequentialFeatureSelector
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import (
    GridSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    learning_curve,
    permutation_test_score,
    validation_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import dpvision
from dpvision import DPImageClassifier, InputError
from dpvision.api import estimator, publishing
from dpvision.privacy import Ledger, default_ledger_path
from dpvision.privacy.image_index import default_index_folder
from dpvision.reports.guarantee_file import UNPAID
from dpvision.runs.files import json_bytes

X, NUMBERS = load_digits(return_X_y=True)
X = np.rint(X / 16 * 255).astype(np.uint8).reshape(-1, 8, 8)[:600]
NUMBERS = NUMBERS[:600]
NAMES = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])[NUMBERS]

RIDGE: dict[str, Any] = {"method": "dp-ridge", "config": {"encoder": "pixels"}}


@pytest.fixture(autouse=True)
def _plain_cards(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests do without the pages and charts of a card, which take longer than its fit."""
    if "whole_card" not in request.fixturenames:
        monkeypatch.setattr(publishing, "card_files", lambda card, _: {"card.json": json_bytes(dict(card))})


@pytest.fixture
def whole_card() -> None:
    """A card as it is."""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary directories."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def classifier(epsilon: float = 2, **parameters: Any) -> DPImageClassifier:
    return DPImageClassifier(epsilon, **{**RIDGE, **parameters})


def ledgers() -> list[Path]:
    folder = default_ledger_path("").parent
    return sorted(folder.glob("*.jsonl")) if folder.exists() else []


def spent() -> list[list[str]]:
    """The states of the runs in each ledger that has some."""
    runs = [[run["state"] for run in Ledger(path).summary()["runs"]] for path in ledgers()]
    return [states for states in runs if states]


def test_it_fits_predicts_and_scores(whole_card: None) -> None:
    digits = classifier(data_name="digits", classes=NAMES)
    assert digits.fit(X, NAMES) is digits
    assert digits.classes_.tolist() == sorted(set(NAMES))
    probabilities = digits.predict_proba(X[:50])
    assert probabilities.shape == (50, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (digits.predict(X[:50]) == digits.classes_[probabilities.argmax(axis=1)]).all()
    assert digits.score(X, NAMES) > 0.5
    assert digits.n_features_in_ == 64
    assert 1.9 < digits.epsilon_ <= 2
    assert (digits.card_["epsilon"], digits.card_["delta"]) == (digits.epsilon_, digits.delta_)
    assert digits.card_["made"]["data_name"] == "digits"
    assert dpvision.verify(digits.run_ / "release").holds
    assert spent() == [["complete"]]


def test_what_was_fitted_outlives_the_run_in_copies(temporary: Path) -> None:
    digits = classifier().fit(X, NUMBERS)
    assert (digits.predict(X) == NUMBERS).mean() > 0.5, "labels of the kind that was given"
    joblib.dump(digits, temporary / "digits.joblib")
    others = [
        pickle.loads(pickle.dumps(digits)),
        copy.deepcopy(digits),
        joblib.load(temporary / "digits.joblib"),
    ]
    said, run = digits.predict_proba(X[:20]), digits.run_
    assert (run / "private").exists()
    del digits
    gc.collect()
    assert not run.exists(), "a temporary run goes with its classifier"
    assert list(temporary.glob("dpvision-*")) == []
    for other in others:
        assert (other.predict_proba(X[:20]) == said).all()
        assert other.card_["epsilon"] <= 2


def test_a_run_may_be_kept_and_be_read_again(tmp_path: Path) -> None:
    digits = classifier(out=tmp_path / "run").fit(X, NUMBERS)
    assert digits.run_ == tmp_path / "run"
    for place in (tmp_path / "run", tmp_path / "run" / "release"):
        again = DPImageClassifier.from_release(place, classes=range(10), image_shape=(8, 8))
        assert (again.predict_proba(X[:9].reshape(9, -1)) == digits.predict_proba(X[:9])).all()
        assert (again.predict(X) == digits.predict(X)).all()
        assert (again.run_, again.epsilon_) == (digits.run_, digits.epsilon_)
    names = DPImageClassifier.from_release(tmp_path / "run").classes_
    assert names.tolist() == [str(number) for number in range(10)]
    with pytest.raises(InputError, match="classes must be as many as the release has, 10, not 3"):
        DPImageClassifier.from_release(tmp_path / "run", classes=[1, 2, 3])
    with pytest.raises(InputError, match="is not empty"):
        classifier(out=tmp_path / "run").fit(255 - X, NUMBERS)


def test_images_are_the_same_however_they_are_laid_out() -> None:
    digits = classifier(image_shape=(8, 8)).fit(X, NUMBERS)
    said = digits.predict_proba(X)
    of_range = clone(digits).set_params(value_range=(0, 255))
    vars(of_range).update({name: value for name, value in vars(digits).items() if name.endswith("_")})
    for one, given in (
        (digits, torch.from_numpy(X)[:, None]),
        (digits, X[..., None]),
        (digits, X.reshape(-1, 64)),
        (digits, X / 255),
        (digits, (X / 255).astype(np.float32)),
        (of_range, X.astype(np.int64)),
        (of_range, X.reshape(-1, 64).astype(float).tolist()),
    ):
        assert (one.predict_proba(given) == said).all()


def test_colours_and_names_of_columns() -> None:
    colours = np.stack([X, 255 - X, X], axis=-1)
    for given in (colours, colours.transpose(0, 3, 1, 2)):
        found = classifier(unpaid=True).fit(given, NUMBERS)
        assert (found.model_.image_shape, found.n_features_in_) == ((3, 8, 8), 192)
    table = pd.DataFrame(X.reshape(-1, 64), columns=[f"pixel {index}" for index in range(64)])
    found = classifier(unpaid=True, image_shape=(8, 8)).fit(table, pd.Series(NAMES))
    assert found.feature_names_in_.tolist() == table.columns.tolist()
    mixed = table.rename(columns={"pixel 0": 0})
    with pytest.raises(TypeError, match="Feature names are only supported"):
        classifier(image_shape=(8, 8)).fit(mixed, NAMES)
    assert ledgers() == []
    with pytest.raises(ValueError, match="feature names should match"):
        found.predict(table.rename(columns={"pixel 0": "other"}))


def test_a_clone_has_the_parameters_and_nothing_that_was_learned() -> None:
    digits = classifier(classes=list(range(10)), again=True).fit(X, NUMBERS)
    new = clone(digits)
    assert new.get_params() == digits.get_params()
    with pytest.raises(NotFittedError):
        new.predict(X)
    assert new.set_params(epsilon=3).epsilon == 3


def in_search(make: Callable[[Any], Any]) -> Any:
    return lambda one: make(one).fit(X.reshape(-1, 64), NUMBERS)


SEARCH = {"encoder": ["pixels", "scattering"]}
GRID = {"config": [{"encoder": "pixels"}, {"encoder": "scattering"}]}
MANY_FITS: dict[str, Callable[[Any], Any]] = {
    "GridSearchCV": in_search(lambda one: GridSearchCV(one, GRID)),
    "GridSearchCV, two processes": in_search(lambda one: GridSearchCV(one, GRID, n_jobs=2)),
    "RandomizedSearchCV": in_search(lambda one: RandomizedSearchCV(one, GRID, n_iter=1)),
    "CalibratedClassifierCV": in_search(CalibratedClassifierCV),
    "BaggingClassifier": in_search(BaggingClassifier),
    "VotingClassifier": in_search(lambda one: VotingClassifier([("a", one), ("b", one)])),
    "StackingClassifier": in_search(lambda one: StackingClassifier([("a", one)])),
    "OneVsRestClassifier": in_search(OneVsRestClassifier),
    "SequentialFeatureSelector": in_search(SequentialFeatureSelector),
    "cross_val_score": lambda one: cross_val_score(one, X, NUMBERS),
    "cross_val_predict": lambda one: cross_val_predict(one, X, NUMBERS),
    "learning_curve": lambda one: learning_curve(one, X, NUMBERS),
    "permutation_test_score": lambda one: permutation_test_score(one, X, NUMBERS),
    "validation_curve": lambda one: validation_curve(
        one, X, NUMBERS, param_name="epsilon", param_range=[1, 2]
    ),
}


@pytest.mark.parametrize("name", MANY_FITS)
def test_a_search_is_refused_before_anything_is_spent(name: str) -> None:
    for one in (classifier(), classifier(again=True), classifier(config=None, search=SEARCH)):
        with pytest.raises(
            InputError, match=r"fits many times on the same private images.*nothing was spent"
        ):
            MANY_FITS[name](one)
    assert ledgers() == []
    assert not default_index_folder().exists()


def test_within_a_pipeline_too() -> None:
    pipeline = make_pipeline(FunctionTransformer(lambda images: images[:, ::-1]), classifier())
    with pytest.raises(InputError, match="GridSearchCV fits many times"):
        GridSearchCV(pipeline, {"dpimageclassifier__epsilon": [1, 2]}).fit(X, NUMBERS)
    assert ledgers() == []


def hidden(search: Callable[[Any, dict[str, Any]], Any]) -> str:
    """What a search says that copies a public classifier, and fits a private one."""
    one = search(classifier(unpaid=True), {"unpaid": [False]})
    with pytest.raises(ValueError, match=r"All the .* fits failed") as failed:
        one.fit(X, NUMBERS)
    return str(failed.value)


def test_a_search_that_the_clone_does_not_notice() -> None:
    said = hidden(lambda one, grid: GridSearchCV(one, grid, cv=2))
    assert "GridSearchCV fits many times" in said
    with joblib.parallel_config("threading"):
        said = hidden(lambda one, grid: GridSearchCV(one, grid, cv=2, n_jobs=2))
    assert "fits many times" in said
    assert ledgers() == []


@pytest.mark.slow
def test_nor_in_processes_of_its_own() -> None:
    said = hidden(lambda one, grid: GridSearchCV(one, grid, cv=2, n_jobs=2))
    assert "_fit_and_score fits many times" in said
    assert ledgers() == []


SAME: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "the same": (X, NUMBERS, {}),
    "a fold": (X[:400], NUMBERS[:400], {}),
    "one of them, and others": (np.concatenate([X[:1], 255 - X[1:]]), NUMBERS, {}),
    "in another order, with other labels": (X[::-1], NAMES, {}),
    "floating point": (X / 255, NUMBERS, {}),
    "another layout": ((X / 255).astype(np.float32)[:, None], NUMBERS, {}),
    "flat": (X.reshape(-1, 64), NUMBERS, {"image_shape": (8, 8)}),
    "grey as colour": (np.stack([X] * 3, axis=-1), NUMBERS, {}),
    "another range": (X.astype(int), NUMBERS, {"value_range": (0, 255)}),
    "flipped": (X[:, :, ::-1], NUMBERS, {}),
    "a list": (X.tolist(), NUMBERS, {"value_range": (0, 300)}),
}


def test_a_second_fit_is_refused_on_images_that_paid_before() -> None:
    digits = classifier().fit(X, NUMBERS)
    said = digits.predict_proba(X)
    for images, labels, parameters in SAME.values():
        with pytest.raises(InputError, match="again=True insists"):
            classifier(**parameters).fit(images, labels)
    with pytest.raises(InputError, match="earlier runs have learned from 600 of the images"):
        digits.fit(X, NAMES)
    assert (digits.predict_proba(X) == said).all(), "a classifier whose fit is refused is as it was"
    assert spent() == [["complete"]]


def test_a_fit_is_refused_after_a_run_by_another_interface(tmp_path: Path) -> None:
    images = dpvision.images_from_arrays(X[:300], NUMBERS[:300])
    dpvision.train(images, epsilon=1, out=tmp_path / "run", **RIDGE)
    with pytest.raises(InputError, match="earlier runs have learned from 300 of the images"):
        classifier().fit(X, NUMBERS)
    assert spent() == [["complete"]]
    classifier().fit(X[300:], NUMBERS[300:])
    assert spent() == [["complete"]] * 2, "others of the same kind are no copies"


def test_whoever_insists_pays_and_is_told_the_sum(caplog: pytest.LogCaptureFixture) -> None:
    first = classifier().fit(X, NUMBERS)
    assert "with earlier runs" not in caplog.text
    second = classifier(again=True).fit(X, NUMBERS)
    assert spent() == [["complete", "complete"]]
    counted = Ledger(ledgers()[0]).summary()["epsilon_counted"]
    assert max(first.epsilon_, second.epsilon_) < counted < first.epsilon_ + second.epsilon_
    told = f"with earlier runs, epsilon {counted:.4g} is spent by now on 600 of the 600 images"
    assert told in caplog.text


def test_a_search_is_paid_for_within_the_one_epsilon() -> None:
    digits = classifier(20, config=None, search=SEARCH, trials=2).fit(X, NUMBERS)
    assert digits.card_["tuning"]["search"] == SEARCH
    assert 18 < digits.epsilon_ <= 20
    assert spent() == [["complete"]]
    assert digits.score(X, NUMBERS) > 0.3


def test_a_step_that_learns_is_refused_in_a_pipeline() -> None:
    flat, row = X.reshape(-1, 64) / 255, classifier(image_shape=(8, 8))
    inner = Pipeline([("scale", StandardScaler()), ("nothing", "passthrough")])
    for steps in (
        make_pipeline(StandardScaler(), row),
        make_pipeline(None, "passthrough", inner, row),
        make_pipeline(StandardScaler(), make_pipeline(FunctionTransformer(), row)),
    ):
        with pytest.raises(
            InputError, match=r"the step '\w+' of the pipeline learns from the private images"
        ):
            steps.fit(flat, NUMBERS)
    assert ledgers() == []


def test_steps_that_learn_nothing_are_taken() -> None:
    scaler = FrozenEstimator(StandardScaler(with_mean=False).fit(np.full((2, 64), 0.1) * [[0], [5]]))
    pipeline = make_pipeline(
        "passthrough",
        make_pipeline(FunctionTransformer(lambda rows: rows / 1020)),
        scaler,
        classifier(image_shape=(8, 8)),
    )
    assert pipeline.fit(X.reshape(-1, 64), NUMBERS).score(X.reshape(-1, 64), NUMBERS) > 0.5
    assert spent() == [["complete"]]


def test_public_images_may_be_fitted_on_as_often_as_one_likes() -> None:
    public = classifier(20, unpaid=True)  # with so much ε that chance decides nothing
    assert cross_val_score(public, X, NUMBERS, cv=2).min() > 0.4
    search = GridSearchCV(make_pipeline(StandardScaler(), MinMax(), public), {}, cv=2)
    search.set_params(estimator__dpimageclassifier__image_shape=(8, 8))
    assert search.fit(X.reshape(-1, 64), NUMBERS).best_score_ > 0.2
    assert UNPAID in public.fit(X, NUMBERS).card_["not_covered"]
    assert ledgers() == []
    assert not default_index_folder().exists()


class MinMax(FunctionTransformer):
    def __init__(self) -> None:
        super().__init__(lambda rows: (rows.clip(-3, 3) + 3) / 6)


def test_private_images_are_never_said_to_be_public() -> None:
    classifier().fit(X, NUMBERS)
    with pytest.raises(InputError, match="are private ones"):
        classifier(unpaid=True).fit(X[:500], NUMBERS[:500])
    assert spent() == [["complete"]]


def test_nor_are_scaled_copies_of_them() -> None:
    whole = X.astype(float) / 255 * 16
    classifier(value_range=(0, 16)).fit(whole, NUMBERS)
    public = classifier(unpaid=True)
    for _ in range(2):  # what is refused leaves nothing by which the next would be judged otherwise
        with pytest.raises(InputError, match=r"look like private images.*leave out unpaid"):
            public.fit(whole / 16, NUMBERS)
    assert spent() == [["complete"]]


def test_copies_of_an_image_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    often = np.concatenate([X[:200], X[:20]])
    classifier().fit(often, np.concatenate([NUMBERS[:200], NUMBERS[:20]]))
    assert "20 of the 220 images are copies of others" in caplog.text


def test_a_second_fit_ends_the_folder_of_the_first(temporary: Path) -> None:
    fitted = classifier().fit(X[:300], NUMBERS[:300])
    first = fitted.run_
    fitted.fit(X[300:], NUMBERS[300:])
    assert not first.exists()
    assert fitted.run_.exists()


def test_all_images_of_a_person_are_protected_together() -> None:
    digits = classifier().fit(X, NUMBERS, units=np.arange(600) // 2)
    assert digits.card_["unit"] == "unit"
    with pytest.raises(InputError, match="earlier runs have learned from 300 of the units"):
        classifier().fit(X, NUMBERS, units=np.arange(600) // 2)
    with pytest.raises(InputError, match="earlier runs have learned from 10 of the images"):
        classifier().fit(X[:10], NUMBERS[:10])


def test_an_interrupted_fit_leaves_nothing_but_what_it_has_spent(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: Any, what: str, done: int, *more: Any) -> None:
        if done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(estimator._Lines, "__call__", interrupt)
    config = {"network": "linear", "steps": 4, "expected_batch_size": 600, "learning_rate": 1.0}
    with pytest.raises(KeyboardInterrupt):
        classifier(method="dp-sgd", config=config, verbose=True).fit(X, NUMBERS)
    assert list(temporary.glob("dpvision-*")) == []
    assert spent() == [["ended early"]], "what it had reserved is free again"


def test_a_fit_that_is_watched_is_told_of_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    tell = estimator._Lines()
    for done in range(101):
        tell("training", done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert (len(lines), lines[0], lines[-1]) == (11, "training: 0 of 100", "training: 100 of 100")


def test_classes_without_an_image_are_classes_where_they_are_given() -> None:
    digits = classifier(classes=["none", *NAMES], unpaid=True).fit(X, NAMES)
    assert digits.classes_.tolist() == sorted({"none", *NAMES})
    assert digits.predict_proba(X[:1]).shape == (1, 11)


MISTAKES: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "give image_shape=": ({}, X.reshape(-1, 64), NUMBERS),
    "are no images of image_shape": ({"image_shape": (9, 9)}, X.reshape(-1, 64), NUMBERS),
    "are no images of .* 'square'": ({"image_shape": "square"}, X.reshape(-1, 64), NUMBERS),
    "which are not among the classes given": ({"classes": [0, 1]}, X, NUMBERS),
    "divide pixels of 0 to 255 by 255": ({}, X.astype(float), NUMBERS),
    "whose range is unknown": ({}, X.astype(int), NUMBERS),
    "layout must be": ({"layout": "HW"}, X[:, None], NUMBERS),
    "epsilon must be": ({"epsilon": -1}, X, NUMBERS),
    "there is no setting": ({"config": {"encoder": "pixels", "steps": 3}}, X, NUMBERS),
    "one class only": ({}, X, np.zeros(600, int)),
    "inconsistent numbers of samples": ({}, X, NUMBERS[1:]),
    "Unknown label type": ({}, X, NUMBERS + 0.5),
    "NaN": ({}, np.full(X.shape, np.nan), NUMBERS),
    "units": ({}, X, NUMBERS),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_told_in_a_sentence(message: str, temporary: Path) -> None:
    parameters, images, labels = MISTAKES[message]
    units = [1, 2] if message == "units" else None
    with pytest.raises(ValueError, match=message):
        classifier(**parameters).fit(images, labels, units=units)
    assert ledgers() == []
    assert list(temporary.glob("dpvision-*")) == []


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="without torchrun"):
        classifier().fit(X, NUMBERS)


def test_images_of_another_size_are_refused() -> None:
    digits = classifier().fit(X, NUMBERS)
    with pytest.raises(InputError, match="X has 16 features, but DPImageClassifier is expecting 64"):
        digits.predict(X[:, ::2, ::2])
    with pytest.raises(InputError, match="takes images of shape"):
        digits.predict(X.reshape(-1, 4, 16))
