"""The augmentation backend for CPUs: libjpeg-turbo and OpenCV on a thread pool."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor as Pool
from functools import partial
from math import ceil
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from data_pipelines.imaging.augment import AugmentationParams
from data_pipelines.imaging.backend import DecodeError
from data_pipelines.imaging.buffers import Buffers
from data_pipelines.imaging.images import SHRINKS, UnusableImage, decode_shrunk
from data_pipelines.imaging.normalization import affine_map

# The pool already uses all cores, so OpenCV's own threads would only compete with it.
cv2.setNumThreads(0)


_SOLARIZED = np.minimum(np.arange(256), 255 - np.arange(256)).astype(np.uint8)
"""Solarized value of each of the 256 levels."""
_TOGETHER = 2**15
"""Pixels that are normalized in one call: 0.4 MB as float32, which stays in the cache of a core."""
_CUBIC_UP_TO, _LINEAR_UP_TO = 1.6, 3.0
"""Shrink factors up to which `_resize` goes through twice the size, for each interpolation."""


class OpenCVBackend:
    """Makes the views of a batch on the CPU.

    A single batch keeps all threads busy, so it is made when it is finished.

    Args:
        pool: threads that process images in parallel.
        threads: number of those threads.
        mean: mean of red, green and blue in [0, 1].
        std: standard deviation of red, green and blue in [0, 1].
        device: device that the views are for. A GPU gets them in pinned memory.
        dtype: dtype of the views. uint8: they are not normalized.
    """

    ahead = 0

    def __init__(
        self,
        pool: Pool,
        *,
        threads: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._pool, self._threads, self._dtype = pool, threads, dtype
        self._normal = None if dtype == torch.uint8 else affine_map(mean, std)
        self._memory = Buffers().take if self._normal is not None else partial(_pixels, device.type == "cuda")

    def begin(
        self, images: Sequence[bytes], views: Sequence[AugmentationParams]
    ) -> Callable[[], list[torch.Tensor]]:
        """See `AugmentationBackend`."""
        return partial(self._run, images, views)

    def _run(self, images: Sequence[bytes], views: Sequence[AugmentationParams]) -> list[torch.Tensor]:
        batch = [self._memory(len(images), view.size, view.size, 3) for view in views]  # V x [B, S, S, 3]
        out = [tensor.numpy() for tensor in batch]
        plans = [_plans(view) for view in views]
        shrinks = _shrinks(views)
        refused: dict[int, str] = {}

        def make(rows: range, targets: Sequence[NDArray[np.uint8]]) -> None:
            """Fill `targets`, V x `[len(rows), S, S, 3]`, with the views of these images."""
            for place, row in enumerate(rows):
                try:
                    image, done = decode_shrunk(images[row], int(shrinks[row]))
                except UnusableImage as error:
                    refused[row] = str(error)
                    continue
                for view, of_view, target in zip(views, plans, targets, strict=True):
                    target[place] = _view(image, of_view[row], view.size, done)

        def make_normal(rows: range) -> None:
            """Make views as pixels and normalize several at once, because a call costs as much as a small view."""
            together = max(1, _TOGETHER // max(view.size for view in views) ** 2)
            for start in range(rows.start, rows.stop, together):
                some = range(start, min(start + together, rows.stop))
                pixels = [np.empty((len(some), view.size, view.size, 3), np.uint8) for view in views]
                make(some, pixels)
                for made, target in zip(pixels, out, strict=True):
                    flat = made.reshape(-1, made.shape[2], 3).astype(np.float32)
                    cv2.transform(flat, self._normal, dst=target[some.start : some.stop].reshape(flat.shape))

        def make_pixels(rows: range) -> None:
            make(rows, [target[rows.start : rows.stop] for target in out])

        work = make_pixels if self._normal is None else make_normal
        list(self._pool.map(work, _tasks(len(images), self._threads)))
        if refused:
            raise DecodeError(refused)
        return [t.permute(0, 3, 1, 2).to(self._dtype) for t in batch]


class _Plan(NamedTuple):
    """How one view of one image is made."""

    box: tuple[int, int, int, int]
    """Crop as (y, x, height, width), in pixels of the stored image."""
    color: NDArray[np.float64] | None
    """Color matrix `[3, 4]`. None: colors do not change."""
    sigma: float
    flip: bool
    solarize: bool


def _plans(view: AugmentationParams) -> list[_Plan]:
    """Return the plan of each image, with Python's numbers, because those of NumPy cost more to read one by one."""
    colors = [
        matrix if changed else None
        for matrix, changed in zip(view.color_matrix(), view.color_changes().tolist(), strict=True)
    ]
    columns = view.box.tolist(), colors, view.blur_sigma.tolist(), view.flip.tolist(), view.solarize.tolist()
    return [_Plan(*numbers) for numbers in zip(*columns, strict=True)]


def _view(image: NDArray[np.uint8], plan: _Plan, size: int, done: int) -> NDArray[np.uint8]:
    """Return one view of an image, `[size, size, 3]`. The image is already `done` times smaller than the box."""
    pixels = _cut(image, plan.box, size, done)
    if plan.color is not None:
        pixels = cv2.transform(pixels, plan.color)
    if plan.sigma > 0:
        side = 2 * ceil(3 * plan.sigma) + 1
        pixels = cv2.GaussianBlur(pixels, (side, side), plan.sigma)
    if plan.flip:
        pixels = cv2.flip(pixels, 1)
    if plan.solarize:
        pixels = cv2.LUT(pixels, _SOLARIZED)
    return pixels


def _pixels(pinned: bool, *shape: int) -> torch.Tensor:
    """Return uninitialized memory for pixels `[*shape]`. A GPU copies from pinned memory by itself, and PyTorch reuses
    it."""
    return torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)


def _tasks(count: int, threads: int) -> list[range]:
    """Split the rows into tasks, large ones first and then smaller ones.

    One task per image would cost more than a view of 32 pixels. The small tasks at the end let all threads finish
    together.
    """
    tasks, start = [], 0
    while start < count:
        tasks.append(range(start, start + max(1, (count - start) // (2 * threads))))
        start = tasks[-1].stop
    return tasks


def _shrinks(views: Sequence[AugmentationParams]) -> NDArray[np.int64]:
    """`[B]` shrink factor of each image during decoding. No crop may become smaller than its view."""
    room = np.min([view.box[:, 2:].min(axis=1) / view.size for view in views], axis=0)  # [B]
    return np.select([room >= shrink for shrink in SHRINKS], SHRINKS, default=1)


def _cut(image: NDArray[np.uint8], box: tuple[int, int, int, int], size: int, done: int) -> NDArray[np.uint8]:
    """Return the crop `box` (y, x, h, w) as `[size, size, 3]`. The image is already `done` times smaller than `box`."""
    if done == 1:
        top, left, height, width = box
        return _resize(image[top : top + height, left : left + width], size)
    y, x, h, w = (value / done for value in box)
    if max(h, w) > _LINEAR_UP_TO * size:  # half a pixel does not matter after this much shrinking
        top, left, bottom, right = round(y), round(x), round(y + h), round(x + w)
        return _resize(image[top:bottom, left:right], size)
    # The corners lie between pixels, so this map does the first step of `_resize`.
    step_y, step_x = h / (2 * size), w / (2 * size)
    place = np.array([[step_x, 0, x + step_x / 2 - 0.5], [0, step_y, y + step_y / 2 - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    double = cv2.warpAffine(image, place, (2 * size, 2 * size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return cv2.resize(double, (size, size), interpolation=cv2.INTER_AREA)


def _resize(crop: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Scale a crop `[h, w, 3]` to `[size, size, 3]`, close to an antialiased bicubic filter.

    OpenCV has no such filter. Crops that shrink up to threefold are scaled to twice the size and then averaged in
    pairs. For the odd ratios of crops this is closer to the filter than INTER_AREA, in half the time. To reach the
    double size, cubic interpolation is closer while it mostly enlarges, and linear interpolation once it shrinks.
    """
    shrinking = max(crop.shape[:2]) / size
    if shrinking <= 1:
        return cv2.resize(crop, (size, size), interpolation=cv2.INTER_CUBIC)
    if shrinking <= _LINEAR_UP_TO:
        method = cv2.INTER_CUBIC if shrinking <= _CUBIC_UP_TO else cv2.INTER_LINEAR
        crop = cv2.resize(crop, (2 * size, 2 * size), interpolation=method)
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
