"""Images and data sets made to do harm, one kind of harm at a time."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from dpvision.images import available_splits, image_sizes, open_images
from dpvision.images import files as files_module
from dpvision.images.files import MAX_NESTING
from dpvision.images.in_hand import BYTES_PER_PIXEL, PixelsInHand
from dpvision.privacy.errors import InputError
from dpvision.views.pool import pool_provenance

CheckRefused = Callable[..., None]


def png(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


PICTURE = png(Image.new("L", (4, 3), 7))


def zeros_png(width: int, height: int, bit_depth: int, colour_type: int, row_bytes: int) -> bytes:
    """A PNG of zeros, made without its pixels in memory."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    packer = zlib.compressobj(9)
    row = bytes(1 + row_bytes)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(6)) + chunk(b"tRNS", b"\0") if colour_type == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [2048, pytest.param(8192, marks=pytest.mark.slow)])
def test_decoding_takes_no_more_for_each_pixel_than_is_stated(side: int, check_refused: CheckRefused) -> None:
    """Of a palette with transparency, for which most copies are made; one bit in the file for each pixel."""
    bomb = zeros_png(side, side, 1, 3, side // 8)
    assert len(bomb) < side * 2
    check_refused("png", [bomb], refused=False, most_mib=16 + (side**2 * BYTES_PER_PIXEL >> 20))


def test_a_pixel_bomb_is_refused_by_its_header(check_refused: CheckRefused) -> None:
    check_refused(
        "png",
        [zeros_png(100_000, 100, 1, 0, 12_500).replace(struct.pack(">I", 100), b"\0\1\0\0", 1)],
        most_mib=64,
    )


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "iCCP"])
def test_text_of_an_image_is_not_unpacked_without_end(kind: str, check_refused: CheckRefused) -> None:
    info = PngImagePlugin.PngInfo()
    packed = zlib.compress(bytes(2**26))
    fields = {"zTXt": b"k\0\0", "iTXt": b"k\0\1\0\0\0", "iCCP": b"k\0\0"}
    info.add(kind.encode(), fields[kind] + packed)
    check_refused("png", [png(Image.new("L", (4, 4)), pnginfo=info)], refused=kind != "iCCP", most_mib=64)


def test_threads_hold_no_more_pixels_than_one_may() -> None:
    in_hand, together, most, lock = PixelsInHand(10), 0, 0, threading.Lock()

    def hold(pixels: int) -> None:
        nonlocal together, most
        with in_hand.holding(pixels):
            with lock:
                together += pixels
                most = max(most, together)
            threading.Event().wait(0.002)
            with lock:
                together -= pixels

    threads = [threading.Thread(target=hold, args=(pixels,)) for pixels in [6, 3, 7, 4, 1, 10] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert 6 < most <= 10
    hold(100)  # alone


# Archives


@pytest.fixture
def little_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that bombs need not be large."""
    monkeypatch.setattr(files_module, "FREE_BYTES", 2**20)


def idx(*shape: int) -> bytes:
    return struct.pack(f">{1 + len(shape)}I", 0x0800 | len(shape), *shape)


def test_a_gzip_bomb_that_says_its_size_is_refused(little_is_free: None, check_refused: CheckRefused) -> None:
    images = gzip.compress(idx(64, 512, 512) + bytes(2**24), 9)
    assert len(images) < 2**20
    check_refused("idx.gz", [images, gzip.compress(idx(64) + bytes(64))], most_mib=12)


def test_a_gzip_bomb_that_hides_its_size_is_refused(
    little_is_free: None, check_refused: CheckRefused
) -> None:
    images = gzip.compress(idx(2, 8, 8) + bytes(2**24), 9)
    check_refused("idx.gz", [images, gzip.compress(idx(2) + bytes(2))], most_mib=12)


def test_a_header_that_claims_much_takes_no_memory(check_refused: CheckRefused) -> None:
    check_refused("idx", [idx(64, 2**10, 2**12) + bytes(9), idx(64) + bytes(64)], most_mib=64)


def test_labels_are_bounded_as_the_numbers_that_they_become(
    little_is_free: None, check_refused: CheckRefused
) -> None:
    labels = gzip.compress(idx(2**18) + bytes(2**18), 9)
    check_refused("idx.gz", [gzip.compress(idx(2, 8, 8) + bytes(128)), labels], most_mib=64)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_an_npz_bomb_is_refused(method: int, little_is_free: None, check_refused: CheckRefused) -> None:
    stream = io.BytesIO()
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (64, 512, 512), }"
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(stream, "w", method) as archive, archive.open("images.npy", "w") as member:
        member.write(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header)
        for _ in range(64):
            member.write(bytes(512 * 512))
    assert len(stream.getvalue()) < 2**20
    check_refused("npz", [stream.getvalue()], most_mib=60)


def test_a_structure_with_an_object_in_it_is_not_unpickled(check_refused: CheckRefused) -> None:
    stream = io.BytesIO()
    array = np.array([(1, os.path.join)], dtype=[("a", "u1"), ("b", object)])
    np.savez(stream, images=array, labels=np.array([0]))
    check_refused("npz", [stream.getvalue()])


@pytest.mark.parametrize(
    "shape", ["(-1, 8, 8)", "(9223372036854775807, -1099511627776, 128, 16)", "(-4, -4, 8)"]
)
def test_no_dimension_is_negative(shape: str, tmp_path: Path) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(InputError, match="has the shape"):
        open_images(tmp_path / "x.npz", labelled=False)


@pytest.mark.parametrize("name", ["../images.npy", "/tmp/images.npy", "a/../../images.npy", "C:\\images.npy"])
def test_names_in_an_archive_are_no_paths(name: str, tmp_path: Path) -> None:
    array = io.BytesIO()
    np.save(array, np.zeros((2, 3, 3), np.uint8))
    (tmp_path / "data").mkdir()
    with zipfile.ZipFile(tmp_path / "data" / "x.npz", "w") as archive:
        archive.writestr(name, array.getvalue())
    with pytest.raises(InputError, match="no array 'images'"):
        open_images(tmp_path / "data" / "x.npz")
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "x.npz"]


# Folders


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").symlink_to("x.png")
    with pytest.raises(InputError, match=r"x\.png"):
        open_images(tmp_path)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train.parquet", "x.png", "pool.json", "x.npz"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_never_opened(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / name
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    assert pool_provenance(tmp_path) == {"source": tmp_path.name}
    for spec in (tmp_path, path):
        with pytest.raises(InputError):
            open_images(spec, labelled=False)
        if name != "pool.json":  # beside which there is nothing, of no size
            with pytest.raises(InputError):
                image_sizes(spec)


def test_folders_without_end_are_refused(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a"] * (MAX_NESTING + 2))
    deep.mkdir(parents=True)
    (deep / "x.png").write_bytes(PICTURE)
    with pytest.raises(InputError, match=f"more than {MAX_NESTING} folders deep"):
        open_images(tmp_path)


@pytest.mark.parametrize("spec", ["x" * 5000, "a/" * 3000, "a\0b"])
def test_paths_that_no_system_has(spec: str) -> None:
    with pytest.raises(InputError):
        available_splits(spec)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"\x1b[31mred", b"two\nlines", "a\u202eb".encode()])
def test_names_that_are_no_text_are_no_classes(name: bytes, tmp_path: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), name)
    os.mkdir(folder)
    Path(os.fsdecode(folder), "x.png").write_bytes(PICTURE)
    with pytest.raises(InputError, match="cannot be the name of a class"):
        open_images(tmp_path)


# Parquet


def table(encoded: list[bytes | None], labels: list[int]) -> pa.Table:
    images = pa.array([{"bytes": c, "path": None} for c in encoded])
    return pa.table({"image": images, "label": pa.array(labels, pa.int64())})


def parquet(content: pa.Table, **options: object) -> bytes:
    stream = io.BytesIO()
    pq.write_table(content, stream, **options)
    return stream.getvalue()


@pytest.mark.parametrize("codec", ["zstd", "gzip", "brotli"])
def test_a_page_that_unpacks_to_much_is_not_unpacked(
    codec: str, little_is_free: None, tmp_path: Path
) -> None:
    content = parquet(table([bytes(2**24)], [0]), compression=codec, use_dictionary=False)
    assert len(content) < 2**15
    (tmp_path / "x.parquet").write_bytes(content)
    for labelled in (True, False):
        with pytest.raises(InputError, match=r"'image\.bytes' in .* unpacked would take"):
            open_images(tmp_path / "x.parquet", labelled=labelled)


def test_a_footer_that_understates_its_pages_is_not_believed(little_is_free: None, tmp_path: Path) -> None:
    """What counts is what the pages say, for that is what pyarrow goes by."""
    content = parquet(table([bytes(2**24)], [0]), compression="zstd", use_dictionary=False)
    length = int.from_bytes(content[-8:-4], "little")
    body, footer = content[: -8 - length], content[-8 - length :]
    stated = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0).column(0).total_uncompressed_size
    number = bytes([2 * stated >> shift & 127 | 128 * (shift < 21) for shift in (0, 7, 14, 21)])
    assert footer.count(number) > 0
    understated = body + footer.replace(number, b"\x82\x80\x80\x00")
    assert (
        pq.ParquetFile(io.BytesIO(understated)).metadata.row_group(0).column(0).total_uncompressed_size == 1
    )
    (tmp_path / "x.parquet").write_bytes(understated)
    with pytest.raises(InputError, match="unpacked would take"):
        open_images(tmp_path / "x.parquet")


def test_one_image_in_many_rows_is_refused(check_refused: CheckRefused, tmp_path: Path) -> None:
    picture = png(Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)))
    one = pa.array([picture], pa.binary())
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(50_000, np.int32)), one)
    images = pa.StructArray.from_arrays([column], ["bytes"])
    content = parquet(pa.table({"image": images, "label": pa.array(np.zeros(50_000, np.int64))}))
    assert len(content) < 2**20
    check_refused("parquet", [content])
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(InputError, match="the same bytes too often"):
        open_images(tmp_path / "x.parquet", size=1)


def test_rows_that_are_not_there(check_refused: CheckRefused) -> None:
    content = bytearray(parquet(table([PICTURE] * 100, [0] * 100)))
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    at = content.index(b"\x16\xc8\x01", footer)  # num_rows: 100, as a zigzag number in field 3
    content[at : at + 3] = b"\x16\xfe\x7f"
    check_refused("parquet", [bytes(content)])


@pytest.mark.parametrize("damage", ["histogram", "no row groups"])
def test_footers_of_which_pyarrow_ends_the_process_or_reads_nothing(
    damage: str, check_refused: CheckRefused
) -> None:
    """One count too many in a column's SizeStatistics; and no group of rows where there are rows."""
    content = parquet(table([PICTURE] * 3, [0] * 3))
    length = int.from_bytes(content[-8:-4], "little")
    body, footer = content[: -8 - length], content[-8 - length : -8]
    if damage == "histogram":
        at = footer.index(b"\x19\x36")  # a list of three 64-bit numbers
        changed = footer[: at + 1] + b"\x46" + footer[at + 2 : at + 3] + b"\0" + footer[at + 3 :]
    else:
        at = footer.index(b"\x16\x06\x19")  # the number of rows, 3, before the list of their groups
        changed = footer[: at + 3] + b"\x0c\x00"
    check_refused("parquet", [body + changed + len(changed).to_bytes(4, "little") + b"PAR1"])


@pytest.mark.parametrize(
    "columns",
    [
        {"image": pa.array([[{"bytes": PICTURE}]]), "label": pa.array([0])},
        {"image": pa.array([{"bytes": [PICTURE]}]), "label": pa.array([0])},
        {"image": pa.array([{"bytes": {"bytes": PICTURE}}]), "label": pa.array([0])},
        {"image": pa.array([{"bytes": 3}]), "label": pa.array([0])},
        {"image": pa.array([{"bytes": "text"}]), "label": pa.array([0])},
        {"image": pa.array([{"bytes": PICTURE[:40]}]), "label": pa.array([0])},
        {"image": pa.array([{"bytes": zeros_png(8192, 8193, 1, 0, 1024)}]), "label": pa.array([0])},
    ],
)
def test_columns_of_other_types(columns: dict[str, pa.Array], check_refused: CheckRefused) -> None:
    check_refused("parquet", [parquet(pa.table(columns))])


@pytest.mark.parametrize("label", [[[0]], [b"x" * 100], [0.5], [{"a": 1}], [True]])
def test_labels_of_other_types(label: list[object], tmp_path: Path) -> None:
    columns = {"image": pa.array([{"bytes": PICTURE}]), "label": pa.array(label)}
    (tmp_path / "x.parquet").write_bytes(parquet(pa.table(columns)))
    with pytest.raises(InputError, match="not integers"):
        open_images(tmp_path / "x.parquet")


@pytest.mark.parametrize("name", ["\x1b]0;x\x07", "a\nb", "\ud800"])
def test_metadata_that_names_classes_as_no_text(name: str, tmp_path: Path) -> None:
    features = {"label": {"names": [name]}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    content = parquet(table([PICTURE], [0]).replace_schema_metadata(metadata))
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(InputError, match="cannot be the name of a class"):
        open_images(tmp_path / "x.parquet")
