"""DICOM: what a viewer shows, by formulas of the standard written down anew; and nothing of the header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from checks.fuzzing.dicom_files import STORED, encoded
from dpvision.images import image_sizes, open_images
from dpvision.privacy.errors import InputError

pytest.importorskip("pydicom")


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
