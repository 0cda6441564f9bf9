import cv2
import numpy as np
import pytest

from data_pipelines.imaging.depth import highest, is_deep, rescaled, suggested_range
from data_pipelines.imaging.images import UnusableImage, decode_rgb


def png(values: np.ndarray) -> bytes:
    return cv2.imencode(".png", values)[1].tobytes()


TWELVE = np.linspace(0, 4095, 100).astype(np.uint16).reshape(10, 10)


@pytest.mark.parametrize("values", [TWELVE, np.dstack([TWELVE] * 3)])
def test_12_bits_are_spread_over_all_levels(values: np.ndarray) -> None:
    data = png(values)
    assert is_deep(data)
    assert highest(data) == 4095
    assert decode_rgb(data).max() == 15, "nearly black without a range"
    again = rescaled(data, (0, 4095))
    assert not is_deep(again)
    expected = np.round(TWELVE.astype(np.float32) * (255 / 4095)).astype(np.uint8)
    np.testing.assert_array_equal(decode_rgb(again), np.repeat(expected[:, :, None], 3, axis=2))


def test_values_outside_of_the_range_become_black_and_white() -> None:
    again = decode_rgb(rescaled(png(TWELVE), (1000, 2000)))
    assert (again.min(), again.max()) == (0, 255)
    assert (again[:, :, 0] == 255).sum() == (TWELVE >= 1998).sum()


def test_alpha_is_no_value() -> None:
    data = png(np.dstack([TWELVE, TWELVE, TWELVE, np.full_like(TWELVE, 65535)]))
    assert highest(data) == 4095


@pytest.mark.parametrize(
    ("found", "values"), [(0, None), (1000, (0, 1023)), (4095, (0, 4095)), (4096, (0, 8191)), (20_000, None)]
)
def test_the_range_that_is_suggested(found: int, values: tuple[int, int] | None) -> None:
    assert suggested_range(found) == values


def test_images_of_8_bits_stay_and_broken_ones_are_refused(odd_images: dict[str, bytes]) -> None:
    for name in ("png", "gray jpeg", "webp"):
        assert rescaled(odd_images[name], (0, 4095)) is odd_images[name]
    with pytest.raises(UnusableImage, match="cannot be decoded"):
        rescaled(png(TWELVE)[:40], (0, 4095))
