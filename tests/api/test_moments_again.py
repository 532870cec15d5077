"""More is made of what dp-moments released at no cost, and its second step is released again to refine it."""

from __future__ import annotations

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
from dpvision.methods.moments import Centred, Moments, first_sums, second_sums
from dpvision.networks.weights import safetensors_bytes
from dpvision.privacy import InputError
from dpvision.privacy.accounting import epsilon
from tests.api.taken_up import card_of, released, spent_on
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


def moments_of(learned: Learned, images: Images) -> Moments:
    method, facts = DPMoments(), facts_of(images)
    settings = method.settings_of_release(learned)
    return method.default_config(facts, dpvision.Budget(1.0, DELTA), CPU, settings).moments(facts)


def part(learned: Learned, step: str) -> dict[str, Tensor]:
    return {n.removeprefix(f"{step}."): t for n, t in learned.tensors.items() if n.startswith(f"{step}.")}


def centred_of(learned: Learned, images: Images) -> Centred:
    """The second step that follows from what the first has released, and nothing else is in the release."""
    facts, moments = learned.facts, moments_of(learned, images)
    first, about = part(learned, "first"), part(learned, "about")
    centred = moments.centred(first, facts["noise"][0], len(images), facts["least_spread"])
    torch.testing.assert_close(about["means"].double(), centred.means, rtol=1e-4, atol=1e-5)
    assert float(about["spread"]) == pytest.approx(centred.spread, rel=1e-4)
    return centred


def noises_on_the_card(run: Path, last: int) -> list[float]:
    """Of the last releases of each of the two steps, by the noise multiplier times the sensitivity."""
    mechanisms = card_of(run)["mechanisms"][-last:]
    return [
        one["noise_multiplier"] * one["sensitivity"]
        for name in ("sums of images", "second moments")
        for one in mechanisms
        if name in one["name"]
    ]


@pytest.mark.parametrize("place", ["run", "run/release", "run/release/moments.safetensors"])
def test_more_is_made_of_a_release_at_no_cost(images: Images, tmp_path: Path, place: str) -> None:
    first = synthesize(images, tmp_path / "run")
    before = spent_on(images)
    again = dpvision.synthesize_from(
        tmp_path / place, out=tmp_path / "again", count=7, config={"rank": 3, "warps": False}
    )
    assert spent_on(images) == before
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


def test_a_release_that_does_not_say_what_its_second_step_was_about_is_refused(
    images: Images, tmp_path: Path
) -> None:
    """Means that another version makes of the first step would be others, and it would be misread."""
    file = synthesize(images, tmp_path / "run").release / "moments.safetensors"
    kept = released(tmp_path / "run")
    sums = {name: tensor for name, tensor in kept.tensors.items() if not name.startswith("about.")}
    file.write_bytes(safetensors_bytes(sums, kept.facts))
    with pytest.raises(InputError, match=r"moments\.safetensors was released by an earlier version"):
        dpvision.synthesize_from(file, out=tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_release_is_read_as_it_was_made_whatever_would_be_made_of_its_first_step(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthesize(images, tmp_path / "run", seed=1)
    centred = Moments.centred

    def otherwise(*arguments: Any) -> Centred:
        one = centred(*arguments)
        return replace(one, means=one.means + 1, spread=2 * one.spread)

    monkeypatch.setattr(Moments, "centred", otherwise)
    again = dpvision.synthesize_from(tmp_path / "run", out=tmp_path / "again", seed=2)
    monkeypatch.undo()
    as_ever = dpvision.synthesize_from(tmp_path / "run", out=tmp_path / "as ever", seed=2)
    for name, tensor in as_ever.generator.state_dict().items():
        assert torch.equal(again.generator.state_dict()[name], tensor)


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
    assert len(spent_on(images)) == 2


def test_a_release_tells_nothing_of_how_it_was_learned(images: Images, tmp_path: Path) -> None:
    """Of images of the same declared number, all that it says beside its sums is alike."""
    found = []
    for name, of in (("all", images), ("one less", images.subset(range(89)))):
        synthesize(of, tmp_path / name, num_examples=130, seed=5)
        found.append(released(tmp_path / name).facts)
    assert found[0] == found[1]
    public = {"method", "noise", "least_spread", "num_examples", "image_shape", "class_names", "guarantee"}
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
    events = spent_on(images)
    assert len(events) == 4
    assert second.epsilon == epsilon(events, DELTA)
    assert 2 < second.epsilon < 3
    card = card_of(tmp_path / "refined")
    assert [part["epsilon"] for part in card["parts"]] == pytest.approx([first.epsilon, 2], rel=1e-2)
    assert len(card["events"]) == len(card["mechanisms"]) == 4
    assert "what 2 runs have released" in (second.release / "card.md").read_text()
    assert dpvision.verify(tmp_path / "refined").holds
    again = dpvision.synthesize_from(tmp_path / "refined", out=tmp_path / "again")
    assert again.epsilon == second.epsilon
    assert dpvision.verify(tmp_path / "again").holds


@pytest.mark.parametrize(("more", "share_of_means"), [(2.0, 0.3), (500.0, 0.3), (500.0, 1e-5)])
def test_both_steps_are_released_again_with_the_noise_that_was_recorded(
    images: Images, tmp_path: Path, more: float, share_of_means: float
) -> None:
    """What the second run has released is found by the weights of the two: its noise is that of the events on
    the card, about exact sums, and the exact second moments are about the means that both runs know.
    """
    config = {"share_of_means": share_of_means}
    synthesize(images, tmp_path / "run", config=config)
    synthesize(images, tmp_path / "refined", refine=tmp_path / "run", epsilon=more)
    before, after = released(tmp_path / "run"), released(tmp_path / "refined")
    of_means, of_rest = noises_on_the_card(tmp_path / "refined", 2)
    noise = before.facts["noise"][0]
    assert after.facts["noise"][0] == pytest.approx(noise * of_means / math.hypot(noise, of_means))
    share, exact = (after.facts["noise"][0] / noise) ** 2, first_sums(moments_of(before, images), images, CPU)
    found = [
        (total - share * part(before, "first")[name]) / (1 - share) - exact[name]
        for name, total in part(after, "first").items()
    ]
    assert float(torch.cat([one.flatten() for one in found]).std()) == pytest.approx(of_means, rel=0.35)
    one, both = centred_of(before, images), centred_of(after, images)
    second = one.moments.second
    moved, noise = both.moved(second.matrices(part(before, "second")), before.facts["noise"][1], one)
    assert after.facts["noise"][1] == pytest.approx(noise * of_rest / math.hypot(noise, of_rest))
    share = (after.facts["noise"][1] / noise) ** 2
    sums, old = part(after, "second")["moments"], second.triangles(moved)["moments"]
    again = (sums - share * old) / (1 - share) - second_sums(both, images, CPU)["moments"]
    assert float(again.std()) == pytest.approx(of_rest, rel=0.05)
    assert abs(float(again.mean())) < 0.1 * of_rest
    fresh = synthesize(images, tmp_path / "alone", epsilon=more, config=config)
    alone = released(fresh.release).facts["noise"]
    assert alone == pytest.approx([of_means, of_rest], rel=1e-2)


def test_moments_about_other_means_are_brought_to_these(images: Images) -> None:
    """Exactly so where nothing was shortened."""
    moments = Moments((1, 8, 8), 2, 0.25, 3.0, 0.2)
    first = first_sums(moments, images, CPU)
    one = moments.centred(first, 0.0, len(images))
    other = replace(one, means=one.means + torch.linspace(-1, 1, 64), spread=2 * one.spread)
    sums = [moments.second.matrices(second_sums(some, images, CPU)) for some in (one, other)]
    moved, _ = one.moved(sums[1], 1.5, other)
    torch.testing.assert_close(moved, sums[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("spread", "away"), [(1.0, 0.0), (4.0, 0.1), (0.1, 0.0), (1.0, 1.0), (2.0, 10.0)])
def test_noise_that_is_brought_to_other_means_is_known(images: Images, spread: float, away: float) -> None:
    """So far off as the means of a small budget may be, it is most of what is moved."""
    moments = Moments((1, 8, 8), None, 0.25, 1.0, 0.2)
    one = moments.centred(first_sums(moments, images, CPU), 0.0, len(images))
    random = torch.Generator().manual_seed(0)
    means = one.means + away * torch.randn(64, generator=random)
    other = replace(one, means=means, spread=spread * one.spread)
    # What is released is on and above the diagonal.
    drawn = torch.randn(1000, 65, 65, generator=random, dtype=torch.float64)
    noise = drawn.triu(1) / math.sqrt(2)
    noise = 1.5 * (noise + noise.transpose(1, 2) + torch.diag_embed(drawn.diagonal(dim1=1, dim2=2)))
    squares = 0.0
    for each in noise:
        moved, stated = one.moved(each[None], 1.5, other)
        squares += float(one.moments.second.triangles(moved)["moments"][0, :].square().mean()) / len(noise)
    assert squares**0.5 == pytest.approx(stated, rel=0.1)


def test_the_bound_is_not_below_what_is_known_of_distances(images: Images) -> None:
    """The first step says little of the mean squared distance, and the second much, if not all."""
    moments = Moments((1, 8, 8), 2, 0.25, 1.0, 0.2)
    right = moments.centred(first_sums(moments, images, CPU), 0.0, len(images))
    large = replace(right, spread=4 * right.spread)
    sums = moments.second.matrices(second_sums(large, images, CPU))
    assert large.least_spread(sums, 0.0) == pytest.approx(right.spread, rel=0.01)
    assert 0.5 * right.spread < large.least_spread(sums, 0.05) < right.spread
    small = replace(right, spread=0.01 * right.spread)
    assert small.least_spread(moments.second.matrices(second_sums(small, images, CPU)), 0.0) <= small.spread
    assert large.least_spread(sums, 100.0) == 0
    known = moments.centred(first_sums(moments, images, CPU), 0.0, len(images), 2 * right.spread)
    assert known.spread == 2 * right.spread


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
    assert dpvision.resume(tmp_path / "2").epsilon == epsilon(spent_on(images), DELTA)
    noises = [released(tmp_path / str(number)).facts["noise"][0] for number in range(3)]
    again, _ = noises_on_the_card(tmp_path / "2", 2)
    assert noises[2] == pytest.approx((noises[0] ** -2 + 2 * again**-2) ** -0.5)


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
    assert [stage.count for stage in planned.stages] == [1, 1]
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
    with pytest.raises(InputError, match=r"there is no guarantee.json, so no file can be checked"):
        open_earlier(tmp_path / "run")
    (file.parent / "card.json").unlink()
    for place in (tmp_path / "run", file.parent, file):
        with pytest.raises(InputError, match=r"has no guarantee.json, and"):
            open_earlier(place)
    (tmp_path / "files").mkdir()
    for name in (file.name, "encoder.safetensors"):
        shutil.copy(file.parent / name, tmp_path / "files")
    assert open_earlier(tmp_path / "files" / file.name)[0].name == "dp-mepf"
