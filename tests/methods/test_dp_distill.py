"""dp-distill: what its two parts cost, and the images that the teacher takes and labels."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

import dpvision
from dpvision.evaluation.downstream import train_and_test
from dpvision.evaluation.resnet9_training import ResNet9Training
from dpvision.images import Images
from dpvision.methods.dp_distill import DPDistill, DPDistillConfig
from dpvision.methods.dp_moments import DPMoments
from dpvision.methods.dp_randp import DPRandP
from dpvision.methods.method import Workplace
from dpvision.methods.moments import first_sums
from dpvision.networks import Classifier, build_classifier
from dpvision.networks.clamped_normal import ClampedNormal
from dpvision.priors.taught_images import TaughtImages
from dpvision.privacy import Budget, GaussianSumMechanism, InputError
from dpvision.runs.generator_release import generator_files, load_generator
from tests.methods.learning import CPU, calibrated, facts, facts_of, learned, session_on
from tests.methods.test_dp_moments import NAMES, made

BUDGET = Budget(5.0, 1e-4)
TEACHER = {"encoder": "pixels", "encoder_options": {}, "steps": 4, "calibration_share": 0.0}


def config_for(images: Images, budget: Budget = BUDGET, **overrides: Any) -> DPDistillConfig:
    return DPDistill().default_config(facts_of(images), budget, CPU, {"teacher": TEACHER, **overrides})


def release(folder: Path, count: int, formats: Sequence[Any]) -> None:
    """Write a run to ``folder / "run"``."""
    dpvision.synthesize(
        made(),
        method="dp-distill",
        epsilon=5,
        delta=1e-4,
        count=count,
        formats=formats,
        config={"teacher": TEACHER},
        out=folder / "run",
        ledger=folder / "ledger.jsonl",
    )


class Brightness(nn.Module):
    """Takes bright images for the second class."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([-x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3))], dim=1) * 20


def law(side: int = 4) -> ClampedNormal:
    """Images of both classes of any one brightness."""
    found = ClampedNormal((1, side, side), NAMES, (side, side), rank=1)
    found.location.fill_(0.5)
    found.scale.fill_(0.15)
    found.root.fill_(1.0)
    return found


def taught(candidates: int, side: int = 4) -> TaughtImages:
    return TaughtImages(law(side), Classifier(Brightness(), NAMES, (1, side, side)), candidates).eval()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("more", [{}, {"calibration_share": 0.1}])
def test_both_parts_cost_what_one_gaussian_release_does(share: float, more: dict[str, Any]) -> None:
    """Balle and Wang's (arXiv 1805.06530), by dp_accounting: 1/σ² of all stages add up, for the teacher's too
    take all images; and those of the teacher have its share.
    """
    images = made()
    config = config_for(images, Budget(1.0, 1e-5), share_of_teacher=share, teacher=TEACHER | more)
    plan = calibrated(DPDistill(), config, facts_of(images), Budget(1.0, 1e-5))
    assert plan.epsilon <= 1.0
    assert plan.noise_multiplier == pytest.approx(dp_accounting.get_sigma_gaussian(1.0, 1e-5), rel=3e-3)
    of_teacher = 0.0
    for stage in plan.stages[:-2]:
        assert isinstance(stage.mechanism, GaussianSumMechanism)
        of_teacher += stage.count / stage.mechanism.noise_multiplier**2
    assert of_teacher == pytest.approx(share / plan.noise_multiplier**2)


def test_the_parts_are_what_their_methods_learn_with_the_noise_of_the_plan() -> None:
    """As each alone, on a session that has its stages alone, with the same randomness."""
    images = made()
    config, facts = config_for(images), facts_of(images)
    plan = calibrated(DPDistill(), config, facts, BUDGET)
    found = DPDistill().learn(config, session_on(images, plan, BUDGET)[0])
    of_teacher = config.noise_of_teacher(facts, plan.noise_multiplier)
    alone = plan.__class__(of_teacher, DPRandP().stages(config.of_teacher(), facts, of_teacher), plan.epsilon)
    assert alone.stages == plan.stages[:1]
    teacher = DPRandP().learn(config.of_teacher(), session_on(images, alone, BUDGET)[0])
    for name, tensor in teacher.tensors.items():
        assert torch.equal(found.tensors[f"teacher.{name}"], tensor)
    of_moments = config.noise_of_moments(plan.noise_multiplier)
    assert DPMoments().stages(config.of_moments(), facts, of_moments) == plan.stages[1:]
    moments = config.of_moments().moments(facts)
    sums = first_sums(moments, images, CPU)
    noise = torch.cat([(found.tensors[f"moments.first.{n}"] - sums[n]).flatten() for n in sums])
    expected = of_moments / math.sqrt(config.of_moments().share_of_means) * moments.first.sensitivity
    assert float(noise.std()) == pytest.approx(expected, rel=0.15)


def test_the_first_image_that_the_teacher_takes_for_its_class_is_taken_or_the_likeliest() -> None:
    labels = torch.ones(400, dtype=torch.int64)
    noise = torch.randn(400, 6, *law().noise_shape, generator=torch.Generator().manual_seed(0))
    one, six = taught(1), taught(6)
    first = one(labels, noise[:, :1])
    assert torch.equal(first, law()(labels, noise[:, 0]))
    taken = six(labels, noise)
    of_class = six.soft_labels(torch.stack([law()(labels, noise[:, i]) for i in range(6)]).flatten(0, 1))
    chances = of_class[:, 1].view(6, 400)
    before, after = six.soft_labels(first)[:, 1], six.soft_labels(taken)[:, 1]
    content = before >= 0.5
    assert 0 < content.sum() < 400
    assert torch.equal(taken[content], first[content])
    likely = (chances >= 0.5).any(dim=0)
    assert (after[likely] >= 0.5).all()
    torch.testing.assert_close(after[~likely], chances.max(dim=0).values[~likely])


def test_labels_are_the_teachers_unless_classes_are_asked_for() -> None:
    generator = taught(1)
    drawn = generator.sample(300, seed=0)
    says = generator.soft_labels(drawn.pixels).argmax(dim=1)
    assert drawn.labels is not None
    assert torch.equal(drawn.labels, says)
    asked = generator.sample(300, labels=torch.zeros(300, dtype=torch.int64), seed=0)
    assert asked.labels is not None
    assert not asked.labels.any()
    assert generator.soft_labels(asked.pixels).argmax(dim=1).any()


def test_a_teacher_that_takes_all_images_for_one_class_is_balanced() -> None:
    generator = taught(2)
    generator.law.location.fill_(0.8)
    generator.class_proportions.copy_(torch.tensor([0.7, 0.3]))
    generator.law.class_proportions.copy_(generator.class_proportions)
    drawn = law().sample(2000, seed=1).take(torch.arange(2000))
    assert float(generator.soft_labels(drawn + 60)[:, 1].mean()) > 0.8
    generator.balance(4000, seed=0)
    drawn = generator.law.sample(4000, seed=1).take(torch.arange(4000))
    torch.testing.assert_close(
        generator.soft_labels(drawn).mean(dim=0), torch.tensor([0.7, 0.3]), rtol=0, atol=0.02
    )


def test_a_generator_is_read_as_it_was_written(tmp_path: Path) -> None:
    network = build_classifier("linear", image_shape=(1, 4, 4), class_names=NAMES)
    generator = TaughtImages(law(), network, 3).eval()
    generator.balance(40, seed=0)
    for name, content in generator_files(generator).items():
        (tmp_path / name).write_bytes(content)
    again = load_generator(tmp_path, json.loads((tmp_path / "config.json").read_bytes()))
    assert isinstance(again, TaughtImages)
    drawn = generator.sample(50, seed=4)
    assert torch.equal(again.sample(50, seed=4).pixels, drawn.pixels)
    assert torch.equal(again.soft_labels(drawn.pixels), generator.soft_labels(drawn.pixels))


def test_a_teacher_of_other_classes_is_refused() -> None:
    with pytest.raises(InputError, match="must know the classes"):
        TaughtImages(law(), Classifier(Brightness(), ("a", "b"), (1, 4, 4)), 2)
    with pytest.raises(InputError, match="candidates must be from 1"):
        taught(0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"share_of_teacher": 1.0}, "share_of_teacher"),
        ({"share_of_teacher": 0.9999999999999999}, "share_of_teacher must be at least 1e-06 and at most"),
        ({"teacher": {"class_weight": "balanced"}}, 'teacher: class_weight must be "none"'),
        ({"teacher": {"pool": "public", "k_diff": 1, "phase_ii": "sampled"}}, "teacher: pool must be empty"),
        ({"candidates": 0}, "candidates"),
        ({"moments": {"num_details": 5}}, "num_details"),
        ({"moments": {"labelled": False}}, "labelled"),
        ({"teacher": {"nosuch": 1}}, "no setting 'nosuch'"),
    ],
)
def test_settings_that_cannot_be_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DPDistill().default_config(facts_of(made()), BUDGET, CPU, overrides)


def test_a_teacher_of_colour_images_has_the_small_prior_unless_another_is_named() -> None:
    photographs = facts(1000, (3, 32, 32))
    chosen = DPDistill().default_config(photographs, BUDGET, CPU, {})
    assert chosen.teacher["encoder"] == "wrn-10-4-small"
    named = DPDistill().default_config(photographs, BUDGET, CPU, {"teacher": {"encoder": "scattering"}})
    assert (named.teacher["encoder"], named.teacher["encoder_options"]) == ("scattering", {})
    grey = DPDistill().default_config(facts(1000, (1, 28, 28)), BUDGET, CPU, {})
    assert grey.teacher["encoder"] == "patches"


def test_small_laws_get_details_of_many_contrasts() -> None:
    images = made(300, side=16)
    config = config_for(images, moments={"size": 8}, num_details=40, candidates=2)
    what = learned(DPDistill(), config, images, BUDGET)
    generator = DPDistill().finish(config, what, facts_of(images), Workplace(CPU)).model
    assert isinstance(generator, TaughtImages)
    spread = generator.law.details.float().flatten(1).std(dim=1)
    assert len(spread) == 40
    assert float(spread.max()) > 4 * float(spread.min())
    assert generator.sample(4, seed=0).shape == (1, 16, 16)


def test_details_are_for_images_much_larger_than_the_moments() -> None:
    images = made(side=12)
    assert config_for(images, moments={"size": 9}).num_details == 0
    assert config_for(images, moments={"size": 8}).num_details == 4000
    assert config_for(images, moments={"size": 9}, num_details=3).num_details == 3


def test_soft_labels_of_a_release_are_those_of_its_images_in_every_format(tmp_path: Path) -> None:
    release(tmp_path, 30, ["png", "npz", "parquet"])
    generator, place = dpvision.load(tmp_path / "run"), tmp_path / "run" / "release" / "images"
    assert isinstance(generator, TaughtImages)
    archive = np.load(place / "npz" / "images.npz")
    pixels = torch.from_numpy(archive["images"]).permute(0, 3, 1, 2)
    expected = generator.soft_labels(pixels).numpy()
    np.testing.assert_allclose(archive["probabilities"], expected, atol=1e-6)
    table = pq.read_table(place / "parquet" / "images.parquet")
    np.testing.assert_allclose(np.array(table["probabilities"].to_pylist()), expected, atol=1e-6)
    with (place / "png" / "probabilities.csv").open() as file:
        header, *lines = csv.reader(file)
    assert header == ["file", *NAMES]
    assert len(dpvision.open_images(place / "png")) == len(lines) == 30
    for (name, *numbers), row in zip(lines, expected, strict=True):
        one = dpvision.open_images(place / "png" / name, labelled=False).pixels
        assert any(torch.equal(one[0], other) for other in pixels)
        np.testing.assert_allclose([float(number) for number in numbers], row, rtol=1e-4)
        torch.testing.assert_close(generator.soft_labels(one)[0].numpy(), row, rtol=1e-4, atol=1e-5)
    again = dpvision.sample(tmp_path / "run", out=tmp_path / "more", count=8, format="npz", seed=1)
    np.testing.assert_allclose(
        np.load(tmp_path / "more" / "images.npz")["probabilities"],
        generator.soft_labels(again.pixels).numpy(),
        atol=1e-6,
    )


@pytest.mark.parametrize("labels", [None, [0] * 20 + [1] * 20])
def test_images_come_with_their_soft_labels(labels: list[int] | None) -> None:
    """Which are computed once, and say the classes unless these were asked for."""
    generator = taught(3)
    images, soft = generator.draw(40, labels=labels, seed=2)
    assert soft is not None
    assert torch.equal(soft, generator.soft_labels(images.pixels))
    assert images.labels is not None
    assert images.labels.tolist() == (soft.argmax(dim=1).tolist() if labels is None else labels)
    assert torch.equal(images.pixels, generator.sample(40, labels=labels, seed=2).pixels)
    assert law().draw(3)[1] is None


@pytest.mark.parametrize("classifier", ["logistic", "mlp", "resnet9"])
def test_classifiers_learn_soft_labels_where_hard_ones_are_wrong(classifier: Any) -> None:
    """All labels are of one class but for a few; the soft labels are right."""
    images = made(300, side=16)
    assert images.labels is not None
    soft = torch.nn.functional.one_hot(images.labels, 2).float() * 0.8 + 0.1
    wrong = Images(images.pixels, 1 - images.labels, NAMES, "wrong")
    training = ResNet9Training(steps=20, width=4, batch_size=64)
    figures = [
        train_and_test(classifier, wrong, images, soft_labels=labels, resnet9=training).value
        for labels in (soft.numpy(), None)
    ]
    assert figures[0] > 0.9
    assert figures[1] < 0.1


def test_evaluate_learns_the_soft_labels_of_a_run_unless_told_otherwise(tmp_path: Path) -> None:
    release(tmp_path, 40, ["npz"])
    test = made(200, seed=9)
    soft = dpvision.evaluate_images(tmp_path / "run", test, classifiers=["logistic"])
    hard = dpvision.evaluate_images(tmp_path / "run", test, classifiers=["logistic"], hard_labels=True)
    assert "their soft labels" in soft[0].how
    assert "soft labels" not in hard[0].how
    images = dpvision.open_images(str(tmp_path / "run"))
    labels = np.load(tmp_path / "run/release/images/npz/images.npz")["probabilities"]
    expected = train_and_test("logistic", images, test, soft_labels=labels).value
    assert soft[0].value == pytest.approx(expected)
