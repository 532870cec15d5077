"""Whose images are whose, as each kind of data set says it."""

from __future__ import annotations

import csv
import json
import logging
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from checks.fuzzing.dicom_files import encoded as dicom_file
from dpvision.api.sources import Reading
from dpvision.images import (
    Images,
    image_sizes,
    images_from_arrays,
    images_from_dataset,
    images_from_table,
    open_images,
)
from dpvision.images.units import LONGEST_NAME
from dpvision.privacy.errors import InputError
from tests.images.test_messy import ENCODED, GIF, picture

Opening = Callable[..., Images]
Names = Sequence[Any]

NAMES = ["ann", "bob", "ann", "cas", "bob", "ann"]
ODD = ["a\nb\r\nc", '"quoted", and;\t', "\x1b[31mred", "é 中 \u202e", "x" * LONGEST_NAME, "a\nb\r\nc"]


def files(place: Path, count: int) -> list[str]:
    """Write images of the values 0, 10, … to class folders, in turns; return their paths."""
    names = [f"{'ab'[i % 2]}/{i}.png" for i in range(count)]
    for i, name in enumerate(names):
        (place / name).parent.mkdir(exist_ok=True, parents=True)
        (place / name).write_bytes(picture(10 * i % 256))
    return names


def table(place: Path, names: Names) -> Opening:
    cells = {"path": files(place, len(names)), "label": ["ab"[i % 2] for i in range(len(names))]}
    return lambda **choices: images_from_table({**cells, "Patient ID": names}, root=place, **choices)


def manifest(place: Path, names: Names) -> Opening:
    rows = [(path, path[0], name) for path, name in zip(files(place, len(names)), names, strict=True)]
    with (place / "x.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "patient-id"), *rows])
    return lambda **choices: open_images(place / "x.csv", **choices)


def parquet(place: Path, names: Names) -> Opening:
    images = pa.array([{"bytes": picture(10 * i), "path": None} for i in range(len(names))], ENCODED)
    columns = {"image": images, "label": [i % 2 for i in range(len(names))], "Subject": pa.array(names)}
    for number, part in enumerate((slice(0, 2), slice(2, None))):
        rows = pa.table({name: values[part] for name, values in columns.items()})
        pq.write_table(rows, place / f"train-0000{number}-of-00002.parquet")
    return lambda **choices: open_images(place, **choices)


def folder(place: Path, names: Names) -> Opening:
    rows = list(zip(files(place, len(names)), names, strict=True))
    with (place / "units.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "unit"), *rows])
    return lambda **choices: open_images(place, **choices)


def npz(place: Path, names: Names) -> Opening:
    pixels = np.arange(len(names), dtype=np.uint8)[:, None, None] * 10 + np.zeros((4, 4), np.uint8)
    labels = np.arange(len(names)) % 2
    np.savez(place / "x.npz", train_images=pixels, train_labels=labels, train_units=np.array(names))
    return lambda **choices: open_images(place / "x.npz", **choices)


def arrays(place: Path, names: Names) -> Opening:
    pixels = np.arange(len(names), dtype=np.uint8)[:, None, None] * 10 + np.zeros((4, 4), np.uint8)
    labels = [i % 2 for i in range(len(names))]
    return lambda **choices: images_from_arrays(pixels, labels, units=names, **choices)


class Pairs:
    """A data set as PyTorch's."""

    def __init__(self, images: Sequence[Any]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index], index % 2


def image(value: int) -> Image.Image:
    return Image.new("L", (4, 4), value)


def pairs(place: Path, names: Names) -> Opening:
    dataset = Pairs([image(10 * i) for i in range(len(names))])
    return lambda **choices: images_from_dataset(dataset, units=names, **choices)


def function(place: Path, names: Names) -> Opening:
    dataset = Pairs([image(10 * i) for i in range(len(names))])

    def whose(item: Any) -> Any:
        return names[item[0].getpixel((0, 0)) // 10]

    return lambda **choices: images_from_dataset(dataset, units=whose, **choices)


def rows(place: Path, names: Names) -> Opening:
    """A data set as Hugging Face's."""
    feature = {name: type(name, (), {"names": ["a", "b"]})() for name in ("Image", "ClassLabel", "Value")}

    class Rows(Pairs):
        column_names = ("image", "label", "subject_id")
        features: ClassVar[dict[str, Any]] = dict(zip(column_names, feature.values(), strict=True))

        def __getitem__(self, index: int) -> Any:
            return {"image": self.images[index], "label": index % 2, "subject_id": names[index]}

    dataset = Rows([image(10 * i) for i in range(len(names))])
    return lambda **choices: images_from_dataset(dataset, **choices)


SAID: dict[str, Callable[[Path, Names], Opening]] = {
    "table": table,
    "manifest": manifest,
    "parquet": parquet,
    "folder": folder,
    "npz": npz,
    "rows": rows,
}
"""Those that say whose images are whose themselves."""
GIVEN: dict[str, Callable[[Path, Names], Opening]] = {"arrays": arrays, "pairs": pairs, "function": function}
KINDS = SAID | GIVEN
TYPED = [kind for kind in KINDS if kind not in ("manifest", "folder")]  # that have numbers too


def whose(images: Images) -> dict[int, str]:
    """The unit of each image, by its value."""
    assert images.units is not None
    return dict(zip((images.pixels[:, 0, 0, 0] // 10).tolist(), images.units.of_images, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_units_are_read(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dpvision"):
        images = KINDS[kind](tmp_path, NAMES)()
    assert whose(images) == dict(enumerate(NAMES))
    assert images.summary()["num_units"] == 3
    assert images.summary()["images_per_unit"] == {"min": 1, "median": 2, "max": 3}
    assert ("3 units" in caplog.text) == (kind in SAID)  # of those given one knows
    assert not any(name in caplog.text + repr(images) + str(images.summary()) for name in NAMES)


@pytest.mark.parametrize("kind", SAID)
def test_units_may_be_left_aside(tmp_path: Path, kind: str) -> None:
    opening = SAID[kind](tmp_path, NAMES)
    images, plain = opening(), opening(unit="image")
    assert plain.units is None
    assert plain.num_protected == 6
    assert plain.digest == images.with_units(None).digest != images.digest


@pytest.mark.parametrize("kind", SAID)
def test_where_units_are_left_aside_nothing_is_wrong_with_them(tmp_path: Path, kind: str) -> None:
    assert len(SAID[kind](tmp_path, [*NAMES[:5], ""])(unit="image")) == 6


@pytest.mark.parametrize("kind", GIVEN)
def test_units_are_given_once(tmp_path: Path, kind: str) -> None:
    for choice in ({"unit": "image"}, {"unit_column": "patient"}):
        with pytest.raises(InputError, match="units are given, and unit or unit_column too"):
            GIVEN[kind](tmp_path, NAMES)(**choice)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("empty", ["", "  ", "\0"])
def test_an_image_without_a_unit_is_refused(tmp_path: Path, kind: str, empty: str) -> None:
    opening = KINDS[kind](tmp_path, [*NAMES[:2], empty, *NAMES[3:]])
    with pytest.raises(InputError, match="unit") as refusal:
        opening()
    said = str(refusal.value)
    assert not any(name in said for name in NAMES)
    place = {
        "table": "row 4 has no unit in 'Patient ID'",
        "manifest": "row 4 has no unit in 'patient-id'",
        "parquet": "train-00001-of-00002.parquet: row 0 has no unit in 'Subject'",
        "folder": "units.csv: row 4 has no unit in 'unit'",
        "rows": "1 of 6 images have no unit in column 'subject_id': item 2",
    }
    if kind != "npz" and empty != "\0":
        assert place.get(kind, "1 of 6 images have no unit") in said


@pytest.mark.parametrize("kind", TYPED)
def test_numbers_name_units_however_they_are_stored(tmp_path: Path, kind: str) -> None:
    names = ["7", "30", "7", "7", "30", "1"]
    for number, of_type in enumerate((int, float)):
        place = tmp_path / str(number)
        place.mkdir()
        assert whose(KINDS[kind](place, [of_type(name) for name in names])()) == dict(enumerate(names))


@pytest.mark.parametrize("kind", TYPED)
@pytest.mark.parametrize(
    "wrong", [[1.0, 2.0, float("nan"), 1.0], [1.0, 1.0, 2.5, 2.0], [True, False, True, True]]
)
def test_what_names_no_unit_is_refused(tmp_path: Path, kind: str, wrong: list[Any]) -> None:
    if kind == "table" and wrong[2] in (2.5, True):  # whose cells are texts, also those of CSV
        return
    with pytest.raises(InputError, match="unit"):
        KINDS[kind](tmp_path, wrong)()


@pytest.mark.parametrize(
    "kind", [kind for kind in TYPED if kind not in ("npz", "parquet")]
)  # which have one type
def test_numbers_and_texts_may_be_mixed(tmp_path: Path, kind: str) -> None:
    assert whose(KINDS[kind](tmp_path, [1, "a", "1", 2, "b", "a"])()) == dict(enumerate("1a12ba"))


@pytest.mark.parametrize("kind", KINDS)
def test_names_may_hold_anything_and_are_never_shown(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "dpvision"):
        images = KINDS[kind](tmp_path, ODD)()
    assert whose(images) == {index: name.strip() for index, name in enumerate(ODD)}
    assert "xxx" not in caplog.text
    assert "\x1b" not in caplog.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["y" * (LONGEST_NAME + 1), "y" * 100_000])
def test_a_name_that_is_too_long_is_refused_unseen(tmp_path: Path, kind: str, name: str) -> None:
    with pytest.raises(InputError, match=f"a unit has a name of {len(name)} characters") as refusal:
        KINDS[kind](tmp_path, [*NAMES[:5], name])()
    assert "yy" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["arrays", "pairs", "npz"])
@pytest.mark.parametrize("count", [0, 1, 5, 7])
def test_there_are_as_many_units_as_images(tmp_path: Path, kind: str, count: int) -> None:
    names = [*NAMES, "dan"][:count]
    if kind == "npz":
        npz(tmp_path, NAMES)
        found = dict(np.load(tmp_path / "x.npz")) | {"train_units": np.array(names, dtype=str)}
        np.savez(tmp_path / "x.npz", **found)
        opening: Opening = lambda: open_images(tmp_path / "x.npz")  # noqa: E731
    elif kind == "arrays":
        opening = lambda: images_from_arrays(np.zeros((6, 4, 4), np.uint8), units=names)  # noqa: E731
    else:
        opening = lambda: images_from_dataset(Pairs([image(0)] * 6), units=names)  # noqa: E731
    with pytest.raises(InputError, match=f"6 images need as many units, got {count}"):
        opening()


@pytest.mark.parametrize(
    "units", [np.zeros((6, 2), int), np.zeros((6, 1, 1), int), np.array(3), np.array("x")]
)
def test_units_of_other_shapes(tmp_path: Path, units: np.ndarray) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((6, 4, 4), np.uint8), units=units)
    for opening in (
        lambda: open_images(tmp_path / "x.npz", labelled=False),
        lambda: images_from_arrays(np.zeros((6, 4, 4), np.uint8), units=units),
        lambda: images_from_arrays(np.zeros((6, 4, 4), np.uint8)).with_units(units),
    ):
        with pytest.raises(InputError, match="unit"):
            opening()


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    pickle.dumps(Bomb())
    units = np.array([Bomb(), "a"], dtype=object)
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 4, 4), np.uint8), units=units)
    with pytest.raises(InputError, match="never unpickled"):
        open_images(tmp_path / "x.npz", labelled=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["table", "manifest", "parquet", "folder", "pairs", "function", "rows"])
@pytest.mark.parametrize("bad", [(0,), (3,), (0, 1, 5)])
def test_images_that_are_left_out_take_their_units_along(
    tmp_path: Path, kind: str, bad: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_value = {10 * i: GIF for i in bad}
    monkeypatch.setitem(globals(), "picture", lambda value: of_value.get(value, picture_as_it_is(value)))
    if kind == "function":  # which sees items and no image
        dataset = Pairs([None if i in bad else image(10 * i) for i in range(6)])
        units = iter(NAMES)
        images = images_from_dataset(dataset, units=lambda item: next(units), skip_unreadable=True)
    else:
        monkeypatch.setitem(
            globals(), "image", lambda value: None if value in of_value else image_as_it_is(value)
        )
        images = KINDS[kind](tmp_path, NAMES)(skip_unreadable=True)
    assert whose(images) == {i: name for i, name in enumerate(NAMES) if i not in bad}
    assert len(images.left_out) == len(bad)


picture_as_it_is, image_as_it_is = picture, image


# Columns ---------------------------------------------------------------------------------------------------


def with_columns(place: Path, names: Sequence[str], **choices: Any) -> Images:
    cells: dict[str, Sequence[Any]] = {"path": files(place, 4), "label": ["a", "b", "a", "b"]}
    for number, name in enumerate(names):
        cells[name] = [f"{number}-{i // 2}" for i in range(4)]
    return images_from_table(cells, root=place, **choices)


USUAL = ["patient", "PatientID", "patient_id", "Patient ID", "patient-id", " PATIENT ", "subject",
         "subjectid", "participant_id", "Person ID", "user", "USER-ID", "unit", "unit_id"]  # fmt: skip


@pytest.mark.parametrize("name", USUAL)
def test_columns_that_are_found(tmp_path: Path, name: str) -> None:
    found = with_columns(tmp_path, [name]).units
    assert found is not None
    assert found.origin == f"column '{name}'"
    assert len(found) == 2


@pytest.mark.parametrize(
    "name", ["site", "hospital", "case_id", "id", "study", "patients_age", "group", "unit2"]
)
def test_columns_that_must_be_named(tmp_path: Path, name: str) -> None:
    assert with_columns(tmp_path, [name]).units is None
    found = with_columns(tmp_path, [name, "patient"], unit_column=name).units
    assert found is not None
    assert found.of_images == ["0-0", "0-0", "0-1", "0-1"]


def test_columns_that_cannot_be_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"may be the unit \(patient, user\).*unit_column='patient'"):
        with_columns(tmp_path, ["patient", "user"])
    assert with_columns(tmp_path, ["patient", "user"], unit="image").units is None
    with pytest.raises(InputError, match="has no column 'site'"):
        with_columns(tmp_path, ["patient"], unit_column="site")


def test_a_column_that_is_named_for_something_else_is_no_unit(tmp_path: Path) -> None:
    images = with_columns(tmp_path, ["subject"], label_column="subject")
    assert images.units is None
    assert images.class_names == ("0-0", "0-1")


def test_a_column_in_some_shards_alone(tmp_path: Path) -> None:
    opening = parquet(tmp_path, NAMES)
    last = tmp_path / "train-00001-of-00002.parquet"
    pq.write_table(pq.read_table(last).drop_columns(["Subject"]), last)
    with pytest.raises(InputError, match="has no column 'Subject', as others have"):
        opening()


def test_a_column_of_categories(tmp_path: Path) -> None:
    opening = parquet(tmp_path, NAMES)
    for file in tmp_path.glob("*.parquet"):
        rows = pq.read_table(file)
        at = rows.schema.get_field_index("Subject")
        pq.write_table(rows.set_column(at, "Subject", rows["Subject"].dictionary_encode()), file)
    assert whose(opening()) == dict(enumerate(NAMES))


@pytest.mark.parametrize("values", [[[1]] * 6, [b"a"] * 6, [{"a": 1}] * 6])
def test_a_column_of_something_else(tmp_path: Path, values: list[Any]) -> None:
    with pytest.raises(InputError, match="name units by texts or whole numbers"):
        parquet(tmp_path, values)()


@pytest.mark.parametrize("choice", [{"unit_column": "patient"}, {"unit": "dicom-patient"}])
def test_units_that_were_asked_for_must_be_there(tmp_path: Path, choice: dict[str, Any]) -> None:
    """Else each image would be protected by itself, without a word."""
    files(tmp_path / "photos", 4)
    npz(tmp_path, NAMES)
    pixels = np.zeros((4, 4, 4), np.uint8)
    for opening in (
        lambda: open_images("bundled:digits", **choice),
        lambda: open_images(tmp_path / "x.npz", **choice),
        lambda: images_from_arrays(pixels, **choice),
        lambda: images_from_dataset(Pairs([image(0)] * 4), **choice),
        lambda: open_images(tmp_path / "photos", **choice),
    ):
        with pytest.raises(InputError, match=r"whose images are whose|no unit in the patient IDs"):
            opening()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"unit": "patient"}, "unit must be image or dicom-patient, not 'patient'"),
        ({"unit": "image", "unit_column": "patient"}, "unit and unit_column are both given"),
    ],
)
def test_choices_that_are_none(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_images("bundled:digits", **given)


def test_a_record_of_reading_keeps_the_choices() -> None:
    for given in ({"unit": "image"}, {"unit_column": "site"}):
        reading = Reading.from_json({"spec": "x", **given})
        assert reading.given() == given
    with pytest.raises(TypeError):
        Reading.from_json({"spec": "x", "unit_column": 3})
    with pytest.raises(InputError):
        Reading.from_json({"spec": "x", "unit": ["image"]})


# units.csv -------------------------------------------------------------------------------------------------


def with_splits(place: Path) -> Path:
    for split in ("train", "test"):
        (place / split).mkdir()
        files(place / split, 4)
    return place


def csv_of(*lines: str) -> str:
    return "\n".join(["path,unit", *lines])


def of_split(split: str, prefix: str = "") -> list[str]:
    return [f"{prefix}{'ab'[i % 2]}/{i}.png,{split}{i // 2}" for i in range(4)]


def test_units_of_splits_are_listed_in_the_folder_of_all_or_in_each(tmp_path: Path) -> None:
    place = with_splits(tmp_path)
    every = [*of_split("train", "train/"), *of_split("test", "test/")]
    (place / "units.csv").write_text(csv_of(*every))
    in_one = {split: whose(open_images(place, split)) for split in ("train", "test")}
    (place / "units.csv").unlink()
    for split in ("train", "test"):
        (place / split / "units.csv").write_text(csv_of(*of_split(split)))
    assert in_one == {split: whose(open_images(place, split)) for split in ("train", "test")}
    assert in_one["test"] == {0: "test0", 1: "test0", 2: "test1", 3: "test1"}
    assert whose(open_images(place, labelled=False)) == in_one["train"]
    assert sum(image_sizes(place).values()) == 4
    (place / "Units.CSV").write_text(csv_of(*every))
    with pytest.raises(InputError, match="are both there; keep one"):
        open_images(place)
    assert len(open_images(place, unit="image")) == 4


def test_a_split_may_have_no_units(tmp_path: Path) -> None:
    place = with_splits(tmp_path)
    (place / "train" / "units.csv").write_text(csv_of(*of_split("train")))
    assert open_images(place).num_protected == 2
    assert open_images(place, "test").units is None


@pytest.mark.parametrize("labelled", [True, False])
def test_the_table_is_no_image(tmp_path: Path, labelled: bool) -> None:
    opening = folder(tmp_path, NAMES)
    assert len(opening(labelled=labelled)) == 6
    assert image_sizes(tmp_path) == {(4, 4): 6}
    (tmp_path / "a" / "units.csv").write_text(csv_of("0.png,ann"))
    with pytest.raises(InputError, match=r"a/units\.csv"):  # which would be passed over
        opening(labelled=labelled)


def test_paths_as_people_write_them(tmp_path: Path) -> None:
    files(tmp_path, 4)
    lines = ["./a/0.png,x", "b\\1.png,x", f"{tmp_path / 'a' / '2.png'},y", "a/../b/3.png,y"]
    (tmp_path / "units.csv").write_text(csv_of(*lines))
    assert whose(open_images(tmp_path)) == dict(enumerate("xxyy"))
    assert whose(open_images(os.path.relpath(tmp_path))) == dict(enumerate("xxyy"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["no.png,x", "a/none.png,x"], r"rows 6, 7 name files that are not there \(no\.png, a/none\.png\)"),
        (["a,x"], "row 6 names files that are not there"),
        (["a\0,x"], "row 6 names files that are not there"),
        (["a/0.png,x"], "rows 2, 6 name the same files more than once"),
        (["b/../a/0.png,train0"], "rows 2, 6 name the same files more than once"),
        ([",x"], "row 6 has no path"),
        (["a/0.png"], "row 6 has not the 2 cells"),
    ],
)
def test_rows_that_do_not_fit(tmp_path: Path, lines: list[str], message: str) -> None:
    files(tmp_path, 4)
    (tmp_path / "units.csv").write_text(csv_of(*of_split("train"), *lines))
    with pytest.raises(InputError, match=message):
        open_images(tmp_path)


def test_images_without_a_row_are_named(tmp_path: Path) -> None:
    files(tmp_path, 30)
    (tmp_path / "units.csv").write_text(csv_of(*of_split("train")))
    with pytest.raises(InputError, match=r"26 of 30 images have no unit in units\.csv: a/10\.png; .*16 more"):
        open_images(tmp_path)
    with pytest.raises(InputError, match="26 of 30 images have no unit"):
        open_images(tmp_path, skip_unreadable=True)


def test_of_files_that_are_left_out_nothing_is_asked(tmp_path: Path) -> None:
    files(tmp_path, 4)
    (tmp_path / "a" / "notes.txt").write_text("")
    (tmp_path / "units.csv").write_text(csv_of(*of_split("train"), "a/gone.png,train9"))
    images = open_images(tmp_path, skip_unreadable=True)
    assert whose(images) == {0: "train0", 1: "train0", 2: "train1", 3: "train1"}
    with pytest.raises(InputError, match=r"a/gone\.png"):
        open_images(tmp_path)


@pytest.mark.parametrize("header", ["file,subject", "Path,Patient ID", "image,user"])
def test_columns_of_the_table_have_usual_names(tmp_path: Path, header: str) -> None:
    files(tmp_path, 4)
    (tmp_path / "units.csv").write_text("\n".join([header, *of_split("x")]))
    assert open_images(tmp_path).num_protected == 2
    (tmp_path / "units.csv").write_text("\n".join(["where,whose", *of_split("x")]))
    with pytest.raises(InputError, match="no column of the path"):
        open_images(tmp_path)
    assert open_images(tmp_path, path_column="where", unit_column="whose").num_protected == 2


# DICOM -----------------------------------------------------------------------------------------------------


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    pytest.importorskip("pydicom")
    for i, name in enumerate(NAMES):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        pixels = np.full((4, 4), 10 * i, np.uint8)
        (tmp_path / "ab"[i % 2] / f"{i}.dcm").write_bytes(dicom_file(pixels, PatientID=f"marker-{name} "))
    return tmp_path


def as_table(scans: Path) -> Path:
    lines = [f"{'ab'[i % 2]}/{i}.dcm,{'ab'[i % 2]}" for i in range(6)]
    (scans / "list.csv").write_text("\n".join(["path,label", *lines]))
    return scans / "list.csv"


def test_patients_of_dicom_files_are_read_if_asked(scans: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert open_images(scans).units is None
    expected = {i: f"marker-{name}" for i, name in enumerate(NAMES)}
    with caplog.at_level(logging.DEBUG):
        images = open_images(scans, unit="dicom-patient")
        assert whose(images) == expected
        assert whose(open_images(scans, unit="dicom-patient", labelled=False)) == expected
        assert whose(open_images(as_table(scans), unit="dicom-patient")) == expected
    assert "marker" not in caplog.text + repr(images) + str(images.summary()) + str(images.names)
    kept = {name: value for name, value in vars(images).items() if name != "units"}
    assert "marker" not in repr(kept)


@pytest.mark.parametrize("wrong", [dicom_file, None])
def test_files_without_a_patient_are_named(scans: Path, wrong: Any) -> None:
    content = picture(20) if wrong is None else dicom_file(np.full((4, 4), 20, np.uint8), PatientID="")
    (scans / "a" / "2.dcm").write_bytes(content)
    for spec in (scans, as_table(scans)):
        with pytest.raises(
            InputError, match=r"1 of 6 images have no unit in the patient IDs .*2\.dcm"
        ) as said:
            open_images(spec, unit="dicom-patient")
        assert "marker" not in str(said.value)


def test_damaged_files_are_told_of_or_left_out_with_their_patients(scans: Path) -> None:
    whole = (scans / "a" / "2.dcm").read_bytes()
    for damaged in (b"", GIF, whole[:150], whole[:-8], whole[:200]):
        (scans / "a" / "2.dcm").write_bytes(damaged)
        with pytest.raises(InputError, match=r"2\.dcm") as said:
            open_images(scans, unit="dicom-patient")
        assert "marker" not in str(said.value)
        found = whose(open_images(scans, unit="dicom-patient", skip_unreadable=True))
        assert found == {i: f"marker-{name}" for i, name in enumerate(NAMES) if i != 2}


def test_units_are_given_to_images_in_memory() -> None:
    pixels = np.zeros((6, 4, 4), np.uint8)
    for names in (NAMES, tuple(NAMES), np.array(NAMES), torch.arange(6)):
        assert images_from_arrays(pixels, units=names).units is not None
    assert json.dumps(images_from_arrays(pixels, units=NAMES).summary())
