"""Data as people have them: each kind of fault, over each reader that can meet it."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from dpvision.images import Images, available_splits, open_images
from dpvision.images.identity import identity_of
from dpvision.privacy.errors import InputError
from tests.images.test_idx import idx
from tests.images.test_idx import save as save_idx

ENCODED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(pixels: NDArray[np.generic]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def picture(value: int, side: int = 4) -> bytes:
    return png(np.full((side, side), value, dtype=np.uint8))


# Numbered labels -------------------------------------------------------------------------------------------


def npz_of(place: Path, splits: dict[str, Sequence[int]]) -> Path:
    arrays = {}
    for split, labels in splits.items():
        arrays[f"{split}_images"] = np.zeros((len(labels), 4, 4), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.array(labels)
    np.savez(place / "x.npz", **arrays)  # type: ignore[arg-type]
    return place / "x.npz"


def parquet_of(place: Path, splits: dict[str, Sequence[int]]) -> Path:
    for split, labels in splits.items():
        images = pa.array([{"bytes": picture(0), "path": None} for _ in labels], ENCODED)
        pq.write_table(pa.table({"image": images, "label": list(labels)}), place / f"{split}.parquet")
    return place


def idx_of(place: Path, splits: dict[str, Sequence[int]]) -> Path:
    for split, labels in splits.items():
        pixels = np.zeros((len(labels), 4, 4), dtype=np.uint8)
        save_idx(place, {"test": "t10k"}.get(split, split), idx(pixels), idx(np.array(labels, np.uint8)))
    return place


def table_of(place: Path, splits: dict[str, Sequence[int]]) -> Path:
    lines = ["path,label,split"]
    for split, labels in splits.items():
        for i, label in enumerate(labels):
            (place / f"{split}{i}.png").write_bytes(picture(0))
            lines.append(f"{split}{i}.png,{label},{split}")
    (place / "x.csv").write_text("\n".join(lines))
    return place / "x.csv"


NUMBERED: dict[str, Callable[[Path, dict[str, Sequence[int]]], Path]] = {
    "npz": npz_of,
    "parquet": parquet_of,
    "idx": idx_of,
    "table": table_of,
}
WITH_NEGATIVE = [name for name in NUMBERED if name != "idx"]  # whose labels are unsigned bytes


@pytest.mark.parametrize("reader", NUMBERED)
@pytest.mark.parametrize(
    ("labels", "missing", "proposed", "found"),
    [
        ([1, 2, 3, 1], "label 0;", "'1..3'", ("1", "2", "3")),
        (
            [10, 30, 20, 10],
            "label 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …;",
            "'10=10,20=20,30=30'",
            ("10", "20", "30"),
        ),
        ([0, 1, 200], "label 2, 3, 4", "'0=0,1=1,200=200'", ("0", "1", "200")),
    ],
)
def test_a_class_without_images_is_not_invented(
    tmp_path: Path, reader: str, labels: list[int], missing: str, proposed: str, found: tuple[str, ...]
) -> None:
    """What the message proposes does what it says."""
    spec = NUMBERED[reader](tmp_path, {"train": labels})
    with pytest.raises(InputError) as refusal:
        open_images(spec)
    assert f"no image of any split has {missing}" in str(refusal.value)
    assert f"classes={proposed}" in str(refusal.value)
    images = open_images(spec, classes=proposed.strip("'"))
    assert images.class_names == found
    assert images.labels is not None
    assert [int(found[label]) for label in images.labels] == labels
    assert len(open_images(spec, classes=max(labels) + 1).class_names) == max(labels) + 1


@pytest.mark.parametrize("reader", NUMBERED)
def test_a_class_of_another_split_is_one(tmp_path: Path, reader: str) -> None:
    spec = NUMBERED[reader](tmp_path, {"train": [0, 2, 2], "test": [1, 0]})
    assert open_images(spec).class_names == ("0", "1", "2")


@pytest.mark.parametrize("reader", NUMBERED)
def test_classes_are_named_by_hand(tmp_path: Path, reader: str) -> None:
    spec = NUMBERED[reader](tmp_path, {"train": [0, 1, 1]})
    images = open_images(spec, classes="normal,pneumonia")
    assert images.class_names == ("normal", "pneumonia")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 1]
    renamed = open_images(spec, classes={"1": "ill", "0": "well"})
    assert renamed.class_names == ("ill", "well")
    assert renamed.labels is not None
    assert renamed.labels.tolist() == [1, 0, 0]
    with pytest.raises(InputError, match="labels 1, which are not among the classes given"):
        open_images(spec, classes=["all"])


@pytest.mark.parametrize("reader", WITH_NEGATIVE)
def test_a_split_whose_labels_are_minus_one_has_none(tmp_path: Path, reader: str) -> None:
    spec = NUMBERED[reader](tmp_path, {"train": [0, 1, 0], "test": [-1, -1]})
    assert len(open_images(spec).class_names) == 2
    test = open_images(spec, "test", labelled=None)
    assert (len(test), test.labels) == (2, None)
    with pytest.raises(InputError, match="all labels of test are -1"):
        open_images(spec, "test")


@pytest.mark.parametrize("reader", WITH_NEGATIVE)
def test_some_labels_of_minus_one_are_refused(tmp_path: Path, reader: str) -> None:
    spec = NUMBERED[reader](tmp_path, {"train": [0, -1, 1]})
    with pytest.raises(InputError, match="1 of the 3 labels of train are -1"):
        open_images(spec)


@pytest.mark.parametrize(
    "classes",
    ["", ",", "a,a", "a,", "0", "-1", "a=1,a=2", "1=x,2=x", "70000", "a\nb", 0, True, [], ["a", 1]],
)
def test_classes_that_are_none(tmp_path: Path, classes: object) -> None:
    with pytest.raises(InputError, match="classes"):
        open_images(npz_of(tmp_path, {"train": [0, 1]}), classes=classes)


# Encoded images --------------------------------------------------------------------------------------------


def folder_with(place: Path, images: Sequence[bytes]) -> Path:
    for i, content in enumerate(images):
        (place / "ab"[i % 2]).mkdir(exist_ok=True)
        (place / "ab"[i % 2] / f"{i:03}.png").write_bytes(content)
    return place


def shard_with(place: Path, images: Sequence[bytes]) -> Path:
    order = [*range(0, len(images), 2), *range(1, len(images), 2)]  # as the folder has them
    encoded = pa.array([{"bytes": images[i], "path": None} for i in order], ENCODED)
    pq.write_table(pa.table({"image": encoded, "label": [i % 2 for i in order]}), place / "x.parquet")
    return place / "x.parquet"


def table_with(place: Path, images: Sequence[bytes]) -> Path:
    folder_with(place, images)
    files = sorted(place.rglob("*.png"))
    rows = [f"{file.relative_to(place)},{file.parent.name}" for file in files]
    (place / "x.csv").write_text("\n".join(["path,label", *rows]))
    return place / "x.csv"


ENCODING: dict[str, Callable[[Path, Sequence[bytes]], Path]] = {
    "folder": folder_with,
    "parquet": shard_with,
    "table": table_with,
}

GIF = b"GIF89a" + bytes(20)


@pytest.mark.parametrize("reader", ENCODING)
def test_all_bad_files_are_told_at_once(tmp_path: Path, reader: str) -> None:
    images = [picture(i) for i in range(8)] + [GIF, b"", picture(9)[:-20], b"%PDF-1.4"]
    spec = ENCODING[reader](tmp_path, images)
    with pytest.raises(InputError) as refusal:
        open_images(spec)
    said = str(refusal.value)
    assert "4 of the 12 images" in said
    for kind in ("it is a GIF", "it is empty", "cannot be read (", "it is a PDF"):
        assert kind in said
    assert "skip_unreadable=True" in said


@pytest.mark.parametrize("reader", ENCODING)
@pytest.mark.parametrize("bad", [(0,), (11,), (0, 1, 2), tuple(range(11)), (3, 8)])
def test_bad_files_are_left_out_if_asked(
    tmp_path: Path, reader: str, bad: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """The others are what they are without them, whichever they are."""
    good = [i for i in range(12) if i not in bad]
    (tmp_path / "all").mkdir()
    (tmp_path / "good").mkdir()
    spec = ENCODING[reader](tmp_path / "all", [GIF if i in bad else picture(i) for i in range(12)])
    with caplog.at_level(logging.WARNING, "dpvision"):
        found = open_images(spec, skip_unreadable=True)
    assert f"left out {len(bad)} of the 12 images" in caplog.text
    order = [i for i in [*range(0, 12, 2), *range(1, 12, 2)] if i in good]
    assert found.pixels[:, 0, 0, 0].tolist() == order
    assert found.labels is not None
    assert found.labels.tolist() == [i % 2 for i in order]
    assert len(found.left_out) == len(bad)
    if found.names is not None:
        assert [int(Path(name).stem) for name in found.names] == order
    resized = open_images(spec, size=8, skip_unreadable=True)
    assert resized.pixel_digest == found.pixel_digest


@pytest.mark.parametrize("reader", ENCODING)
def test_where_all_files_are_bad_nothing_is_left_to_skip_to(tmp_path: Path, reader: str) -> None:
    spec = ENCODING[reader](tmp_path, [GIF, b"", GIF])
    with pytest.raises(InputError, match="3 of the 3 images"):
        open_images(spec, skip_unreadable=True)


def deep(greatest: int, dtype: type = np.uint16) -> bytes:
    return png(np.linspace(0, greatest, 64).astype(dtype).reshape(8, 8))


@pytest.mark.parametrize("reader", ENCODING)
@pytest.mark.parametrize(("greatest", "said"), [(4095, "0:4095"), (255, "0:255"), (20_000, "0:32767")])
def test_sixteen_bits_of_which_few_are_used_need_a_range(
    tmp_path: Path, reader: str, greatest: int, said: str
) -> None:
    spec = ENCODING[reader](tmp_path, [deep(greatest), deep(greatest // 2), deep(greatest // 3)])
    with pytest.raises(InputError, match=rf"no value above {greatest}, .*value_range='{said}'"):
        open_images(spec)
    found = open_images(spec, value_range=said)
    high = int(said.split(":")[1])
    expected = np.rint(np.linspace(0, greatest, 64).astype(np.uint16).astype(float) * 255 / high)
    assert found.pixels[0].flatten().tolist() == expected.tolist()
    as_it_is = open_images(spec, value_range=(0, 65535))
    assert as_it_is.pixels.max() < 128
    # What it is known by is the same, whatever range it is read with: a budget is spent on it once.
    assert found.identities.tolist() == as_it_is.identities.tolist()


@pytest.mark.parametrize("reader", ENCODING)
def test_one_bright_image_says_that_all_bits_are_used(tmp_path: Path, reader: str) -> None:
    spec = ENCODING[reader](tmp_path, [deep(4095), deep(65535), deep(100)])
    assert open_images(spec).pixels.max() == 255


def test_the_identity_of_sixteen_bits_is_that_without_a_range(tmp_path: Path) -> None:
    spec = folder_with(tmp_path, [deep(65535), deep(40000)])
    plain, ranged = open_images(spec), open_images(spec, value_range="0:40000")
    assert not plain.pixels.equal(ranged.pixels)
    assert plain.identities.tolist() == ranged.identities.tolist()
    assert plain.digest == ranged.digest
    assert bytes(plain.identities[0].tolist()) == identity_of(plain.pixels[0].numpy())


def test_colours_of_sixteen_bits(tmp_path: Path) -> None:
    import struct
    import zlib

    rows = b"".join(b"\0" + np.full((4, 3), 4095, dtype=">u2").tobytes() for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    encoded = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    spec = folder_with(tmp_path, [encoded, encoded])
    with pytest.raises(InputError, match="images of 16 bits with no value above"):
        open_images(spec)
    with pytest.raises(InputError, match="colours of 16 bits"):
        open_images(spec, value_range="0:4095")


def test_a_range_is_refused_where_there_are_eight_bits(tmp_path: Path) -> None:
    spec = folder_with(tmp_path, [picture(1), picture(2)])
    with pytest.raises(InputError, match="has pixels of 8 bits"):
        open_images(spec, value_range="0:4095")
    assert open_images(spec, value_range="0:255").pixels[:, 0, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_a_range_reads_what_has_more_than_sixteen_bits(tmp_path: Path, dtype: type) -> None:
    for i in range(2):
        (tmp_path / "ab"[i]).mkdir()
        Image.fromarray(np.array([[-100, 20], [50, 900]], dtype=dtype)).save(tmp_path / "ab"[i] / "x.tif")
    found = open_images(tmp_path, value_range="-100:100")
    assert found.pixels[0, 0].tolist() == [[0, 153], [191, 255]]


@pytest.mark.parametrize("given", ["", "5", "5:5", "9:1", "a:b", "0:inf", (1,), (0, "x")])
def test_ranges_that_are_none(tmp_path: Path, given: object) -> None:
    spec = folder_with(tmp_path, [picture(1), picture(2)])
    with pytest.raises(InputError, match="value_range must be two numbers"):
        open_images(spec, value_range=given)


def test_ways_to_make_a_square(tmp_path: Path) -> None:
    wide = np.zeros((4, 8), dtype=np.uint8)
    wide[:, :2], wide[:, 2:6], wide[:, 6:] = 50, 100, 200
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(png(wide))
    found = {how: open_images(tmp_path, size=8, resize=how) for how in ("crop", "pad", "stretch")}
    assert (found["crop"].pixels[..., 3:5] == 100).all()  # the middle
    assert found["pad"].pixels[0, 0, 0].max() == found["pad"].pixels[0, 0, -1].max() == 0
    assert {50, 100, 200} <= set(found["pad"].pixels[0, 0, 3].tolist())
    assert {50, 200} <= set(found["stretch"].pixels[0, 0, 0].tolist())
    with pytest.raises(InputError, match="resize must be one of crop, pad, stretch"):
        open_images(tmp_path, size=8, resize="squash")


def test_an_option_that_there_is_not() -> None:
    with pytest.raises(InputError, match="no option 'sise'; choose from size, "):
        open_images("bundled:digits", sise=8)
    with pytest.raises(InputError, match="no option 'sise'"):
        available_splits("bundled:digits", sise=8)


def test_images_print_without_pixels_or_names(tmp_path: Path) -> None:
    images: Images = open_images(folder_with(tmp_path, [picture(77), picture(78)]))
    assert "77" not in repr(images)
    assert "000.png" not in repr(images)


def frames(count: int, form: str) -> bytes:
    out = io.BytesIO()
    pages = [Image.new("L", (4, 4), 10 * i) for i in range(count)]
    pages[0].save(out, form, save_all=True, append_images=pages[1:])
    return out.getvalue()


@pytest.mark.parametrize("reader", ENCODING)
@pytest.mark.parametrize("form", ["TIFF", "PNG", "WEBP"])
def test_several_frames_are_refused_or_the_first_as_asked(tmp_path: Path, reader: str, form: str) -> None:
    spec = ENCODING[reader](tmp_path, [frames(3, form), frames(1, form), frames(2, form)])
    with pytest.raises(InputError, match=r"2 of the 3 .* several frames or pages; .*first_frame=True"):
        open_images(spec)
    found = open_images(spec, first_frame=True, channels=1)
    assert len(found) == 3
    assert found.pixels.max() < 5
