from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.imaging.images import Format, UnusableImage, check, decode_rgb, read_header
from data_pipelines.imaging.recode import Recoding

Encode = Callable[..., bytes]
Picture = Callable[..., np.ndarray]


def apply(data: bytes, recoding: Recoding) -> tuple[bytes, bool]:
    """The image as it is written, and whether it was encoded again."""
    header = read_header(data)
    if not recoding.applies(header):
        return data, False
    again, said = recoding.apply(data, header)
    assert said == check(again, decode=True), "what it says is what the bytes are"
    return again, True


@settings(deadline=None, max_examples=30)
@given(height=st.integers(8, 90), width=st.integers(8, 90), shorter=st.integers(8, 60))
def test_the_shorter_side_is_brought_down_and_never_up(
    picture: Picture, encode: Encode, height: int, width: int, shorter: int
) -> None:
    data = encode(picture(0, height, width), "JPEG")
    again, changed = apply(data, Recoding(shorter=shorter))
    assert changed == (min(height, width) > shorter)
    if changed:
        header = read_header(again)
        scale = shorter / min(height, width)
        assert min(header.width, header.height) == shorter
        assert abs(header.width - width * scale) <= 0.5
        assert abs(header.height - height * scale) <= 0.5
    else:
        assert again == data


def test_quality_alone_keeps_the_size(picture: Picture, encode: Encode) -> None:
    data = encode(picture(0, 300, 200), "JPEG", quality=95)
    poor, good = (apply(data, Recoding(quality=quality))[0] for quality in (20, 100))
    assert len(poor) < len(good)
    for again in (poor, good):
        header = read_header(again)
        assert (header.width, header.height, header.format) == (200, 300, Format.JPEG)
    assert np.abs(decode_rgb(good).astype(int) - decode_rgb(data)).mean() < 2


def test_small_images_keep_their_bytes_unless_a_quality_is_given(picture: Picture, encode: Encode) -> None:
    data = encode(picture(0, 40, 60), "PNG")
    assert apply(data, Recoding(shorter=40)) == (data, False)
    again, changed = apply(data, Recoding(shorter=40, quality=90))
    assert changed
    assert read_header(again)[:3] == (Format.JPEG, 60, 40)


def test_odd_images_become_plain_jpegs_of_the_same_picture(odd_images: dict[str, bytes]) -> None:
    for name, data in odd_images.items():
        again, _ = apply(data, Recoding(quality=100))
        assert read_header(again).plain_jpeg, name
        # Of four by four pixels the mean: JPEG keeps colors at half the resolution, and palettes are dithered.
        ours, theirs = (decode_rgb(image).reshape(12, 4, 15, 4, 3).mean((1, 3)) for image in (again, data))
        assert np.abs(ours - theirs).mean() < 3, name


@pytest.mark.parametrize("side", [37, 64, 130])
def test_shrinking_does_not_alias(encode: Encode, side: int) -> None:
    """A grid finer than the result can hold becomes its mean, wherever the pixels fall."""
    grid = np.zeros((640, 640, 3), np.uint8)
    grid[::2, ::2] = grid[1::2, 1::2] = 255
    small = decode_rgb(apply(encode(grid, "PNG"), Recoding(shorter=side))[0])
    assert np.abs(small[4:-4, 4:-4].astype(int) - 127).max() <= 6


def test_what_cannot_be_decoded_is_told(picture: Picture, encode: Encode) -> None:
    data = bytearray(encode(picture(0), "PNG"))
    data[200:260] = bytes(60)
    with pytest.raises(UnusableImage, match="cannot be decoded"):
        Recoding(quality=90).apply(bytes(data), read_header(bytes(data)))
