"""Write what a run publishes, and return it as a result."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpvision.api.command import command_of
from dpvision.api.config import RunConfig
from dpvision.api.datasets import SyntheticDataset, synthetic_dataset
from dpvision.api.options import FinishOptions
from dpvision.evaluation import Accuracy, ClassifierReport, evaluate_classifier
from dpvision.images import Images, ImageSet
from dpvision.images.files import reading
from dpvision.images.write import image_files
from dpvision.methods import PREVIEWED_OF_A_CLASS, Finished, Learned
from dpvision.methods.continued import of_names
from dpvision.methods.method import GUARANTEE
from dpvision.methods.places import without_places
from dpvision.methods.releases import Reusable
from dpvision.networks import Classifier
from dpvision.networks.image_generator import ImageGenerator, apportion
from dpvision.privacy import Event
from dpvision.reports import card_markdown, release_card
from dpvision.reports.grid import MOST_ROWS, class_sheet, image_sheet
from dpvision.reports.guarantee_file import FILE, guarantee_file
from dpvision.reports.html import card_html
from dpvision.reports.markdown import SHEET, card_template
from dpvision.reports.synthesis_card import synthesis_card
from dpvision.runs import RunDirectory, classifier_files, load_release
from dpvision.runs.files import json_bytes, read_json, write_atomically, writing
from dpvision.runs.generator_release import generator_files


@dataclass(frozen=True)
class OfLearning:
    """A record of how a run learned from private images. Private: not all of it was released by a mechanism.

    Attributes:
        spent: the events that were recorded.
        seconds: the time that learning took, in seconds.
        pool: what is said in public of the images that the private ones were mixed with, if any.
    """

    spent: tuple[Event, ...]
    seconds: float
    pool: Mapping[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON types."""
        return asdict(self) | {"spent": [event.to_json() for event in self.spent]}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> OfLearning:
        """Read what `to_json` wrote."""
        spent = tuple(Event.from_json(event) for event in fields["spent"])
        return cls(spent, fields["seconds"], fields["pool"])


@dataclass(frozen=True)
class Result:
    """The result of a run that makes a classifier.

    Attributes:
        epsilon, delta: what was spent.
        test_accuracy: the accuracy on the test images, if there were any.
        test_report: all figures on the test images. The release has the accuracy alone; None also of runs of
            earlier versions.
        release: the directory that may be published.
        model: the released classifier, ready for use.
    """

    epsilon: float
    delta: float
    test_accuracy: Accuracy | None
    test_report: ClassifierReport | None
    release: Path
    model: Classifier


@dataclass(frozen=True)
class Synthesis:
    """The result of a run that makes images.

    Attributes:
        epsilon, delta: what the private images have cost.
        count: the number of synthetic images that were released.
        release: the directory that may be published: images, generator, what it was made of, card.
        generator: the released generator, which makes more images.
    """

    epsilon: float
    delta: float
    count: int
    release: Path
    generator: ImageGenerator

    def dataset(self, **options: Any) -> SyntheticDataset:
        """Return the images as a data set of PyTorch; the options are those of `synthetic_dataset`."""
        return synthetic_dataset(self.release, **options)


def release_files(
    config: RunConfig,
    learned: Learned,
    how: OfLearning | None,
    finished: Finished,
    test: Accuracy | None,
    started: float,
    began: str,
) -> dict[str, bytes]:
    """Return the files of a release, by name.

    Args:
        config: the configuration of the run.
        learned: with the run's guarantee among its facts.
        how: it was learned; None where another run did that.
        finished: what was made of it.
        test: a classifier's accuracy on the test images, if there are any.
        started: when the making began, on the clock of ``time.monotonic``.
        began: the day on which the run began.
    """
    cost, model, more = learned.facts[GUARANTEE], finished.model, finished.card
    fitting = config.data.fitting() if config.data else {}
    of_run = {"began": began, "command": command_of(config), "data_name": config.data_name}
    if isinstance(model, Classifier):
        assert how is not None, "a run that makes a classifier learns itself"
        card = release_card(
            cost,
            made=of_run,
            method=config.method.name,
            config=config.settings,
            model=model,
            fitting=fitting,
            pool=how.pool,
            training_seconds=how.seconds,
            test=test,
            more=more,
        )
        files = classifier_files(model)
    else:
        assert config.images is not None, "resolved when the run was prepared"
        made, probabilities = drawn(model, config.images, config.finishing_seed)
        card = synthesis_card(
            cost,
            made=of_run,
            method=config.method.name,
            config=config.settings,
            generator=model,
            fitting=fitting,
            images=asdict(config.images),
            seconds=round(time.monotonic() - started, 1),
            more=more,
        )
        files = generator_files(model) | {
            SHEET: class_sheet(made, PREVIEWED_OF_A_CLASS),
        }
        form: Any
        for form in config.images.formats:
            of_form = image_files(made, form, probabilities)
            files |= {f"images/{form}/{name}": file for name, file in of_form.items()}
    settings = card["config"]
    if config.budget is None and isinstance(config.method, Reusable):  # another run has released it
        settings = of_names(settings, config.method.of_generator)
    card["config"] = without_places(settings)
    files |= dict(finished.files) | card_files(card, files.get(SHEET))
    return files | {FILE: guarantee_file(card, files)}


def card_files(card: Mapping[str, Any], sheet: bytes | None) -> dict[str, bytes]:
    """Return the card in all its forms, by the names of their files; ``sheet`` as in `card_html`."""
    return {
        "card.md": card_markdown(card, card_template(card)).encode(),
        "card.json": json_bytes(dict(card)),
        "card.html": card_html(card, sheet).encode(),
    }


def published(run: RunDirectory) -> Result | Synthesis:
    """Return what a complete run has released."""
    path = run.release_path / "card.json"
    card, model = read_json(path), load_release(run.release_path)
    with reading(str(path)):
        epsilon, delta = float(card["epsilon"]), float(card["delta"])
        if isinstance(model, ImageGenerator):
            return Synthesis(epsilon, delta, int(card["images"]["count"]), run.release_path, model)
        test = card["test"]
        on_test = Accuracy(test["correct"], test["total"]) if test else None
    return Result(epsilon, delta, on_test, _read_report(run), run.release_path, model)


def measured(run: RunDirectory, model: Classifier | ImageGenerator, test: ImageSet | None) -> Accuracy | None:
    """Measure a classifier on the test images, if there are any. Returns the accuracy, which is all that the
    release has of it; every other figure is written to RUN/private.
    """
    if test is None or not isinstance(model, Classifier):
        return None
    report = evaluate_classifier(model, test)
    write_atomically(run.test_path, json_bytes(report.to_json()))
    return report.accuracy


def _read_report(run: RunDirectory) -> ClassifierReport | None:
    """Read what `measured` wrote, if it did.

    Raises:
        InputError: it is damaged.
    """
    if not run.test_path.exists():
        return None
    with reading(str(run.test_path)):
        return ClassifierReport.from_json(read_json(run.test_path))


def write_preview(folder: Path, class_names: Sequence[str], pixels: Tensor, step: int) -> None:
    """Write a sheet of what a generator draws at a step of its fit, uint8 ``[N, C, H, W]``, by class: made of
    releases alone.
    """
    rows = pixels.split(PREVIEWED_OF_A_CLASS)
    sheet = image_sheet(
        rows, class_names if len(class_names) == len(rows) else (), columns=PREVIEWED_OF_A_CLASS
    )
    _write_sheet(folder, _of_step(step), sheet)


def _of_step(step: int) -> str:
    """Return the name of the sheet of a step."""
    return f"{step:06d}"


def write_drawn(folder: Path, generator: ImageGenerator, step: int | None = None) -> None:
    """Write a sheet of what a generator draws of its classes, always of the same noise: after a step of those
    that it learns in, or when it is finished.
    """
    classes = min(len(generator.class_proportions), MOST_ROWS)
    labels = torch.arange(classes).repeat_interleave(PREVIEWED_OF_A_CLASS)
    some = generator.sample(len(labels), labels=labels if generator.class_names else None, seed=0)
    name = "finished" if step is None else _of_step(step)
    _write_sheet(folder, name, class_sheet(some, PREVIEWED_OF_A_CLASS))


def _write_sheet(folder: Path, name: str, sheet: bytes) -> None:
    with writing(folder):
        folder.mkdir(exist_ok=True)
    write_atomically(folder / f"{name}.png", sheet, public=True)


def drawn(
    generator: ImageGenerator, images: FinishOptions, seed: int | None
) -> tuple[Images, NDArray[np.float32] | None]:
    """Return images to be published, as many, and of the classes, as the resolved options say; and their soft
    labels, if the generator has any.
    """
    assert images.count is not None
    labels: Any = None
    if images.class_counts is not None:
        labels = [name for name, count in images.class_counts.items() for _ in range(count)]
    elif images.balanced and generator.class_names:
        labels = apportion(images.count, torch.ones(len(generator.class_names)))
    made, soft = generator.draw(images.count, labels=labels, seed=seed)
    return made, None if soft is None else soft.numpy()
