"""Synthetic images that a run released, measured beside its private images, which no other folder sees."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dpvision
from dpvision.api.measuring import trainings
from dpvision.api.publishing import Synthesis
from dpvision.evaluation import BenchmarkTraining, ResNet9Training
from dpvision.images import Images
from dpvision.privacy import InputError

FAST: dict[str, Any] = {"rank": 5}
PLAIN: dict[str, Any] = {"classifiers": ["logistic"], "encoder": "scattering"}


def stripes(n: int, seed: int) -> Images:
    """Noise of 8 pixels with a bright row, or a bright column."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(100, (n, 1, 8, 8), generator=generator)
    labels = torch.arange(n) % 2
    pixels[labels == 0, :, 3] += 120
    pixels[labels == 1, :, :, 3] += 120
    return Images(pixels.to(torch.uint8), labels, ("0", "1"), f"stripes {seed}")


def save(path: Path, images: Images) -> Path:
    assert images.labels is not None
    np.savez(path, images=images.pixels[:, 0].numpy(), labels=images.labels.numpy())
    return path


def synthesize(data: Images | Path, out: Path, **options: Any) -> Synthesis:
    options = {"epsilon": 2.0, "delta": 1e-3, "count": 40, "formats": ("npz",), "config": FAST, **options}
    return dpvision.synthesize(data, out=out, **options)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    data = save(tmp_path / "data.npz", stripes(120, 0))
    synthesize(data, tmp_path / "run")
    return tmp_path / "run"


def test_private_images_are_put_beside_and_copies_looked_for(run: Path) -> None:
    rows = dpvision.evaluate_images(run, stripes(60, 1), reference=True, copies=True, **PLAIN)
    assert [row.name for row in rows if row.reference is None] == ["blind membership AUC"] + [
        f"{figure} ({features})"
        for features in ("pixels", "scattering")
        for figure in (
            "nearest real image is private",
            "membership AUC",
        )
    ]
    assert len(rows) == 7 + 5
    assert rows[0].reference is not None
    assert rows[0].reference.num_private == 40
    written = run / "private" / "evaluation.json"
    found = json.loads(written.read_text())
    assert "do not publish" in found["notice"]
    assert [row["name"] for row in found["rows"]] == [row.name for row in rows]
    assert found["rows"][0]["reference"]["num_private"] == 40
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert not [*(run / "release").rglob("evaluation*")]


def test_nothing_is_written_or_read_unasked(run: Path) -> None:
    before = sorted(run.rglob("*"))
    (run.parent / "data.npz").unlink()
    rows = dpvision.evaluate_images(run, stripes(60, 1), **PLAIN)
    assert all(row.reference is None for row in rows)
    assert sorted(run.rglob("*")) == before
    dpvision.evaluate_images(run, stripes(60, 1), sheet=True, **PLAIN)
    assert sorted({*run.rglob("*")} - {*before}) == [run / "private" / "evaluation.png"]


def test_private_images_that_moved_or_changed_are_told(run: Path, tmp_path: Path) -> None:
    data, test = tmp_path / "data.npz", stripes(60, 1)
    moved = data.rename(tmp_path / "moved.npz")
    with pytest.raises(InputError, match=r"data\.npz does not exist.* private=… if the private images"):
        dpvision.evaluate_images(run, test, copies=True, **PLAIN)
    by_place = dpvision.evaluate_images(run, test, copies=True, private=moved, **PLAIN)
    save(data, stripes(120, 5))
    with pytest.raises(InputError, match="have changed since"):
        dpvision.evaluate_images(run, test, copies=True, **PLAIN)
    data.unlink()
    moved.rename(data)
    assert dpvision.evaluate_images(run, test, copies=True, **PLAIN) == by_place


def test_images_in_memory_and_a_release_alone_are_given_their_private_images(tmp_path: Path) -> None:
    private, test = stripes(120, 0), stripes(60, 1)
    result = synthesize(private, tmp_path / "run")
    release = shutil.copytree(result.release, tmp_path / "release")
    for place in (tmp_path / "run", release):
        with pytest.raises(InputError, match=r"does not say where its private images are; .* private=…"):
            dpvision.evaluate_images(place, test, reference=True, **PLAIN)
        rows = dpvision.evaluate_images(place, test, reference=True, private=private, **PLAIN)
        assert rows[0].reference is not None
    assert not [*release.rglob("evaluation*")]
    for asked in ({"sheet": True}, {"neighbours": True, "private": private}):
        with pytest.raises(InputError, match="no folder private/"):
            dpvision.evaluate_images(release, test, **PLAIN, **asked)
    with pytest.raises(InputError, match="private=… is of use to reference"):
        dpvision.evaluate_images(release, test, private=private, **PLAIN)


def test_other_images_that_are_given_as_private_ones_are_warned_of(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    test = stripes(60, 1)
    dpvision.evaluate_images(run, test, copies=True, private=stripes(120, 0), **PLAIN)
    assert "number for number" not in caplog.text
    dpvision.evaluate_images(run, test, copies=True, private=stripes(120, 5), **PLAIN)
    assert "are not, number for number, those that" in caplog.text


@pytest.mark.parametrize("how", ["without labels", "with units"])
def test_the_images_of_a_run_are_known_whatever_their_labels_and_units(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = stripes(120, 0)
    arrays = {"train_images": images.pixels[:, 0].numpy(), "train_labels": np.arange(120) % 2}
    if how == "with units":
        arrays["train_units"] = np.arange(120) // 2
    np.savez(tmp_path / "data.npz", **arrays)
    settings = {} if how == "with units" else {"labelled": False}
    synthesize(tmp_path / "data.npz", tmp_path / "run", config=FAST | settings)
    given = {"copies": True, "classifiers": [], "private": tmp_path / "data.npz"}
    assert dpvision.evaluate_images(tmp_path / "run", stripes(60, 1), **given)
    assert "number for number" not in caplog.text
    with pytest.raises(InputError, match=r"those that .*run was made of"):
        dpvision.evaluate_images(tmp_path / "run", tmp_path / "data.npz", split="train", **given)


def test_what_cannot_be_compared_is_told_before_classifiers_learn(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpvision.evaluation.synthetic.classified_right", None)
    private = stripes(120, 0)
    with pytest.raises(InputError, match=r"seed must be from 0 to 2\*\*32 - 1, not -1"):
        dpvision.evaluate_images(run, stripes(60, 1), copies=True, classifiers=[], seed=-1)
    with pytest.raises(InputError, match=r"there are 1 images of .*, too few to compare"):
        dpvision.evaluate_images(run, stripes(60, 1).subset([0]), copies=True, **PLAIN)
    assert private.labels is not None
    alike = private.subset((private.labels == 0).nonzero().flatten().tolist())
    with pytest.raises(InputError, match="images of one class only"):
        dpvision.evaluate_images(run, stripes(60, 1), reference=True, private=alike, **PLAIN)


def test_copies_are_looked_for_where_there_is_nothing_else_to_measure(tmp_path: Path) -> None:
    private, test = (
        Images(stripes(120, seed).pixels[:, :, :4, :4], None, (), f"corners {seed}") for seed in (0, 1)
    )
    synthesize(private, tmp_path / "run", method="dp-moments", config={})
    with pytest.raises(InputError, match="nothing to measure"):
        dpvision.evaluate_images(tmp_path / "run", test)
    rows = dpvision.evaluate_images(tmp_path / "run", test, copies=True, private=private)
    assert "membership AUC (pixels)" in [row.name for row in rows]


def test_test_images_that_are_private_ones_are_left_out(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    private, others = stripes(120, 0), stripes(60, 1)
    both = Images(torch.cat([others.pixels, private.pixels[:50]]), None, (), "both")
    assert others.labels is not None
    assert private.labels is not None
    both = Images(both.pixels, torch.cat([others.labels, private.labels[:50]]), ("0", "1"), "both")
    caplog.set_level("INFO")
    rows = dpvision.evaluate_images(run, both, copies=True, reference=True, **PLAIN)
    assert rows == dpvision.evaluate_images(run, others, copies=True, reference=True, **PLAIN)
    assert "50 of 110 images of both are private ones, and left out" in caplog.text
    with pytest.raises(InputError, match=r"all 60 images of .* are among the private images"):
        dpvision.evaluate_images(run, private.subset(range(60)), copies=True, **PLAIN)
    with pytest.raises(InputError, match=r"are those that .* was made of; give others"):
        dpvision.evaluate_images(run, run.parent / "data.npz", **PLAIN)


def test_a_release_of_copies_is_found_out(run: Path) -> None:
    private = stripes(120, 0)
    assert private.labels is not None
    np.savez(
        run / "release/images/npz/images.npz",
        images=private.pixels[:, 0].numpy(),
        labels=private.labels.numpy(),
    )
    rows = {row.name: row for row in dpvision.evaluate_images(run, stripes(120, 1), copies=True, **PLAIN)}
    for features in ("pixels", "scattering"):
        assert rows[f"nearest real image is private ({features})"].value == 1
        assert rows[f"membership AUC ({features})"].value == 1
        assert rows[f"membership TPR at FPR 1.0% ({features})"].value == 1


def test_a_run_without_labels(tmp_path: Path) -> None:
    data = save(tmp_path / "data.npz", stripes(120, 0))
    synthesize(data, tmp_path / "run", config={**FAST, "labelled": False})
    rows = dpvision.evaluate_images(
        tmp_path / "run", stripes(60, 1), encoder="scattering", reference=True, copies=True, sheet=True
    )
    assert rows[0].name == "Fréchet distance (scattering)"
    assert (tmp_path / "run" / "private" / "evaluation.png").exists()
    with pytest.raises(InputError, match="has classes none"):
        dpvision.evaluate_images(tmp_path / "run", stripes(60, 1), **PLAIN)


def test_of_very_few_images_what_can_be_measured_is(tmp_path: Path) -> None:
    data, test = save(tmp_path / "data.npz", stripes(120, 0)), stripes(60, 1)
    for count, expected in ((1, 0), (7, 4 + 5), (25, 6 + 5)):
        out = tmp_path / str(count)
        synthesize(data, out, count=count, balanced=True)
        arguments = {"encoder": "scattering", "copies": True, "reference": True, "sheet": True}
        if not expected:
            with pytest.raises(InputError, match="1 of each set, where at least 6 are needed"):
                dpvision.evaluate_images(out, test, **arguments)
            continue
        rows = dpvision.evaluate_images(out, test, **arguments)
        assert len([row for row in rows if "accuracy" not in row.name]) == expected
        assert [row.name for row in rows if "accuracy" in row.name] == [
            "accuracy of logistic",
            "accuracy of mlp",
        ]
        assert [row for row in rows if not row.low <= row.value <= row.high] == []


def test_a_class_that_the_release_lacks(run: Path) -> None:
    images, labels = np.zeros((30, 8, 8), np.uint8), np.ones(30, np.int64)
    np.savez(run / "release/images/npz/images.npz", images=images, labels=labels)
    options = {"encoder": "scattering", "sheet": True}
    rows = dpvision.evaluate_images(run, stripes(60, 1), **options)
    assert not [row for row in rows if "accuracy" in row.name]
    with pytest.raises(InputError, match="images of one class only"):
        dpvision.evaluate_images(run, stripes(60, 1), classifiers=["mlp"], **options)


def test_settings_of_training_are_those_of_the_networks_asked_for() -> None:
    assert trainings(("mlp",), {}) == {}
    assert trainings(("mlp", "resnet9"), {"steps": 3, "width": 8}) == {
        "resnet9": ResNet9Training(steps=3, width=8)
    }
    assert trainings(("resnet9", "wrn-40-4"), {"batch_size": 3}) == {
        "resnet9": ResNet9Training(batch_size=3),
        "benchmark": BenchmarkTraining(batch_size=3),
    }
    for classifiers, settings, message in [
        (("mlp", "logistic"), {"steps": 3}, "for networks, and there is none among mlp, logistic"),
        (("wrn-40-4",), {"width": 3}, "no setting 'width'"),
        (("wrn-40-4",), {"steps": "many"}, "the setting steps takes"),
        (("resnet9",), {"steps": 0}, "steps of a network must be at least 1"),
        (("wrn-40-4",), {"network": "resnet110"}, "name it among the classifiers"),
    ]:
        with pytest.raises(InputError, match=message):
            trainings(classifiers, settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["png", "npz", "parquet"])
def test_images_that_were_drawn_later(run: Path, tmp_path: Path, format: Any) -> None:
    drawn = tmp_path / "drawn"
    dpvision.sample(run, out=drawn, count=70, format=format)
    rows = dpvision.evaluate_images(run, stripes(60, 1), images=drawn, copies=True, **PLAIN)
    assert rows[0].num_synthetic == 70
    assert rows[0].value == pytest.approx(1.0, abs=0.2)


def test_images_of_others_are_not_measured_as_a_runs(run: Path, tmp_path: Path) -> None:
    synthesize(stripes(120, 0), tmp_path / "other", epsilon=1.0)
    dpvision.sample(tmp_path / "other", out=tmp_path / "drawn", count=40)
    dpvision.synthesize_from(run, out=tmp_path / "again", config={"rank": 2}, count=20)
    dpvision.sample(tmp_path / "again", out=tmp_path / "drawn-again", count=40)  # with the same guarantee
    for name in ("drawn", "data.npz", "other", "again", "drawn-again"):
        images = tmp_path / name
        with pytest.raises(InputError, match="does not hold images that dpvision sample drew of"):
            dpvision.evaluate_images(run, stripes(60, 1), images=images, **PLAIN)
