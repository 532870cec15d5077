"""dp-diffusion: what is released and at which cost, what costs nothing, and what comes of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import dpvision
from dpvision.images import Images
from dpvision.methods import Learned, Session, Workplace
from dpvision.methods.denoising import public_images
from dpvision.methods.dp_diffusion import DPDiffusion, DPDiffusionConfig, _take_law
from dpvision.methods.dp_moments import DPMoments
from dpvision.methods.gradient_descent import images_over_noise
from dpvision.networks.clamped_normal import ClampedNormal
from dpvision.networks.denoiser import Denoiser
from dpvision.networks.diffusion import DiffusionGenerator
from dpvision.privacy import Account, Budget, BudgetExceeded, InputError, SecureRandom, SeededRandom
from dpvision.privacy.mechanisms import GaussianSumMechanism
from tests.methods.learning import CPU, calibrated, facts, facts_of, learned, session_on

NAMES = ("dark", "light")
BUDGET = Budget(8.0, 1e-3)
FAST: dict[str, Any] = {
    "steps": 3,
    "expected_batch_size": 30,
    "width": 8,
    "noise_levels": 2,
    "pretraining_steps": 2,
    "warm_up_steps": 2,
    "sampling_steps": 3,
    "precision": "float32",
    "engine": "by-size",
}


def made(count: int = 120) -> Images:
    """8×8, dark and light."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    pixels = torch.randint(60, (count, 1, 8, 8), generator=generator) + 150 * labels.view(-1, 1, 1, 1)
    return Images(pixels.to(torch.uint8), labels, NAMES, "made")


def settings(images: Images, **overrides: Any) -> DPDiffusionConfig:
    return DPDiffusion().default_config(facts_of(images), BUDGET, CPU, FAST | overrides)


@pytest.mark.parametrize("share", [0.05, 0.5])
@pytest.mark.parametrize("budget", [BUDGET, Budget(0.5, 1e-3)])
def test_the_share_of_the_warm_up_is_that_of_the_budget(share: float, budget: Budget) -> None:
    """In terms of the 1/σ² of a single release, whatever the steps' noise is: of little noise T·q²/σ² says
    less than what steps cost.
    """
    images, method = made(), DPDiffusion()
    config = method.default_config(facts_of(images), budget, CPU, FAST | {"warm_up_share": share})
    of = calibrated(method, config, facts_of(images), budget)
    once = images_over_noise(len(images), budget) / len(images)
    noises = []
    for stage in of.stages[:-1]:
        assert isinstance(stage.mechanism, GaussianSumMechanism)
        noises.append(stage.mechanism.noise_multiplier)
    assert sum(1 / noise**2 for noise in noises) == pytest.approx(share * once**2)
    assert [stage.count for stage in of.stages] == [1, 1, 3]
    assert 0.98 * budget.epsilon < of.epsilon <= budget.epsilon


@pytest.mark.parametrize(("share", "epsilon"), [(1e-6, 1.0), (0.3, 1e-3)])
def test_a_share_and_a_budget_may_be_as_small_as_they_may_be_elsewhere(share: float, epsilon: float) -> None:
    images, method, budget = made(), DPDiffusion(), Budget(epsilon, 1e-5)
    config = method.default_config(facts_of(images), budget, CPU, FAST | {"warm_up_share": share})
    assert config.warm_up_noise > 1e3
    assert calibrated(method, config, facts_of(images), budget).epsilon <= epsilon


def test_the_noise_of_the_warm_up_may_be_chosen() -> None:
    images = made()
    config = settings(images, warm_up_noise=7.0)
    first, second, _ = calibrated(DPDiffusion(), config, facts_of(images), BUDGET).stages
    assert isinstance(first.mechanism, GaussianSumMechanism)
    assert isinstance(second.mechanism, GaussianSumMechanism)
    noises = first.mechanism.noise_multiplier, second.mechanism.noise_multiplier
    assert sum(1 / noise**2 for noise in noises) == pytest.approx(1 / 49)


def test_without_a_warm_up_there_are_the_steps_alone_and_classes_are_drawn_as_often() -> None:
    images = made()
    config = settings(images, warm_up_share=0.0)
    (steps,) = calibrated(DPDiffusion(), config, facts_of(images), BUDGET).stages
    assert steps.count == 3
    found = learned(DPDiffusion(), config, images, BUDGET)
    assert found.tensors["class_proportions"].tolist() == [0.5, 0.5]


def test_nothing_is_paid_for_a_denoiser_that_diverged_without_privacy() -> None:
    images = made()
    config = settings(images, public_learning_rate=1e20)
    stages = calibrated(DPDiffusion(), config, facts_of(images), BUDGET)
    session, account = session_on(images, stages, BUDGET)
    with pytest.raises(InputError, match="not finite; start a new run with a smaller public_learning_rate"):
        DPDiffusion().learn(config, session)
    assert all(account.left(stage.mechanism.cost(1)) == stage.count for stage in stages.stages)


def test_what_an_account_refuses_is_told_before_the_denoiser_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an owner's limit: an hour of public steps would be for nothing."""
    monkeypatch.setattr("dpvision.methods.dp_diffusion.public_images", None)
    images = made()
    stages = calibrated(DPDiffusion(), config := settings(images), facts_of(images), BUDGET)

    def refused() -> Account:
        raise BudgetExceeded("the owner's limit")

    session = Session(images, facts_of(images), stages, refused, SeededRandom(0), CPU)
    with pytest.raises(BudgetExceeded, match="the owner's limit"):
        DPDiffusion().learn(config, session)


def test_no_steps_are_paid_for_of_one_that_diverged_on_images_of_the_release() -> None:
    images = made()
    config = settings(images, pretraining_steps=0, public_learning_rate=1e20)
    stages = calibrated(DPDiffusion(), config, facts_of(images), BUDGET)
    session, account = session_on(images, stages, BUDGET)
    with pytest.raises(InputError, match="not finite; start a new run with a smaller public_learning_rate"):
        DPDiffusion().learn(config, session)
    steps = stages.stages[-1]
    assert account.left(steps.mechanism.cost(1)) == steps.count


def test_settings_of_a_warm_up_that_there_is_not_are_refused() -> None:
    with pytest.raises(InputError, match="warm_up has settings of a release that there is not"):
        settings(made(), warm_up_share=0.0, warm_up={"emphasis": 0.5})


def test_classes_are_drawn_by_noisy_counts() -> None:
    images = made()
    rare = images.subset([*range(0, 120, 2), 1, 3, 5])
    found = learned(DPDiffusion(), settings(rare, warm_up_share=0.9), rare, Budget(200.0, 1e-3))
    shares = found.tensors["class_proportions"].tolist()
    assert shares[0] == pytest.approx(60 / 63, abs=0.02)
    assert shares[0] != 60 / 63


def test_a_run_taken_up_again_trains_without_privacy_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, told = made(), list[str]()

    def stop(what: str, done: int, total: int, account: object = None) -> None:
        told.append(what)
        if what == "training" and done == 3:
            raise KeyboardInterrupt

    options: dict[str, Any] = {
        "method": "dp-diffusion",
        "epsilon": 8.0,
        "delta": 1e-3,
        "config": FAST,
        "seed": 1,
    }
    with pytest.raises(KeyboardInterrupt):
        dpvision.synthesize(images, out=tmp_path / "run", count=10, progress=stop, **options)
    assert "learning from random processes" in told
    told.clear()
    result = dpvision.resume(tmp_path / "run", data=images, progress=lambda what, *_: told.append(what))
    assert "training" in told
    assert not {"learning from random processes", "learning from images of the release"} & set(told)
    whole = dpvision.synthesize(images, out=tmp_path / "whole", count=10, **options)
    for name, weight in whole.generator.state_dict().items():
        torch.testing.assert_close(result.generator.state_dict()[name], weight, rtol=1e-5, atol=1e-6)


def test_a_release_is_loaded_sampled_and_measured(tmp_path: Path) -> None:
    images = made(200)
    options: dict[str, Any] = {"method": "dp-diffusion", "epsilon": 2.0, "delta": 1e-3, "config": FAST}
    result = dpvision.synthesize(images, out=tmp_path / "run", count=30, **options)
    generator = dpvision.load(tmp_path / "run")
    assert isinstance(generator, DiffusionGenerator)
    assert isinstance(result.generator, DiffusionGenerator)
    assert generator.sample(4, labels=["light"] * 4, seed=1).shape == (1, 8, 8)
    rows = dpvision.evaluate_images(tmp_path / "run", made(60))
    assert {"accuracy of logistic", "accuracy of mlp"} <= {row.name for row in rows}
    card = (tmp_path / "run/release/card.md").read_text()
    assert "the sum of clipped gradients" in card
    assert "class-wise sums of images, their squared lengths and class counts" in card
    assert "class-wise second moments about the means" in card


def test_centres_are_those_of_the_release() -> None:
    images = made()
    found = learned(DPDiffusion(), settings(images, warm_up_share=0.9), images, Budget(200.0, 1e-3))
    centres = found.tensors["denoiser.centres"].mean(dim=(1, 2, 3))
    for label in range(2):
        chosen = images.subset((images.labels == label).nonzero().squeeze(1))  # type: ignore[attr-defined]
        expected = float(chosen.take(torch.arange(len(chosen))).float().mean()) / 127.5 - 1
        assert float(centres[label]) == pytest.approx(expected, abs=0.1)
        assert float(centres[label]) != expected
    alone = learned(DPDiffusion(), settings(images, warm_up_share=0.0), images, BUDGET)
    assert not alone.tensors["denoiser.centres"].any()


def test_the_law_is_that_of_the_release_whatever_the_private_images_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of other images, of which the same was released, it is the same to the last bit."""
    images, releases = made(), list[Learned]()
    config, learn = settings(images), DPMoments.learn

    def kept(*arguments: Any) -> Learned:
        releases.append(learn(*arguments))
        return releases[0]

    monkeypatch.setattr(DPMoments, "learn", kept)
    found = learned(DPDiffusion(), config, images, BUDGET).tensors
    dark = Images(torch.zeros(120, 1, 8, 8, dtype=torch.uint8), images.labels, NAMES, "dark")
    of_others = learned(DPDiffusion(), config, dark, BUDGET).tensors
    public = {name for name in found if "law." in name or name.endswith(("centres", "class_proportions"))}
    assert len(public) == 5
    assert all(torch.equal(found[name], of_others[name]) for name in public)
    assert not torch.equal(found["denoiser.last.weight"], of_others["denoiser.last.weight"])


def test_a_denoiser_takes_the_law_of_each_class_of_rough_images() -> None:
    rough = ClampedNormal((1, 8, 8), NAMES, (8, 8), 1).eval()
    rough.location[0], rough.location[1] = 0.25, 0.75
    rough.scale[0], rough.scale[1] = 0.02, 0.06
    rough.root[:, :32] = 0.8  # one half of the pixels vary together
    denoiser = Denoiser((1, 8, 8), 2, 8, 1, 1)
    _take_law(denoiser, rough)
    assert denoiser.centres.mean(dim=(1, 2, 3)).tolist() == pytest.approx([-0.5, 0.5], abs=0.01)
    for label, scale in enumerate((0.04, 0.12)):  # of pixels from −1 to 1
        together = (32 * 0.64 + 0.36) * scale**2
        assert float(denoiser.law.variances[label, 0]) == pytest.approx(together, rel=0.1)
        left = (64 * scale**2 - together) / 63
        assert float(denoiser.law.rest[label]) == pytest.approx(left, rel=0.1)
        assert float(denoiser.law.directions[label, :32].abs().mean()) == pytest.approx(32**-0.5, rel=0.02)


def test_learning_is_learning() -> None:
    """With hardly any noise, what is drawn of a class looks like it."""
    images = made(400)
    config = settings(
        images,
        steps=60,
        expected_batch_size=200,
        learning_rate=3e-3,
        warm_up_share=0.0,
        pretraining_steps=0,
        sampling_steps=8,
    )
    method = DPDiffusion()
    stages = calibrated(method, config, facts_of(images), Budget(1e4, 1e-3))
    found = method.learn(config, session_on(images, stages, Budget(1e4, 1e-3), random=SecureRandom())[0])
    model = method.finish(config, found, facts_of(images), Workplace(CPU)).model
    assert isinstance(model, DiffusionGenerator)
    of_class = [model.sample(20, labels=[name] * 20, seed=0).pixels.float().mean() for name in NAMES]
    assert of_class[0] < 100 < 140 < of_class[1]


def test_public_images_are_always_the_same() -> None:
    told = list[int]()
    images = public_images(100, (1, 8, 8), lambda done, total: told.append(done))
    assert images.shape == (100, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert told == [50, 100]
    assert torch.equal(images, public_images(100, (1, 8, 8), lambda done, total: None))
    assert public_images(3, (3, 32, 32), lambda done, total: None).shape == (3, 3, 32, 32)


@pytest.mark.parametrize("overrides", [{}, {"warm_up_share": 0.0, "pretraining_steps": 0}])
def test_a_run_is_planned(overrides: dict[str, Any]) -> None:
    forecast = dpvision.plan(made(), method="dp-diffusion", epsilon=8.0, delta=1e-3, config=FAST | overrides)
    assert forecast.config.steps == 3
    assert [stage.count for stage in forecast.stages] == ([3] if overrides else [1, 1, 3])
    assert 0 < forecast.seconds < 600


@pytest.mark.parametrize("side", [8, 16, 28, 32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_there_are_defaults_for_every_shape(side: int, channels: int) -> None:
    of = facts(5000, (channels, side, side), NAMES)
    config = DPDiffusion().default_config(of, Budget(1.0, 1e-5), CPU, {})
    assert config.flip == (channels == 3)
    assert config.rank == min(64, 2**18 // (channels * side**2))
    assert DPDiffusionConfig(**asdict(config)) == config
    assert len(calibrated(DPDiffusion(), config, of, Budget(1.0, 1e-5)).stages) == 3


def test_laws_of_many_classes_have_fewer_directions() -> None:
    of = facts(50_000, (3, 32, 32), tuple(map(str, range(200))))
    assert DPDiffusion().default_config(of, Budget(1.0, 1e-5), CPU, {"warm_up": {"size": 8}}).rank == 6


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"noise_levels": 0}, "noise_levels must be between 1 and 100,000 for each example"),
        ({"noise_levels": 10**9}, "noise_levels must be between 1 and 100,000"),
        ({"steps": 10**400}, "steps must be a smaller number"),
        ({"width": 12}, "width must be a multiple of 8"),
        ({"patch": 2}, "patch must be one of"),
        ({"sampling_steps": 0}, "1 to 1000 times"),
        ({"guidance": 1.0}, "unlabelled must be above 0 for guidance"),
        ({"warm_up_share": 1.0}, "warm_up_share must be at least 1e-06 and at most"),
        ({"warm_up_share": 0.0, "warm_up_noise": 1.0}, "warm_up_share must be above 0 for a warm_up_noise"),
        ({"warm_up_noise": -1.0}, "warm_up_noise must be above 0, not -1.0"),
        ({"warm_up_noise": 0.3}, r"warm_up_noise must be above 0\.\d+, with which that release alone would"),
        ({"rank": 65}, "rank must be a number from 0 to 64"),
        ({"warm_up": {"nosuch": 1}}, "no setting 'nosuch'"),
        ({"warm_up": {"labelled": False}}, "warm_up: labelled must be true"),
        ({"pretraining_steps": -1}, "pretraining_steps must be at least 0"),
        ({"public_learning_rate": 0.0}, "public_learning_rate must be above 0"),
        ({"expected_batch_size": 500}, "expected_batch_size must be at most"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
    ],
)
def test_settings_out_of_range_are_refused(overrides: dict[str, Any], message: str) -> None:
    images = made()
    with pytest.raises(InputError, match=message):
        calibrated(DPDiffusion(), settings(images, **overrides), facts_of(images), BUDGET)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="a generator makes squares"):
        DPDiffusion().default_config(facts(100, (1, 20, 20), NAMES), BUDGET, CPU, {})
