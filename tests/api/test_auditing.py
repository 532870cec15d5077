"""dpvision.audit: methods stay below what they claim, faults do not, and the ledger knows of all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dpvision
from dpvision.gradients import clipped
from dpvision.images import Images
from dpvision.methods import Stage, find_method
from dpvision.privacy import Event, GaussianSumMechanism, InputError, Ledger, default_ledger_path

EPSILON = 4.0
STEPS = {"network": "linear", "steps": 15, "expected_batch_size": 500, "learning_rate": 0.5}
VIEWS = STEPS | {"expected_batch_size": 1437, "augmult": 2, "pad": 1, "k_self": 1}
HEAD = {"encoder": "pixels", "steps": 15, "expected_batch_size": 1437, "learning_rate": 1.0}
DENOISED = {
    "steps": 5,
    "expected_batch_size": 500,
    "width": 8,
    "noise_levels": 1,
    "max_grad_norm": 0.1,
    "pretraining_steps": 1,
    "warm_up_steps": 1,
}
METHOD_SETTINGS: dict[str, dict[str, Any]] = {
    "dp-sgd": STEPS,
    "dp-mix-self": VIEWS,
    "dp-mix-diff": VIEWS | {"k_diff": 1},
    "dp-randp": HEAD,
    "dp-ridge": {"encoder": "pixels"},
    "dp-mepf": {"steps": 1},
    "dp-moments": {},
    "dp-diffusion": DENOISED,
    "dp-distill": {"teacher": {"encoder": "pixels", "steps": 3}, "candidates": 1},
}


def settings_of(method: str, pool: Path) -> dict[str, Any]:
    settings = METHOD_SETTINGS.get(method, {})
    return settings | {"pool": str(pool)} if method == "dp-mix-diff" else settings


@pytest.fixture(scope="session")
def digits() -> Images:
    return dpvision.open_images("bundled:digits")


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Public images for dp-mix-diff: of no class, in a folder without classes."""
    from PIL import Image

    folder: Path = tmp_path_factory.mktemp("pool")
    for index in range(8):
        noise = torch.randint(256, (8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))
        Image.fromarray(noise.numpy()).save(folder / f"{index}.png")
    return folder


def audit(images: Images, method: str, pool: Path, **options: Any) -> Any:
    chosen = {"epsilon": EPSILON, "canaries": 600, "seed": 0, "config": settings_of(method, pool)} | options
    return dpvision.audit(images, method=method, **chosen)


class Ignored:
    def record(self, event: Event) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Quiet(GaussianSumMechanism):
    """Claims its noise, and makes a share of it."""

    share: float

    def release(self, sums: Mapping[str, torch.Tensor], account: Any, random: Any) -> dict[str, torch.Tensor]:
        account.record(self.event)
        if self.share == 0:
            return {name: total.float() for name, total in sums.items()}
        quiet = GaussianSumMechanism(self.share * self.noise_multiplier, self.sensitivity, self.sampler)
        return quiet.release(sums, Ignored(), random)


def make_quiet(monkeypatch: pytest.MonkeyPatch, method: str, share: float) -> None:
    """From now on, the method's mechanisms make this share of the noise."""

    def quiet(stages: Any) -> Any:
        def of(*arguments: Any) -> tuple[Stage, ...]:
            found = []
            for stage in stages(*arguments):
                same = {
                    field.name: getattr(stage.mechanism, field.name) for field in fields(GaussianSumMechanism)
                }
                found.append(replace(stage, mechanism=Quiet(**same, share=share)))
            return tuple(found)

        return of

    sound = type(find_method(method))
    monkeypatch.setattr(sound, "stages", quiet(sound.stages))


@pytest.mark.parametrize("method", METHOD_SETTINGS)
def test_every_method_stays_below_what_it_claims(
    digits: Images, pool: Path, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = audit(digits, method, pool)
    assert 0.99 * EPSILON < found.epsilon <= EPSILON
    assert 0 < found.epsilon_lower_bound < found.epsilon < found.largest_bound
    assert found.epsilon_lower_bound_any < found.epsilon
    assert not found.refuted
    assert (found.tested_relation, found.tested_epsilon) == (found.neighboring_relation, found.epsilon)
    assert "the relation that was asked for" in found.meaning
    assert "which the claim allows" in found.meaning
    assert "private" in found.notice
    assert not list(tmp_path.iterdir())  # nothing is written but the ledger

    (run,) = Ledger(default_ledger_path(digits.digest)).summary()["runs"]
    assert not run["open"]
    assert run["epsilon_spent"] == pytest.approx(found.epsilon, rel=1e-6)


@pytest.mark.parametrize("method", METHOD_SETTINGS)
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_too_little_noise_is_caught(
    digits: Images, pool: Path, method: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_quiet(monkeypatch, method, share)
    found = audit(digits, method, pool)
    assert found.refuted
    assert found.epsilon_lower_bound > found.epsilon
    assert "the claim does not hold: repeat" in found.meaning


@pytest.mark.slow
@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
@pytest.mark.parametrize("method", ["dp-sgd", "dp-randp", "dp-ridge", "dp-mepf"])
def test_methods_stay_below_what_they_claim_time_and_again(
    digits: Images, pool: Path, method: str, relation: str
) -> None:
    settings = settings_of(method, pool)
    if method == "dp-randp":
        settings = settings | {
            "phase_iii": "full",
            "encoder": "wrn-10-4-small",
            "steps": 4,
            "expected_batch_size": 100,
        }
    refuted = [
        audit(digits, method, pool, seed=seed, config=settings, neighboring_relation=relation).refuted
        for seed in range(5)
    ]
    assert sum(refuted) <= 2


@pytest.mark.parametrize("method", METHOD_SETTINGS)
def test_worst_images_keep_the_bound_of_every_method_and_come_near_it(
    digits: Images, pool: Path, method: str
) -> None:
    few = digits.subset(torch.arange(100))
    config = settings_of(method, pool)
    if "steps" in config and method != "dp-mepf":
        config = config | {"expected_batch_size": 50, "steps": 3}
    found = audit(few, method, pool, canary_kind="images", config=config)
    assert found.largest_contribution is not None
    assert 0.9 < found.largest_contribution.share <= 1
    assert not found.refuted
    # What is learned, and what gradient canaries say, is as without the images.
    assert found.tallies == audit(few, method, pool, config=config).tallies


LONG = ("dp-randp", "dp-diffusion", "dp-distill")
"""Methods whose worst units of images take long; those of single images are tried of each above."""


@pytest.fixture(scope="session")
def of_units(digits: Images) -> Images:
    """Digits of units of 1 to 9 images."""
    names = torch.repeat_interleave(torch.arange(300), 1 + torch.arange(300) % 9)[: len(digits)]
    found = digits.with_units(names)
    assert isinstance(found, Images)
    return found


@pytest.mark.parametrize(
    ("method", "canary_kind"),
    [
        *((method, "gradient") for method in METHOD_SETTINGS),
        *(
            pytest.param(method, "images", marks=[pytest.mark.slow] if method in LONG else [])
            for method in METHOD_SETTINGS
        ),
    ],
)
def test_units_keep_the_bound_of_every_method(
    of_units: Images, pool: Path, method: str, canary_kind: str
) -> None:
    """Worst-case units are of one image, of several alike and of several that differ."""
    few = of_units.subset(torch.arange(100))
    config = settings_of(method, pool)
    if "steps" in config and method != "dp-mepf":
        config = config | {"expected_batch_size": 10, "steps": 3}
    found = audit(few, method, pool, canary_kind=canary_kind, config=config)
    assert not found.refuted
    assert found.epsilon_lower_bound < found.epsilon
    if canary_kind == "images":
        assert found.largest_contribution is not None
        assert 0.8 < found.largest_contribution.share <= 1


def test_units_that_are_clipped_image_by_image_are_refuted(
    of_units: Images, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = clipped.ClippedGradient.sum

    def by_image(engine: Any, views: torch.Tensor, targets: torch.Tensor, dropout: Any = None) -> Any:
        return whole(engine, *(tensor.flatten(0, 1)[:, None] for tensor in (views, targets)))

    monkeypatch.setattr(clipped.ClippedGradient, "sum", by_image)
    config = settings_of("dp-mix-self", pool) | {"expected_batch_size": 10, "steps": 3}
    few = of_units.subset(torch.arange(100))
    found = audit(few, "dp-mix-self", pool, canary_kind="images", config=config)
    assert found.refuted
    assert found.largest_contribution.share > 1.5


def test_mislabelled_units_are_audited(of_units: Images, pool: Path) -> None:
    found = audit(
        of_units,
        "dp-sgd",
        pool,
        canary_kind="mislabelled",
        canaries=None,
        config=STEPS | {"expected_batch_size": 100},
    )
    assert found.canaries == 28  # a tenth of the units
    assert found.tested_neighbours.startswith("data sets that differ by the content of one unit")
    assert not found.refuted


def test_a_fault_that_gradient_canaries_cannot_see_is_refuted(
    digits: Images, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clipped, "ROUNDING_MARGIN", -0.01)
    config = STEPS | {"steps": 3, "max_grad_norm": 0.1}
    assert not audit(digits, "dp-sgd", pool, config=config).refuted
    found = audit(digits, "dp-sgd", pool, config=config, canary_kind="images")
    assert found.refuted
    assert found.largest_contribution.share == pytest.approx(1.01, abs=1e-3)
    assert "a single image changed a sum by more" in found.meaning
    assert found.epsilon_lower_bound < found.epsilon


def test_mislabelled_images_are_audited_as_replaced_ones(digits: Images, pool: Path) -> None:
    steps: list[tuple[object, ...]] = []
    found = audit(
        digits,
        "dp-sgd",
        pool,
        canaries=None,
        canary_kind="mislabelled",
        progress=lambda *told: steps.append(told[:3]),
    )
    assert (found.canaries, found.neighboring_relation) == (143, "add_or_remove_one")
    assert (found.target_epsilon, found.tested_relation) == (EPSILON, "replace_one")
    assert 0.99 * EPSILON < found.epsilon <= EPSILON < found.tested_epsilon
    assert found.epsilon_lower_bound < found.tested_epsilon
    assert (found.neighbours, found.tested_neighbours) == (
        "data sets that differ by the presence of one image",
        "data sets that differ by the content of one image",
    )
    assert "test replace_one, which was not asked for" in found.meaning
    assert f"are to be compared with {found.tested_epsilon:.4g} (replace_one)" in found.meaning
    assert steps == [("training", done, 15) for done in range(16)]
    (run,) = Ledger(default_ledger_path(digits.digest)).summary()["runs"]  # not that of the mislabelled ones
    assert 0.99 * EPSILON < run["epsilon_spent"] <= EPSILON


@pytest.mark.slow
def test_what_a_classifier_learns_by_heart_is_caught(
    digits: Images, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A logistic regression on more features than images, with noise and without."""
    config = {
        "encoder": "pixels",
        "encoder_options": {"products": True},
        "steps": 300,
        "expected_batch_size": len(digits),
        "learning_rate": 16.0,
    }
    options: dict[str, Any] = {"epsilon": 0.5, "canaries": 400, "config": config}
    assert not audit(digits, "dp-randp", pool, canary_kind="mislabelled", **options).refuted
    make_quiet(monkeypatch, "dp-randp", 0.0)
    assert audit(digits, "dp-randp", pool, canary_kind="mislabelled", **options).refuted


def test_a_seed_repeats_an_audit(digits: Images, pool: Path) -> None:
    once, again, other = (audit(digits, "dp-ridge", pool, seed=seed) for seed in (3, 3, 4))
    assert once == again
    assert once.tallies != other.tallies


def test_an_interrupted_audit_is_paid_for_and_closed(digits: Images, pool: Path) -> None:
    def interrupt(what: str, done: int, total: int, account: object) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(digits, "dp-sgd", pool, progress=interrupt)
    (run,) = Ledger(default_ledger_path(digits.digest)).summary()["runs"]
    assert not run["open"]
    assert 0 < run["epsilon_spent"] < EPSILON


def test_bad_input_spends_nothing(digits: Images, pool: Path) -> None:
    def refused(message: str, method: str = "dp-sgd", **options: Any) -> None:
        with pytest.raises(InputError, match=message):
            audit(digits, method, pool, **options)

    refused("there are no canaries 'yellow'; choose gradient or images or mislabelled", canary_kind="yellow")
    refused("confidence must lie strictly between 0 and 1, not 1", confidence=1)
    refused("at least 20, not 7", canaries=7)
    refused("2000 of them cannot be mislabelled", canaries=2000, canary_kind="mislabelled")
    refused("mislabelled canaries are looked for in a classifier", "dp-mepf", canary_kind="mislabelled")
    refused("there is no method 'dp-magic'", "dp-magic", config={})
    refused("epsilon must be a positive finite number", epsilon=0)
    refused("there is no setting 'stepz'", config={"stepz": 3})
    assert not default_ledger_path(digits.digest).exists()


def test_the_owners_limit_holds_for_audits_too(digits: Images, pool: Path) -> None:
    ledger = Ledger.for_dataset(default_ledger_path(digits.digest), digits.digest, len(digits))
    ledger.set_limit(dpvision.Budget(EPSILON / 2, 1e-4))
    with pytest.raises(InputError, match="limit"):
        audit(digits, "dp-sgd", pool)
    assert ledger.summary()["runs"] == []
