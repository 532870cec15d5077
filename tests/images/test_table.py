"""Tables that name images, as people have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dpvision.images import Images, available_splits, image_sizes, images_from_table, open_images
from dpvision.privacy.errors import InputError
from tests.images.test_folder import save

ROWS = [("a.png", "cat", "train"), ("sub/b.png", "dog", "train"), ("c, d.png", "dog", "test")]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for i, (name, _, _) in enumerate(ROWS):
        save(tmp_path / name, 10 * i)
    return tmp_path


def csv_of(*rows: str, header: str = "path,label,split", end: str = "\n") -> bytes:
    return end.join([header, *rows, ""]).encode()


AS_ROWS = ["a.png,cat,train", "sub/b.png,dog,train", '"c, d.png",dog,test']


def as_parquet(path: Path) -> None:
    names, labels, splits = zip(*ROWS, strict=True)
    pq.write_table(pa.table({"path": list(names), "label": list(labels), "split": list(splits)}), path)


FORMS: dict[str, bytes] = {
    "plain.csv": csv_of(*AS_ROWS),
    "windows.csv": csv_of(*[row.replace("/", "\\") for row in AS_ROWS], end="\r\n"),
    "bom.csv": b"\xef\xbb\xbf" + csv_of(*AS_ROWS),
    "unicode.csv": csv_of(*AS_ROWS).decode().replace('"c, d.png"', "c; d.png").replace(",", "\t")
    .replace(";", ",").encode("utf-16"),
    "semicolons.csv": csv_of('a.png;cat;train', 'sub/b.png;dog;train', 'c, d.png;dog;test',
                             header="path;label;split"),
    "tabs.tsv": csv_of('a.png\tcat\ttrain', 'sub/b.png\tdog\ttrain', 'c, d.png\tdog\ttest',
                       header="path\tlabel\tsplit"),
    "shouting.csv": csv_of(*AS_ROWS, header="File Name,Finding Labels,SPLIT"),
    "spaces and blank lines.csv": csv_of("a.png , cat,train", "", "sub/b.png,dog ,TRAIN", "", AS_ROWS[2]),
    "more columns.csv": csv_of(*[f"{row},{i}" for i, row in enumerate(AS_ROWS)],
                               header="path,label,split,age"),
}  # fmt: skip


def check(images: Images) -> None:
    assert images.names is not None
    assert [name.replace("\\", "/") for name in images.names] == ["a.png", "sub/b.png"]
    assert images.class_names == ("cat", "dog")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1]
    assert images.pixels[:, 0, 0, 0].tolist() == [0, 10]


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_of_a_table_are_one(place: Path, form: str) -> None:
    (place / form).write_bytes(FORMS[form])
    assert set(available_splits(place / form)) == {"train", "test"}
    check(open_images(place / form))
    test = open_images(place / form, "test")
    assert test.names == ("c, d.png",)
    assert test.class_names == ("cat", "dog")
    assert sum(image_sizes(place / form).values()) == 2


def test_parquet_without_pixels(place: Path) -> None:
    as_parquet(place / "list.parquet")
    check(open_images(place / "list.parquet"))


@pytest.mark.parametrize("kind", ["frame", "arrow", "mapping"])
def test_tables_in_memory(place: Path, kind: str) -> None:
    names, labels, splits = zip(*ROWS, strict=True)
    columns = {"path": list(names), "label": list(labels), "split": list(splits)}
    if kind == "frame":
        table: Any = pytest.importorskip("pandas").DataFrame(columns)
    else:
        table = pa.table(columns) if kind == "arrow" else columns
    check(images_from_table(table, root=place))
    assert images_from_table(table, "test", root=place, labelled=False).labels is None


def test_a_table_is_the_folder_that_it_lists(tmp_path: Path) -> None:
    for i, name in enumerate(["cat/1.png", "cat/2.png", "dog/1.png"]):
        save(tmp_path / "pets" / name, i)
    (tmp_path / "list.csv").write_bytes(
        csv_of("pets/cat/1.png,cat", "pets/cat/2.png,cat", "pets/dog/1.png,dog", header="file,class")
    )
    assert open_images(tmp_path / "list.csv").digest == open_images(tmp_path / "pets").digest


def test_paths_are_relative_to_the_table_or_absolute(place: Path) -> None:
    (place / "lists").mkdir()
    rows = ["../a.png,cat", f"{place / 'sub' / 'b.png'},dog"]
    (place / "lists" / "x.csv").write_bytes(csv_of(*rows, header="path,label"))
    assert len(open_images(place / "lists" / "x.csv")) == 2


@pytest.mark.parametrize(
    ("header", "choices", "message"),
    [
        ("where,label,split", {}, r"no column of the path .*it has where, label, split.*path_column="),
        ("path,what,split", {}, r"no column of labels .*label_column="),
        ("path,label,class", {}, r"several columns that may be the label \(label, class\).*'label'"),
        ("path,label,label", {}, "two columns of the same name"),
        ("path,label,split", {"label_column": "age"}, r"no column 'age' \(it has path, label, split\)"),
    ],
)
def test_columns_that_cannot_be_told(place: Path, header: str, choices: dict[str, str], message: str) -> None:
    (place / "x.csv").write_bytes(csv_of(*AS_ROWS, header=header))
    with pytest.raises(InputError, match=message):
        open_images(place / "x.csv", **choices)


def test_columns_may_be_named(place: Path) -> None:
    (place / "x.csv").write_bytes(csv_of(*AS_ROWS, header="where,what,when"))
    check(open_images(place / "x.csv", path_column="where", label_column="what", split_column="when"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*AS_ROWS, "no.png,cat,train", "none.png,cat,test"], r"rows 5, 6 name .*\(no\.png, none\.png\)"),
        ([*AS_ROWS, "a.png,cat,train"], "rows 2, 5 name the same files"),
        ([*AS_ROWS, "./sub/../a.png,cat,test"], "rows 2, 5 name the same files"),
        ([AS_ROWS[0], "sub/b.png,,train", AS_ROWS[2]], "row 3 has no label in 'label'"),
        ([AS_ROWS[0], ",cat,train", AS_ROWS[2]], "row 3 has no path"),
        ([AS_ROWS[0], "sub/b.png,dog,later", AS_ROWS[2]], "row 3 has no split in 'split' that is known"),
        ([AS_ROWS[0], "sub/b.png,dog", AS_ROWS[2]], "row 3 has not the 3 cells"),
        ([AS_ROWS[0], "sub/b.png,dog,train,1", AS_ROWS[2]], "row 3 has not the 3 cells"),
        (["a.png,cat,train", "b\0.png,cat,train"], "row 3 names files that are not there"),
        ([], "no rows"),
        ([f"x{i}.png,cat,train" for i in range(13)], "and 3 more name files"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_named(place: Path, rows: list[str], message: str) -> None:
    (place / "x.csv").write_bytes(csv_of(*rows))
    with pytest.raises(InputError, match=message):
        open_images(place / "x.csv")


def test_all_that_is_wrong_is_told_at_once(place: Path) -> None:
    rows = [
        *AS_ROWS,
        "no.png,cat,train",
        "./a.png,cat,train",
        "sub/b.png,,train",
        ",cat,train",
        "x.png,a,later",
    ]
    (place / "x.csv").write_bytes(csv_of(*rows))
    with pytest.raises(InputError) as refusal:
        open_images(place / "x.csv")
    for said in ("row 5 names", "rows 2, 3, 6, 7 name the same", "row 7 has no label", "row 8 has no path",
                 "row 9 has no split"):  # fmt: skip
        assert said in str(refusal.value)


def test_missing_files_can_be_left_out(place: Path) -> None:
    (place / "x.csv").write_bytes(csv_of(AS_ROWS[0], "no.png,cat,train", *AS_ROWS[1:]))
    images = open_images(place / "x.csv", skip_unreadable=True)
    check(images)
    assert [Path(one.name).name for one in images.left_out] == ["no.png"]


def test_whole_numbers_are_classes_by_number(place: Path) -> None:
    for one in ("2", "2.0"):  # as data frames write numbers of a column with gaps
        table = {"path": ["a.png", "sub/b.png", "c, d.png"], "label": [float(one), 0.0, 1.0]}
        images = images_from_table(table, root=place)
        assert images.class_names == ("0", "1", "2")
        assert images.labels is not None
        assert images.labels.tolist() == [2, 0, 1]


def test_a_split_without_labels_hinders_no_training(place: Path) -> None:
    rows = [*AS_ROWS[:2], '"c, d.png",,test']
    (place / "x.csv").write_bytes(csv_of(*rows))
    assert len(open_images(place / "x.csv")) == 2
    assert open_images(place / "x.csv", "test", labelled=None).labels is None


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\0", b'path,label\n"a.png,cat\n', b"\xff\xfea", b"path,label\na.png,\xe9\n", b"a" * 200_000],
)
def test_what_is_no_table_is_refused(place: Path, content: bytes) -> None:
    (place / "x.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.csv"):
        open_images(place / "x.csv")


def test_a_class_list_orders_names_and_refuses_others(place: Path) -> None:
    (place / "x.csv").write_bytes(csv_of(*AS_ROWS))
    images = open_images(place / "x.csv", classes="dog,cow,cat")
    assert images.class_names == ("dog", "cow", "cat")
    assert images.labels is not None
    assert images.labels.tolist() == [2, 0]
    with pytest.raises(InputError, match="labels cat, which are not among the classes given"):
        open_images(place / "x.csv", classes=["dog", "cow"])
    assert open_images(place / "x.csv", classes="cat=Cat,dog=Dog").class_names == ("Cat", "Dog")


Opening = Callable[..., Images]


def test_the_images_are_those_of_the_files(place: Path) -> None:
    (place / "x.csv").write_bytes(csv_of(*AS_ROWS))
    expected = np.stack([np.full((3, 4), value, dtype=np.uint8) for value in (0, 10)])
    np.testing.assert_array_equal(open_images(place / "x.csv").pixels[:, 0].numpy(), expected)
