"""dpvision synthesize, and what comes after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dpvision.cli.main import run

DIGITS = "bundled:digits"
FAST = ["--set", "rank=20"]


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_from_data_to_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, again = tmp_path / "run", tmp_path / "again"
    synthesize = ["synthesize", DIGITS, "--epsilon", "2", "--out", str(out), "--count", "80", *FAST]
    assert run([*synthesize, "--format", "npz", "--json"]) == 0
    made = last_line(capsys)
    assert made["epsilon"] <= 2
    assert (made["count"], made["release"]) == (80, str(out / "release"))

    assert run(["synthesize", "--from-release", str(out), "--out", str(again), "--balanced", *FAST]) == 0
    assert "images   1437" in capsys.readouterr().out

    assert run(["resume", str(out)]) == 0
    assert "images   80" in capsys.readouterr().out

    assert run(["evaluate", str(out), DIGITS, "--neighbours", "--json"]) == 0
    names = [row["name"] for row in last_line(capsys)["rows"]]
    assert names[:3] == ["accuracy of logistic", "accuracy of mlp", "Fréchet distance (wrn-10-4-small)"]
    assert (out / "private" / "neighbours.png").exists()
    assert not list((out / "release").rglob("neighbours*"))

    more = tmp_path / "more"
    assert run(["sample", str(out), "--count", "60", "--balanced", "--out", str(more), "--json"]) == 0
    assert last_line(capsys) == {
        "count": 60,
        "class_counts": {str(digit): 6 for digit in range(10)},
        "out": str(more),
    }
    assert len(list(more.rglob("*.png"))) == 60
    assert run(["sample", str(out), "--class-count", "3=2", "--out", str(more)]) == 2
    assert "is not empty" in capsys.readouterr().err

    assert run(["evaluate", str(again), DIGITS, "--encoder", "pixels", "--set", "size=4"]) == 0
    assert "Fréchet distance (pixels)" in capsys.readouterr().out


def test_soft_labels_are_learned_or_left_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    teacher = ["--set", "teacher.encoder=pixels", "--set", "teacher.steps=4", "--set", "candidates=2"]
    command = [
        "synthesize",
        DIGITS,
        "--epsilon",
        "9",
        "--out",
        out,
        "--count",
        "60",
        "--method",
        "dp-distill",
    ]
    assert run([*command, *teacher]) == 0
    measured = ["evaluate", out, DIGITS, "--classifiers", "logistic", "--json"]
    said = []
    for how in ([], ["--hard-labels"]):
        capsys.readouterr()
        assert run([*measured, *how]) == 0
        said.append(last_line(capsys)["rows"][0]["how"])
    assert "their soft labels" in said[0]
    assert "soft labels" not in said[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 images, of which a test may change what it measures but not the run."""
    out = tmp_path_factory.mktemp("made") / "run"
    command = ["synthesize", DIGITS, "--epsilon", "2", "--out", str(out), "--count", "60", *FAST]
    assert run([*command, "--format", "npz", "--ledger", str(out.parent / "ledger.jsonl")]) == 0
    return out


def test_one_table_has_private_images_beside_and_says_what_is_private(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = ["evaluate", str(made), DIGITS, "--classifiers", "logistic"]
    assert run(measured) == 0
    text = capsys.readouterr().out
    header, first = text.splitlines()[:2]
    assert header.split() == ["figure", "synthetic", "images"]
    assert first.startswith("accuracy of logistic ")
    assert "mlp" not in text
    assert "no guarantee covers" in text
    assert str(made / "private" / "evaluation.png") in text
    assert (made / "private" / "evaluation.png").stat().st_size > 1000
    assert not (made / "private" / "evaluation.json").exists()

    assert run([*measured, "--reference", "--copies"]) == 0
    text = capsys.readouterr().out
    header, first = text.splitlines()[:2]
    assert header.split() == ["figure", "synthetic", "images", "private", "images"]
    assert len(first.split("(")) == 3
    assert "do not publish" in text
    assert "membership AUC (pixels)" in text

    assert run([*measured, "--reference", "--copies", "--json"]) == 0
    found = last_line(capsys)
    assert found["sheet"] == str(made / "private" / "evaluation.png")
    written = json.loads((made / "private" / "evaluation.json").read_text())
    assert written == {"notice": found["notice"], "rows": found["rows"]}
    assert found["rows"][0]["reference"]["num_private"] == 60

    release = ["evaluate", str(made / "release"), DIGITS, "--classifiers", "mlp", "--json"]
    assert run(release) == 0
    assert last_line(capsys)["sheet"] is None
    assert run([*release, "--copies", "--private", DIGITS]) == 0
    assert "do not publish" in last_line(capsys)["notice"]
    assert not [*(made / "release").rglob("evaluation*")]


def test_networks_are_trained_as_told(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = ["--training", "steps=1", "--training", "batch_size=2", "--json"]
    assert run(["evaluate", str(made), DIGITS, "--classifiers", "dpimagebench", *training]) == 0
    rows = {row["name"]: row for row in last_line(capsys)["rows"]}
    names = ("resnet110", "wrn-40-4", "resnext29")
    accuracies = [rows[f"accuracy of {name}"]["value"] for name in names]
    mean = rows["accuracy, mean of resnet110, wrn-40-4, resnext29"]["value"]
    assert mean == pytest.approx(sum(accuracies) / 3)
    assert all("1 steps of batches of 2 images" in rows[f"accuracy of {name}"]["how"] for name in names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classifiers", "vgg"], "no classifier 'vgg'"),
        (["--classifiers", "mlp,"], "no classifier ''"),
        (["--training", "steps=3"], "for networks, and there is none among logistic, mlp"),
        (["--classifiers", "wrn-40-4", "--training", "width=3"], "no setting 'width'"),
        (
            ["--classifiers", "resnet9", "--training", "steps"],
            "--training steps: must be of the form key=value",
        ),
        (["--classifiers", "resnet9", "--training", "steps=0"], "steps of a network must be at least 1"),
        (["--private", DIGITS], "--private … is of use to reference"),
        (["--private", "nowhere", "--copies"], "nowhere does not exist"),
        (["--copies", "--split", "train"], "are those that"),
        (["--threshold", "0.5"], "--positive and --threshold are for classifiers"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(
    options: list[str], message: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(made), DIGITS, *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synthesize", DIGITS, "--epsilon", "2"], "--out is missing"),
        (["synthesize", DIGITS, "--out", "OUT"], "--epsilon is missing"),
        (
            ["synthesize", "--from-release", "nosuch", "--out", "OUT"],
            "nosuch does not exist",
        ),
        (["synthesize", DIGITS, "--from-release", "e", "--out", "OUT"], "DATA has no use with --from-rel"),
        (["synthesize", DIGITS, "--epsilon", "2", "--out", "OUT", "--format", "gif"], "no format 'gif'"),
        (
            ["synthesize", DIGITS, "--epsilon", "2", "--out", "OUT", "--count=0"],
            "count must be at least",
        ),
        (
            ["synthesize", DIGITS, "--epsilon=2", "--out", "OUT", "--count=5", "--class-count", "3=2"],
            "count and class_counts both say",
        ),
        (
            ["synthesize", DIGITS, "--epsilon", "2", "--out", "OUT", "--class-count", "cat=2"],
            "there is no class 'cat' to make images of; the classes are 0, 1, 2",
        ),
        (
            ["synthesize", DIGITS, "--epsilon", "2", "--out", "OUT", "--class-count", "3=x"],
            "--class-count 3=x: 'x' is no whole number",
        ),
        (
            ["synthesize", DIGITS, "--epsilon=2", "--out", "OUT", "--class-count=3=1", "--class-count=3=2"],
            "names the class '3' twice",
        ),
        (["sample", "nosuch", "--out", "OUT", "--count", "3"], "config.json is missing"),
        (["train", DIGITS, "--epsilon", "2", "--out", "OUT", "--method", "dp-mepf"], "no method 'dp-mepf'"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run([str(out) if argument == "OUT" else argument for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert not out.exists()


def test_options_of_images_are_not_for_classifiers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    fast = ["--set", "network=linear", "--set", "steps=2", "--set", "expected_batch_size=100"]
    assert run(["train", DIGITS, "--epsilon", "2", "--out", str(out), *fast]) == 0
    drawn = ["--images", str(tmp_path)]
    for option in (
        *(["--neighbours"], ["--copies"], ["--reference"], ["--hard-labels"], ["--private", DIGITS], drawn),
        *(["--classifiers", "mlp"], ["--training", "steps=3"], ["--set", "a=3"], ["--encoder", "scattering"]),
    ):
        capsys.readouterr()
        assert run(["evaluate", str(out), DIGITS, *option]) == 2
        assert f"released a classifier: {option[0]} is for images" in capsys.readouterr().err
    assert run(["sample", str(out), "--count", "3", "--out", str(tmp_path / "more")]) == 2
    assert "released a classifier and no images" in capsys.readouterr().err
    assert not (tmp_path / "more").exists()


def test_counts_of_classes_in_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, out = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text("epsilon = 2\n[class_counts]\n3 = 20\n7 = 5\n[config]\nrank = 20\n")
    assert run(["synthesize", DIGITS, "--config", str(recipe), "--out", str(out)]) == 0
    folders = {path.name: len(list(path.iterdir())) for path in (out / "release/images/png").iterdir()}
    assert folders == {"3": 20, "7": 5}
    assert "as many of each class as was asked for" in (out / "release" / "card.md").read_text()
