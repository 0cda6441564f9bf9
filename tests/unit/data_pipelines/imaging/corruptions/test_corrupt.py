"""The 15 corruptions of photographs: what each must do, whatever its formula."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_sample_image

from data_pipelines.imaging.corruptions.corrupt import KINDS, LEVELS, corrupt

Image = NDArray[np.uint8]


def photographs(side: int) -> list[Image]:
    """Four squares of two photographs."""
    return [
        cv2.resize(photo[:400, left : left + 400], (side, side), interpolation=cv2.INTER_AREA)
        for photo in map(load_sample_image, ("china.jpg", "flower.jpg"))
        for left in (0, 200)
    ]


def change(images: list[Image], kind: str, level: int) -> float:
    """Mean squared difference to the clean images."""
    return float(
        np.mean(
            [
                np.square(corrupt(image, kind, level, sample).astype(float) - image).mean()
                for sample, image in enumerate(images)
            ]
        )
    )


@pytest.mark.parametrize("side", [32, 96])
@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_level_changes_images_more(kind: str, side: int) -> None:
    changes = [change(photographs(side), kind, level) for level in LEVELS]
    assert changes[0] > 5
    assert all(more > 1.01 * less for less, more in pairwise(changes)), changes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(8, 8), (31, 57), (90, 40)])
def test_images_of_any_shape_keep_it(kind: str, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(256, size=(*shape, 3), dtype=np.uint8)
    before = image.copy()
    for level in (1, 5):
        found = corrupt(image, kind, level, 7)
        assert (found.shape, found.dtype) == (image.shape, np.uint8)
        assert not np.array_equal(found, image)
    assert np.array_equal(image, before)


@pytest.mark.parametrize("kind", KINDS)
def test_it_depends_on_nothing_but_image_kind_level_and_id(kind: str) -> None:
    image, other = photographs(40)[:2]
    first = corrupt(image, kind, 3, 5)
    corrupt(other, kind, 3, 6)
    np.random.seed(1)
    assert np.array_equal(corrupt(image.copy(), kind, 3, 5), first)
    without_chance = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    assert np.array_equal(corrupt(image, kind, 3, 6), first) == (kind in without_chance)


@pytest.mark.parametrize("kind", KINDS)
def test_black_and_white_images_stay_finite(kind: str) -> None:
    for value in (0, 255):
        found = corrupt(np.full((16, 16, 3), value, np.uint8), kind, 5, 0)
        assert found.shape == (16, 16, 3)


def test_noise_has_the_published_strength_at_224_pixels() -> None:
    gray = np.full((224, 224, 3), 128, np.uint8)
    noisy = corrupt(gray, "gaussian_noise", 1, 0) / 255
    assert noisy.std() == pytest.approx(0.08, rel=0.02)
    photons = corrupt(gray, "shot_noise", 2, 0) / 255
    assert photons.mean() == pytest.approx(128 / 255, abs=0.003)
    assert photons.std() == pytest.approx(np.sqrt(128 / 255 / 25), rel=0.03)
    replaced = corrupt(gray, "impulse_noise", 3, 0)
    assert (replaced == 0).mean() == pytest.approx(0.045, abs=0.002)
    assert (replaced == 255).mean() == pytest.approx(0.045, abs=0.002)


def test_blur_of_a_point_has_the_published_shape_at_224_pixels() -> None:
    point = np.zeros((224, 224, 3), np.uint8)
    point[108:116, 108:116] = 255
    disk = corrupt(point, "defocus_blur", 5, 0)[:, :, 0] > 0
    rows, columns = disk.any(1).nonzero()[0], disk.any(0).nonzero()[0]
    assert (np.ptp(rows), np.ptp(columns)) == pytest.approx((8 + 2 * 10 - 1,) * 2, abs=2)


def test_pixelate_averages_blocks() -> None:
    image = photographs(224)[0]
    found = corrupt(image, "pixelate", 5, 0)
    blocks = image.reshape(56, 4, 56, 4, 3).mean((1, 3))
    assert np.abs(found[::4, ::4].astype(float) - blocks).max() <= 0.51
    assert np.array_equal(found[::4, ::4], found[3::4, 3::4])


def test_contrast_keeps_the_mean_of_each_channel() -> None:
    image = photographs(64)[0]
    found = corrupt(image, "contrast", 4, 0)
    assert found.mean((0, 1)) == pytest.approx(image.mean((0, 1)), abs=0.5)
    assert found.std() < 0.15 * image.std() + 20


def test_what_does_not_exist_is_refused() -> None:
    image = photographs(32)[0]
    with pytest.raises(ValueError, match="kind must be one of"):
        corrupt(image, "rain", 1, 0)
    for level in (0, 6):
        with pytest.raises(ValueError, match="level must be one of"):
            corrupt(image, "fog", level, 0)
