import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from data_pipelines.imaging.foreign import IMAGE_SUFFIXES, as_known_format
from data_pipelines.imaging.images import UnusableImage, check, decode_rgb


@pytest.mark.parametrize("form", ["BMP", "TIFF", "GIF", "PPM", "TGA", "AVIF"])
def test_other_formats_become_png_with_the_same_pixels(picture: Callable[..., np.ndarray], form: str) -> None:
    file = io.BytesIO()
    Image.fromarray(picture()).save(file, form)
    expected = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
    data = as_known_format(file.getvalue())
    assert check(data, decode=True).format.value == "png"
    np.testing.assert_array_equal(decode_rgb(data), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_of_a_tiff(picture: Callable[..., np.ndarray], mode: str) -> None:
    file = io.BytesIO()
    Image.fromarray(picture()).convert(mode).save(file, "TIFF")
    expected = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
    np.testing.assert_array_equal(decode_rgb(as_known_format(file.getvalue())), expected)


def test_16_bits_are_kept() -> None:
    values = np.arange(16 * 16, dtype=np.uint16).reshape(16, 16) * 250
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(as_known_format(file.getvalue())))), values
    )


def test_known_formats_and_no_images_stay(odd_images: dict[str, bytes]) -> None:
    for data in (*odd_images.values(), b"", b"hello, world"):
        assert as_known_format(data) is data


def test_what_has_no_meaning_as_8_bits_is_refused() -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((9, 9), np.float32)).save(file, "TIFF")
    with pytest.raises(UnusableImage, match="floating-point"):
        as_known_format(file.getvalue())
    with pytest.raises(UnusableImage, match="cannot be decoded"):
        as_known_format(file.getvalue()[:120])


def test_suffixes_cover_what_users_have() -> None:
    assert {".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".ppm"} <= IMAGE_SUFFIXES
    assert not {".eps", ".pdf", ".mpg", ".txt", ".json"} & IMAGE_SUFFIXES
