"""JPEGs for pages."""

import cv2
import numpy as np
import pytest
import simplejpeg

from trainer.visualization.samples import tile

SMOOTH = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8), (300, 200))


@pytest.mark.parametrize(
    ("shape", "side", "wanted"),
    [((200, 300), 96, (64, 96)), ((300, 200), 96, (96, 64)), ((8, 8), 96, (8, 8)), ((1000, 3), 50, (50, 1))],
)
def test_a_tile_fits_into_its_square_and_is_never_enlarged(shape, side, wanted):
    found = simplejpeg.decode_jpeg(tile(np.zeros((*shape, 3), np.uint8), side))
    assert found.shape == (*wanted, 3)


def test_a_tile_is_the_mean_of_the_pixels_that_it_stands_for():
    found = simplejpeg.decode_jpeg(tile(SMOOTH, 150)).astype(float)  # [100, 150, 3]
    wanted = SMOOTH.reshape(100, 2, 150, 2, 3).mean(axis=(1, 3))
    assert np.abs(found - wanted).mean() < 2
    assert np.abs(found[:, :, ::-1] - wanted).mean() > 20, "red is not blue"


def test_colors_of_small_images_keep_their_resolution():
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 255
    assert np.abs(simplejpeg.decode_jpeg(tile(stripes, 96)).astype(int) - stripes).mean() < 25


@pytest.mark.parametrize("shape", [(200, 300), (200, 300, 1)])
def test_gray_images_are_gray(shape):
    found = simplejpeg.decode_jpeg(tile(SMOOTH[:, :, 0].reshape(shape), 300), "RGB")
    assert np.abs(found.astype(float) - SMOOTH[:, :, :1]).mean() < 3
