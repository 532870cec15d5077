"""dp-diffusion and dp-distill: a release is refined, and more is made of it at no cost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dpvision
from dpvision.api import Synthesis
from dpvision.api.priors import train_prior
from dpvision.api.releases import open_earlier
from dpvision.cli.options import with_settings
from dpvision.images import Images
from dpvision.methods import Learned
from dpvision.methods.dp_diffusion import DPDiffusion
from dpvision.methods.dp_randp import DPRandP
from dpvision.methods.method import GUARANTEE
from dpvision.networks.weights import safetensors_bytes
from dpvision.priors.encoders import is_of_package
from dpvision.privacy import InputError
from dpvision.privacy.accounting import epsilon
from tests.api.taken_up import card_of, released, spent_on
from tests.api.test_priors import SMALL
from tests.methods.test_dp_diffusion import FAST

DELTA = 1e-3
DIFFUSION, DISTILL = "dp-diffusion", "dp-distill"
TEACHER = {"encoder": "pixels", "encoder_options": {}, "steps": 3}
CONFIG: dict[str, dict[str, Any]] = {DIFFUSION: FAST, DISTILL: {"teacher": TEACHER, "candidates": 2}}
"""The settings of a first run."""

AGAIN: dict[str, dict[str, Any]] = {
    DIFFUSION: {name: FAST[name] for name in ("steps", "expected_batch_size", "sampling_steps", "engine")},
    DISTILL: {"teacher": {"steps": 3}, "candidates": 2},
}
"""Those of one that refines it."""

FILE = {DIFFUSION: "denoiser.safetensors", DISTILL: "teacher_and_moments.safetensors"}

both = pytest.mark.parametrize("method", [DIFFUSION, DISTILL])


@pytest.fixture
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 2
    pixels = torch.randint(60, (90, 1, 8, 8), generator=generator) + 150 * labels.view(-1, 1, 1, 1)
    return Images(pixels.to(torch.uint8), labels, ("dark", "light"), "made")


def synthesize(images: Images, out: Path, method: str, **options: Any) -> Synthesis:
    given = {"epsilon": 1.0, "delta": DELTA, "count": 8, "method": method, "config": CONFIG[method]}
    return dpvision.synthesize(images, out=out, **(given | options))


def refine(images: Images, out: Path, method: str, run: Path, **options: Any) -> Synthesis:
    return synthesize(images, out, method, refine=run, **({"config": AGAIN[method]} | options))


@both
def test_what_both_runs_cost_is_on_the_card_and_in_the_ledger(
    images: Images, tmp_path: Path, method: str
) -> None:
    first = synthesize(images, tmp_path / "run", method)
    second = refine(images, tmp_path / "refined", method, tmp_path / "run", epsilon=2.0)
    assert second.epsilon == epsilon(spent_on(images), DELTA)
    assert 2 < second.epsilon < 3
    card = card_of(tmp_path / "refined")
    assert card["method"] == f"refine:{method}"
    assert [part["epsilon"] for part in card["parts"]] == pytest.approx([first.epsilon, 2], rel=0.02)
    text = (second.release / "card.md").read_text()
    assert "what 2 runs have released" in text
    assert dpvision.verify(tmp_path / "refined").holds
    third = refine(images, tmp_path / "again", method, tmp_path / "refined" / "release")
    assert third.epsilon == epsilon(spent_on(images), DELTA)
    assert len(card_of(tmp_path / "again")["parts"]) == 3
    assert dpvision.verify(tmp_path / "again").holds


def test_the_first_cost_is_stated_whatever_facts_a_method_returns(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthesize(images, tmp_path / "run", DIFFUSION)
    learn_again = DPDiffusion.learn_again

    def without_guarantee(*arguments: Any) -> Learned:
        found = learn_again(*arguments)
        return replace(found, facts={name: found.facts[name] for name in found.facts if name != GUARANTEE})

    monkeypatch.setattr(DPDiffusion, "learn_again", without_guarantee)
    second = refine(images, tmp_path / "refined", DIFFUSION, tmp_path / "run")
    assert second.epsilon == epsilon(spent_on(images), DELTA) > 1.2


def test_a_denoiser_learns_on_from_the_weights_that_were_released(images: Images, tmp_path: Path) -> None:
    """With steps of no length they stay."""
    told = list[str]()
    synthesize(images, tmp_path / "run", DIFFUSION, epsilon=5.0)
    options: dict[str, Any] = {"progress": lambda what, *_: told.append(what)}
    options["config"] = AGAIN[DIFFUSION] | {"learning_rate": 1e-9}
    refine(images, tmp_path / "refined", DIFFUSION, tmp_path / "run", **options)
    before, after = (released(tmp_path / name).tensors for name in ("run", "refined"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-5, atol=1e-6)
    assert not {"learning from random processes", "reading images for the means"} & set(told)
    refine(images, tmp_path / "moved", DIFFUSION, tmp_path / "run")
    moved = released(tmp_path / "moved").tensors
    assert any(not torch.equal(tensor, before[name]) for name, tensor in moved.items())


def test_the_whole_budget_of_a_second_run_is_for_the_steps(images: Images, tmp_path: Path) -> None:
    synthesize(images, tmp_path / "run", DIFFUSION)
    planned = dpvision.plan(images, epsilon=1, delta=DELTA, refine=tmp_path / "run", config=AGAIN[DIFFUSION])
    assert [stage.count for stage in planned.stages] == [3]
    refine(images, tmp_path / "refined", DIFFUSION, tmp_path / "run")
    config = card_of(tmp_path / "refined")["config"]
    assert (config["warm_up_share"], config["pretraining_steps"], config["warm_up_steps"]) == (0, 0, 0)
    assert (config["width"], config["sampling_steps"]) == (8, 3)
    centres = [released(tmp_path / name).tensors["denoiser.centres"] for name in ("run", "refined")]
    assert torch.equal(*centres)
    assert centres[0].any()


@pytest.mark.parametrize(
    ("method", "config", "others"),
    [
        (DISTILL, {"share_of_teacher": 0.2}, ["share_of_teacher=0.9", "teacher.steps=2", "moments.clip=2.0"]),
        (DIFFUSION, {}, ["steps=9", "max_grad_norm=5.0", "warm_up_share=0.1", "width=16", "rank=2"]),
    ],
)
def test_what_is_made_of_a_release_has_no_settings_that_it_was_not_made_with(
    images: Images, tmp_path: Path, method: str, config: dict[str, Any], others: list[str]
) -> None:
    synthesize(images, tmp_path / "run", method, config=CONFIG[method] | config)
    dpvision.synthesize_from(tmp_path / "run", out=tmp_path / "again", count=8)
    first, again = (card_of(tmp_path / name)["config"] for name in ("run", "again"))
    text = (tmp_path / "again" / "release" / "card.md").read_text()
    if method == DISTILL:
        assert again["share_of_teacher"] == first["share_of_teacher"] == 0.2
        assert again["teacher"] == {name: first["teacher"][name] for name in again["teacher"]}
        assert again["teacher"]["encoder"] == "pixels"
        assert again["moments"] == first["moments"]
        assert "With 20 % of the budget" in text
    else:
        assert again.keys() == {"width", "patch", "rank", "unlabelled", "sampling_steps", "guidance"}
        assert "pretraining_steps" not in text
    for other in others:
        name = other.partition("=")[0]
        with pytest.raises(InputError, match=f"^{name} is part of what was released in"):
            dpvision.synthesize_from(tmp_path / "run", out=tmp_path / "no", config=with_settings({}, [other]))
    assert not (tmp_path / "no").exists()


def test_a_second_teacher_is_averaged_with_the_first(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what each has of the budget: its share of 1/σ², by the events on the card."""
    learn, heads = DPRandP.learn, list[Tensor]()

    def learned(*arguments: Any) -> Learned:
        found = learn(*arguments)
        heads.append(found.tensors["network.head.weight"])
        return found

    monkeypatch.setattr(DPRandP, "learn", learned)
    synthesize(images, tmp_path / "run", DISTILL, config=CONFIG[DISTILL] | {"share_of_teacher": 0.2})
    refine(images, tmp_path / "refined", DISTILL, tmp_path / "run", epsilon=3.0)
    mechanisms = card_of(tmp_path / "refined")["mechanisms"]
    precision = [
        sum(one["count"] / one["noise_multiplier"] ** 2 for one in half if "gradients" in one["name"])
        for half in (mechanisms[:4], mechanisms[4:])
    ]
    share = precision[0] / sum(precision)
    found = released(tmp_path / "refined")
    expected = share * heads[0] + (1 - share) * heads[1]
    torch.testing.assert_close(found.tensors["teacher.network.head.weight"], expected)
    assert found.facts["teacher"]["noise"] == pytest.approx(sum(precision) ** -0.5, rel=1e-3)
    of_moments = [
        sum(one["count"] / one["noise_multiplier"] ** 2 for one in mechanisms[4:] if "images" in one["name"])
        + sum(1 / one["noise_multiplier"] ** 2 for one in mechanisms[4:] if "second" in one["name"])
    ]
    assert precision[1] / of_moments[0] == pytest.approx(0.2 / 0.8)
    before = released(tmp_path / "run").facts["moments"]["noise"]
    assert all(now < then for now, then in zip(found.facts["moments"]["noise"], before, strict=True))


@both
@pytest.mark.parametrize("inside", ["", "release", "file"])
def test_more_is_made_of_a_release_at_no_cost(
    images: Images, tmp_path: Path, method: str, inside: str
) -> None:
    first = synthesize(images, tmp_path / "run", method)
    before = spent_on(images)
    setting = {DIFFUSION: {"sampling_steps": 2}, DISTILL: {"candidates": 1, "moments": {"rank": 3}}}[method]
    place = first.release / FILE[method] if inside == "file" else tmp_path / "run" / inside
    again = dpvision.synthesize_from(place, out=tmp_path / "again", count=7, config=setting)
    assert spent_on(images) == before
    assert (again.epsilon, again.delta, again.count) == (first.epsilon, first.delta, 7)
    config = again.generator.config
    if method == DIFFUSION:
        assert config["steps"] == 2
    else:
        assert (config["candidates"], config["law"]["rank"]) == (1, 3)
    assert (again.release / FILE[method]).read_bytes() == (first.release / FILE[method]).read_bytes()
    assert dpvision.verify(tmp_path / "again").holds


@pytest.mark.parametrize(
    ("method", "config", "name"),
    [
        (DIFFUSION, {"width": 8}, "width"),
        (DIFFUSION, {"warm_up_share": 0.2}, "warm_up_share"),
        (DIFFUSION, {"warm_up_noise": 9.0}, "warm_up_noise"),
        (DISTILL, {"teacher": {"encoder": "patches"}}, "teacher.encoder"),
        (DISTILL, {"moments": {"size": 4}}, "moments.size"),
    ],
)
def test_what_was_released_stays_as_it_is(
    images: Images, tmp_path: Path, method: str, config: dict[str, Any], name: str
) -> None:
    synthesize(images, tmp_path / "run", method)
    before, refused = spent_on(images), f"{name} is part of what was released in .*run, or of what led to it"
    with pytest.raises(InputError, match=refused):
        dpvision.synthesize_from(tmp_path / "run", out=tmp_path / "no", config=config)
    with pytest.raises(InputError, match=refused):
        refine(images, tmp_path / "no", method, tmp_path / "run", config=config)
    assert spent_on(images) == before
    assert not (tmp_path / "no").exists()


@both
def test_an_interrupted_run_comes_to_what_a_whole_one_does(
    images: Images, tmp_path: Path, method: str
) -> None:
    def interrupt(doing: str, done: int, total: int, account: object = None) -> None:
        if doing in ("training", "Phase II") and done == 2:
            raise KeyboardInterrupt

    synthesize(images, tmp_path / "run", method, seed=1)
    refine(images, tmp_path / "whole", method, tmp_path / "run", seed=2)
    with pytest.raises(KeyboardInterrupt):
        refine(images, tmp_path / "parts", method, tmp_path / "run", seed=2, progress=interrupt)
    assert isinstance(dpvision.resume(tmp_path / "parts", data=images), Synthesis)
    one, other = (released(tmp_path / name).tensors for name in ("whole", "parts"))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "teacher",
    [
        {"encoder": "own"},
        {"encoder": "pixels", "head": "affine", "feature_norm": 1.0},
        {"encoder": "wrn-10-4-small", "phase_iii": "norms", "expected_batch_size": 20, "engine": "by-size"},
    ],
)
def test_of_a_teacher_that_cannot_be_averaged_nothing_is_kept(
    images: Images, tmp_path: Path, teacher: dict[str, Any]
) -> None:
    """Nor of one on the owner's own encoder: its settings would have the name of a file."""
    if teacher["encoder"] == "own":
        own = tmp_path / "own.safetensors"
        train_prior(SMALL, own, device="cpu")
        teacher = {"encoder": str(own)}
    settings = {"encoder_options": {}, "steps": 2, **teacher}
    result = synthesize(images, tmp_path / "run", DISTILL, config={"teacher": settings, "candidates": 2})
    assert not (result.release / FILE[DISTILL]).exists()
    with pytest.raises(InputError, match="has nothing of which more can be made"):
        refine(images, tmp_path / "no", DISTILL, tmp_path / "run")


def changed(facts: Callable[[dict[str, Any]], Any], learned: Learned) -> Learned:
    found = json.loads(json.dumps(dict(learned.facts)))
    facts(found)
    return replace(learned, facts=found)


def without_a_number(learned: Learned) -> Learned:
    name, tensor = next((n, t) for n, t in learned.tensors.items() if t.is_floating_point())
    return replace(learned, tensors={**learned.tensors, name: torch.full_like(tensor, math.nan)})


def without_one(learned: Learned) -> Learned:
    return replace(learned, tensors=dict(list(learned.tensors.items())[1:]))


DAMAGES: dict[str, Callable[[Learned], Learned]] = {
    "not finite": without_a_number,
    "one tensor missing": without_one,
    "other classes": partial(changed, lambda facts: facts.update(class_names=["a", "b", "c"])),
    "another shape": partial(changed, lambda facts: facts.update(image_shape=[1, 16, 16])),
}
OF_ONE: dict[str, dict[str, Callable[[Learned], Learned]]] = {
    DIFFUSION: {
        "huge": partial(changed, lambda facts: facts.update(width=2**20)),
        "no width": partial(changed, lambda facts: facts.pop("width")),
        "a text": partial(changed, lambda facts: facts.update(patch="2")),
    },
    DISTILL: {
        "a file": partial(changed, lambda facts: facts["teacher"]["settings"].update(encoder="/etc/passwd")),
        "a library": partial(changed, lambda f: f["teacher"]["settings"].update(encoder="timm:resnet18")),
        "no teacher": partial(changed, lambda facts: facts.update(teacher=3)),
        "more settings": partial(changed, lambda facts: facts["teacher"]["settings"].update(steps=3)),
        "no noise": partial(changed, lambda facts: facts["teacher"].update(noise=0)),
        "no settings": partial(changed, lambda facts: facts["teacher"].pop("settings")),
    },
}


@both
def test_a_file_of_something_else_is_refused(images: Images, tmp_path: Path, method: str) -> None:
    """One that lies by itself is believed what it states, but not that it is a network."""
    file = synthesize(images, tmp_path / "run", method).release / FILE[method]
    learned, place = released(file), tmp_path / FILE[method]
    place.write_bytes(safetensors_bytes(learned.tensors, learned.facts))
    assert open_earlier(place)[1].facts == learned.facts
    before = spent_on(images)
    for damage in (DAMAGES | OF_ONE[method]).values():
        damaged = damage(learned)
        place.write_bytes(safetensors_bytes(damaged.tensors, damaged.facts))
        with pytest.raises(InputError, match="is nothing that synthesize released"):
            dpvision.synthesize_from(place, out=tmp_path / "no")
    assert spent_on(images) == before
    assert not (tmp_path / "no").exists()


def test_which_encoders_are_of_the_package() -> None:
    for name in ("patches", "pixels", "scattering", "wrn-10-4-small", "wrn-16-4-long+patches"):
        assert is_of_package(name)
    other = ("random-wrn-1000-1000", "vgg19", "timm:resnet18", "torchvision:resnet18", "inception")
    for name in (*other, "patches+vgg19", "own.safetensors", "no", ""):
        assert not is_of_package(name)
