"""Data sets that Hugging Face's `datasets` itself has written, or reads for us."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dpvision.images import Images, available_splits, image_sizes, images_from_dataset, open_images
from dpvision.images.hub import pinned
from dpvision.privacy.errors import InputError

datasets = pytest.importorskip("datasets")
NAMES = ["ant", "bee: [x]", "<script>"]
LABELS = [2, 0, 1, 0]


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def picture(value: int, mode: str = "RGB") -> Image.Image:
    colours: dict[str, Any] = {
        "RGB": (value, 1, 2),
        "RGBA": (value, 1, 2, 255),
        "L": value,
        "I;16": 257 * value,
    }
    return Image.new(mode, (4, 3), colours[mode])


def encoded(value: int, mode: str = "RGB") -> dict[str, Any]:
    content = io.BytesIO()
    picture(value, mode).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def data_set(label: Any = None, labels: Sequence[Any] = LABELS, **more: Any) -> Any:
    features = datasets.Features(
        {"image": datasets.Image(), "label": label or datasets.ClassLabel(names=NAMES)}
        | {name: feature for name, (feature, _) in more.items()}
    )
    columns = {"image": [encoded(10 * i) for i in range(len(labels))], "label": list(labels)}
    return datasets.Dataset.from_dict(
        columns | {name: of for name, (_, of) in more.items()}, features=features
    )


def saved(found: Any, folder: Path) -> str:
    found.save_to_disk(str(folder))
    return f"hf:{folder}"


def content(images: Any) -> list[tuple[int, str]]:
    values = images.pixels[:, 0, 0, 0].tolist()
    return [(v, images.class_names[i]) for v, i in zip(values, images.labels.tolist(), strict=True)]


EXPECTED = [(10 * i, NAMES[label]) for i, label in enumerate(LABELS)]


@pytest.mark.parametrize("form", ["saved", "parquet", "in memory"])
def test_the_same_images_labels_and_names_come_from_each_form(form: str, tmp_path: Path) -> None:
    found = data_set()
    if form == "in memory":
        images: Any = images_from_dataset(found)
    elif form == "saved":
        images = open_images(saved(found, tmp_path / "set"))
    else:
        (tmp_path / "set").mkdir()
        found.to_parquet(str(tmp_path / "set" / "train-00000-of-00001.parquet"))
        images = open_images(f"hf:{tmp_path / 'set'}")
    assert content(images) == EXPECTED
    assert images.class_names == tuple(NAMES), "a class that no image has is one too"


def test_labels_may_be_texts_or_whole_numbers(tmp_path: Path) -> None:
    texts = data_set(datasets.Value("string"), ["b", "a", "b"])
    assert content(open_images(saved(texts, tmp_path / "texts"))) == [(0, "b"), (10, "a"), (20, "b")]
    assert content(images_from_dataset(texts)) == [(0, "b"), (10, "a"), (20, "b")]
    numbers = data_set(datasets.Value("int64"), [1, 0, 1])
    assert content(open_images(saved(numbers, tmp_path / "numbers"))) == [(0, "1"), (10, "0"), (20, "1")]


def test_labels_that_are_minus_one_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="all labels of train are -1"):
        open_images(saved(data_set(labels=[-1, -1]), tmp_path / "none"))
    assert open_images(f"hf:{tmp_path / 'none'}", labelled=None).labels is None
    with pytest.raises(InputError, match="1 of the 2 labels of train are -1"):
        open_images(saved(data_set(labels=[-1, 0]), tmp_path / "some"))


def test_images_of_one_channel_alpha_and_16_bits(tmp_path: Path) -> None:
    def of(mode: str) -> Any:
        features = datasets.Features({"image": datasets.Image()})
        return datasets.Dataset.from_dict({"image": [encoded(9, mode)]}, features=features)

    grey = open_images(saved(of("L"), tmp_path / "grey"), labelled=False)
    assert (grey.shape, grey.pixels[0, 0, 0, 0].item()) == ((1, 3, 4), 9)
    alpha = open_images(saved(of("RGBA"), tmp_path / "alpha"), labelled=False)
    assert alpha.pixels[0, :, 0, 0].tolist() == [9, 1, 2]
    deep = saved(of("I;16"), tmp_path / "deep")
    with pytest.raises(InputError, match="value_range"):
        open_images(deep, labelled=False)
    assert open_images(deep, labelled=False, value_range="0:65535").pixels[0, 0, 0, 0].item() == 9


def test_a_row_without_an_image_is_refused_or_left_out(tmp_path: Path) -> None:
    found = data_set()
    with_gap = datasets.Dataset.from_dict(
        {"image": [encoded(1), None], "label": [0, 1]}, features=found.features
    )
    spec = saved(with_gap, tmp_path / "gap")
    with pytest.raises(InputError, match="row 1 holds no image bytes"):
        open_images(spec)
    assert content(open_images(spec, skip_unreadable=True)) == [(1, "ant")]
    with pytest.raises(InputError, match="item 1 has no image"):
        images_from_dataset(with_gap)


def test_one_of_several_columns_of_images_is_named(tmp_path: Path) -> None:
    found = data_set(mask=(datasets.Image(), [encoded(7)] * 4))
    assert content(open_images(saved(found, tmp_path / "usual")))[1] == (10, "ant")
    assert content(images_from_dataset(found, path_column="mask"))[1] == (7, "ant")
    found = found.rename_column("image", "scan")
    spec = saved(found, tmp_path / "two")
    with pytest.raises(InputError, match=r"no column img or image .*scan.*path_column"):
        open_images(spec)
    assert content(open_images(spec, path_column="mask"))[1] == (7, "ant")
    with pytest.raises(InputError, match=r"2 columns of images .*path_column"):
        images_from_dataset(found)
    with pytest.raises(InputError, match="no column 'nowhere'"):
        open_images(spec, path_column="nowhere")
    assert content(open_images(saved(found.remove_columns("mask"), tmp_path / "one")))[1] == (10, "ant")


def test_nested_columns_are_left_alone_unless_they_are_named(tmp_path: Path) -> None:
    boxes = datasets.Features({"boxes": {"category": datasets.Value("int64")}})["boxes"]
    spec = saved(data_set(boxes=(boxes, [{"category": 1}] * 4)), tmp_path / "set")
    assert content(open_images(spec)) == EXPECTED
    with pytest.raises(InputError, match="not integers or texts"):
        open_images(spec, label_column="boxes")


# With metadata -------------------------------------------------------------------------------------------


@pytest.fixture
def with_metadata(tmp_path: Path) -> Path:
    """An imagefolder of two splits, with labels, units and a damaged image in its metadata."""
    for split, count in (("train", 4), ("test", 2)):
        folder = tmp_path / "set" / split
        folder.mkdir(parents=True)
        rows = []
        for index in range(count):
            (folder / f"{index}.png").write_bytes(encoded(10 * index)["bytes"])
            rows.append({"file_name": f"{index}.png", "label": NAMES[LABELS[index]], "patient": index // 2})
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "set"


def test_metadata_say_labels_and_units(with_metadata: Path, tmp_path: Path) -> None:
    spec = f"hf:{with_metadata}"
    assert sorted(available_splits(spec)) == ["test", "train"]
    images = open_images(spec)
    assert isinstance(images, Images)
    assert content(images) == EXPECTED
    assert images.units is not None
    assert images.units.of_images == ["0", "0", "1", "1"]
    assert images.source == str(with_metadata)
    assert image_sizes(spec, "test") == {(4, 3): 2}
    assert open_images(pinned(spec)).digest == images.digest, "as a run reads it, and reads it again"
    assert not (tmp_path / "hf-cache").exists(), "nothing of private images stays with datasets"


def test_what_datasets_writes_is_gone_with_the_reader(
    with_metadata: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    images = open_images(f"hf:{with_metadata}")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert len(images) == 4


def test_a_damaged_image_is_named_or_left_out(with_metadata: Path) -> None:
    (with_metadata / "train" / "1.png").write_bytes(b"\x89PNG and no more")
    with pytest.raises(InputError, match=r"item 1 .* damaged PNG"):
        open_images(f"hf:{with_metadata}")
    assert len(open_images(f"hf:{with_metadata}", skip_unreadable=True)) == 3


def test_without_the_library_the_extra_is_named(with_metadata: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        InputError, match=r"table of metadata, which needs datasets.*pip install 'dpvision\[hub\]'"
    ):
        open_images(f"hf:{with_metadata}")


def test_metadata_that_lead_out_of_the_folder_are_refused(with_metadata: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(encoded(1)["bytes"])
    row = {"file_name": "../../secret.png", "label": "ant"}
    (with_metadata / "train" / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError):
        open_images(f"hf:{with_metadata}")


def test_arrays_and_images_that_are_not_decoded_are_the_same() -> None:
    found = data_set()
    plain = found.cast_column("image", datasets.Image(decode=False))
    first, second = images_from_dataset(found), images_from_dataset(plain)
    assert np.array_equal(first.pixels, second.pixels)
    assert first.digest == second.digest
