"""synthesize with refine: two releases of the same sums are one with less noise, and both were paid for."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

import dpvision
from dpvision.api import Synthesis
from dpvision.cli.main import run as command
from dpvision.images import Images
from dpvision.methods.embedding import Embedding
from dpvision.networks.weights import FACTS, read_tensors, safetensors_bytes
from dpvision.privacy import InputError, Ledger, default_ledger_path
from dpvision.privacy.accounting import epsilon

CONFIG = {"steps": 2, "batch_size": 20, "latent_size": 3}
DELTA = 1e-3


@pytest.fixture
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (90, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(90) % 2, ("left", "right"), "made")


def synthesize(images: Images, out: Path, **options: Any) -> Synthesis:
    given = {"epsilon": 1.0, "delta": DELTA, "count": 10, "config": CONFIG, "method": "dp-mepf", **options}
    return dpvision.synthesize(images, out=out, **given)


def embedding(release: Path) -> Embedding:
    return Embedding.load(release / "embedding.safetensors")


def card_of(release: Path) -> tuple[dict[str, Any], str]:
    return json.loads((release / "card.json").read_text()), (release / "card.md").read_text()


def test_the_mean_of_two_releases_has_the_least_noise() -> None:
    sums = torch.zeros(1, 40_000)
    facts = {"class_names": [], "num_examples": 3}
    one, other = (
        Embedding({"first": sums + s * torch.randn(sums.shape)}, {**facts, "noise": s}) for s in (1.0, 3.0)
    )
    both = one.combined(other)
    assert both.facts["noise"] == pytest.approx(0.9**0.5)
    assert float(both.sums["first"].std()) == pytest.approx(0.9**0.5, rel=0.03)
    assert torch.allclose(both.sums["first"], other.combined(one).sums["first"])
    with pytest.raises(InputError, match="different features or images"):
        one.combined(Embedding(other.sums, {**other.facts, "num_examples": 4}))
    with pytest.raises(InputError, match="different features or images"):
        one.combined(Embedding({"first": sums[:, 1:]}, other.facts))


def test_both_releases_are_on_the_card_and_in_the_ledger(images: Images, tmp_path: Path) -> None:
    first = synthesize(images, tmp_path / "run")
    second = synthesize(
        images,
        tmp_path / "refined",
        refine=tmp_path / "run",
        epsilon=2.0,
        count=None,
        class_counts={"left": 4},
    )
    ledger = Ledger(default_ledger_path(images.digest))
    spent = [event for events in ledger.counted().values() for event in events]
    assert len(spent) == 2
    assert second.epsilon == epsilon(spent, DELTA)
    assert 2 < second.epsilon < 3
    card, text = card_of(second.release)
    parts = [part["epsilon"] for part in card["parts"]]
    assert parts[0] == first.epsilon
    assert parts[1] == pytest.approx(2, rel=1e-2)
    assert len(card["events"]) == len(card["mechanisms"]) == 2
    assert f"| 1 | {first.epsilon:.6g} | 0.001 |" in text
    assert "what 2 runs have released" in text
    assert dpvision.verify(tmp_path / "refined").holds
    before, after = embedding(first.release), embedding(second.release)
    assert after.facts["noise"] < 0.6 * before.facts["noise"]
    assert not torch.equal(before.sums["first"], after.sums["first"])
    again = dpvision.synthesize_from(
        second.release / "embedding.safetensors", out=tmp_path / "again", config=CONFIG
    )
    assert again.epsilon == second.epsilon
    assert dpvision.verify(tmp_path / "again").holds


def test_refined_again_with_the_same_budget(images: Images, tmp_path: Path) -> None:
    """Then two events are alike, and both count."""
    synthesize(images, tmp_path / "a")
    synthesize(images, tmp_path / "b", refine=tmp_path / "a")
    last = synthesize(images, tmp_path / "c", refine=tmp_path / "b" / "release")
    ledger = Ledger(default_ledger_path(images.digest))
    assert last.epsilon == epsilon([e for events in ledger.counted().values() for e in events], DELTA)
    card, _ = card_of(last.release)
    assert len(card["parts"]) == len(card["events"]) == 3
    noises = [embedding(tmp_path / name / "release").facts["noise"] for name in "abc"]
    assert noises[2] == pytest.approx(noises[0] / 3**0.5, rel=1e-3)
    assert dpvision.verify(tmp_path / "c").holds


def test_more_budget_brings_the_sums_nearer_to_the_private_ones(images: Images, tmp_path: Path) -> None:
    """By the difference of releases, for which nobody needs the private sums."""
    config = {**CONFIG, "encoder": "pixels", "encoder_options": {}}
    exact = embedding(synthesize(images, tmp_path / "exact", epsilon=5000, config=config).release).sums[
        "first"
    ]
    synthesize(images, tmp_path / "run", config=config)
    synthesize(images, tmp_path / "refined", refine=tmp_path / "run", epsilon=4)
    errors = [
        float((embedding(tmp_path / name / "release").sums["first"] - exact).square().mean().sqrt())
        for name in ("run", "refined")
    ]
    assert errors[1] < 0.5 * errors[0]
    facts = embedding(tmp_path / "refined" / "release").facts
    assert errors[1] == pytest.approx(facts["noise"], rel=0.3)


def test_an_interrupted_run_is_resumed(images: Images, tmp_path: Path) -> None:
    synthesize(images, tmp_path / "run")

    def interrupt(doing: str, done: int, total: int, account: object = None) -> None:
        if doing == interrupted:
            raise KeyboardInterrupt

    for interrupted in ("reading images", "fitting the generator"):
        out = tmp_path / interrupted
        with pytest.raises(KeyboardInterrupt):
            synthesize(images, out, refine=tmp_path / "run", progress=interrupt)
        resumed = dpvision.resume(out, data=images)
        assert isinstance(resumed, Synthesis)
        assert len(card_of(resumed.release)[0]["parts"]) == 2


def test_an_interrupted_run_goes_on_only_with_the_release_that_it_began_with(
    images: Images, tmp_path: Path
) -> None:
    synthesize(images, tmp_path / "run", method="dp-moments", config={})
    synthesize(images, tmp_path / "other", method="dp-moments", config={"emphasis": 1.0})

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "refined"
    with pytest.raises(KeyboardInterrupt):
        synthesize(images, out, refine=tmp_path / "run", method="dp-moments", config={}, progress=interrupt)
    (tmp_path / "run").rename(tmp_path / "before")
    (tmp_path / "other").rename(tmp_path / "run")
    with pytest.raises(InputError, match="is not the release that this run began with"):
        dpvision.resume(out, data=images)
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "before").rename(tmp_path / "run")
    dpvision.resume(out, data=images)


def test_of_a_release_that_was_changed_no_more_is_made(images: Images, tmp_path: Path) -> None:
    release = synthesize(images, tmp_path / "run", method="dp-moments", config={}).release
    file = release / "moments.safetensors"
    tensors, metadata = read_tensors(file)
    facts = json.loads(metadata[FACTS])
    facts["guarantee"]["epsilon"] = 0.001  # as if it had cost next to nothing
    file.write_bytes(safetensors_bytes(tensors, facts))
    spent = default_ledger_path(images.digest).read_bytes()
    for place in (tmp_path / "run", release):
        with pytest.raises(InputError, match="does not hold what it states"):
            synthesize(images, tmp_path / "no", refine=place, method="dp-moments", config={})
    for place in (tmp_path / "run", release, file):
        with pytest.raises(InputError, match="does not hold what it states"):
            dpvision.synthesize_from(place, out=tmp_path / "no")
    assert not (tmp_path / "no").exists()
    assert default_ledger_path(images.digest).read_bytes() == spent


def test_what_cannot_be_refined(images: Images, tmp_path: Path) -> None:
    release = synthesize(images, tmp_path / "run").release
    shutil.copytree(release, tmp_path / "copy")
    other = replace(images, pixels=255 - images.pixels)
    for bad, refine, options, message in (
        (other, tmp_path / "run", {}, "was made of other images; give those"),
        (other.subset(range(80)), tmp_path / "copy", {}, "was made with N 90, not 80"),
        (replace(images, class_names=("a", "b")), tmp_path / "copy", {}, "was made with the classes"),
        (images.with_units(list(range(90))), tmp_path / "run", {}, "both must protect the same"),
        (images, tmp_path / "nosuch", {}, "config.json is missing"),
        (
            images,
            tmp_path / "run",
            {"config": {"count_weight": 1.0}},
            "count_weight is part of what was released",
        ),
        (images, tmp_path / "run", {"config": {"nosuch": 1}}, "no setting 'nosuch'"),
    ):
        with pytest.raises(InputError, match=message):
            synthesize(bad, tmp_path / "no", refine=refine, **options)  # type: ignore[arg-type]
        assert not (tmp_path / "no").exists()
    dpvision.train(
        images, epsilon=2, method="dp-ridge", config={"encoder": "pixels"}, out=tmp_path / "classifier"
    )
    with pytest.raises(InputError, match="has nothing of which more can be made"):
        synthesize(images, tmp_path / "no", refine=tmp_path / "classifier")
    assert len(Ledger(default_ledger_path(images.digest)).summary()["runs"]) == 2


def test_a_refined_run_that_was_not_private_stays_so(images: Images, tmp_path: Path) -> None:
    synthesize(images, tmp_path / "run", seed=1)
    card, text = card_of(synthesize(images, tmp_path / "refined", refine=tmp_path / "run").release)
    assert card["is_private"] is False
    assert "# NOT PRIVATE" in text


def test_a_seed_that_all_runs_have_draws_each_noise_of_its_own(images: Images, tmp_path: Path) -> None:
    first = synthesize(images, tmp_path / "1", seed=1)
    second = synthesize(images, tmp_path / "2", refine=tmp_path / "1", seed=1)
    third = synthesize(images, tmp_path / "3", refine=tmp_path / "2", seed=1)
    known = [embedding(run.release) for run in (first, second, third)]
    noise = [known[0].facts["noise"] / count**0.5 for count in (1, 2, 3)]
    assert [of.facts["noise"] for of in known] == pytest.approx(noise, rel=1e-3)
    one, of_two, of_three = (of.sums["first"] * count for count, of in enumerate(known, 1))
    for here, other in combinations((one, of_two - one, of_three - of_two), 2):
        assert float((here - other).std()) == pytest.approx(noise[0] * 2**0.5, rel=0.1)


def test_an_owners_limit_holds_for_both(
    images: Images, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "dpvision")
    synthesize(images, tmp_path / "run")
    Ledger(default_ledger_path(images.digest)).set_limit(dpvision.Budget(1.2, DELTA))
    with pytest.raises(InputError, match=r"limit of 1\.2"):
        synthesize(images, tmp_path / "refined", refine=tmp_path / "run")
    assert "no ledger of" not in caplog.text
    planned = dpvision.plan(
        images, epsilon=1.0, delta=DELTA, method="dp-mepf", refine=tmp_path / "run", config=CONFIG
    )
    assert not planned.allowed
    assert planned.epsilon_after > 1.2


def test_from_the_command_line_and_as_a_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, fast = "bundled:digits", ["--count", "200", "--balanced"]
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    assert command(["synthesize", data, "--epsilon", "2", "--out", first, *fast]) == 0
    assert (
        command(["synthesize", data, "--epsilon", "2", "--refine", first, "--out", second, *fast, "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 2 < found["epsilon"] < 4
    refused = ["synthesize", "--from-release", "e", "--refine", first, "--out", str(tmp_path / "c")]
    assert command(refused) == 2
    assert "--refine has no use with --from-release" in capsys.readouterr().err
    mix = ["--method", "dp-mix-diff", "--pool", second, "--set", "network=linear", "--set", "steps=2"]
    assert command(["train", data, "--epsilon", "1", "--out", str(tmp_path / "model"), *mix]) == 0
    shown = capsys.readouterr()
    assert "no ledger of" not in shown.err
    card, _ = card_of(tmp_path / "model" / "release")
    both = card["pool"]["guarantee"]["with_this_run"]["epsilon"]
    assert f"  with its pool    {both:.6g} at delta 1e-05" in shown.out
    assert card["pool"]["guarantee"]["with_this_run"]["epsilon"] > found["epsilon"]
