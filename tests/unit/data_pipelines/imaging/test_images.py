import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.imaging.images import MAX_PIXELS, Format, UnusableImage, check, decode_rgb, read_header

CASES = sorted((Path(__file__).parents[3] / "fixtures" / "cases" / "images").glob("*.jpg"))


def test_odd_images_are_good_and_follow_pillow(odd_images: dict[str, bytes]) -> None:
    for name, data in odd_images.items():
        header = check(data, decode=True)
        assert (header.width, header.height) == (60, 48), name
        if "16-bit" not in name:
            expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            np.testing.assert_array_equal(decode_rgb(data), expected, err_msg=name)


def test_of_16_bits_the_high_byte_is_kept(odd_images: dict[str, bytes]) -> None:
    np.testing.assert_array_equal(decode_rgb(odd_images["16-bit png"]), decode_rgb(odd_images["png"]))
    gray = decode_rgb(odd_images["16-bit gray png"])
    np.testing.assert_array_equal(gray, np.repeat(decode_rgb(odd_images["png"])[:, :, 2:], 3, axis=2))


def test_orientation_is_ignored(odd_images: dict[str, bytes]) -> None:
    assert decode_rgb(odd_images["turned jpeg"]).shape == (48, 60, 3)


def test_formats_are_told_by_content(odd_images: dict[str, bytes]) -> None:
    assert read_header(odd_images["palette png"]).format is Format.PNG
    assert read_header(odd_images["alpha webp"]).format is Format.WEBP
    assert read_header(odd_images["cmyk jpeg"]).format is Format.JPEG
    assert not read_header(odd_images["cmyk jpeg"]).plain_jpeg
    assert read_header(odd_images["gray jpeg"]).plain_jpeg


@pytest.mark.parametrize("name", ["progressive jpeg", "png", "webp", "lossless webp", "alpha webp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_images_are_found_without_decoding(
    odd_images: dict[str, bytes], name: str, share: float
) -> None:
    data = odd_images[name]
    with pytest.raises(UnusableImage, match=r"truncated|broken header"):
        check(data[: int(share * len(data))], decode=False)


def test_a_thumbnails_end_marker_does_not_hide_truncation(odd_images: dict[str, bytes]) -> None:
    thumbnail = odd_images["progressive jpeg"]
    whole = odd_images["gray jpeg"]
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = whole[:2] + segment + whole[2:]
    check(data, decode=True)
    with pytest.raises(UnusableImage, match="truncated"):
        check(data[:-40], decode=False)


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def test_a_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(UnusableImage, match=f"more than {MAX_PIXELS} pixels"):
        check(png_header(20_000, 20_000), decode=False)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, world", "not a JPEG, PNG or WebP image"),
        (b"GIF89a" + bytes(100), "not a JPEG, PNG or WebP image"),
        (b"\xff\xd8\xff" + bytes(100), "broken header"),
        (b"RIFF\0\0\0\0WEBPVP8X", "broken header"),
        (b"RIFF\0\0\0\0WEBPNONE", "broken header"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0", "broken header"),
    ],
)
def test_what_is_no_image_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UnusableImage, match=reason):
        check(data, decode=False)


@pytest.mark.parametrize(
    ("height", "width", "reason"), [(1, 1, "below 8"), (7, 60, "below 8"), (10, 201, "aspect ratio")]
)
def test_shapes_without_a_picture_are_refused(
    encode: Callable[..., bytes], height: int, width: int, reason: str
) -> None:
    with pytest.raises(UnusableImage, match=reason):
        check(encode(np.zeros((height, width, 3), np.uint8), "PNG"), decode=False)


def test_only_decoding_finds_damage_inside(odd_images: dict[str, bytes]) -> None:
    data = bytearray(odd_images["png"])
    data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
    check(bytes(data), decode=False)
    with pytest.raises(UnusableImage, match="cannot be decoded"):
        check(bytes(data), decode=True)


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_any_sampling_of_colors_is_decoded_as_pillow_does(path: Path) -> None:
    data = path.read_bytes()
    header = check(data, decode=True)
    assert (header.width, header.height) == (128, 96)
    np.testing.assert_array_equal(decode_rgb(data), pillow(data))


@pytest.mark.parametrize("name", ["gray jpeg", "progressive jpeg", "cmyk jpeg"])
@pytest.mark.parametrize(
    "behind", [b"\0\0\xff\xda\0", b"video\xff\xd9\xff\xda", b"\xff\xd8\xff\xda\xff", b"\xff"]
)
def test_data_behind_the_end_of_a_jpeg_is_ignored(
    odd_images: dict[str, bytes], name: str, behind: bytes
) -> None:
    data = odd_images[name] + behind
    check(data, decode=True)
    np.testing.assert_array_equal(decode_rgb(data), decode_rgb(odd_images[name]))


@pytest.mark.parametrize("name", ["gray jpeg", "progressive jpeg"])
def test_a_jpeg_without_an_end_is_truncated_whatever_its_length(
    odd_images: dict[str, bytes], name: str
) -> None:
    data = odd_images[name]
    for length in range(len(data) - 2, 30, -7):
        with pytest.raises(UnusableImage, match=r"truncated|broken header"):
            check(data[:length], decode=False)


@pytest.mark.parametrize("name", ["png", "gray png", "palette png", "16-bit png"])
def test_a_png_needs_all_pixels_but_no_end_chunk(odd_images: dict[str, bytes], name: str) -> None:
    data = odd_images[name]
    for kept in (data[:-12], data[:-1], data[:-8]):
        check(kept, decode=True)
        np.testing.assert_array_equal(decode_rgb(kept), decode_rgb(data))
    for cut in (13, 17, 40):
        with pytest.raises(UnusableImage, match="truncated"):
            check(data[:-cut], decode=False)
