"""The share in config.json against the transform that timm makes of it."""

import pytest
from timm.data import create_transform

from trainer.exports.hf import crop_share


@pytest.mark.parametrize(
    ("size", "resize"),
    [(64, 93), (112, 177), (128, 186), (192, 225), (224, 256), (160, 182), (96, 96), (64, 48)],
)
def test_timm_resizes_to_the_pixel_that_evaluation_does(size: int, resize: int) -> None:
    transform = create_transform((3, size, size), crop_pct=crop_share(size, resize), crop_mode="center")
    assert transform.transforms[0].size == resize
    assert crop_share(size, resize) == pytest.approx(size / resize)
