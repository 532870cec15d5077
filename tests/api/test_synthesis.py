"""dpvision.synthesize, synthesize_from and resume: ledger, run directory and release agree."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import dpvision
from dpvision.api import Synthesis
from dpvision.images import Images, open_images
from dpvision.methods.embedding import Embedding
from dpvision.networks.generators import Generator
from dpvision.privacy import Account, Budget, InputError, Ledger, default_ledger_path
from dpvision.reports.grid import class_sheet

CONFIG = {"steps": 6, "batch_size": 20, "latent_size": 3}


@pytest.fixture
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (90, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(90) % 4 // 3, ("many", "few"), "made")


def synthesize(images: Images, out: Path, **options: Any) -> Synthesis:
    return dpvision.synthesize(
        images,
        **{"epsilon": 3.0, "method": "dp-mepf", "out": out, "config": CONFIG, "count": 30, **options},
    )


def spent(images: Images) -> list[Any]:
    """The runs that have spent something of these images' budget."""
    path = default_ledger_path(images.digest)
    runs = Ledger(path).summary()["runs"] if path.exists() else []
    return [run for run in runs if run["epsilon_spent"]]


def interrupt_at(what: str, step: int) -> Any:
    def progress(doing: str, done: int, total: int, account: Account | None = None) -> None:
        if (doing, done) == (what, step):
            raise KeyboardInterrupt

    return progress


def test_a_run_releases_images_generator_and_embedding(images: Images, tmp_path: Path) -> None:
    result = synthesize(images, tmp_path / "run", formats=("png", "parquet"))
    assert 2.9 < result.epsilon <= 3
    assert result.count == 30
    found = open_images(result.release / "images" / "parquet" / "images.parquet")
    assert len(found) == 30
    assert found.class_names == ("many", "few")
    assert len(open_images(result.release / "images" / "png")) == 30
    card = json.loads((result.release / "card.json").read_text())
    assert card["epsilon"] == result.epsilon
    assert [m["count"] for m in card["mechanisms"]] == [1]
    assert (card["generator"]["resize"], card["generator"]["value_range"]) == ("crop", None)
    assert "90 images" not in (result.release / "card.md").read_text()
    grid = Image.open(result.release / "samples.png")
    assert 900 < grid.width < 1100
    names = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert names[-2:] == ["000006.png", "finished.png"]
    loaded = dpvision.load(tmp_path / "run")
    assert isinstance(loaded, Generator)
    assert torch.equal(loaded.sample(9, seed=1).pixels, result.generator.sample(9, seed=1).pixels)


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("dp-moments", {}),
        ("dp-mepf", CONFIG | {"steps": 0}),
        ("dp-distill", {"teacher": {"encoder": "pixels", "encoder_options": {}, "steps": 2}}),
        (
            "dp-diffusion",
            {"steps": 2, "width": 8, "pretraining_steps": 0, "warm_up_steps": 0, "sampling_steps": 2},
        ),
    ],
)
def test_a_sheet_shows_what_the_finished_generator_draws(
    images: Images, tmp_path: Path, method: str, config: dict[str, Any]
) -> None:
    synthesize(images, tmp_path / "run", method=method, config=config, count=3)
    again = dpvision.load(tmp_path / "run").sample(20, labels=[0] * 10 + [1] * 10, seed=0)
    assert (tmp_path / "run" / "samples" / "finished.png").read_bytes() == class_sheet(again, columns=10)


def test_sheets_show_a_denoiser_while_it_learns(images: Images, tmp_path: Path) -> None:
    """Its weights are the averages, as those that are released: the last sheet is the finished one."""
    config = {"steps": 40, "width": 8, "pretraining_steps": 0, "warm_up_steps": 0, "sampling_steps": 2}
    synthesize(images, tmp_path / "run", method="dp-diffusion", config=config, count=3)
    *sheets, finished = sorted((tmp_path / "run" / "samples").iterdir())
    assert [path.name for path in sheets] == [f"{step:06d}.png" for step in range(2, 41, 2)]
    assert sheets[-1].read_bytes() == finished.read_bytes() != sheets[-2].read_bytes()


def test_a_sheet_of_many_classes_shows_some_and_one_without_classes_a_row(
    images: Images, tmp_path: Path
) -> None:
    names = tuple(map(str, range(30)))
    for number, given in enumerate(
        [
            replace(images, labels=torch.arange(90) % 30, class_names=names),
            replace(images, labels=None, class_names=()),
        ]
    ):
        synthesize(given, tmp_path / str(number), method="dp-moments", config={"warps": False})
    many, none = (Image.open(tmp_path / n / "samples" / "finished.png") for n in ("0", "1"))
    assert 10 * none.height < many.height < 30 * none.height


def test_the_ledger_has_the_one_release(images: Images, tmp_path: Path) -> None:
    result = synthesize(images, tmp_path / "run", delta=1e-3)
    (run,) = spent(images)
    assert not run["open"]
    assert run["epsilon_spent"] == run["epsilon_planned"] == pytest.approx(result.epsilon)


def test_nothing_private_is_released_but_the_noisy_sums(images: Images, tmp_path: Path) -> None:
    """With the noise frozen, runs on other images differ in what was made of the sums and in nothing else."""
    other = replace(images, pixels=255 - images.pixels)
    for name, of in (("one", images), ("other", other)):
        synthesize(of, tmp_path / name, seed=5)
    names = {p.relative_to(tmp_path / "one").as_posix() for p in (tmp_path / "one" / "release").rglob("*")}
    assert names == {
        p.relative_to(tmp_path / "other").as_posix() for p in (tmp_path / "other/release").rglob("*")
    }
    for unchanged in ("release/config.json", "release/encoder.safetensors"):
        assert (tmp_path / "one" / unchanged).read_bytes() == (tmp_path / "other" / unchanged).read_bytes()
    cards = [json.loads((tmp_path / n / "release/card.json").read_text()) for n in ("one", "other")]
    for card in cards:
        card["fitting_seconds"] = 0
        assert card["generator"].pop("noisy_class_proportions").keys() == {"many", "few"}
    assert cards[0] == cards[1]


def test_class_counts_are_noisy(images: Images, tmp_path: Path) -> None:
    shares = [float(synthesize(images, tmp_path / str(n)).generator.class_proportions[0]) for n in range(3)]
    assert len(set(shares)) == 3
    assert 68 / 90 not in shares  # the exact share: 23 of each 30 are of the first class, then 2 more


def test_a_declared_number_of_examples_hides_how_many_there_are(images: Images, tmp_path: Path) -> None:
    result = synthesize(images, tmp_path / "run", count=None, num_examples=130)
    assert result.count == 130
    embedding = Embedding.load(result.release / "embedding.safetensors")
    assert embedding.facts["num_examples"] == embedding.facts["guarantee"]["num_examples"] == 130
    assert embedding.facts["guarantee"]["delta"] == 1e-4
    for name in ("card.json", "card.md", "config.json"):
        assert not re.search(r"\b90\b", (result.release / name).read_text())


def test_an_embedding_tells_nothing_of_how_it_was_learned(images: Images, tmp_path: Path) -> None:
    """Of images of the same declared number, with the same noise, all that it says beside the sums is alike:
    not how many there were, how long they took, or which ledger has them.
    """
    facts = []
    for name, of in (("all", images), ("one less", images.subset(range(89)))):
        release = synthesize(of, tmp_path / name, num_examples=130, seed=5).release
        facts.append(Embedding.load(release / "embedding.safetensors").facts)
    assert facts[0] == facts[1]
    assert facts[0].keys() == {
        "method",
        "encoder",
        "image_shape",
        "class_names",
        "num_examples",
        "second_moment_weight",
        "count_weight",
        "noise",
        "guarantee",
    }
    assert facts[0]["guarantee"]["mechanisms"][0]["count"] == 1


def test_the_same_embedding_makes_other_images_at_no_cost(images: Images, tmp_path: Path) -> None:
    first = synthesize(images, tmp_path / "run")
    before = spent(images)
    again = dpvision.synthesize_from(
        tmp_path / "run",
        out=tmp_path / "again",
        count=7,
        formats=("npz",),
        balanced=True,
        config={"steps": 3, "latent_size": 5},
    )
    assert spent(images) == before
    assert (again.epsilon, again.delta, again.count) == (first.epsilon, first.delta, 7)
    made = open_images(again.release / "images" / "npz" / "images.npz")
    assert made.labels is not None
    assert made.labels.bincount().tolist() == [4, 3]
    released = [Embedding.load(r.release / "embedding.safetensors") for r in (first, again)]
    assert torch.equal(released[0].sums["first"], released[1].sums["first"])
    assert released[0].facts == released[1].facts
    with pytest.raises(InputError, match="count_weight is part of what was released"):
        dpvision.synthesize_from(
            first.release / "embedding.safetensors", out=tmp_path / "no", config={"count_weight": 1.0}
        )
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("step", [2, 6])
def test_an_interrupted_fit_is_resumed(images: Images, tmp_path: Path, step: int) -> None:
    whole = synthesize(images, tmp_path / "whole", seed=1)
    with pytest.raises(KeyboardInterrupt):
        synthesize(images, tmp_path / "run", seed=1, progress=interrupt_at("fitting the generator", step))
    assert not (tmp_path / "run" / "release").exists()
    result = dpvision.resume(tmp_path / "run")  # needs no private image any more
    assert isinstance(result, Synthesis)
    assert len(spent(images)) == 2
    for (name, tensor), other in zip(
        whole.generator.state_dict().items(), result.generator.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, other), name
    assert isinstance(dpvision.resume(tmp_path / "run"), Synthesis)  # of a complete run, the result


def test_a_run_that_ended_before_its_release_goes_on(images: Images, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        synthesize(images, tmp_path / "run", progress=interrupt_at("reading images", 90))
    assert spent(images) == []
    with pytest.raises(InputError, match="were in memory; give them again"):
        dpvision.resume(tmp_path / "run")
    with pytest.raises(InputError, match="have changed since"):
        dpvision.resume(tmp_path / "run", data=replace(images, pixels=255 - images.pixels))
    assert dpvision.resume(tmp_path / "run", data=images).epsilon <= 3
    assert len(spent(images)) == 1


def test_a_run_killed_after_its_release_is_closed_in_the_ledger(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Account) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Account, "close", killed)
        with pytest.raises(KeyboardInterrupt):
            synthesize(images, tmp_path / "run")
    assert [run["open"] for run in spent(images)] == [True]
    dpvision.resume(tmp_path / "run")
    assert [run["open"] for run in spent(images)] == [False]


def test_a_release_that_was_kept_is_used_when_the_run_is_taken_up(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the checkpoint of the release and what is made of it."""

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dpvision.api.run.Run.keep", killed)
        with pytest.raises(KeyboardInterrupt):
            synthesize(images, tmp_path / "run", seed=0)
    resumed = dpvision.resume(tmp_path / "run", data=images)
    assert len(spent(images)) == 1
    at_once = synthesize(images, tmp_path / "at once", seed=0)
    one, other = (Embedding.load(made.release / "embedding.safetensors") for made in (resumed, at_once))
    for name in one.sums:
        assert torch.equal(one.sums[name], other.sums[name])


def test_a_release_that_was_lost_is_not_made_twice(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the record and the file: paid for, and the budget has no second one."""

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dpvision.runs.FileCheckpoints.save", killed)
        with pytest.raises(KeyboardInterrupt):
            synthesize(images, tmp_path / "run")
    assert len(spent(images)) == 1
    with pytest.raises(InputError, match="was paid for but lost"):
        dpvision.resume(tmp_path / "run", data=images)
    assert len(spent(images)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"count": 0}, "count must be at least 1"),
        ({"formats": ("gif",)}, "no format 'gif'"),
        (
            {"method": "dp-sgd"},
            "no method 'dp-sgd' that makes images; choose one of dp-moments, dp-mepf, "
            "dp-diffusion, dp-distill",
        ),
        ({"config": {"steps": -1}}, "steps must be at least 0"),
        ({"config": {"nosuch": 1}}, "no setting 'nosuch'"),
        ({"config": {"encoder": "nosuch"}}, "no encoder 'nosuch'"),
        ({"config": {"encoder": "wrn-10-4-small", "encoder_options": {"taps": [9]}}}, "taps"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"seed": 1 << 64}, "seed must be a whole number from 0"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"device": "nosuch"}, "nosuch"),
    ],
)
def test_bad_input_costs_nothing_and_leaves_nothing(
    images: Images, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        synthesize(images, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    assert spent(images) == []


def test_data_that_cannot_be_used_costs_nothing(images: Images, tmp_path: Path) -> None:
    for bad, message in (
        (replace(images, labels=None, class_names=()), "have no labels"),
        (replace(images, pixels=images.pixels[:, :, :5]), "a generator makes squares"),
    ):
        with pytest.raises(InputError, match=message):
            synthesize(bad, tmp_path / "run")
        assert not (tmp_path / "run").exists()
        assert spent(bad) == []


def test_whether_a_class_has_images_does_not_show(images: Images, tmp_path: Path) -> None:
    result = synthesize(replace(images, class_names=("many", "few", "none")), tmp_path / "run", balanced=True)
    found = open_images(result.release / "images" / "png")
    assert found.class_names == ("few", "many", "none")
    assert found.labels is not None
    assert found.labels.bincount().tolist() == [10, 10, 10]


def test_features_that_are_not_finite_cost_nothing(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dpvision.priors.encoders.pixels.PixelEncoder.forward", lambda self, x: x.flatten(1) / 0
    )
    with pytest.raises(InputError, match="not finite"):
        synthesize(images, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert spent(images) == []


def test_an_owners_limit_holds(images: Images, tmp_path: Path) -> None:
    ledger = Ledger.for_dataset(default_ledger_path(images.digest), images.digest, 90)
    ledger.set_limit(Budget(1.0, 1e-3))
    with pytest.raises(InputError, match="limit"):
        synthesize(images, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert spent(images) == []


def test_unlabelled_images(images: Images, tmp_path: Path) -> None:
    result = synthesize(images, tmp_path / "run", config={**CONFIG, "labelled": False})
    assert result.generator.class_names == ()
    assert len(list((result.release / "images" / "png").iterdir())) == 30
    assert "They have no labels" in (result.release / "card.md").read_text()


def test_labels_that_are_not_used_make_no_other_ledger(images: Images, tmp_path: Path) -> None:
    """Else a budget could be spent twice on the same images."""
    for index, (pixels, label) in enumerate(zip(images.pixels, images.labels.tolist(), strict=True)):  # type: ignore[union-attr]
        place = tmp_path / "data" / images.class_names[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0].numpy()).save(place / f"{index}.png")
    config = {**CONFIG, "labelled": False}
    options: dict[str, Any] = {"epsilon": 1, "method": "dp-mepf", "count": 5, "config": config}
    dpvision.synthesize(tmp_path / "data", out=tmp_path / "run", **options)
    assert len(spent(open_images(tmp_path / "data"))) == 1


def test_figures_of_what_was_released(images: Images, tmp_path: Path) -> None:
    result = synthesize(images, tmp_path / "run", formats=("npz",), count=60)
    test = images.subset(range(60))
    rows = dpvision.evaluate_images(result.release, test, classifiers=["logistic"])
    assert [row.name.split(" (")[0] for row in rows[:3]] == [
        "accuracy of logistic",
        "Fréchet distance",
        "kernel distance",
    ]
    assert all(row.low <= row.value <= row.high for row in rows)
    with pytest.raises(InputError, match="does not say where its private images are"):
        dpvision.evaluate_images(tmp_path / "run", test, classifiers=["logistic"], neighbours=True)
    with pytest.raises(InputError, match="size is the model's"):
        dpvision.evaluate_images(result.release, test, size=8)
    with pytest.raises(InputError, match="released a generator of images"):
        dpvision.evaluate(tmp_path / "run", test)
