"""The random augmentation parameters of every view, as plain arrays.

`view_numbers` is a pure function of (seed, epoch, sample id, view). The backends contain no randomness, so a sample has
the same view in any batch, on any rank and after any restart.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_pipelines.philox import RandomStream, uniforms
from data_pipelines.settings import ViewSettings

_TRIES = 10
_RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)
_CONTRAST_CENTER = 128.0


class AugmentationParams(NamedTuple):
    """Parameters of one view of each of B images, in the order in which they are applied."""

    size: int
    """Side length of the square view, in pixels."""
    box: NDArray[np.int64]
    """`[B, 4]` crop as (y, x, height, width), in pixels of the stored image."""
    brightness: NDArray[np.float32]
    """`[B]` factor."""
    contrast: NDArray[np.float32]
    """`[B]` factor about 128."""
    saturation: NDArray[np.float32]
    """`[B]` factor. 0 is gray."""
    hue: NDArray[np.float32]
    """`[B]` shift as a fraction of the color circle."""
    blur_sigma: NDArray[np.float32]
    """`[B]` in pixels of the view. 0 is no blur."""
    solarize: NDArray[np.bool_]
    """`[B]` whether x becomes min(x, 255 - x)."""
    flip: NDArray[np.bool_]
    """`[B]` whether left and right are swapped."""

    def color_matrix(self) -> NDArray[np.float64]:
        """`[B, 3, 4]` affine map of (red, green, blue, 1) in [0, 255] that changes the colors.

        With Y the map from RGB to YIQ, S = diag(1, s, s) and H the rotation of (I, Q) by the hue angle: `out = b c Y^-1
        H S Y rgb + 128 b (1 - c)`. DALI's `color_twist` computes the same, so both backends share one formula.
        """
        angle = 2 * np.pi * self.hue.astype(np.float64)
        cos, sin = self.saturation * np.cos(angle), self.saturation * np.sin(angle)
        zero, one = np.zeros_like(cos), np.ones_like(cos)
        twist = np.stack([one, zero, zero, zero, cos, sin, zero, -sin, cos], axis=-1).reshape(-1, 3, 3)
        gain = (self.brightness * self.contrast.astype(np.float64))[:, None, None]
        offset = self.brightness * (1 - self.contrast.astype(np.float64)) * _CONTRAST_CENTER  # [B]
        linear = gain * (_YIQ_TO_RGB @ twist @ _RGB_TO_YIQ)
        return np.concatenate([linear, np.repeat(offset[:, None, None], 3, axis=1)], axis=2)

    def color_changes(self) -> NDArray[np.bool_]:
        """`[B]` whether the color matrix differs from the identity."""
        return (self.brightness != 1) | (self.contrast != 1) | (self.saturation != 1) | (self.hue != 0)


def view_numbers(
    settings: ViewSettings,
    sizes: NDArray[np.int64],
    *,
    seed: int,
    epoch: ArrayLike,
    samples: NDArray[np.int64],
    view: int,
) -> AugmentationParams:
    """Draw the parameters of view number `view` for a batch.

    Args:
        settings: probabilities and strengths of this view.
        sizes: `[B, 2]` height and width of the stored images, in pixels.
        seed: seed of the run.
        epoch: epoch in which the samples are seen, one for all or `[B]`.
        samples: `[B]` sample ids.
        view: index of the view.
    """
    u = uniforms(seed, RandomStream.VIEWS, epoch=epoch, items=samples, lane=view, count=2 * _TRIES + 12)
    crops, rest = u[:, : 2 * _TRIES], u[:, 2 * _TRIES :].T
    jittered, gray = rest[2] < settings.color_jitter_prob, rest[3] < settings.grayscale_prob
    low, high = settings.blur_sigma

    def factor(strength: float, draw: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(jittered, 1 + strength * (2 * draw - 1), 1.0)

    return AugmentationParams(
        size=settings.size,
        box=_random_resized_crop(settings, sizes, crops, place=rest[:2]),
        brightness=factor(settings.brightness, rest[4]).astype(np.float32),
        contrast=factor(settings.contrast, rest[5]).astype(np.float32),
        saturation=np.where(gray, 0.0, factor(settings.saturation, rest[6])).astype(np.float32),
        hue=np.where(jittered, settings.hue * (2 * rest[7] - 1), 0.0).astype(np.float32),
        blur_sigma=np.where(rest[8] < settings.blur_prob, low + (high - low) * rest[9], 0.0).astype(
            np.float32
        ),
        solarize=rest[10] < settings.solarize_prob,
        flip=rest[11] < settings.flip_prob,
    )


def numbers_of_views(
    views: Sequence[ViewSettings],
    sizes: NDArray[np.int64],
    *,
    seed: int,
    epoch: ArrayLike,
    samples: NDArray[np.int64],
) -> list[AugmentationParams]:
    """Return `view_numbers` of each view in order."""
    return [
        view_numbers(view, sizes, seed=seed, epoch=epoch, samples=samples, view=number)
        for number, view in enumerate(views)
    ]


def center_crop_params(sizes: NDArray[np.int64], *, resize: int, crop: int) -> AugmentationParams:
    """Return the parameters of the evaluation view: shorter side to `resize`, then a center crop of `crop`.

    Both steps are one crop of the stored image: a centered square of `crop / resize` of its shorter side, rounded to
    whole pixels, which is scaled to `crop` once.

    Args:
        sizes: `[B, 2]` height and width of the stored images, in pixels.
        resize: shorter side after resizing, in pixels.
        crop: side of the view, in pixels.
    """
    side = np.maximum(1, np.rint(sizes.min(axis=1) * (crop / resize))).astype(np.int64)
    corner = (sizes - side[:, None]) // 2
    count = len(sizes)
    one, zero, no = np.ones(count, np.float32), np.zeros(count, np.float32), np.zeros(count, np.bool_)
    box = np.column_stack([corner, side, side])
    return AugmentationParams(crop, box, one, one, one, zero, zero, no, no)


def _random_resized_crop(
    settings: ViewSettings, sizes: NDArray[np.int64], draws: NDArray[np.float64], place: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Draw boxes `[B, 4]` like torchvision's RandomResizedCrop.

    A box is the first of ten tries (area uniform, aspect ratio log-uniform) that fits into the image. If none fits, it
    is the largest centered crop within the range of aspect ratios.
    """
    height, width = sizes[:, 0], sizes[:, 1]
    (scale_low, scale_high), (ratio_low, ratio_high) = settings.crop_scale, settings.crop_ratio
    area = (height * width)[:, None] * (
        scale_low + (scale_high - scale_low) * draws[:, :_TRIES]
    )  # [B, tries]
    log_low, log_high = np.log(ratio_low), np.log(ratio_high)
    ratio = np.exp(log_low + (log_high - log_low) * draws[:, _TRIES:])
    w, h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (w > 0) & (h > 0) & (w <= width[:, None]) & (h <= height[:, None])
    rows, first, fitted = np.arange(len(sizes)), fits.argmax(axis=1), fits.any(axis=1)

    whole_w = np.minimum(width, np.maximum(1, np.rint(height * ratio_high)))
    whole_h = np.minimum(height, np.maximum(1, np.rint(width / ratio_low)))
    w = np.where(fitted, w[rows, first], whole_w)
    h = np.where(fitted, h[rows, first], whole_h)
    y = np.where(fitted, np.floor(place[0] * (height - h + 1)), (height - h) // 2)
    x = np.where(fitted, np.floor(place[1] * (width - w + 1)), (width - w) // 2)
    return np.stack([y, x, h, w], axis=1).astype(np.int64)
