"""Releases as repositories of the Hugging Face Hub: what goes there, what does not, and the way back."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import dpvision
from dpvision.cli.main import run as command
from dpvision.images import Images
from dpvision.images.hub import placed
from dpvision.images.write import image_files
from dpvision.privacy.errors import InputError
from dpvision.reports.hub_card import hub_card
from dpvision.runs import RunDirectory
from dpvision.runs.files import write_folder
from tests.hub_stand_in import COMMIT, Hub, stand_in

NAMES = ("- a: [1] {b}", "<script>alert(1)</script>", "---", "metadata.csv", "..", "a/b", "nobody")
RIDGE: dict[str, Any] = {"method": "dp-ridge", "config": {"encoder": "pixels"}}
ADDED = {"README.md", ".gitattributes"}


def some_images(seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (120, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(120) % 6, NAMES, "made up")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, one from a fixed seed, and synthetic images as .npz, of classes with hostile names; and
    the first and the last of these as repositories.
    """
    folder = tmp_path_factory.mktemp("runs")
    source, test, name = folder / "clinic-north.npz", some_images(1).subset(range(50)), "a: 'b'\n---\nc"
    source.write_bytes(image_files(some_images(), "npz")["images.npz"])
    private: dict[str, Any] = {"epsilon": 1, "classes": NAMES}
    dpvision.train(source, out=folder / "model", test=test, data_name=name, **private, **RIDGE)
    dpvision.train(source, out=folder / "seeded", seed=1, **private, **RIDGE)
    dpvision.synthesize(source, out=folder / "images", count=12, formats=("npz",), **private)
    dpvision.write_hub_folder(folder / "model", folder / "hub-model", license="apache-2.0")
    dpvision.write_hub_folder(folder / "images", folder / "hub-images", license="cc-by-4.0")
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    return stand_in(monkeypatch)


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def head_of(folder: Path) -> tuple[dict[str, Any], str]:
    """The fields of a card as YAML has them, and its text."""
    found = re.fullmatch(r"---\n(.*?)\n---\n(.*)", (folder / "README.md").read_text(), re.DOTALL)
    assert found is not None
    return yaml.safe_load(found[1]), found[2]


# What goes there -----------------------------------------------------------------------------------------


def test_a_model_is_its_release_with_a_card(runs: Path) -> None:
    folder, test = runs / "hub-model", some_images(1)
    assert names_in(folder) == names_in(runs / "model" / "release") | ADDED
    assert dpvision.verify(folder).holds
    assert torch.equal(dpvision.load(folder)(test.pixels), dpvision.load(runs / "model")(test.pixels))
    assert dpvision.predict(folder, test) == dpvision.predict(runs / "model", test)


def test_a_card_says_what_search_and_people_ask_for(runs: Path) -> None:
    head, text = head_of(runs / "hub-model")
    card = json.loads((runs / "model" / "release" / "card.json").read_bytes())
    assert head["license"] == "apache-2.0"
    assert (head["library_name"], head["pipeline_tag"]) == ("dpvision", "image-classification")
    assert head["tags"] == ["differential-privacy", "dpvision", "dp-ridge"]
    (result,) = head["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": card["test"]["accuracy"]}]
    assert result["dataset"]["name"] == card["made"]["data_name"]
    assert f"(ε, δ) = ({card['epsilon']:.4g}, {card['delta']:.3g})" in text
    assert "120 private images" in text
    assert "dpvision.load(" in text
    assert "Read or published without noise, so not covered by the guarantee" in text


def test_no_accuracy_is_stated_that_was_not_measured(runs: Path) -> None:
    card = json.loads((runs / "model" / "release" / "card.json").read_bytes())
    text = hub_card(card | {"test": None}, "mit", None)
    assert "model-index" not in text
    assert "metrics" not in text


def test_a_card_shows_hostile_names_and_obeys_none(runs: Path) -> None:
    for kind, named in (("model", "apache-2.0"), ("images", "cc-by-4.0")):
        head, text = head_of(runs / f"hub-{kind}")
        assert "<script" not in text
        assert "&lt;script>alert(1)&lt;/script>" in text
        assert head["license"] == named, "no name of a class ends the head, or sets what is in it"


def test_the_hubs_own_library_reads_the_card(runs: Path) -> None:
    library = pytest.importorskip("huggingface_hub")
    card = library.ModelCard.load(runs / "hub-model" / "README.md")
    (result,) = card.data.eval_results
    assert (card.data.license, result.metric_type, result.task_type) == (
        "apache-2.0",
        "accuracy",
        "image-classification",
    )
    of_set = library.DatasetCard.load(runs / "hub-images" / "README.md")
    assert of_set.data.size_categories == ["n<1K"]


def test_images_are_a_data_set_that_datasets_reads(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder, released = runs / "hub-images", names_in(runs / "images" / "release")
    assert names_in(folder) == released | ADDED | {"images/parquet/images.parquet"}
    assert dpvision.verify(folder).holds
    images = dpvision.open_images(runs / "images")
    read = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert tuple(read.features["label"].names) == NAMES, "also that of the class of no image"
    assert read["label"] == images.labels.tolist()
    same = dpvision.images_from_dataset(read)
    back = dpvision.open_images(folder)
    assert isinstance(images, Images)
    for other in (same, back):
        assert isinstance(other, Images)
        assert torch.equal(other.pixels, images.pixels)
        assert torch.equal(other.labels, images.labels)
        assert other.class_names == images.class_names
    assert len(dpvision.sample(folder, count=3, out=tmp_path / "more", format="npz")) == 3


def test_class_folders_of_a_release_are_an_imagefolder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    digits = dpvision.open_images("bundled:digits").subset(range(30))
    write_folder(tmp_path / "png", image_files(digits, "png"))
    place, cache = str(tmp_path / "png"), str(tmp_path / "cache")
    read = datasets.load_dataset("imagefolder", data_dir=place, split="train", cache_dir=cache)
    same, images = dpvision.images_from_dataset(read), dpvision.open_images(place)
    assert same.digest == images.digest
    assert sorted(same.class_names) == sorted(images.class_names)


def test_soft_labels_and_ten_thousand_classes_are_read_as_they_were_written(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    names = tuple(f"class: {index}" for index in range(10_000))
    images = Images(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([9_999, 0]), names, "made up")
    probabilities = torch.rand(2, 10_000).numpy()
    (content,) = image_files(images, "parquet", probabilities).values()
    (tmp_path / "images.parquet").write_bytes(content)
    read = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "images.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert tuple(read.features["label"].names) == names
    assert read["label"] == [9_999, 0]
    assert torch.allclose(torch.tensor(read["probabilities"]), torch.from_numpy(probabilities))


# What does not -------------------------------------------------------------------------------------------


def test_nothing_private_is_in_the_folder(runs: Path) -> None:
    """Neither files, nor what tells where images, ledger or run lie or what they are called."""
    for kind in ("model", "images"):
        record = json.loads((runs / kind / "private" / "run.json").read_bytes())
        private = [str(runs), "clinic-north", "dpvision-home"]
        private += [value for value in record.values() if isinstance(value, str) and len(value) > 20]
        assert len(private) > 4, "the record has the run's id, and the digest of the images"
        folder = runs / f"hub-{kind}"
        for name in names_in(folder):
            content = (folder / name).read_bytes()
            assert [one for one in private if one.encode() in content or one in name] == []


def test_what_is_not_private_or_not_whole_is_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "hub"
    with pytest.raises(InputError, match=r"NOT PRIVATE .* not to be published"):
        dpvision.write_hub_folder(runs / "seeded", out, license="mit")
    for name, content in (("model.safetensors", b"changed"), ("notes.txt", b"more")):
        copy = tmp_path / name
        shutil.copytree(runs / "model" / "release", copy)
        (copy / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"does not hold what it states .*{name}"):
            dpvision.write_hub_folder(copy, out, license="mit")
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "release", interrupted)
        with pytest.raises(KeyboardInterrupt):
            dpvision.train(some_images(), epsilon=1, out=tmp_path / "half", **RIDGE)
    with pytest.raises(InputError, match="is not complete; resume it first"):
        dpvision.write_hub_folder(tmp_path / "half", out, license="mit")
    assert not out.exists()


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_place_that_is_taken_and_what_is_no_name_are_refused(runs: Path, tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    release = runs / "model" / "release"
    for options, said in (
        ({"out": tmp_path / "full"}, "is not empty"),
        ({"out": release / "hub"}, "is within a release"),
        ({"license": "Apache 2: yes"}, "no name of a licence"),
        ({"license": "mit\nprivate: true"}, "no name of a licence"),
        ({"out": tmp_path / "full"}, "is not empty; name another directory"),
        ({"out": "z\0"}, "has a zero in it"),
        ({"license": None}, "no name of a licence"),
        ({"push": ""}, "'' names no repository"),
        ({"push": "name"}, "names no repository"),
        ({"push": "datasets/a"}, "names no repository"),
        ({"push": "datasets/a/b"}, "names no repository"),
        ({"push": "a/b@main"}, "names no repository"),
    ):
        with pytest.raises(InputError, match=said):
            dpvision.write_hub_folder(
                runs / "model", **{"out": tmp_path / "new", "license": "mit", **options}
            )
    assert not (tmp_path / "new").exists()
    assert hub.asked == []


def test_what_downloads_leave_beside_a_release_does_not_count_and_anything_else_does(
    runs: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs / "hub-model", copy)
    for name in (".git/config", ".cache/huggingface/download/a.metadata"):
        (copy / name).parent.mkdir(parents=True)
        (copy / name).write_text("a note")
    assert dpvision.verify(copy).holds
    (copy / ".cache" / "more").write_text("no note")
    assert not dpvision.verify(copy).holds
    (copy / ".cache" / "more").unlink()
    (copy / "README.md").write_text("ε = 0.001")
    assert not dpvision.verify(copy).holds, "the card for the hub has a digest too"


# There, and back -----------------------------------------------------------------------------------------


def test_what_was_pushed_is_private_and_comes_back(runs: Path, tmp_path: Path, hub: Hub) -> None:
    found = dpvision.write_hub_folder(runs / "model", tmp_path / "hub", license="mit", push="someone/model")
    assert found.pushed == f"hf:models/someone/model@{COMMIT}"
    assert hub.asked == ["create_repo someone/model model private=True", "upload_folder"]
    checked = dpvision.verify("hf:someone/model")
    assert checked.holds
    assert checked.sha256 == found.sha256
    test = some_images(1)
    for name in ("hf:someone/model", found.pushed):
        assert torch.equal(dpvision.load(name)(test.pixels), dpvision.load(runs / "model")(test.pixels))
    (placed("hf:someone/model", "model") / "card.md").write_text("other words")
    assert not dpvision.verify("hf:someone/model").holds


def test_a_push_that_fails_leaves_the_folder_and_says_how_to_push_it(
    runs: Path, tmp_path: Path, hub: Hub
) -> None:
    hub.fails = OSError("401 Client Error\nfor https://…")
    failed = r"is complete, .*\(401 Client Error\); push it with `hf upload a/b .*--repo-type dataset`$"
    with pytest.raises(InputError, match=failed):
        dpvision.write_hub_folder(runs / "images", tmp_path / "hub", license="mit", push="a/b")
    assert names_in(tmp_path / "hub") == names_in(runs / "hub-images")


def test_a_run_learns_from_the_hub_and_goes_on_at_the_same_commit(
    runs: Path, tmp_path: Path, hub: Hub
) -> None:
    hub.repositories["dataset", "someone/set"] = runs / "hub-images"
    with pytest.raises(KeyboardInterrupt):
        dpvision.train("hf:someone/set", epsilon=1, out=tmp_path / "run", progress=interrupted, **RIDGE)
    recorded = json.loads((tmp_path / "run" / "config.json").read_bytes())["data"]
    assert recorded["spec"] == f"hf:datasets/someone/set@{COMMIT}"
    hub.fails = ConnectionError("no network")
    parquet = placed(recorded["spec"]) / "images" / "parquet" / "images.parquet"
    content = parquet.read_bytes()
    (other,) = image_files(some_images(7), "parquet").values()
    parquet.write_bytes(other)
    with pytest.raises(InputError, match="chang"):
        dpvision.resume(tmp_path / "run")
    parquet.write_bytes(content)
    assert dpvision.resume(tmp_path / "run").release.is_dir()


def test_the_command_writes_the_folder_and_prints_what_it_did(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], hub: Hub
) -> None:
    said = ["hub", str(runs / "model"), "--license", "mit", "--out", str(tmp_path / "hub")]
    assert command([*said, "--push", "someone/model", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found == {
        "folder": str(tmp_path / "hub"),
        "kind": "model",
        "sha256": dpvision.verify(tmp_path / "hub").sha256,
        "pushed": f"hf:models/someone/model@{COMMIT}",
    }
    assert command(said) == 2
    assert "is not empty" in capsys.readouterr().err
    assert command(["verify", "hf:someone/model"]) == 0
