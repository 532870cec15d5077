"""Units from the command line: read, shown, converted, protected; and their names nowhere."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dpvision
from dpvision.cli.main import run
from dpvision.images import Images, open_images

MARKER = "zebra4711"
NAMES = [f"{MARKER}\n{i}" if i == 3 else f"{MARKER} {i}" for i in range(24)]
LINEAR = ["--set", "network=linear", "--set", "steps=3", "--set", "expected_batch_size=6"]
BUDGET = ["--epsilon", "4", "--method", "dp-sgd"]


def manifest(place: Path, of_test: Sequence[str] = ()) -> Path:
    """A table of 60 images to train on, of 20 units, each in both classes, and 12 to test on, of 4 others."""
    random = np.random.default_rng(0)
    rows = [("file", "label", "split", "Patient ID")]
    units = [*(NAMES[i % 20] for i in range(60)), *(of_test or [NAMES[20 + i % 4] for i in range(12)])]
    for i, unit in enumerate(units):
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(place / f"{i}.png")
        rows.append((f"{i}.png", ("ill", "well")[i // 2 % 2], "train" if i < 60 else "test", unit))
    with (place / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return place / "list.csv"


def whose(images: Images) -> dict[bytes, str]:
    assert images.units is not None
    identities = (one.numpy().tobytes() for one in images.identities)
    return dict(zip(identities, images.units.of_images, strict=True))


def last_json(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def test_data_shows_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(manifest(tmp_path))
    assert run(["data", data]) == 0
    shown = capsys.readouterr()
    assert "units             20, by column 'Patient ID'" in shown.out
    assert "images of each  3 to 3, median 3" in shown.out
    assert f"units: column 'Patient ID', 20 units in train of {data}; " in shown.err
    assert "--unit image" in shown.err
    assert MARKER not in shown.out + shown.err
    assert run(["data", data, "--json"]) == 0
    found = last_json(capsys.readouterr().out)
    assert found["num_units"] == 20
    assert found["images_per_unit"] == {"min": 3, "median": 3, "max": 3}
    assert run(["data", data, "--unit", "image", "--json"]) == 0
    shown = capsys.readouterr()
    assert "num_units" not in last_json(shown.out)
    assert "units" not in shown.err
    assert run(["data", data, "--unit-column", "label", "--json"]) == 0
    assert last_json(capsys.readouterr().out)["num_units"] == 2


@pytest.mark.parametrize(("to", "out"), [("parquet", "p"), ("folder", "f"), ("npz", "x.npz")])
def test_what_is_written_has_the_same_units(tmp_path: Path, to: str, out: str) -> None:
    (tmp_path / "data").mkdir()
    data, place = manifest(tmp_path / "data"), tmp_path / out
    assert run(["data", str(data), "--to", to, str(place)]) == 0
    for split in ("train", "test"):
        assert whose(open_images(place, split)) == whose(open_images(data, split))
    again = tmp_path / "again"
    assert run(["data", str(place), "--to", "folder", str(again)]) == 0
    assert whose(open_images(again)) == whose(open_images(data))
    plain = tmp_path / f"plain-{out}"
    assert run(["data", str(data), "--unit", "image", "--to", to, str(plain)]) == 0
    assert open_images(plain).units is None


@pytest.mark.parametrize("name", [" begins with a space", "with, comma", 'with "quotes"'])
def test_units_of_classes_with_any_name_are_written(tmp_path: Path, name: str) -> None:
    from dpvision.images import images_from_arrays
    from dpvision.images.write import image_files

    labels = [name, "b", name, "b"]
    images = images_from_arrays(np.arange(64, dtype=np.uint8).reshape(4, 4, 4), labels, units=NAMES[:4])
    for file, content in image_files(images, "png").items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(content)
    assert whose(open_images(tmp_path)) == whose(images)


def test_a_run_protects_units_and_names_them_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a run writes, also the ledgers and the index of this machine, and all that it says."""
    home, out = tmp_path / "home", tmp_path / "run"
    monkeypatch.setenv("DPVISION_HOME", str(home))
    (tmp_path / "data").mkdir()
    data = str(manifest(tmp_path / "data"))
    assert run(["train", data, *BUDGET, *LINEAR, "--out", str(out)]) == 0
    assert "20 units" in capsys.readouterr().err
    card = json.loads((out / "release" / "card.json").read_text())
    assert card["num_examples"] == 20
    assert json.loads((out / "config.json").read_text())["facts"]["unit"] == "unit"
    assert run(["plan", data, *BUDGET, *LINEAR, "--json"]) == 0
    assert last_json(capsys.readouterr().out)["num_examples"] == 20
    for command in (
        ["ledger", data],
        ["ledger", data, "--limit-epsilon", "9", "--limit-delta", "1e-3"],
        ["plan", data, *BUDGET, *LINEAR],
        ["membership", str(out), "--shadow-models", "4"],
        ["evaluate", str(out), data],
        ["predict", str(out), data],
        ["audit", data, *BUDGET, *LINEAR, "--canaries", "20"],
        ["synthesize", data, "--epsilon", "2", "--method", "dp-mepf", "--set", "encoder=pixels",
         "--set", "steps=2", "--out", str(tmp_path / "synthetic"), "--count", "4"],
        ["data", data, "--sheet", str(tmp_path / "sheet.png")],
    ):  # fmt: skip
        code = run(command)
        said = capsys.readouterr()
        assert code == 0, (command, said.err)
        assert MARKER not in said.out + said.err
    written = [
        file for place in (home, out, tmp_path / "synthetic") for file in place.rglob("*") if file.is_file()
    ]
    assert len(written) > 10
    for file in written:
        assert MARKER.encode() not in file.read_bytes(), file


def test_each_image_is_protected_by_itself_if_asked(tmp_path: Path) -> None:
    data = str(manifest(tmp_path))
    assert run(["train", data, *BUDGET, *LINEAR, "--unit", "image", "--out", str(tmp_path / "run")]) == 0
    found = json.loads((tmp_path / "run" / "config.json").read_text())
    assert found["facts"]["unit"] == "image"
    assert found["facts"]["num_examples"] == 60
    assert found["data"]["unit"] == found["test"]["unit"] == "image"


Check = Callable[[list[str], str], None]


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("command", ["train", "plan", "tune"])
def test_a_unit_to_train_on_and_to_test_is_refused(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(manifest(tmp_path, of_test=[NAMES[i % 6 + 18] for i in range(12)]))
    more = {
        "train": ["--out", str(tmp_path / "run")],
        "plan": [],
        "tune": ["--out", str(tmp_path / "run"), "--search", "learning_rate=1,2"],
    }[command]
    assert run([command, data, *BUDGET, *LINEAR, *more]) == 2
    said = last_line(capsys)
    assert "error: 2 of the 6 units of the test images have images among those to train on" in said
    assert MARKER not in said
    assert not (tmp_path / "run").exists()


def test_a_unit_in_two_tables_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = manifest(tmp_path / "one"), manifest(tmp_path / "two")
    for file in (tmp_path / "two").glob("*.png"):  # other images of the same units
        Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    command = ["train", str(one), "--test", str(two), *BUDGET, *LINEAR, "--out", str(tmp_path / "run")]
    assert run(command) == 0  # the test split of the other has units of its own
    lines = two.read_text().replace(",test,", ",val,").replace(",train,", ",test,")
    two.write_text(lines)
    assert run([*command[:-1], str(tmp_path / "other")]) == 2
    assert "20 of the 20 units of the test images" in last_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unit-column", "site"], "has no column 'site'"),
        (["--unit", "site"], "unit must be image or dicom-patient, not 'site'"),
        (["--unit", "image", "--unit-column", "label"], "unit and unit_column are both given"),
    ],
)
def test_choices_that_are_none(
    tmp_path: Path, check_sentence: Check, arguments: list[str], message: str
) -> None:
    data = str(manifest(tmp_path))
    check_sentence(["data", data, *arguments], message)
    check_sentence(["train", data, *BUDGET, "--out", str(tmp_path / "run"), *arguments], message)
    assert not (tmp_path / "run").exists()


def test_an_option_is_named_as_on_the_command_line(tmp_path: Path, check_sentence: Check) -> None:
    check_sentence(["data", "bundled:digits", "--unit-column", "site"], "leave out --unit-column site, or")
    data = manifest(tmp_path)
    data.write_text(data.read_text().replace(f"{MARKER} 5", ""))
    check_sentence(["data", str(data)], "protect each image by itself, with --unit image")


def test_what_learns_nothing_takes_no_units(tmp_path: Path) -> None:
    data = manifest(tmp_path)
    assert run(["train", str(data), *BUDGET, *LINEAR, "--out", str(tmp_path / "run")]) == 0
    data.write_text(data.read_text().replace(MARKER, ""))  # also where they are incomplete
    assert run(["evaluate", str(tmp_path / "run"), str(data)]) == 0
    assert run(["predict", str(tmp_path / "run"), str(data)]) == 0
    with pytest.raises(dpvision.InputError, match="unit_column is for images to learn from"):
        dpvision.evaluate(tmp_path / "run", data, unit_column="Patient ID")


def test_an_interrupted_run_reads_its_units_again(tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int, account: object = None) -> None:
        if done == 2:
            raise KeyboardInterrupt

    data, out = manifest(tmp_path), tmp_path / "run"
    config = {"network": "linear", "steps": 4, "expected_batch_size": 6}
    with pytest.raises(KeyboardInterrupt):
        dpvision.train(data, epsilon=4.0, method="dp-sgd", config=config, out=out, progress=stop)
    whole = data.read_text()
    data.write_text(whole.replace(f"{MARKER} 5", f"{MARKER} 6"))
    with pytest.raises(dpvision.InputError, match="have changed"):
        dpvision.resume(out)
    data.write_text(whole)
    assert dpvision.resume(out).release.exists()


def test_members_that_are_named_are_read_as_the_run_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(manifest(tmp_path))
    named = ["--members", data, "--non-members", data, "--json"]
    for unit, members, others in ((None, 20, 4), ("image", 60, 12)):
        out = tmp_path / f"run-{unit}"
        chosen = ["--unit", unit] if unit else []
        assert run(["train", data, *BUDGET, *LINEAR, *chosen, "--out", str(out)]) == 0
        for more in ([], named[:2], named[2:4]):
            assert run(["membership", str(out), *more, "--json"]) == 0
            found = last_json(capsys.readouterr().out)
            assert (found["members"], found["non_members"]) == (members, others)
    assert run(["membership", str(out / "release"), *named]) == 0
