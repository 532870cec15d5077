from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dpvision.images import Images, available_splits, open_images
from dpvision.images.columns import USUAL_NAMES
from dpvision.privacy.errors import InputError

NAMES = ("ant", "bee", "cow")


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), value, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def save(
    path: Path,
    values: Sequence[int],
    labels: Sequence[int | None],
    *,
    names: Sequence[str] | None = NAMES,
    column: str = "image",
    encoded: Sequence[bytes | None] | None = None,
) -> Path:
    """A file as the Hugging Face datasets library writes it; the images are plain, of the values given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = [png(v) for v in values] if encoded is None else encoded
    table = pa.table(
        {
            column: pa.array([{"bytes": c, "path": None} for c in content], IMAGE_TYPE),
            "label": pa.array(labels, pa.int64()),
        }
    )
    if names is not None:
        label = {"names": list(names), "_type": "ClassLabel"}
        info = {"info": {"features": {column: {"_type": "Image"}, "label": label}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path, row_group_size=2)
    return path


IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def content(images: Images) -> list[tuple[int, str]]:
    assert images.labels is not None
    values = images.pixels[:, 0, 0, 0].tolist()
    return [(v, images.class_names[i]) for v, i in zip(values, images.labels.tolist(), strict=True)]


def test_one_file(tmp_path: Path) -> None:
    path = save(tmp_path / "anything.parquet", [10, 20, 30, 40, 50], [0, 1, 2, 1, 0])
    images = open_images(path)
    assert images.shape == (3, 4, 5)
    assert images.class_names == NAMES
    assert content(images) == [(10, "ant"), (20, "bee"), (30, "cow"), (40, "bee"), (50, "ant")]
    assert open_images(path, labelled=False).labels is None


@pytest.mark.parametrize("inside", ["", "data"])
@pytest.mark.parametrize("column", ["img", "image"])
def test_shards_of_splits_in_order(tmp_path: Path, inside: str, column: str) -> None:
    folder = tmp_path / inside
    for i in range(3):
        save(folder / f"train-{i:05}-of-00003.parquet", [i, 100 + i], [0, 1], column=column)
    save(folder / "test-00000-of-00001-a09b74b3ef9c3b56.parquet", [7], [2], column=column)
    assert set(available_splits(tmp_path)) == {"train", "test"}
    assert [value for value, _ in content(open_images(tmp_path))] == [0, 100, 1, 101, 2, 102]
    assert content(open_images(tmp_path, "test", size=6)) == [(7, "cow")]


def test_without_names_the_classes_of_all_splits_are_numbered(tmp_path: Path) -> None:
    save(tmp_path / "train.parquet", [1, 2], [0, 3], names=None)
    save(tmp_path / "cifar-test.parquet", [3, 4], [1, 2], names=None)
    assert open_images(tmp_path, "test").class_names == ("0", "1", "2", "3")


def test_a_missing_shard(tmp_path: Path) -> None:
    for i in (0, 2):
        save(tmp_path / f"train-{i:05}-of-00003.parquet", [i], [0])
    with pytest.raises(InputError, match=r"not every shard of train exactly once"):
        open_images(tmp_path)


def test_files_of_unclear_split(tmp_path: Path) -> None:
    save(tmp_path / "train.parquet", [1], [0])
    save(tmp_path / "more.parquet", [1], [0])
    with pytest.raises(InputError, match=r"more\.parquet does not say its split"):
        open_images(tmp_path)


def test_shards_that_name_different_classes(tmp_path: Path) -> None:
    save(tmp_path / "train.parquet", [1], [0])
    save(tmp_path / "test.parquet", [1], [0], names=("bee", "ant", "cow"))
    with pytest.raises(InputError, match="different classes"):
        open_images(tmp_path)


def test_a_corrupt_image_is_named_by_its_row(tmp_path: Path) -> None:
    path = save(tmp_path / "x.parquet", [], [0, 1, 2], encoded=[png(1), png(2), png(3)[:-30]])
    with pytest.raises(InputError, match=r"x\.parquet, row 2 cannot be read"):
        open_images(path)


@pytest.mark.parametrize(
    ("labels", "encoded", "message"),
    [
        ([0, 3], [png(1), png(2)], r"must lie in 0\.\.2"),
        ([0, -1], [png(1), png(2)], "-1"),
        ([0, None], [png(1), png(2)], "1 empty entries"),
        ([0, 1], [png(1), None], "row 1 holds no image bytes"),
        ([], [], "no rows in train"),
    ],
)
def test_rows_that_do_not_fit(
    tmp_path: Path, labels: list[int | None], encoded: list[bytes | None], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        open_images(save(tmp_path / "x.parquet", [], labels, encoded=encoded))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"picture": pa.array([{"bytes": b""}]), "label": pa.array([0])}, "no column img or image"),
        ({"image": pa.array([b""]), "label": pa.array([0])}, "not a struct"),
        ({"image": pa.array([{"bytes": png(1)}])}, "no column 'label'"),
        ({"image": pa.array([{"bytes": png(1)}]), "label": pa.array([0.5])}, "not integers"),
        ({"image": pa.array([{"bytes": png(1)}]), "label": pa.array([b"ant"])}, "not integers or texts"),
        ({"image": pa.array([{"bytes": png(1)}]), "label": pa.array([""])}, "1 empty entries"),
    ],
)
def test_columns_that_do_not_fit(tmp_path: Path, table: dict[str, pa.Array], message: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=message):
        open_images(tmp_path / "x.parquet")


def test_a_truncated_file(tmp_path: Path) -> None:
    path = save(tmp_path / "x.parquet", [1, 2], [0, 1])
    whole = path.read_bytes()
    for kept in range(0, len(whole), 101):
        path.write_bytes(whole[:kept])
        with pytest.raises(InputError, match=r"x\.parquet cannot be read"):
            open_images(path)


def test_metadata_that_is_no_json(tmp_path: Path) -> None:
    path = save(tmp_path / "x.parquet", [1], [0])
    table = pq.read_table(path).replace_schema_metadata({"huggingface": "{"})
    pq.write_table(table, path)
    with pytest.raises(InputError, match=r"metadata of .*x\.parquet cannot be read"):
        open_images(path)


LAYOUTS = {
    "plain_text": ["plain_text/train-00000-of-00002.parquet", "plain_text/train-00001-of-00002.parquet",
                   "plain_text/test-00000-of-00001.parquet"],
    "default": ["default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet"],
    "flat": ["train/0000.parquet", "train/0001.parquet", "test/0000.parquet"],
    "data": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet",
             "data/test-00000-of-00001.parquet"],
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("inside", ["", "whole"])
def test_layouts_of_the_hub(tmp_path: Path, layout: str, inside: str) -> None:
    """The folder of a data set and that of its one configuration are the same."""
    for i, name in enumerate(LAYOUTS[layout]):
        save(tmp_path / name, [10 * i, 10 * i + 1], [0, 1])
    (tmp_path / "README.md").write_text("a card")
    (tmp_path / ".cache").mkdir()
    for spec in (tmp_path, tmp_path / layout):
        if layout == "flat" and spec != tmp_path:
            continue
        assert set(available_splits(spec)) == {"train", "test"}
        assert [value for value, _ in content(open_images(spec))] == [0, 1, 10, 11]
        assert [value for value, _ in content(open_images(spec, "test"))] == [20, 21]


def test_a_missing_shard_of_a_folder_of_a_split(tmp_path: Path) -> None:
    for i in (0, 2):
        save(tmp_path / f"default/train/{i:04}.parquet", [i], [0])
    with pytest.raises(InputError, match=r"not every shard of train exactly once"):
        open_images(tmp_path)


def test_several_configurations_are_refused(tmp_path: Path) -> None:
    for name in ("fine", "coarse"):
        save(tmp_path / name / "train-00000-of-00001.parquet", [1], [0])
    with pytest.raises(InputError, match=r"several configurations \(coarse, fine\); give one of them"):
        open_images(tmp_path)
    assert len(open_images(tmp_path / "fine")) == 1


def test_columns_of_labels_by_name(tmp_path: Path) -> None:
    encoded = pa.array([{"bytes": png(i), "path": None} for i in range(3)], IMAGE_TYPE)
    columns = {"image": encoded, "fine_label": [0, 1, 2], "coarse_label": [0, 1, 1]}
    pq.write_table(pa.table(columns), tmp_path / "both.parquet")
    with pytest.raises(InputError, match=r"several columns .*\(fine_label, coarse_label\).*'fine_label'"):
        open_images(tmp_path / "both.parquet")
    labels = open_images(tmp_path / "both.parquet", label_column="coarse_label").labels
    assert labels is not None
    assert labels.tolist() == [0, 1, 1]
    with pytest.raises(InputError, match="no column 'age'"):
        open_images(tmp_path / "both.parquet", label_column="age")
    del columns["coarse_label"]
    pq.write_table(pa.table(columns), tmp_path / "one.parquet")
    assert len(open_images(tmp_path / "one.parquet").class_names) == 3


@pytest.mark.parametrize("name", [*USUAL_NAMES["label"], "Finding Labels"])
def test_labels_have_the_same_usual_names_as_in_a_csv(name: str, tmp_path: Path) -> None:
    encoded = pa.array([{"bytes": png(i), "path": None} for i in range(2)], IMAGE_TYPE)
    pq.write_table(pa.table({"image": encoded, name: [1, 0]}), tmp_path / "x.parquet")
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    (tmp_path / "x.csv").write_text(f"path,{name}\n0.png,1\n1.png,0\n")
    for file in ("x.parquet", "x.csv"):
        assert [label for _, label in content(open_images(tmp_path / file))] == ["1", "0"]


def test_labels_that_are_texts_name_their_classes(tmp_path: Path) -> None:
    for split, labels in {"train": ["dog", "cat", "dog"], "test": ["emu"]}.items():
        encoded = pa.array([{"bytes": png(i), "path": None} for i in range(len(labels))], IMAGE_TYPE)
        pq.write_table(pa.table({"image": encoded, "label": labels}), tmp_path / f"{split}.parquet")
    images = open_images(tmp_path)
    assert images.class_names == ("cat", "dog", "emu")
    assert images.labels is not None
    assert images.labels.tolist() == [1, 0, 1]
    assert open_images(tmp_path, classes="emu,dog,cat").class_names == ("emu", "dog", "cat")


def test_one_long_label_takes_no_memory_for_all(tmp_path: Path) -> None:
    encoded = pa.array([{"bytes": png(1), "path": None}] * 2000, IMAGE_TYPE)
    labels = ["x" * 2_000_000, *["a"] * 1999]  # 16 GB, if each were held as long
    pq.write_table(pa.table({"image": encoded, "label": labels}), tmp_path / "x.parquet")
    assert len(open_images(tmp_path / "x.parquet").class_names) == 2


def test_archives_in_a_folder_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.array([0, 1]))
    with pytest.raises(InputError, match=r"a\.npz; .*b\.npz; give such a file itself"):
        open_images(tmp_path)
    assert len(open_images(tmp_path / "a.npz")) == 2


def test_a_column_called_label_goes_before_others(tmp_path: Path) -> None:
    encoded = pa.array([{"bytes": png(i), "path": None} for i in range(2)], IMAGE_TYPE)
    pq.write_table(pa.table({"image": encoded, "class": [1, 0], "label": [0, 1]}), tmp_path / "x.parquet")
    labels = open_images(tmp_path / "x.parquet").labels
    assert labels is not None
    assert labels.tolist() == [0, 1]


def test_two_classes_of_one_name_are_not_joined(tmp_path: Path) -> None:
    path = save(tmp_path / "x.parquet", [1, 2, 3], [0, 1, 2], names=["ant", "bee", "ant"])
    with pytest.raises(InputError, match="two classes have the same name"):
        open_images(path)
