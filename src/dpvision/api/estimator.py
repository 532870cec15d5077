"""A private classifier as an estimator of scikit-learn."""

from __future__ import annotations

import logging
import math
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, check_X_y, validate_data

from dpvision.api.accounts import close_account
from dpvision.api.called_within import refuse_many_fits, refuse_steps_that_learn
from dpvision.api.devices import resolve_device
from dpvision.api.options import FitOptions
from dpvision.api.run import whole_run
from dpvision.api.sweep_plan import UNPAID_LEDGER
from dpvision.api.using import load_classifier
from dpvision.evaluation.probabilities import log_probabilities
from dpvision.images import images_from_arrays
from dpvision.images.indexed import standings
from dpvision.images.text import listing
from dpvision.networks import register_network
from dpvision.parallel import are_several
from dpvision.privacy import Budget, InputError, Ledger, default_ledger_path
from dpvision.privacy.books import ledgers_of_all
from dpvision.privacy.errors import named_option
from dpvision.privacy.standing import worst
from dpvision.runs import RunDirectory
from dpvision.runs.files import read_json
from dpvision.runs.places import find_release, is_run

logger = logging.getLogger("dpvision")

if TYPE_CHECKING:
    from dpvision.api.publishing import Result
    from dpvision.images import Images
    from dpvision.networks import Classifier
    from dpvision.privacy import Account

_OF_TRAIN = (
    "epsilon",
    "delta",
    "method",
    "config",
    "search",
    "trials",
    "network",
    "neighboring_relation",
    "num_examples",
    "data_name",
    "seed",
    "device",
)
"""The parameters that are options of `dpvision.train` and `dpvision.tune`, of the same names."""


_FOLDERS: weakref.WeakKeyDictionary[Any, Callable[[], Any]] = weakref.WeakKeyDictionary()
"""What deletes the temporary folder of each fitted classifier."""


class DPImageClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Learn to classify images under (ε, δ)-differential privacy, as an estimator of scikit-learn.

    Each `fit` is a run of `dpvision.train`, or of `dpvision.tune` where there is something to search.

    Guarantee: a fitted classifier, its pickle and its release are (ε, δ)-differentially private in the images
    and labels given to `fit`, as ``card_`` says, as long as each row of X is of one image alone, and that is
    in no other row. To keep it so, and to keep ε the price of all that was learned,

    - `fit` refuses images on which anything was spent already, by whichever run on this machine and as part
      of whichever data set; with ``again`` it does not, and the ledger adds it up. Images are known for
      certain by their shape and pixels of 8 bits, those with a ``value_range`` by the numbers before it; and,
      where there are several, most that were scaled, resized, compressed again or flipped left to right. Not
      seen: what was turned, inverted, padded, or given another ``image_shape``.
    - `fit` and `clone` refuse to work within `GridSearchCV`, `cross_val_score`, `BaggingClassifier` and
      whatever else of scikit-learn fits many classifiers; ``search`` pays for a choice within the one ε.
    - `fit` refuses to work after a step of a `Pipeline` that learns from the images.

    The first holds whoever calls, in any number of processes. The other two go by who has called, and miss
    what is hidden from them: a search of another package, whose second fit the first refuses; a scaler that
    was fitted on the private images before, which no guarantee covers. ``tests/api/test_estimator.py`` tries
    all three. What `score` and `predict` say of private images is exact, and not covered.

    Args:
        epsilon: ε of one fit; never exceeded.
        delta, neighboring_relation, method, config, network, num_examples, data_name, seed, device: as for
            `dpvision.train`. A seed makes the fit reproducible and NOT PRIVATE.
        search, trials: settings to tune within ε, and how many trials there are, as for `dpvision.tune`.
        image_shape: (H, W), (C, H, W) or (H, W, C) of images that are given flat, ``[N, features]``; one of
            them may be -1.
        layout: "NHWC" or "NCHW", needed only where channels may be in both places.
        value_range: which values are black and white, such as (0, 16); by default 0 and 255 of uint8, and 0
            and 1 of floating point.
        classes: all classes, which are public; by default those that occur in y, which makes them so.
        out: the directory of the run, made by `fit`. By default a temporary one that is deleted with the
            estimator; then a fit that is interrupted cannot be taken up again, and what it spent is lost.
        again: fit also where something was spent on some of the images; a warning says what it comes to.
        unpaid: the images are public, such as a benchmark's: what fits cost is in no account of theirs, the
            card says so, and they may be many. Refused of images that a ledger of this machine protects.
        verbose: tell on stderr how far the fit is.

    Attributes:
        classes_: the classes, [classes].
        n_features_in_: the numbers in an image, C·H·W.
        feature_names_in_: the names of X's columns, where it had some.
        model_: the released classifier, an ordinary `torch.nn.Module`, on the CPU.
        epsilon_, delta_: what the fit has spent.
        card_: the card of the release; see docs/guarantee/ledger.md.
        run_: the directory of the run; ``run_ / "release"`` is what may be published, ``run_ / "private"`` is
            not. A copy or a pickle that outlives a temporary one has the classifier and the card alone.

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> settings = {"network": "linear", "steps": 5, "learning_rate": 1.0, "expected_batch_size": 512}
    >>> digits = DPImageClassifier(epsilon=2, config=settings, image_shape=(8, 8), value_range=(0, 16))
    >>> digits.fit(X, y).predict_proba(X[:3]).shape, digits.epsilon_ <= 2
    ((3, 10), True)
    """

    def __init__(
        self,
        epsilon: float,
        *,
        delta: float | None = None,
        neighboring_relation: str = "add_or_remove_one",
        method: str = "auto",
        config: Mapping[str, Any] | None = None,
        search: Mapping[str, Sequence[Any]] | None = None,
        trials: float | None = None,
        network: Any = None,
        image_shape: Sequence[int] | None = None,
        layout: str | None = None,
        value_range: Sequence[float] | None = None,
        classes: Any = None,
        num_examples: int | None = None,
        data_name: str | None = None,
        out: str | os.PathLike[str] | None = None,
        again: bool = False,
        unpaid: bool = False,
        seed: int | None = None,
        device: str | None = None,
        verbose: bool = False,
    ) -> None:
        self.epsilon = epsilon
        self.delta = delta
        self.neighboring_relation = neighboring_relation
        self.method = method
        self.config = config
        self.search = search
        self.trials = trials
        self.network = network
        self.image_shape = image_shape
        self.layout = layout
        self.value_range = value_range
        self.classes = classes
        self.num_examples = num_examples
        self.data_name = data_name
        self.out = out
        self.again = again
        self.unpaid = unpaid
        self.seed = seed
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any, units: Any = None) -> Self:  # noqa: N803 (scikit-learn's names)
        """Learn from private images.

        Args:
            X: ``[N, H, W]``, ``[N, H, W, C]``, ``[N, C, H, W]`` or, with an ``image_shape``, ``[N, H·W·C]``;
                uint8, or floating point in [0, 1], or other numbers with a ``value_range``.
            y: the labels of the images, [N], of any kind.
            units: whose image each is, [N] whole numbers or texts: all images of one are protected together.
                By default each image is protected by itself.

        Returns:
            The classifier itself.

        Raises:
            InputError: a parameter or the images cannot be used, something was spent on them before, or
                scikit-learn is about to fit many times. Nothing was spent, and the classifier is as it was.
        """
        if not self.unpaid:
            refuse_many_fits()
            refuse_steps_that_learn()
        if are_several():
            raise InputError("DPImageClassifier fits in one process; start it without torchrun")
        array, labels = check_X_y(X, y, allow_nd=True, estimator=self)
        check_classification_targets(labels)
        classes, numbers = _numbered(labels, self.classes)
        columns = BaseEstimator()  # takes their names, if they have some, or refuses them
        validate_data(columns, X, skip_check_array=True, ensure_2d=False)
        images = self._images(array, numbers, classes=[str(one) for one in classes.tolist()], units=units)
        if units is None and not self.unpaid:
            _warn_of_copies(images)
        with self._directory() as place:
            progress = _Lines() if self.verbose else None
            run = whole_run(images, self._options(place, images), "a classifier", progress)
        result = cast("Result", run)
        self.__dict__.pop("feature_names_in_", None)
        self.__dict__.update(columns.__dict__)
        self._take(place, result.release, result.model, classes)
        if self.again and not self.unpaid:
            _tell_total(images, Budget(self.epsilon, self.delta_, cast(Any, self.neighboring_relation)))
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Return the probability of each class, in the order of ``classes_``: ``[n, classes]``.

        Args:
            X: images as for `fit`.

        Raises:
            NotFittedError: nothing was fitted yet.
            InputError: they are no images, or of another shape.
        """
        check_is_fitted(self)
        validate_data(self, X, reset=False, skip_check_array=True, ensure_2d=False)
        array = check_array(X, allow_nd=True, estimator=self)
        features = math.prod(array.shape[1:])
        if features != self.n_features_in_:
            raise InputError(
                f"X has {features} features, but DPImageClassifier is expecting {self.n_features_in_} "
                "features as input, the numbers of an image"
            )
        try:
            found = log_probabilities(self.model_.to(resolve_device(self.device)), self._images(array))
        finally:
            self.model_.to("cpu")  # so that its pickle can be read anywhere
        return found.exp().numpy()

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the likeliest class of each image, [n]. Arguments and errors as for `predict_proba`."""
        likeliest = self.predict_proba(X).argmax(axis=1)
        return self.classes_[likeliest]

    @classmethod
    def from_release(cls, path: str | os.PathLike[str], *, classes: Any = None, **parameters: Any) -> Self:
        """Return a fitted classifier of what a run has released, by whichever interface.

        Args:
            path: a run's directory or release directory.
            classes: the labels to predict, in the order of the release's classes; by default their names.
            parameters: of the estimator, such as ``image_shape``, ``value_range`` or ``network``.

        Raises:
            InputError: it is no release of a classifier, or its network is not known to this process.
        """
        release = find_release(path)
        if parameters.get("network") is not None:
            register_network(parameters["network"])
        model, card = load_classifier(release), read_json(release / "card.json")
        labels = np.asarray(model.class_names if classes is None else list(classes))
        if len(labels) != len(model.class_names):
            raise InputError(
                f"classes must be as many as the release has, {len(model.class_names)}, not {len(labels)}"
            )
        made = cls(card["epsilon"], delta=card["delta"], classes=classes, **parameters)
        made._take(release.parent if is_run(release.parent) else release, release, model, labels)
        return made

    def __sklearn_clone__(self) -> Any:
        """Refuse here, before a search begins, what `fit` refuses: searches catch the errors of fits."""
        if not self.unpaid:
            refuse_many_fits()
        return super().__sklearn_clone__()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.two_d_array = self.image_shape is not None
        tags.non_deterministic = self.seed is None
        return tags

    def _images(self, array: NDArray[Any], labels: Any = None, **more: Any) -> Images:
        """Return arrays that scikit-learn has checked as images; ``more`` as for `images_from_arrays`."""
        if array.ndim == 2:
            if self.image_shape is None:
                raise InputError(
                    f"X has the shape {list(array.shape)}, of which nothing says what is an image; give "
                    f"{named_option('image_shape', (8, 8))}, say, or images of two dimensions or more"
                )
            try:
                array = array.reshape(len(array), *self.image_shape)
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"the {array.shape[1]} numbers in a row of X are no images of image_shape "
                    f"{self.image_shape!r}; give another"
                ) from error
        layout: Any = self.layout
        return images_from_arrays(array, labels, layout=layout, value_range=self.value_range, **more)

    def _options(self, place: Path, images: Images) -> FitOptions:
        """Return the options of a run on these images at a place."""
        given = {name: getattr(self, name) for name in _OF_TRAIN}
        ledger = place.with_name(f"{place.name}-{UNPAID_LEDGER}") if self.unpaid else None
        more = {"out": place, "ledger": ledger, "unpaid": self.unpaid, "first": not self.again}
        return FitOptions.of({**given, **more}, images)

    @contextmanager
    def _directory(self) -> Iterator[Path]:
        """Say where the run is to be: in ``out``, or in a folder that is deleted with the classifier, or at
        once where the fit fails. What such a run had not spent is then free again.
        """
        if self.out is not None:
            yield Path(self.out)
            return
        folder = Path(tempfile.mkdtemp(prefix="dpvision-"))
        try:
            yield folder / "run"
        except BaseException:
            if is_run(folder / "run"):
                close_account(RunDirectory.open(folder / "run"))
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if (earlier := _FOLDERS.pop(self, None)) is not None:
            earlier()
        _FOLDERS[self] = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def _take(self, run: Path, release: Path, model: Classifier, classes: NDArray[Any]) -> None:
        """Take what a run has released as what was fitted."""
        self.run_, self.card_, self.model_, self.classes_ = (
            run,
            read_json(release / "card.json"),
            model,
            classes,
        )
        self.epsilon_, self.delta_ = float(self.card_["epsilon"]), float(self.card_["delta"])
        self.n_features_in_ = math.prod(model.image_shape)


def _numbered(labels: NDArray[Any], given: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return all classes, in order, and the number of each label's.

    Raises:
        InputError: a label is not among the classes that were given.
    """
    classes = np.unique(labels if given is None else np.asarray(given))
    others = np.setdiff1d(labels, classes)
    if len(others):
        raise InputError(
            f"y has the labels {listing(list(map(str, others)))}, which are not among the classes given "
            f"({listing(list(map(str, classes)))}); give all classes"
        )
    return classes, np.searchsorted(classes, labels)


def _warn_of_copies(images: Images) -> None:
    """Warn where an image is there several times, as an oversampled one is: each is protected by itself."""
    copies = len(images) - len(torch.unique(images.identities, dim=0))
    if copies:
        logger.warning(
            f"{copies} of the {len(images)} images are copies of others, and an image that is there k times "
            "is protected as k images are: give units, the same for all copies of one"
        )


def _tell_total(images: Images, at: Budget) -> None:
    """Tell the operator what the image has come to on which the most was spent, at a budget's δ."""
    of_all = ledgers_of_all(Ledger(default_ledger_path(images.digest)))
    epsilon, standing = worst(standings(of_all, images), at)
    logger.warning(
        f"with earlier runs, epsilon {epsilon:.4g} is spent by now on {standing.images} of the "
        f"{images.num_protected} {standing.unit}s, at delta {at.delta:g} (this is private: do not publish it)"
    )


class _Lines:
    """Tell on stderr how far work is, a line for each tenth."""

    def __init__(self) -> None:
        self._told: tuple[str, int] | None = None

    def __call__(self, what: str, done: int, total: int, account: Account | None = None) -> None:
        tenth = what, 10 * done // max(1, total)
        if tenth != self._told:
            self._told = tenth
            sys.stderr.write(f"{what}: {done} of {total}\n")
