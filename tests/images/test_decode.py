from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageOps

from dpvision.images.conversion import MAX_PIXELS, Conversion
from dpvision.images.decode import decode as decode_image
from dpvision.images.decode import encoded_size
from dpvision.privacy.errors import InputError

LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}}

gradient = np.linspace(0, 255, 24 * 20 * 3).reshape(24, 20, 3).astype(np.uint8)  # smooth, so JPEG keeps it


def encode(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def decode(encoded: bytes, **options: Any) -> np.ndarray:
    return Conversion(**options).convert(decode_image(encoded, "picture"), "picture")


def png(width: int, height: int, bit_depth: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG file by the specification, for what Pillow does not write; rows before compression."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("image_format", LOSSLESS)
@given(pixels=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9).map(lambda s: (*s, 3))))
def test_lossless_colour_round_trip(image_format: str, pixels: np.ndarray) -> None:
    encoded = encode(Image.fromarray(pixels), image_format, **LOSSLESS[image_format])
    np.testing.assert_array_equal(decode(encoded), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF"])  # WebP knows no grey
@given(pixels=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_lossless_grey_round_trip(image_format: str, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(decode(encode(Image.fromarray(pixels), image_format)), pixels[None])


def test_jpeg_in_colour_and_grey() -> None:
    colour = decode(encode(Image.fromarray(gradient), "JPEG", quality=95))
    np.testing.assert_allclose(colour, gradient.transpose(2, 0, 1), atol=6)
    grey = decode(encode(Image.fromarray(gradient[..., 0]), "JPEG", quality=95))
    np.testing.assert_allclose(grey, gradient[None, ..., 0], atol=6)


def test_cmyk_jpeg_becomes_rgb() -> None:
    encoded = encode(Image.fromarray(gradient).convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_allclose(decode(encoded), gradient.transpose(2, 0, 1), atol=8)


@given(arrays(np.uint16, (3, 4)))
def test_sixteen_bits_grey_keep_the_high_byte(pixels: np.ndarray) -> None:
    for image_format in ("PNG", "TIFF"):
        np.testing.assert_array_equal(
            decode(encode(Image.fromarray(pixels), image_format)), pixels[None] >> 8
        )


@given(arrays(np.uint16, (3, 4, 3)))
def test_sixteen_bits_colour_keep_the_high_byte(pixels: np.ndarray) -> None:
    rows = b"".join(
        b"\0" + row.astype(">u2").tobytes() for row in pixels
    )  # each begins with its filter, none
    np.testing.assert_array_equal(decode(png(4, 3, 16, 2, rows)), pixels.transpose(2, 0, 1) >> 8)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparent_parts_are_white(mode: str) -> None:
    red = Image.new("RGB", (2, 1), (255, 0, 0))
    if mode == "RGBA":
        red.putalpha(Image.fromarray(np.array([[255, 0]], dtype=np.uint8)))
        encoded = encode(red)
    else:
        palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
        palette.putpalette([255, 0, 0, 255, 0, 0])
        encoded = encode(palette, transparency=1)
    np.testing.assert_array_equal(decode(encoded)[:, 0].T, [[255, 0, 0], [255, 255, 255]])


def test_half_transparent_grey_stays_one_channel() -> None:
    image = Image.merge("LA", [Image.new("L", (1, 1), 100), Image.new("L", (1, 1), 51)])
    np.testing.assert_array_equal(decode(encode(image)), [[[224]]])  # 0.2 of 100 and 0.8 of 255


def test_palette_becomes_its_colours() -> None:
    image = Image.fromarray(np.array([[1, 0]], dtype=np.uint8), "P")
    image.putpalette([1, 2, 3, 40, 50, 60])
    for image_format in ("PNG", "BMP", "TIFF"):
        np.testing.assert_array_equal(decode(encode(image, image_format))[:, 0].T, [[40, 50, 60], [1, 2, 3]])


def test_one_bit_is_black_and_white() -> None:
    image = Image.fromarray(np.array([[True, False, True]]))
    np.testing.assert_array_equal(decode(encode(image)), [[[255, 0, 255]]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3)
    # What a camera held that way stores is the upright picture under the inverse of what a viewer does.
    viewer = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).T,
        8: lambda a: np.rot90(a, 1),
    }
    stored_like = {**viewer, 6: viewer[8], 8: viewer[6]}[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = encode(Image.fromarray(np.ascontiguousarray(stored_like)), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(encoded)[0], upright)


def test_channels_option() -> None:
    colour = decode(encode(Image.fromarray(gradient)), channels=1)
    np.testing.assert_array_equal(colour[0], np.asarray(Image.fromarray(gradient).convert("L")))
    grey = decode(encode(Image.fromarray(gradient[..., 0])), channels=3)
    np.testing.assert_array_equal(grey, np.repeat(gradient[None, ..., 0], 3, axis=0))


def test_size_option_takes_the_centred_square() -> None:
    wide = np.zeros((4, 12), dtype=np.uint8)
    wide[:, 4:8] = 200
    np.testing.assert_array_equal(decode(encode(Image.fromarray(wide)), size=4), np.full((1, 4, 4), 200))
    assert decode(encode(Image.fromarray(gradient)), size=7).shape == (3, 7, 7)


def test_decoded_arrays_take_the_same_options() -> None:
    conversion = Conversion(size=9, channels=1)
    from_file = decode(encode(Image.fromarray(gradient)), size=9, channels=1)
    np.testing.assert_array_equal(conversion.convert(gradient.transpose(2, 0, 1), "picture"), from_file)


@pytest.mark.parametrize("options", [{"size": 0}, {"size": -3}, {"size": 10**5}, {"channels": 2}])
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        Conversion(**options)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_refused(dtype: type) -> None:
    with pytest.raises(InputError, match="32-bit"):
        decode(encode(Image.fromarray(np.zeros((2, 2), dtype=dtype)), "TIFF"))


@pytest.mark.parametrize("side", [int(MAX_PIXELS**0.5) + 1, 9_700, 100_000])
def test_an_image_that_claims_too_many_pixels_is_refused_before_it_is_decoded(side: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(InputError, match="pixels"):
            decode(png(side, side, 8, 0, b"\0"))


def test_other_formats_are_refused() -> None:
    for image_format, kind in {"GIF": "a GIF", "PPM": "a file of an unknown kind", "PDF": "a PDF"}.items():
        with pytest.raises(InputError, match=rf"picture is not an image that can be read: it is {kind}; "):
            decode(encode(Image.fromarray(gradient), image_format))


WHOLE = {
    f: encode(ImageOps.fit(Image.fromarray(gradient), (11, 9)), f)
    for f in ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
}


@pytest.mark.parametrize("image_format", WHOLE)
@settings(deadline=None)  # a damaged header may claim the largest size that is decoded
@given(st.data())
def test_a_damaged_image_is_refused_or_still_an_image(image_format: str, data: st.DataObject) -> None:
    damaged = bytearray(WHOLE[image_format])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = decode(bytes(damaged))
        except InputError:
            return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3


@pytest.mark.parametrize("image_format", WHOLE)
def test_a_cut_image_is_refused(image_format: str) -> None:
    whole = WHOLE[image_format]
    for kept in (0, 3, len(whole) // 2, len(whole) * 4 // 5):
        with pytest.raises(InputError, match=r"picture (cannot be read|is not an image that can be read)"):
            decode(whole[:kept])


def test_the_size_is_read_from_the_header() -> None:
    encoded = encode(Image.fromarray(gradient))
    assert encoded_size(encoded, "picture") == encoded_size(encoded[:60], "picture") == (20, 24)
    with pytest.raises(InputError, match=r"picture (cannot be read|is not an image that can be read)"):
        encoded_size(b"no image", "picture")
