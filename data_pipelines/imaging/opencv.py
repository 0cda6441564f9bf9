"""The executor for CPUs: libjpeg-turbo and OpenCV on a thread pool, one image a task."""

from collections.abc import Sequence
from concurrent.futures import Executor as Pool
from functools import partial
from math import ceil

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from data_pipelines.imaging.augment import AugmentationParams
from data_pipelines.imaging.backend import DecodeError
from data_pipelines.imaging.buffers import Buffers
from data_pipelines.imaging.images import SHRINKS, UnusableImage, decode_shrunk

# The pool is the parallelism: OpenCV's own threads would only contend with it.
cv2.setNumThreads(0)


_SOLARIZED = np.minimum(np.arange(256), 255 - np.arange(256)).astype(np.uint8)
"""What each of the 256 levels becomes."""
_CUBIC_UP_TO, _LINEAR_UP_TO = 1.6, 3.0
"""Shrinking up to which `_resize` goes through twice the size, by which interpolation."""


class OpenCVBackend:
    """Makes the views of a batch on the CPU.

    Args:
        pool: threads that work on images side by side.
        threads: number of those threads.
        mean: of red, green, blue in [0, 1].
        std: of red, green, blue in [0, 1].
        device: where the views go.
        dtype: of the views.
    """

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
        self._pool, self._threads, self._device, self._dtype = pool, threads, device, dtype
        # For the copy to a GPU, memory is pinned; PyTorch itself uses that again.
        self._memory = partial(torch.empty, pin_memory=True) if device.type == "cuda" else Buffers().take
        self._normal = _normalization(mean, std)

    def run(self, images: Sequence[bytes], views: Sequence[AugmentationParams]) -> list[torch.Tensor]:
        """See `AugmentationBackend.run`."""
        batch = [self._memory(len(images), view.size, view.size, 3) for view in views]  # V x [B, S, S, 3]
        out = [tensor.numpy() for tensor in batch]
        colors = [_colors(view) for view in views]
        shrinks = _shrinks(views)
        refused: dict[int, str] = {}

        def make(rows: range) -> None:
            for row in rows:
                try:
                    image, done = decode_shrunk(images[row], int(shrinks[row]))
                except UnusableImage as error:
                    refused[row] = str(error)
                    continue
                for view, color, target in zip(views, colors, out, strict=True):
                    pixels = _cut(image, view.box[row], view.size, done)
                    self._finish(pixels, view, row, color[row], target[row])

        list(self._pool.map(make, _tasks(len(images), self._threads)))
        if refused:
            raise DecodeError(refused)
        return [t.permute(0, 3, 1, 2).to(self._device, self._dtype, non_blocking=True) for t in batch]

    def _finish(
        self,
        pixels: NDArray[np.uint8],
        view: AugmentationParams,
        row: int,
        color: NDArray[np.float64] | None,
        target: NDArray[np.float32],
    ) -> None:
        """Fill `target` `[S, S, 3]` with one view, of which the crop `[S, S, 3]` is made."""
        if color is not None:
            pixels = cv2.transform(pixels, color)
        sigma = float(view.blur_sigma[row])
        if sigma > 0:
            side = 2 * ceil(3 * sigma) + 1
            pixels = cv2.GaussianBlur(pixels, (side, side), sigma)
        if view.flip[row]:
            pixels = cv2.flip(pixels, 1)
        if view.solarize[row]:
            pixels = cv2.LUT(pixels, _SOLARIZED)
        cv2.transform(pixels.astype(np.float32), self._normal, dst=target)


def _tasks(count: int, threads: int) -> list[range]:
    """Rows of each task: large ones first, since one task an image would cost more than a view of 32 pixels, then ever
    smaller ones, so that the threads come to the batch's end together."""
    tasks, start = [], 0
    while start < count:
        tasks.append(range(start, start + max(1, (count - start) // (2 * threads))))
        start = tasks[-1].stop
    return tasks


def _colors(view: AugmentationParams) -> list[NDArray[np.float64] | None]:
    """The color matrix `[3, 4]` of each image; none where nothing changes."""
    changes = view.color_changes()
    return [matrix if changed else None for matrix, changed in zip(view.color_matrix(), changes, strict=True)]


def _shrinks(views: Sequence[AugmentationParams]) -> NDArray[np.int64]:
    """`[B]` how far each image may be shrunk while it is decoded: no crop may become smaller than its view."""
    room = np.min([view.box[:, 2:].min(axis=1) / view.size for view in views], axis=0)  # [B]
    return np.select([room >= shrink for shrink in SHRINKS], SHRINKS, default=1)


def _cut(image: NDArray[np.uint8], box: NDArray[np.int64], size: int, done: int) -> NDArray[np.uint8]:
    """The crop `box` (y, x, h, w) as `[size, size, 3]`, of an image that is `done` times smaller than `box` says."""
    y, x, h, w = box.tolist() if done == 1 else (box / done).tolist()
    # after so much shrinking, half a pixel more or less is nothing
    if done == 1 or max(h, w) > _LINEAR_UP_TO * size:
        top, left, bottom, right = round(y), round(x), round(y + h), round(x + w)
        return _resize(image[top:bottom, left:right], size)
    # Corners between pixels: the first step of `_resize`, done by a map that can start there.
    step_y, step_x = h / (2 * size), w / (2 * size)
    place = np.array([[step_x, 0, x + step_x / 2 - 0.5], [0, step_y, y + step_y / 2 - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    double = cv2.warpAffine(image, place, (2 * size, 2 * size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return cv2.resize(double, (size, size), interpolation=cv2.INTER_AREA)


def _resize(crop: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Scale a crop `[h, w, 3]` to `[size, size, 3]`, close to an antialiased bicubic filter.

    OpenCV has no such filter. Up to threefold shrinking goes through twice the size, whose halves are averaged:
    nearer to the filter than INTER_AREA over the odd ratios of crops, at half its time. Of the ways to the double
    size, cubic is the nearer while it enlarges most, linear where it begins to shrink.
    """
    shrinking = max(crop.shape[:2]) / size
    if shrinking <= 1:
        return cv2.resize(crop, (size, size), interpolation=cv2.INTER_CUBIC)
    if shrinking <= _LINEAR_UP_TO:
        method = cv2.INTER_CUBIC if shrinking <= _CUBIC_UP_TO else cv2.INTER_LINEAR
        crop = cv2.resize(crop, (2 * size, 2 * size), interpolation=method)
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)


def _normalization(mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """The affine map `[3, 4]` of (red, green, blue, 1) in [0, 255] to normalized values."""
    scale = 1 / np.asarray(std)
    return np.column_stack([np.diag(scale / 255), -np.asarray(mean) * scale]).astype(np.float32)
