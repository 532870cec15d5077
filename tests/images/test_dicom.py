"""DICOM: what a viewer shows, by formulas of the standard written down anew; and nothing of the header."""

from __future__ import annotations

import importlib.util
import io
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from checks.fuzzing import dicom_files
from checks.fuzzing.dicom_files import STORED, compressed, encoded, frame_of, run_lengths, table
from checks.fuzzing.watch import peak_bytes, reset_peak
from dpvision.images import image_sizes, open_images
from dpvision.images.decode import decode
from dpvision.images.in_hand import BYTES_PER_PIXEL
from dpvision.privacy.errors import InputError

pytest.importorskip("pydicom")
from pydicom import dcmread
from pydicom.pixels import apply_voi_lut


def folder_of(place: Path, *files: bytes) -> Path:
    for index, content in enumerate(files):
        (place / "ab"[index % 2]).mkdir(exist_ok=True)
        (place / "ab"[index % 2] / f"{index}.dcm").write_bytes(content)
    return place


def close(found: NDArray[Any], expected: NDArray[Any]) -> None:
    np.testing.assert_allclose(found[0], expected, atol=1)  # halves round either way


def first(place: Path, *files: bytes, **choices: Any) -> NDArray[np.uint8]:
    return open_images(folder_of(place, *files), **choices).pixels[0].numpy()


def through_window(values: NDArray[Any], center: float, width: float) -> NDArray[Any]:
    """PS3.3, C.11.2.1.2.1, case by case."""
    x = values.astype(float)
    low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    between = ((x - (center - 0.5)) / (width - 1) + 0.5) * 255
    return np.rint(np.where(x <= low, 0, np.where(x > high, 255, between)))


@pytest.mark.parametrize("several", [False, True])
def test_the_window_of_the_file_is_applied(tmp_path: Path, several: bool) -> None:
    window = {"WindowCenter": [1000, 40], "WindowWidth": [1500, 80]} if several else {
        "WindowCenter": 1000, "WindowWidth": 1500}  # fmt: skip
    content = encoded(**window)
    assert image_sizes(folder_of(tmp_path, content, content)) == {(8, 6): 2}
    np.testing.assert_allclose(
        first(tmp_path, content, content)[0], through_window(STORED, 1000, 1500), atol=1
    )


def test_slope_and_intercept_come_first(tmp_path: Path) -> None:
    content = encoded(RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=500, WindowWidth=900)
    expected = through_window(STORED * 2.0 - 1000, 500, 900)
    close(first(tmp_path, content, content), expected)


def test_low_values_are_bright_where_the_file_says_so(tmp_path: Path) -> None:
    window = {"WindowCenter": 2000, "WindowWidth": 4000}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    usual = encoded(**window)
    inverted = encoded(**window, PhotometricInterpretation="MONOCHROME1")
    one, other = first(tmp_path / "a", usual, usual), first(tmp_path / "b", inverted, inverted)
    np.testing.assert_array_equal(other, 255 - one)
    assert one[0, 0, 0] < 5 < 250 < one[0, -1, -1]


def test_a_range_takes_the_place_of_the_window(tmp_path: Path) -> None:
    content = encoded(RescaleIntercept=-1024, RescaleSlope=1, WindowCenter=40, WindowWidth=80)
    expected = np.rint(((STORED - 1024.0 + 1000) * 255 / 1400).clip(0, 255))
    assert np.abs(first(tmp_path, content, content, value_range="-1000:400")[0] - expected).max() <= 1
    plain, ranged = open_images(tmp_path), open_images(tmp_path, value_range="-1000:400")
    assert plain.identities.tolist() == ranged.identities.tolist()  # one account, whatever the range
    assert plain.digest == ranged.digest


def test_without_a_window_a_range_is_needed(tmp_path: Path) -> None:
    content = encoded()
    with pytest.raises(InputError, match="no window of values to show; say the range with value_range="):
        first(tmp_path, content, content)
    expected = np.rint(STORED * 255.0 / 4095)
    np.testing.assert_array_equal(first(tmp_path, content, content, value_range="0:4095")[0], expected)


def test_eight_bits_and_colours_are_as_they_are(tmp_path: Path) -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    colour = np.arange(144, dtype=np.uint8).reshape(6, 8, 3)
    for name, pixels, expected in (("g", grey, grey[None]), ("c", colour, colour.transpose(2, 0, 1))):
        (tmp_path / name).mkdir()
        content = encoded(pixels)
        np.testing.assert_array_equal(first(tmp_path / name, content, content), expected)


def test_signed_values(tmp_path: Path) -> None:
    stored = np.linspace(-1000, 2000, 48).astype(np.int16).reshape(6, 8)
    content = encoded(stored, WindowCenter=300, WindowWidth=1500)
    np.testing.assert_allclose(
        first(tmp_path, content, content)[0], through_window(stored, 300, 1500), atol=1
    )


def test_frames_are_refused_or_the_first_is_taken(tmp_path: Path) -> None:
    content = encoded(np.stack([STORED, STORED[::-1]]), WindowCenter=2000, WindowWidth=4000)
    with pytest.raises(InputError, match=r"2 frames; .*first_frame=True"):
        first(tmp_path, content, content)
    expected = through_window(STORED, 2000, 4000)
    close(first(tmp_path, content, content, first_frame=True), expected)


GREY = np.random.default_rng(0).integers(0, 256, (16, 24), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (16, 24, 3), dtype=np.uint8)
DEEP = np.random.default_rng(2).integers(0, 4096, (16, 24), dtype=np.uint16)
RANGE = {"value_range": "0:4095"}
OF_12_BITS = {"BitsStored": 12, "HighBit": 11}


def of_frame(frame: bytes) -> NDArray[np.uint8]:
    """What Pillow makes of a frame by itself."""
    pixels = np.asarray(Image.open(io.BytesIO(frame)))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("pixels", [GREY, COLOUR])
def test_run_lengths_lose_nothing(tmp_path: Path, pixels: NDArray[Any]) -> None:
    packed, plain = run_lengths(pixels), encoded(pixels)
    (tmp_path / "plain").mkdir()
    expected = first(tmp_path / "plain", plain, plain)
    (tmp_path / "packed").mkdir()
    np.testing.assert_array_equal(first(tmp_path / "packed", packed, packed), expected)


def test_run_lengths_of_deep_images_lose_nothing(tmp_path: Path) -> None:
    content = run_lengths(DEEP)
    np.testing.assert_array_equal(first(tmp_path, content, content, **RANGE)[0], np.rint(DEEP * 255.0 / 4095))


def test_jpeg_2000_loses_nothing(tmp_path: Path) -> None:
    for name, pixels, expected, header in (
        ("grey", GREY, GREY[None], {}),
        ("colour", COLOUR, COLOUR.transpose(2, 0, 1), {"PhotometricInterpretation": "YBR_RCT"}),
    ):
        (tmp_path / name).mkdir()
        options = {"mct": 1} if header else {}
        frame = frame_of(pixels, "JPEG2000", no_jp2=True, **options)
        content = compressed(frame, dicom_files.JPEG_2000, pixels, **header)
        np.testing.assert_array_equal(first(tmp_path / name, content, content), expected)


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_what_pillow_makes_of_it(tmp_path: Path, progressive: bool) -> None:
    for name, pixels, header in (
        ("grey", GREY, {}),
        ("colour", COLOUR, {"PhotometricInterpretation": "YBR_FULL_422"}),
    ):
        (tmp_path / name).mkdir()
        frame = frame_of(pixels, "JPEG", quality=95, progressive=progressive)
        content = compressed(frame, dicom_files.JPEG_BASELINE, pixels, **header)
        found = first(tmp_path / name, content, content).astype(int)
        assert np.abs(found - of_frame(frame)).max() <= 1  # both round


@pytest.mark.parametrize(
    ("syntax", "frame", "message"),
    [
        ("JPEG_LOSSLESS", b"\0\0", r"JPEG Lossless.* another decoder to read: pip install python-gdcm"),
        ("JPEG_LS", b"\0\0", r"JPEG-LS.* another decoder to read: pip install python-gdcm"),
        ("JPEG_2000_HT", b"\0\0", r"High-Throughput.* pip install pylibjpeg pylibjpeg-openjpeg"),
        ("MPEG2", b"\0\0", r"MPEG2.* which nothing here decodes; save it uncompressed"),
        (
            "JPEG_EXTENDED",
            frame_of(GREY, "JPEG"),
            r"12-bit .* try another decoder: pip install python-gdcm",
        ),
    ],
)
def test_what_takes_another_decoder_is_told(tmp_path: Path, syntax: str, frame: bytes, message: str) -> None:
    if importlib.util.find_spec("gdcm") or importlib.util.find_spec("pylibjpeg"):
        pytest.skip("another decoder is installed")
    content = compressed(frame, getattr(dicom_files, syntax), DEEP, **OF_12_BITS)
    with pytest.raises(InputError, match=message):
        first(tmp_path, content, content)


HUGE_JPEG = frame_of(GREY, "JPEG").replace(struct.pack(">HH", 16, 24), struct.pack(">HH", 13000, 13000))
HUGE_JPEG_2000 = frame_of(GREY, "JPEG2000", no_jp2=True).replace(
    struct.pack(">II", 24, 16), struct.pack(">II", 13000, 13000)
)


@pytest.mark.parametrize(
    ("syntax", "frame", "message"),
    [
        ("JPEG_BASELINE", HUGE_JPEG, "other pixels than its header says"),
        ("JPEG_2000", HUGE_JPEG_2000, "other pixels than its header says"),
        ("JPEG_BASELINE", frame_of(COLOUR, "JPEG"), "other pixels than its header says"),
        ("JPEG_2000", frame_of(GREY, "JPEG2000"), "neither JPEG nor JPEG 2000"),
        ("JPEG_BASELINE", frame_of(GREY, "JPEG")[:-200], "cannot be read"),
        ("JPEG_BASELINE", b"\xff\xd8\xff", "cannot be read"),
        ("JPEG_BASELINE", b"\0\0", "cannot be read"),
    ],
)
def test_frames_that_are_not_what_the_header_says(
    tmp_path: Path, syntax: str, frame: bytes, message: str
) -> None:
    content = compressed(frame, getattr(dicom_files, syntax), GREY)
    with pytest.raises(InputError, match=message):
        first(tmp_path, content, content)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is watched by Linux's /proc")
@pytest.mark.parametrize("syntax", ["JPEG_2000", "JPEG_BASELINE", "RLE"])
def test_a_flat_frame_takes_no_more_than_is_stated(syntax: str) -> None:
    """A few kB, of so many pixels that no memory which is at hand would do."""
    pixels = np.zeros((6000, 6000), dtype=np.uint8)
    window = {"WindowCenter": 100, "WindowWidth": 200}
    if syntax == "RLE":
        content = run_lengths(pixels, **window)
    else:
        form, options = ("JPEG", {}) if syntax == "JPEG_BASELINE" else ("JPEG2000", {"no_jp2": True})
        frame = frame_of(pixels, form, **options)
        content = compressed(frame, getattr(dicom_files, syntax), pixels, **window)
    before = reset_peak()
    decode(content, "x")
    assert peak_bytes() - before <= 2**24 + BYTES_PER_PIXEL * pixels.size


def test_a_table_is_applied_where_there_is_no_window(tmp_path: Path) -> None:
    entries = (np.arange(3000) ** 2 // 2198).tolist()  # to 4091
    content = encoded(VOILUTSequence=table(entries, 500, 12))
    expected = np.asarray(entries)[(STORED.astype(int) - 500).clip(0, 2999)] * 255 / 4095
    close(first(tmp_path, content, content), expected)


@pytest.mark.parametrize("bits", [8, 10, 16])
def test_a_table_of_any_number_of_bits(tmp_path: Path, bits: int) -> None:
    entries = np.linspace(0, 2**bits - 1, 4096).astype(int).tolist()
    content = encoded(VOILUTSequence=table(entries, 0, bits))
    found = first(tmp_path, content, content)
    close(found, STORED * 255.0 / 4095)
    if bits > 8:  # those of 8 pydicom gets wrong
        theirs = apply_voi_lut(STORED, dcmread(io.BytesIO(content)))
        close(found, theirs * (255 / (2**bits - 1)))


def test_a_table_is_of_values_of_the_modality(tmp_path: Path) -> None:
    entries = list(range(0, 4000, 2))
    content = encoded(RescaleSlope=1, RescaleIntercept=-1000, VOILUTSequence=table(entries, -500, 12))
    expected = np.asarray(entries)[(STORED.astype(int) - 1000 + 500).clip(0, 1999)] * 255 / 4095
    close(first(tmp_path, content, content), expected)


def test_a_window_goes_before_a_table(tmp_path: Path) -> None:
    window = {"WindowCenter": 1000, "WindowWidth": 1500}
    content = encoded(**window, VOILUTSequence=table(range(4096), 0, 12))
    close(first(tmp_path, content, content), through_window(STORED, 1000, 1500))


def test_a_table_that_is_cut_off(tmp_path: Path) -> None:
    tables = table(range(4096), 0, 12)
    tables[0].LUTData = tables[0].LUTData[:100]
    content = encoded(VOILUTSequence=tables)
    with pytest.raises(InputError, match="other entries than it says"):
        first(tmp_path, content, content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Rows": 60000, "Columns": 60000}, "60000 x 60000 pixels, more than"),
        ({"Rows": 0}, "damaged"),
        ({"Rows": 7}, "cannot be read"),
        ({"SamplesPerPixel": 9}, "9 colours"),
        ({"BitsAllocated": 7}, "cannot be read"),
        ({"syntax": "1.2.840.10008.1.2.1.99"}, "deflated"),
    ],
)
def test_headers_that_claim_what_is_not_there(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = encoded(WindowCenter=2000, WindowWidth=4000, **change)
    with pytest.raises(InputError, match=message):
        first(tmp_path, content, content)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    whole = encoded(WindowCenter=2000, WindowWidth=4000)
    with pytest.raises(InputError, match=r"0\.dcm"):
        first(tmp_path, whole[:-30], whole)


def test_nothing_of_the_header_is_kept(tmp_path: Path) -> None:
    content = encoded(WindowCenter=2000, WindowWidth=4000)
    images = open_images(folder_of(tmp_path, content, content))
    kept = repr(vars(images)) + str(images.names) + str(images.summary())
    assert "secret" not in kept
    assert "Doe" not in kept
