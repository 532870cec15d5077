"""Folders in the layout of `save_to_disk`, of datasets 5.2: real ones were read so too."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dpvision.images import available_splits, image_sizes, open_images
from dpvision.privacy.errors import InputError
from tests.images.test_parquet import IMAGE_TYPE, NAMES, content, png, save

LABEL = {"names": list(NAMES), "_type": "ClassLabel"}


def saved(
    folder: Path,
    shards: Sequence[tuple[Sequence[int], Sequence[Any]]],
    *,
    label: dict[str, Any] | None = LABEL,
    split: str | None = None,
    encoded: Sequence[dict[str, Any]] | None = None,
    state: dict[str, Any] | None = None,
) -> Path:
    """A Dataset of plain images of the values given, and their labels, shard for shard."""
    folder.mkdir(parents=True)
    features = {"image": {"_type": "Image"}, **({"label": label} if label else {})}
    names = [f"data-{i:05}-of-{len(shards):05}.arrow" for i in range(len(shards))]
    for name, (values, labels) in zip(names, shards, strict=True):
        images = [{"bytes": png(v), "path": None} for v in values] if encoded is None else list(encoded)
        table = pa.table({"image": pa.array(images, IMAGE_TYPE), "label": labels})
        write(folder / name, table.replace_schema_metadata(metadata(features)))
    written = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "1cef03f614b47ec0",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    (folder / "state.json").write_text(json.dumps(written | (state or {}), indent=2))
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def metadata(features: dict[str, Any]) -> dict[str, str]:
    return {"huggingface": json.dumps({"info": {"features": features}})}


def write(path: Path, table: pa.Table, **options: Any) -> None:
    with pa.OSFile(str(path), "wb") as file:
        chosen = pa.ipc.IpcWriteOptions(**options)
        with pa.ipc.new_stream(file, table.schema, options=chosen) as stream:
            stream.write_table(table, max_chunksize=2)


def shard_of(folder: Path) -> Path:
    return folder / "data-00000-of-00001.arrow"


def test_a_dict_of_splits(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    saved(tmp_path / "train", [([1, 2, 3], [0, 1, 2]), ([4], [1])], split="train")
    saved(tmp_path / "test", [([5], [2])], split="test")
    assert available_splits(tmp_path) == ("train", "test")
    assert content(open_images(tmp_path)) == [(1, "ant"), (2, "bee"), (3, "cow"), (4, "bee")]
    assert content(open_images(tmp_path, "test", size=6)) == [(5, "cow")]
    assert image_sizes(tmp_path) == {(5, 4): 4}


def test_images_are_known_as_those_of_parquet_are(tmp_path: Path) -> None:
    one = open_images(saved(tmp_path / "saved", [([1, 2], [0, 1]), ([3], [2])]))
    other = open_images(save(tmp_path / "x.parquet", [1, 2, 3], [0, 1, 2]))
    assert one.digest == other.digest
    assert one.ids.tolist() == other.ids.tolist()
    assert one.identities.tolist() == other.identities.tolist()


def test_shards_come_in_the_order_of_the_state(tmp_path: Path) -> None:
    listed = [{"filename": f"data-0000{i}-of-00003.arrow"} for i in (2, 0, 1)]
    folder = saved(tmp_path / "x", [([i], [i]) for i in range(3)], state={"_data_files": listed})
    assert content(open_images(folder)) == [(2, "cow"), (0, "ant"), (1, "bee")]


def test_a_shard_without_rows(tmp_path: Path) -> None:
    no_labels = pa.array([], pa.int64())
    assert len(open_images(saved(tmp_path / "x", [([1], [0]), ([], no_labels)]))) == 1
    with pytest.raises(InputError, match="no rows in train"):
        open_images(saved(tmp_path / "none", [([], no_labels)]))


@pytest.mark.parametrize("split", [None, "train[:80%]", "test"])
def test_a_data_set_by_itself_is_train(tmp_path: Path, split: str | None) -> None:
    assert available_splits(saved(tmp_path / "x", [([1], [0])], split=split)) == ("train",)


def test_names_of_classes_may_be_in_the_schema_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path / "x", [([1, 2], [0, 1])])
    (folder / "dataset_info.json").write_text('{"features": null}')
    assert open_images(folder).class_names == NAMES


def test_labels_that_are_texts_or_plain_numbers(tmp_path: Path) -> None:
    texts = saved(tmp_path / "texts", [([1, 2], ["b", "a"])], label={"dtype": "string", "_type": "Value"})
    assert content(open_images(texts)) == [(1, "b"), (2, "a")]
    numbers = saved(tmp_path / "numbers", [([1, 2], [1, 0])], label=None)
    assert content(open_images(numbers)) == [(1, "1"), (2, "0")]


def test_images_that_lie_elsewhere_are_told_together_or_left_out(tmp_path: Path) -> None:
    images = [{"bytes": png(1), "path": None}, *({"bytes": None, "path": f"/x/{i}.png"} for i in range(2))]
    folder = saved(tmp_path / "x", [([], [0, 1, 2])], encoded=images)
    with pytest.raises(InputError, match=r"2 of the 3 .*row 1 holds no image bytes; .*row 2 .*embed the im"):
        open_images(folder)
    assert content(open_images(folder, skip_unreadable=True)) == [(1, "ant")]


def test_the_format_for_files_is_read_too(tmp_path: Path) -> None:
    folder = saved(tmp_path / "x", [([1, 2, 3], [0, 1, 2])])
    expected = content(open_images(folder))
    table = pa.ipc.open_stream(shard_of(folder).read_bytes()).read_all()
    with pa.ipc.new_file(str(shard_of(folder)), table.schema) as file:
        file.write_table(table)
    assert content(open_images(folder)) == expected


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"_indices_files": [{"filename": "indices.arrow"}]}, r"flatten_indices\(\)"),
        ({"_indices_data_files": [{"filename": "indices.arrow"}]}, r"flatten_indices\(\)"),
        ({"_data_files": [{"filename": "data-7.arrow"}]}, r"lacks data-7\.arrow"),
        ({"_data_files": [{"filename": "../a.arrow"}]}, "another folder"),
        ({"_data_files": [{"filename": ".."}]}, "another folder"),
        ({"_data_files": [{"filename": "a" * 5000}]}, "another folder"),
        ({"_data_files": [{"filename": "data-00000-of-00001.arrow"}] * 2}, "a name twice"),
        ({"_data_files": []}, "does not list"),
        ({"_data_files": {"filename": "x"}}, "does not list"),
        ({"_data_files": ["x"]}, "does not list"),
    ],
)
def test_states_that_are_refused(tmp_path: Path, state: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_images(saved(tmp_path / "x", [([1], [0])], state=state))


def test_a_selection_that_the_state_does_not_mention(tmp_path: Path) -> None:
    folder = saved(tmp_path / "x", [([1], [0])])
    (folder / "indices.arrow").touch()
    with pytest.raises(InputError, match="a selection of the rows"):
        open_images(folder)


@pytest.mark.parametrize("splits", [["train", "extra"], ["val", "validation"]])
def test_splits_that_are_unclear(tmp_path: Path, splits: list[str]) -> None:
    for split in splits:
        saved(tmp_path / split, [([1], [0])])
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    with pytest.raises(InputError, match=rf"has the splits {', '.join(splits)}, .*give the folder of one"):
        open_images(tmp_path)
    assert len(open_images(tmp_path / splits[0])) == 1


@pytest.mark.parametrize("splits", [None, [], "train", [1], ["../x"], ["train", "train"]])
def test_a_dict_that_lists_no_splits(tmp_path: Path, splits: Any) -> None:
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    with pytest.raises(InputError, match=r"dataset_dict\.json .*damaged"):
        open_images(tmp_path)


def test_a_cache_is_told_from_what_was_saved(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "cifar10-train.arrow").write_bytes(b"")
    with pytest.raises(InputError, match=r"has no state\.json: .*load it there and save it again"):
        open_images(tmp_path)


def packed(table: pa.Table) -> dict[str, Any]:
    return {"table": table, "compression": "zstd"}


def in_a_dictionary(table: pa.Table) -> dict[str, Any]:
    return {"table": table.set_column(1, "label", table["label"].dictionary_encode())}


@pytest.mark.parametrize("change", [packed, in_a_dictionary])
def test_rows_that_may_unpack_to_any_size_are_refused(
    tmp_path: Path, change: Callable[[pa.Table], dict[str, Any]]
) -> None:
    folder = saved(tmp_path / "x", [([1], [0])])
    table = pa.ipc.open_stream(shard_of(folder).read_bytes()).read_all()
    write(shard_of(folder), **change(table))
    with pytest.raises(InputError, match="compressed, or in a dictionary; load it with datasets and save"):
        open_images(folder)


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    folder = saved(tmp_path / "x", [([1, 2, 3], [0, 1, 2])])
    whole = shard_of(folder).read_bytes()
    for kept in range(0, len(whole) - 8, 101):
        shard_of(folder).write_bytes(whole[:kept])
        with pytest.raises(InputError, match=r"\.arrow cannot be read|of 2 rows|states 3|states 2"):
            open_images(folder)


def test_sizes_and_places_that_are_not_there(tmp_path: Path) -> None:
    """Every eight bytes of the file are made a number that is far beyond it."""
    folder = saved(tmp_path / "x", [([1, 2], [0, 1])])
    whole = shard_of(folder).read_bytes()
    for at in range(0, len(whole), 4):
        for number in (struct.pack("<i", 2**31 - 1), struct.pack("<q", 2**61), struct.pack("<q", -1)):
            shard_of(folder).write_bytes(whole[:at] + number + whole[at + len(number) :])
            with suppress(InputError):
                open_images(folder, skip_unreadable=True)


def test_texts_of_the_same_bytes_take_no_memory_for_each(tmp_path: Path) -> None:
    """A few hundred bytes of Parquet, whose labels would be a gigabyte."""
    labels = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), ["x" * 10**6])
    images = pa.array([{"bytes": png(1)}] * 1000)
    for name, table in {
        "image": pa.table({"image": images, "label": labels}),
        "path": pa.table({"path": [f"{i}.png" for i in range(1000)], "label": labels}),
    }.items():
        path = tmp_path / f"{name}.parquet"
        pq.write_table(table, path, compression="zstd", store_schema=False)
        with pytest.raises(InputError, match="holds the same bytes too often"):
            open_images(path)
