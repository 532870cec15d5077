"""dpvision.sample, and counts of classes: images of a generator that a run released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import dpvision
from dpvision.api import Synthesis
from dpvision.images import Images, open_images
from dpvision.methods import find_method
from dpvision.methods.estimates import Estimate
from dpvision.privacy import Budget, InputError, Ledger, PublicFacts, default_ledger_path

CONFIG: dict[str, Any] = {"rank": 5}
NAMES = ("a=b", "few")


@pytest.fixture
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (90, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(90) % 4 // 3, NAMES, "made")


def synthesize(images: Images, out: Path, **options: Any) -> Synthesis:
    return dpvision.synthesize(images, **{"epsilon": 3.0, "out": out, "config": CONFIG, **options})


def estimate(name: str, facts: PublicFacts, config: dict[str, Any]) -> Estimate:
    method, cpu = find_method(name), torch.device("cpu")
    return method.estimate(method.default_config(facts, Budget(3.0, 1e-3), cpu, config), facts, cpu)


def counts_of(images: Any) -> Any:
    return images.with_classes(NAMES).summary()["class_counts"]


def test_more_images_cost_nothing_and_can_be_drawn_again(images: Images, tmp_path: Path) -> None:
    result = synthesize(images, tmp_path / "run", count=10)
    before = Ledger(default_ledger_path(images.digest)).summary()
    made = dpvision.sample(tmp_path / "run", out=tmp_path / "more", count=40, seed=3)
    assert torch.equal(made.pixels, result.generator.sample(40, seed=3).pixels)
    again = dpvision.sample(result.release, out=tmp_path / "again", count=40, seed=3, format="npz")
    assert torch.equal(again.pixels, made.pixels)
    other = dpvision.sample(result.release, out=tmp_path / "other", count=40, format="parquet")
    assert not torch.equal(other.pixels, made.pixels)
    archive = tmp_path / "again" / "images.npz"
    for place in (tmp_path / "more", tmp_path / "again", archive, tmp_path / "other"):
        assert len(open_images(place)) == 40
    assert Ledger(default_ledger_path(images.digest)).summary() == before


def test_counts_of_classes(images: Images, tmp_path: Path) -> None:
    wanted = {"few": 7, "a=b": 3}
    result = synthesize(images, tmp_path / "run", class_counts=wanted)
    assert result.count == 10
    assert counts_of(open_images(result.release / "images" / "png")) == wanted
    sampled = dpvision.sample(tmp_path / "run", out=tmp_path / "one", class_counts={"few": 4})
    assert counts_of(sampled) == {"a=b": 0, "few": 4}
    for format_ in ("npz", "parquet"):
        dpvision.sample(tmp_path / "run", out=tmp_path / format_, class_counts={"few": 4}, format=format_)  # type: ignore[arg-type]
        found = open_images(tmp_path / format_)
        assert (found.class_names, counts_of(found)) == (NAMES, {"a=b": 0, "few": 4})
    equally = dpvision.sample(result.release, out=tmp_path / "two", count=6, balanced=True)
    assert counts_of(equally) == {"a=b": 3, "few": 3}
    options: dict[str, Any] = {"class_counts": wanted, "config": CONFIG}
    again = dpvision.synthesize_from(result.release, out=tmp_path / "again", **options)
    assert counts_of(open_images(again.release / "images" / "png")) == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_counts": {"cat": 3}}, "there is no class 'cat' to make images of; the classes are a=b, few"),
        (
            {"class_counts": {"few": 0}},
            "the count of class 'few' must be a whole number of at least 1",
        ),
        ({"class_counts": {"few": 1.5}}, "must be a whole number"),
        ({"class_counts": {}}, "names no class"),
        ({"class_counts": {"few": 1}, "count": 1}, "count and class_counts both say"),
        ({"class_counts": {"few": 1}, "balanced": True}, "balanced and class_counts both say"),
        ({"count": 0}, "count must be at least 1"),
    ],
)
def test_counts_that_cannot_be(images: Images, tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        synthesize(images, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    assert not default_ledger_path(images.digest).exists()
    synthesize(images, tmp_path / "run", count=2)
    with pytest.raises(InputError, match=message):
        dpvision.sample(tmp_path / "run", out=tmp_path / "more", **options)
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("dp-moments", {"warps": False}),
        ("dp-mepf", {"steps": 0}),
        ("dp-distill", {"teacher": {"encoder": "pixels", "steps": 1}, "moments": {"warps": False}}),
        ("dp-diffusion", {"steps": 1, "width": 8, "pretraining_steps": 0, "warm_up_steps": 0}),
    ],
)
def test_a_forecast_counts_the_drawing_of_images(images: Images, method: str, config: dict[str, Any]) -> None:
    facts = PublicFacts(len(images), images.shape, images.class_names)
    assert estimate(method, facts, config).seconds_per_image > 0


def test_a_forecast_counts_public_images() -> None:
    """Those that a denoiser learns from, and those that give a teacher's images their details."""
    facts = PublicFacts(200, (1, 16, 16), NAMES)

    def bytes_of(method: str, config: dict[str, Any]) -> int:
        return estimate(method, facts, config).memory_bytes

    denoiser = {"steps": 1, "width": 8, "warm_up_share": 0.0, "warm_up_steps": 0}
    few, many = (bytes_of("dp-diffusion", {**denoiser, "pretraining_steps": n}) for n in (1, 40))
    assert many - few == pytest.approx(2 * 39 * 128 * 256, rel=0.01)
    taught = {"teacher": {"encoder": "pixels", "steps": 1}, "moments": {"size": 8, "warps": False}}
    none, some = (bytes_of("dp-distill", {**taught, "num_details": n}) for n in (0, 1000))
    assert some - none == pytest.approx(13 * 1000 * 256, rel=0.01)


def test_a_forecast_is_of_the_images_too(images: Images) -> None:
    def planned(**options: Any) -> Any:
        return dpvision.plan(images, epsilon=3, method="dp-moments", config=CONFIG, **options)

    few, many, one_file = (
        planned(),
        planned(class_counts={"few": 50_000}),
        planned(count=50_000, formats=["npz"]),
    )
    assert (few.images, many.images, one_file.images) == (90, 50_000, 50_000)
    assert many.seconds > max(one_file.seconds, few.seconds) + 100  # a file for each image
    assert many.memory_bytes > few.memory_bytes + 50_000 * 64
    assert dpvision.plan(images, epsilon=3, method="dp-ridge", config={"encoder": "pixels"}).images is None
    with pytest.raises(
        InputError, match="count is for a method that makes images, and dp-ridge makes a class"
    ):
        dpvision.plan(images, epsilon=3, method="dp-ridge", config={"encoder": "pixels"}, count=3)
    with pytest.raises(InputError, match="there is no class 'cat'"):
        planned(class_counts={"cat": 3})


def test_what_cannot_be_sampled(images: Images, tmp_path: Path) -> None:
    unlabelled = synthesize(images, tmp_path / "run", count=2, config={**CONFIG, "labelled": False}).release
    with pytest.raises(InputError, match="the classes are none: the images have no labels"):
        dpvision.sample(unlabelled, out=tmp_path / "more", class_counts={"few": 1})
    config = {**CONFIG, "labelled": False}
    with pytest.raises(InputError, match="there is no class 'few'"):
        synthesize(images, tmp_path / "no", class_counts={"few": 1}, config=config)
    with pytest.raises(InputError, match="nothing says how many"):
        dpvision.sample(unlabelled, out=tmp_path / "more")
    with pytest.raises(InputError, match="no format 'gif'"):
        dpvision.sample(unlabelled, out=tmp_path / "more", count=1, format="gif")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is not empty"):
        dpvision.sample(unlabelled, out=tmp_path / "run", count=1)
    assert not (tmp_path / "more").exists()
    assert len(dpvision.sample(unlabelled, out=tmp_path / "more", count=3)) == 3
    with pytest.raises(InputError, match="balanced is for images of classes"):
        dpvision.sample(unlabelled, out=tmp_path / "no", count=3, balanced=True)
