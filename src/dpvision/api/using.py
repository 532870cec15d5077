"""Use what a run released: classify images, or make more of them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

from dpvision.api.devices import resolve_device
from dpvision.api.sources import Reading, Source, fitting_images
from dpvision.evaluation import ClassifierReport, evaluate_classifier
from dpvision.evaluation.accuracy import IMAGES_AT_A_TIME
from dpvision.evaluation.classification import class_at_threshold
from dpvision.evaluation.probabilities import log_probabilities_in_parts
from dpvision.images import ImageSet
from dpvision.images.choices import Choices
from dpvision.images.keywords import ChoiceKeywords
from dpvision.networks import Classifier, register_network
from dpvision.networks.image_generator import ImageGenerator
from dpvision.privacy.errors import InputError
from dpvision.runs import Progress, load_release
from dpvision.runs.files import read_json
from dpvision.runs.places import find_release


@dataclass(frozen=True)
class Prediction:
    """The prediction of a classifier for one image.

    Attributes:
        name: the image's file name, or its number.
        class_name: the likeliest class; None for an image that cannot be read.
        probabilities: the probability of each class by its name, according to the classifier; empty for an
            image that cannot be read.
        error: why it cannot be read, else None.
    """

    name: str
    class_name: str | None
    probabilities: Mapping[str, float]
    error: str | None = None

    @property
    def probability(self) -> float:
        """The probability of the likeliest class; NaN for an image that cannot be read."""
        return max(self.probabilities.values(), default=math.nan)


def load(path: str | os.PathLike[str], network: Any = None) -> Classifier | ImageGenerator:
    """Return the classifier or generator of a run or release directory, on the CPU and in evaluation mode.

    A classifier takes uint8 images ``[B, C, H, W]``, or floating point in [0, 1], and returns logits
    ``[B, classes]``; its normalisation is inside. A generator draws images: ``generator.sample(100)``.

    Args:
        path: a run's directory or release directory.
        network: the network of the classifier, if it was a user's own and this process does not know it.

    Raises:
        InputError: the run is not complete, files are missing or damaged, or the network is not known.
    """
    if network is not None:
        register_network(network)
    return load_release(find_release(path))


def load_classifier(path: str | os.PathLike[str]) -> Classifier:
    """Return the classifier of a run, as above, which must have released one.

    Raises:
        InputError: as :func:`load`, or it released a generator.
    """
    model = load(path)
    if isinstance(model, ImageGenerator):
        raise InputError(f"{path} released a generator of images; give a run of dpvision train")
    return model


def load_generator(path: str | os.PathLike[str]) -> ImageGenerator:
    """Return the generator of a run, as above, which must have released one.

    Raises:
        InputError: as :func:`load`, or it released a classifier.
    """
    model = load(path)
    if isinstance(model, Classifier):
        raise InputError(f"{path} released a classifier and no images; give a run of dpvision synthesize")
    return model


def evaluate(
    run: str | os.PathLike[str],
    data: Source,
    split: str | None = None,
    *,
    positive: str | None = None,
    threshold: float | None = None,
    progress: Progress | None = None,
    **choices: Unpack[ChoiceKeywords],
) -> ClassifierReport:
    """Measure a run's classifier on labelled images: every figure, with its 95 % interval. The images are not
    covered by the run's guarantee.

    Args:
        run: a run's directory or release directory.
        data: a spec for `open_images` or an `ImageSet`. Files are read to fit the classifier.
        split: the split of the spec; by default "test", or all of data without splits.
        positive: the class whose sensitivity and specificity at a threshold are measured. By default the
            second of two classes, and none of more.
        threshold: its least probability, 0.5 by default.
        progress: see `Progress`.
        choices: those of `open_images`; by default images are made to fit as those learned from were.

    Raises:
        InputError: the run or the images cannot be used, an image is of a class that the run did not know, or
            positive or threshold are wrong.
    """
    model = load_classifier(run).to(resolve_device(None))
    class_at_threshold(model.class_names, positive, threshold)  # refused before the images are read
    images = fitting_images(data, split, model.image_shape, choices=choices_of(run, choices))
    return evaluate_classifier(model, images, positive=positive, threshold=threshold, progress=progress)


def predict(
    run: str | os.PathLike[str],
    images: Source,
    split: str | None = None,
    *,
    progress: Progress | None = None,
    **choices: Unpack[ChoiceKeywords],
) -> list[Prediction]:
    """Return the class of every image, according to a run's classifier. Last come those that cannot be read.

    Args:
        run: a run's directory or release directory.
        images: a spec for `open_images` or an `ImageSet`; labels are not needed. Files are read to fit.
        split: the split of the spec; by default "test", or all of data without splits.
        progress: see `Progress`.
        choices: as for :func:`evaluate`.

    Raises:
        InputError: the run or the images cannot be used, or no image can be read.
    """
    return list(predictions(run, images, split, progress=progress, **choices))


def predictions(
    run: str | os.PathLike[str],
    images: Source,
    split: str | None = None,
    *,
    progress: Progress | None = None,
    **choices: Unpack[ChoiceKeywords],
) -> Iterator[Prediction]:
    """Return what :func:`predict` does one by one, so that those of very many images need not be held. The
    arguments are the same. InputError as there, before the first; or if the images cannot be read further.
    """
    model = load_classifier(run).to(resolve_device(None))
    chosen = choices_of(run, {**choices, "skip_unreadable": True})
    found = fitting_images(images, split, model.image_shape, labelled=False, choices=chosen)
    return _predictions(model, found, progress)


def _predictions(model: Classifier, images: ImageSet, progress: Progress | None) -> Iterator[Prediction]:
    """Yield what a classifier says of images, then those that were left out."""
    classes, done = model.class_names, 0
    for some in log_probabilities_in_parts(model, images.blocks(IMAGES_AT_A_TIME)):
        rows = some.exp()
        for index, row in zip(rows.argmax(dim=1).tolist(), rows.tolist(), strict=True):
            name = str(done) if images.names is None else images.names[done]
            yield Prediction(name, classes[index], dict(zip(classes, row, strict=True)))
            done += 1
        if progress:
            progress("classifying images", done, len(images))
    for one in images.left_out:
        yield Prediction(one.name, None, {}, one.reason)


def choices_of(run: str | os.PathLike[str], given: Mapping[str, Any]) -> Choices:
    """Return the choices given, and else those by which the images were read that a run learned from. Whose
    images are whose counts for nothing here, and is not read.
    """
    for name in ("size", "channels"):
        if name in given:
            raise InputError(f"{name} is the model's here: leave it out")
    for name in ("unit", "unit_column"):
        if name in given:
            raise InputError(f"{name} is for images to learn from: leave it out")
    card = find_release(run) / "card.json"
    found = read_json(card) if card.exists() else {}
    model = found.get("model") or found.get("generator")
    model = model if isinstance(model, dict) else {}
    recorded = {name: model[name] for name in Reading().fitting() if name in model}
    return Choices.of({**recorded, "unit": "image", **given})
