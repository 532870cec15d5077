"""A release of synthesize as a data set and as a pool: what both runs cost is in one account."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import dpvision
from dpvision.api import Synthesis
from dpvision.api.priors import train_prior
from dpvision.cli.main import run as command
from dpvision.images import Images, ImageSet, open_images
from dpvision.priors.phase_one.contrastive import ContrastiveConfig
from dpvision.privacy import InputError, Ledger, default_ledger_path
from dpvision.views import open_pool

NAMES = ("right", "left")  # not in the order of the folders
DELTA = 1e-3
CONFIG: dict[str, Any] = {"rank": 5}
MIX: dict[str, Any] = {"network": "linear", "steps": 2, "expected_batch_size": 20, "augmult": 2, "k_self": 2}


@pytest.fixture
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (90, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(90) % 2, NAMES, "made")


def synthesize(images: Images, out: Path, **options: Any) -> Synthesis:
    given = {"epsilon": 1.0, "delta": DELTA, "count": 20, "balanced": True, "config": CONFIG, **options}
    return dpvision.synthesize(images, out=out, **given)


def train(images: Images, pool: Path, out: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """Train with a pool; return the card."""
    config = {**MIX, "pool": str(pool)}
    given = {"epsilon": 2.0, "delta": DELTA, "method": "dp-mix-diff", "config": config, **options}
    release = dpvision.train(images, out=out, **given).release
    return json.loads((release / "card.json").read_text()), (release / "card.md").read_text()


@pytest.mark.parametrize("form", ["png", "npz", "parquet"])
def test_a_run_and_its_release_are_a_data_set(images: Images, tmp_path: Path, form: str) -> None:
    result = synthesize(images, tmp_path / "run", formats=(form,))
    for place in (tmp_path / "run", result.release):
        found = open_images(place)
        assert (len(found), found.shape, found.class_names) == (20, (1, 8, 8), NAMES)
        assert found.labels is not None
        assert found.labels.bincount().tolist() == [10, 10]
        other = open_images(place, classes=("left", "right"), size=16)
        assert other.shape == (1, 16, 16)
        assert other.with_classes(NAMES).labels.tolist() == found.labels.tolist()  # type: ignore[union-attr]
    assert command(["data", str(tmp_path / "run")]) == 0
    trained = dpvision.train(
        tmp_path / "run", epsilon=50, method="dp-ridge", config={"encoder": "pixels"}, out=tmp_path / "b"
    )
    assert isinstance(dpvision.evaluate(tmp_path / "b", tmp_path / "run").accuracy.total, int)
    assert trained.model.class_names == NAMES


def test_unlabelled_releases_and_runs_that_released_no_images(images: Images, tmp_path: Path) -> None:
    synthesize(images, tmp_path / "run", balanced=False, config={**CONFIG, "labelled": False})
    assert open_images(tmp_path / "run", labelled=None).labels is None
    with pytest.raises(InputError, match="no class folders"):
        open_images(tmp_path / "run")
    dpvision.train(
        images, epsilon=2, method="dp-ridge", config={"encoder": "pixels"}, out=tmp_path / "classifier"
    )
    with pytest.raises(InputError, match="released no images; give a run of dpvision synthesize"):
        open_images(tmp_path / "classifier")
    shutil.rmtree(tmp_path / "run" / "release")
    with pytest.raises(InputError, match="is not complete; resume it first"):
        open_images(tmp_path / "run")


def run_command(*arguments: object) -> None:
    assert command([str(one) for one in arguments]) == 0


PLACES = [
    *("run", "run/release", "run/release/images/png", "more", "archive", "archive/images.parquet"),
    *("as-parquet", "as-parquet/data", "as-folder", "converted-twice"),
]


@pytest.mark.parametrize("place", PLACES)
def test_what_a_pool_has_cost_is_on_the_card_as_the_ledger_has_it(
    images: Images, tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = synthesize(images, tmp_path / "run")
    if place == "more":
        dpvision.sample(tmp_path / "run", out=tmp_path / "more", count=30, balanced=True)
    elif place.startswith("archive"):
        counts = {"left": 4, "right": 5}
        dpvision.sample(tmp_path / "run", out=tmp_path / "archive", class_counts=counts, format="parquet")
    elif place.startswith(("as-", "converted")):
        for to in ("parquet", "folder"):
            run_command("data", tmp_path / "run", "--to", to, tmp_path / f"as-{to}")
        run_command("data", tmp_path / "as-folder", "--to", "parquet", tmp_path / "converted-twice")
    card, text = train(images, tmp_path / place, tmp_path / "model")
    guarantee = card["pool"]["guarantee"]
    assert guarantee["epsilon"] == first.epsilon
    assert 1.9 < card["epsilon"] <= 2
    both = guarantee["with_this_run"]
    assert max(first.epsilon, card["epsilon"]) < both["epsilon"] < first.epsilon + card["epsilon"]
    ledger = Ledger(default_ledger_path(images.digest))
    assert len(ledger.summary()["runs"]) == 2
    spent = [event for events in ledger.counted().values() for event in events]
    assert both == {"epsilon": dpvision_epsilon(spent), "delta": DELTA}
    assert "synthetic ones, which an earlier run made of private images" in text
    assert f"(ε, δ) = ({both['epsilon']:.4g}, 0.001) private" in text
    assert "which no guarantee covers" not in text
    assumed = json.loads((tmp_path / "model/release/guarantee.json").read_text())["assumed"]
    assert any(f"both cost epsilon {both['epsilon']:.6g}" in one["says"] for one in assumed)
    assert not any("holds none of the private ones" in one["says"] for one in assumed)
    assert dpvision.verify(tmp_path / "model").holds
    assert "no ledger of" not in caplog.text


@pytest.mark.parametrize("format_", ["png", "npz", "parquet"])
def test_a_copy_of_drawn_images_says_what_is_guaranteed_of_them(
    images: Images, tmp_path: Path, format_: Any
) -> None:
    first = synthesize(images, tmp_path / "run")
    dpvision.sample(tmp_path / "run", out=tmp_path / "more", count=8, balanced=True, format=format_)
    run_command("data", tmp_path / "more", "--to", "folder", tmp_path / "copy")
    guarantee = open_pool(tmp_path / "copy", images.shape, NAMES).guarantee
    assert guarantee is not None
    assert guarantee["epsilon"] == first.epsilon


def test_a_part_of_a_copy_is_no_pool(images: Images, tmp_path: Path) -> None:
    synthesize(images, tmp_path / "run")
    run_command("data", tmp_path / "run", "--to", "folder", tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "right")
    for part in ("copy", "copy/left"):
        with pytest.raises(InputError, match=r"has 10 images and not the 20 of its pool\.json"):
            open_pool(tmp_path / part, images.shape, NAMES)


def test_a_copy_that_cannot_say_it_is_not_made(
    images: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = synthesize(images, tmp_path / "run").release
    copy = tmp_path / "copy.npz"
    assert command(["data", str(tmp_path / "run"), "--to", "npz", str(copy)]) == 2
    assert "which one .npz file would lose; convert to parquet or folder" in capsys.readouterr().err
    (release / "images" / "png" / "left" / "000000.png").unlink()
    assert command(["data", str(tmp_path / "run"), "--to", "folder", str(tmp_path / "copy")]) == 2
    assert "was removed since the release" in capsys.readouterr().err
    assert {entry.name for entry in tmp_path.iterdir()} == {"run"}


def test_released_images_are_no_public_ones_for_a_prior(images: Images, tmp_path: Path) -> None:
    synthesize(images, tmp_path / "run")
    dpvision.sample(tmp_path / "run", out=tmp_path / "more", count=8)
    for place in ("run", "more"):
        with pytest.raises(InputError, match="made of private ones, and a prior says nowhere what that cost"):
            train_prior(ContrastiveConfig(), tmp_path / "p.safetensors", public_images=tmp_path / place)


def dpvision_epsilon(events: Any) -> float:
    from dpvision.privacy.accounting import epsilon

    return epsilon(events, DELTA, "add_or_remove_one")


def test_an_owners_limit_counts_both(images: Images, tmp_path: Path) -> None:
    synthesize(images, tmp_path / "run")
    ledger = Ledger(default_ledger_path(images.digest))
    ledger.set_limit(dpvision.Budget(2.0, DELTA))
    with pytest.raises(InputError, match="limit of 2"):
        train(images, tmp_path / "run", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_card_tells_nothing_of_whose_images_the_pool_was_made_of(images: Images, tmp_path: Path) -> None:
    """That they are the same is private: the card says alike what holds if they are."""
    synthesize(images, tmp_path / "run")
    other = Images(255 - images.pixels, images.labels, NAMES, "made")
    same, others = (
        train(of, tmp_path / "run", tmp_path / name)[0] for of, name in ((images, "a"), (other, "b"))
    )
    assert same["pool"] == others["pool"]
    assert same.keys() == others.keys()


def test_a_ledger_that_does_not_know_of_the_pool(
    images: Images, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "dpvision")
    synthesize(images, tmp_path / "run")
    shutil.copytree(tmp_path / "run" / "release", tmp_path / "copy")
    other = Images(255 - images.pixels, images.labels, NAMES, "made")
    train(images, tmp_path / "copy", tmp_path / "a")
    train(other, tmp_path / "run", tmp_path / "b")  # which knows of which images it was made
    assert "no ledger of" not in caplog.text
    train(other, tmp_path / "copy", tmp_path / "c")
    assert "no ledger of made has what that cost: if it was made of these" in caplog.text
    caplog.clear()
    shutil.rmtree(default_ledger_path(images.digest).parent.parent)
    card, _ = train(images, tmp_path / "run", tmp_path / "d")
    assert "no ledger of made has what that cost" in caplog.text
    assert card["pool"]["guarantee"]["with_this_run"]["epsilon"] > card["epsilon"]


def test_images_that_were_trained_on_as_private_ones_are_a_pool_still(images: Images, tmp_path: Path) -> None:
    result = synthesize(images, tmp_path / "run")
    ridge: Any = {"epsilon": 2, "method": "dp-ridge", "config": {"encoder": "pixels"}}
    dpvision.train(result.release / "images" / "png", out=tmp_path / "other", **ridge)
    train(images, tmp_path / "run", tmp_path / "model")


def test_a_release_that_was_changed_is_refused(images: Images, tmp_path: Path) -> None:
    release = synthesize(images, tmp_path / "run").release
    file = release / "images" / "png" / "left" / "000000.png"
    content = file.read_bytes()
    file.write_bytes((release / "images" / "png" / "left" / "000001.png").read_bytes())
    with pytest.raises(InputError, match="was changed since the release"):
        train(images, tmp_path / "run", tmp_path / "model")
    file.rename(release / "images" / "png" / "left" / "other.png")
    with pytest.raises(InputError, match="was removed since the release"):
        train(images, tmp_path / "run", tmp_path / "model")
    file.write_bytes(content)
    with pytest.raises(InputError, match="was added since the release"):
        train(images, tmp_path / "run", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_pool_of_a_run_that_is_not_private(images: Images, tmp_path: Path) -> None:
    synthesize(images, tmp_path / "run", seed=1)
    with pytest.raises(
        InputError, match="was made of private images by a run that is NOT PRIVATE; give anoth"
    ):
        train(images, tmp_path / "run", tmp_path / "model")
    card, text = train(images, tmp_path / "run", tmp_path / "model", allow_overlap=True)
    assert card["is_private"] is False
    assert "the images that the pool was made of" in text


def test_nothing_is_made_within_a_release(images: Images, tmp_path: Path) -> None:
    """A file more, and it would not be verified again."""
    release = synthesize(images, tmp_path / "run").release
    (tmp_path / "link").symlink_to(release)
    for place in (release / "more", release / "images" / "png" / "more", tmp_path / "link" / "more"):
        with pytest.raises(InputError, match="is within a release, whose files are fixed"):
            dpvision.sample(tmp_path / "run", out=place, count=3)
        with pytest.raises(InputError, match="is within a release, whose files are fixed"):
            synthesize(images, place)
    assert dpvision.verify(release).holds
    assert len(Ledger(default_ledger_path(images.digest)).summary()["runs"]) == 1


def test_a_plan_has_the_total_that_the_card_will_state(images: Images, tmp_path: Path) -> None:
    synthesize(images, tmp_path / "run")
    card, _ = train(images, tmp_path / "run", tmp_path / "model")
    assert planned(images, tmp_path / "run") == card["pool"]["guarantee"]["with_this_run"]["epsilon"]


def planned(images: ImageSet, pool: Path) -> float | None:
    """Return the ε that a plan to train with a pool states beside that of the run."""
    config = {**MIX, "pool": str(pool)}
    forecast = dpvision.plan(images, epsilon=2.0, delta=DELTA, method="dp-mix-diff", config=config)
    return forecast.epsilon_with_earlier


def test_units_and_images_have_no_total(images: Images, tmp_path: Path) -> None:
    synthesize(images, tmp_path / "run")
    people: Any = images.with_units([n // 2 for n in range(90)])
    assert planned(people, tmp_path / "run") is None
    card, text = train(people, tmp_path / "run", tmp_path / "model")
    assert card["pool"]["guarantee"]["with_this_run"] is None
    assert "do not protect the same" in text


def test_an_interrupted_run_has_the_same_card(images: Images, tmp_path: Path) -> None:
    synthesize(images, tmp_path / "run")

    def interrupt(what: str, done: int, total: int, account: object) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(images, tmp_path / "run", tmp_path / "cut", progress=interrupt)
    dpvision.resume(tmp_path / "cut", data=images)
    card = json.loads((tmp_path / "cut" / "release" / "card.json").read_text())
    assert card["pool"]["guarantee"]["with_this_run"]["epsilon"] > card["epsilon"]


def test_verify_recomputes_what_both_runs_cost(images: Images, tmp_path: Path) -> None:
    synthesize(images, tmp_path / "run")
    train(images, tmp_path / "run", tmp_path / "model")
    path = tmp_path / "model" / "release" / "card.json"
    card = json.loads(path.read_text())
    card["pool"]["guarantee"]["with_this_run"]["epsilon"] = card["epsilon"]
    path.write_text(json.dumps(card))
    (check,) = (one for one in dpvision.verify(tmp_path / "model").checks if one.name == "card")
    assert not check.holds
    assert "pool" in check.found


@pytest.mark.parametrize("guarantee", [{}, "none", {"epsilon": 1.0}, {"events": [{"event": {"kind": "x"}}]}])
def test_a_damaged_record_is_told(images: Images, tmp_path: Path, guarantee: Any) -> None:
    synthesize(images, tmp_path / "run")
    dpvision.sample(tmp_path / "run", out=tmp_path / "more", count=20, balanced=True)
    record = tmp_path / "more" / "pool.json"
    found = json.loads(record.read_text())
    whole = isinstance(guarantee, dict) and "events" in guarantee
    found["guarantee"] = {**found["guarantee"], **guarantee} if whole else guarantee
    record.write_text(json.dumps(found))
    with pytest.raises(InputError, match=r"pool\.json cannot be read|events of kind 'x' are not known"):
        train(images, tmp_path / "more", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_pool_show_says_what_a_release_guarantees(
    images: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = synthesize(images, tmp_path / "run")
    assert command(["pool", "show", str(tmp_path / "run"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown["classes"] == {"right": 10, "left": 10}
    assert shown["provenance"]["guarantee"]["epsilon"] == first.epsilon
