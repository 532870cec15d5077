"""More is made of what dp-moments released at no cost, and its second step is released again to refine it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dpvision
from dpvision.api import Synthesis
from dpvision.api.releases import open_earlier
from dpvision.images import Images
from dpvision.methods import Learned
from dpvision.methods.dp_moments import OF_RELEASE, DPMoments
from dpvision.methods.moments import second_sums
from dpvision.privacy import InputError, Ledger, default_ledger_path
from dpvision.privacy.accounting import epsilon
from tests.methods.learning import CPU, facts_of

DELTA = 1e-3


@pytest.fixture
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (90, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(90) % 3 // 2, ("many", "few"), "made")


def synthesize(images: Images, out: Path, **options: Any) -> Synthesis:
    given = {"epsilon": 1.0, "delta": DELTA, "count": 10, "config": {"rank": 9}, **options}
    return dpvision.synthesize(images, out=out, **given)


def released(place: Path) -> Learned:
    return open_earlier(place)[1]


def card_of(run: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((run / "release" / "card.json").read_text())
    return card


def spent(images: Images) -> list[Any]:
    ledger = Ledger(default_ledger_path(images.digest))
    return [event for events in ledger.counted().values() for event in events]


def exact_second_step(learned: Learned, images: Images) -> Tensor:
    """The second moments about the released means without noise."""
    method, facts = DPMoments(), facts_of(images)
    settings = method.settings_of_release(learned)
    moments = method.default_config(facts, dpvision.Budget(1.0, DELTA), CPU, settings).moments(facts)
    first = {n.removeprefix("first."): t for n, t in learned.tensors.items() if n.startswith("first.")}
    centred = moments.centred(first, learned.facts["noise"][0], len(images))
    return second_sums(centred, images, CPU)["moments"]


@pytest.mark.parametrize("place", ["run", "run/release", "run/release/moments.safetensors"])
def test_more_is_made_of_a_release_at_no_cost(images: Images, tmp_path: Path, place: str) -> None:
    first = synthesize(images, tmp_path / "run")
    before = spent(images)
    again = dpvision.synthesize_from(
        tmp_path / place, out=tmp_path / "again", count=7, config={"rank": 3, "warps": False}
    )
    assert spent(images) == before
    assert (again.epsilon, again.delta, again.count) == (first.epsilon, first.delta, 7)
    assert again.generator.config["rank"] == 3
    card, other = card_of(tmp_path / "again"), card_of(tmp_path / "run")
    for name in ("events", "mechanisms", "num_examples", "moments"):
        assert name == "moments" or card[name] == other[name]
    assert card["moments"]["noise_standard_deviations"] == other["moments"]["noise_standard_deviations"]
    assert (card["config"]["rank"], card["config"]["size"]) == (3, 8)
    file = "moments.safetensors"
    assert (again.release / file).read_bytes() == (first.release / file).read_bytes()
    assert dpvision.verify(tmp_path / "again").holds


def test_what_was_released_stays_as_it_is(images: Images, tmp_path: Path) -> None:
    synthesize(images, tmp_path / "run")
    kept = DPMoments().settings_of_release(released(tmp_path / "run"))
    assert kept.keys() == {"labelled", *OF_RELEASE}
    for name, value in kept.items():
        options: dict[str, Any] = {"out": tmp_path / "no", "config": {name: value}}
        with pytest.raises(InputError, match=f"{name} is part of what was released in"):
            dpvision.synthesize_from(tmp_path / "run", **options)
        with pytest.raises(InputError, match=f"{name} is part of what was released in"):
            synthesize(images, refine=tmp_path / "run", **options)
    assert not (tmp_path / "no").exists()
    assert len(spent(images)) == 2


def test_a_release_tells_nothing_of_how_it_was_learned(images: Images, tmp_path: Path) -> None:
    """Of images of the same declared number, all that it says beside its sums is alike."""
    found = []
    for name, of in (("all", images), ("one less", images.subset(range(89)))):
        synthesize(of, tmp_path / name, num_examples=130, seed=5)
        found.append(released(tmp_path / name).facts)
    assert found[0] == found[1]
    public = {"method", "noise", "num_examples", "image_shape", "class_names", "guarantee"}
    assert found[0].keys() == public | set(OF_RELEASE)
    assert found[0]["num_examples"] == found[0]["guarantee"]["num_examples"] == 130


def test_of_units_and_without_labels(images: Images, tmp_path: Path) -> None:
    some = images.with_units(torch.arange(90) % 45)
    synthesize(some, tmp_path / "run", config={"labelled": False})
    again = dpvision.synthesize_from(tmp_path / "run", out=tmp_path / "again")
    assert (again.generator.class_names, again.count) == ((), 45)
    assert dpvision.verify(tmp_path / "again").unit == "unit"
    refined = synthesize(some, tmp_path / "refined", refine=tmp_path / "run", config={})
    assert refined.generator.class_names == ()
    assert "45 units" not in (refined.release / "card.md").read_text()
    assert dpvision.verify(tmp_path / "refined").unit == "unit"


def test_both_releases_are_on_the_card_and_in_the_ledger(images: Images, tmp_path: Path) -> None:
    first = synthesize(images, tmp_path / "run")
    second = synthesize(images, tmp_path / "refined", refine=tmp_path / "run", epsilon=2.0)
    events = spent(images)
    assert len(events) == 3
    assert second.epsilon == epsilon(events, DELTA)
    assert 2 < second.epsilon < 3
    card = card_of(tmp_path / "refined")
    assert [part["epsilon"] for part in card["parts"]] == pytest.approx([first.epsilon, 2], rel=1e-2)
    assert len(card["events"]) == len(card["mechanisms"]) == 3
    assert "what 2 runs have released" in (second.release / "card.md").read_text()
    assert dpvision.verify(tmp_path / "refined").holds
    again = dpvision.synthesize_from(tmp_path / "refined", out=tmp_path / "again")
    assert again.epsilon == second.epsilon
    assert dpvision.verify(tmp_path / "again").holds


@pytest.mark.parametrize("more", [2.0, 500.0])
def test_the_second_release_has_the_whole_budget_and_the_noise_that_was_recorded(
    images: Images, tmp_path: Path, more: float
) -> None:
    """The means stay, and so does the bound. Of the mean of both releases the second is found by the weights,
    and its noise is that of the event that the ledger has.
    """
    synthesize(images, tmp_path / "run")
    synthesize(images, tmp_path / "refined", refine=tmp_path / "run", epsilon=more)
    before, after = released(tmp_path / "run"), released(tmp_path / "refined")
    for name in ("first.first", "first.counts"):
        assert torch.equal(before.tensors[name], after.tensors[name])
    bounds = [card_of(tmp_path / name)["moments"]["bound"] for name in ("run", "refined")]
    assert bounds[0] == bounds[1]
    (of_means, one), (kept, joint) = before.facts["noise"], after.facts["noise"]
    assert of_means == kept
    recorded = spent(images)[2].noise_multiplier  # the sensitivity is one
    assert joint == pytest.approx(one * recorded / math.hypot(one, recorded))
    exact, name = exact_second_step(before, images), "second.moments"
    assert float((after.tensors[name] - exact).std()) == pytest.approx(joint, rel=0.05)
    share = (joint / one) ** 2
    second = (after.tensors[name] - share * before.tensors[name]) / (1 - share)
    assert float((second - exact).std()) == pytest.approx(recorded, rel=0.05)
    assert abs(float((second - exact).mean())) < 0.1 * recorded
    alone = synthesize(images, tmp_path / "alone", epsilon=more, config={"share_of_means": 1e-6})
    assert released(alone.release).facts["noise"][1] == pytest.approx(recorded, rel=1e-2)


def interrupt(what: str, doing: str, done: int, total: int, account: object = None) -> None:
    if doing == what:
        raise KeyboardInterrupt


def test_refined_again_and_taken_up(images: Images, tmp_path: Path) -> None:
    synthesize(images, tmp_path / "0")
    what = ("reading images for what differs from the means", "making the laws of classes")
    for number, interrupted in enumerate(what):
        out = tmp_path / str(number + 1)
        stop = partial(interrupt, interrupted)
        with pytest.raises(KeyboardInterrupt):
            synthesize(images, out, refine=tmp_path / str(number), progress=stop)
        assert isinstance(dpvision.resume(out, data=images), Synthesis)
    assert len(card_of(tmp_path / "2")["parts"]) == 3
    assert dpvision.resume(tmp_path / "2").epsilon == epsilon(spent(images), DELTA)
    one, _, last = (released(tmp_path / str(number)).facts["noise"][1] for number in range(3))
    again = spent(images)[-1].noise_multiplier
    assert last == pytest.approx((one**-2 + 2 * again**-2) ** -0.5)


def test_the_method_of_a_refined_run_is_that_of_the_earlier_one(images: Images, tmp_path: Path) -> None:
    fit = {"steps": 1, "batch_size": 20, "latent_size": 3}
    synthesize(images, tmp_path / "mepf", method="dp-mepf", config=fit)
    synthesize(images, tmp_path / "moments")
    synthesize(images, tmp_path / "refined", refine=tmp_path / "mepf", config=fit)
    assert card_of(tmp_path / "refined")["method"] == "refine:dp-mepf"
    with pytest.raises(InputError, match="moments is of dp-moments, which alone can refine it, not dp-mepf"):
        synthesize(images, tmp_path / "no", refine=tmp_path / "moments", method="dp-mepf")
    planned = dpvision.plan(images, epsilon=1, delta=DELTA, refine=tmp_path / "moments")
    assert planned.method == "refine:dp-moments"
    assert [stage.count for stage in planned.stages] == [1]
    other = replace(images, pixels=255 - images.pixels)
    shutil.copytree(tmp_path / "moments" / "release", tmp_path / "copy")
    with pytest.raises(InputError, match="was made of other images; give those"):
        synthesize(other, tmp_path / "no", refine=tmp_path / "moments")
    with pytest.raises(InputError, match="was made with N 90, not 80"):
        synthesize(other.subset(range(80)), tmp_path / "no", refine=tmp_path / "copy")
    assert not (tmp_path / "no").exists()


def test_a_release_of_an_earlier_version_names_no_method(images: Images, tmp_path: Path) -> None:
    fit = {"steps": 1, "batch_size": 20, "latent_size": 3}
    synthesize(images, tmp_path / "run", method="dp-mepf", config=fit)
    file = tmp_path / "run" / "release" / "embedding.safetensors"
    content = file.read_bytes()
    named = b'\\"method\\": \\"dp-mepf\\", '
    assert named in content
    length = int.from_bytes(content[:8], "little") - len(named)
    file.write_bytes(length.to_bytes(8, "little") + content[8:].replace(named, b"", 1))
    (file.parent / "guarantee.json").unlink()  # which they do not have either
    assert open_earlier(tmp_path / "run")[0].name == "dp-mepf"
