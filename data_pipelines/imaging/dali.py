"""The augmentation backend for GPUs: a DALI graph without random operators. It also runs on CPUs.

The graph has no position, so batches can come in any order. While Python takes one batch, DALI works on the next one.
Images that are not plain JPEGs are decoded by `images.decode_rgb` and fed as PPM files. Both backends therefore see the
same pixels of a CMYK JPEG or a 16-bit PNG.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor as Pool
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import pipeline_def, types

from data_pipelines.errors import UserError, first_line
from data_pipelines.imaging.augment import AugmentationParams
from data_pipelines.imaging.backend import DecodeError
from data_pipelines.imaging.dali_graph import ViewGraph, views_of_images
from data_pipelines.imaging.images import UnusableImage, check, decode_rgb
from data_pipelines.settings import GpuDecoderSettings


@dataclass(eq=False)
class _Batch:
    """A batch that was begun."""

    images: Sequence[bytes]
    numbers: dict[str, NDArray[Any]]
    views: list[torch.Tensor] | None = None
    """V x [B, 3, S, S]. None: it is not finished."""


class DaliBackend:
    """Makes the views of a batch with DALI.

    Args:
        views: the graph of each view.
        pool: threads for images that DALI does not decode.
        batch: maximum batch size.
        threads: number of DALI's own threads.
        mean: mean of red, green and blue in [0, 1].
        std: standard deviation of red, green and blue in [0, 1].
        device: device of the views, which also decodes JPEGs. A CUDA device has an index.
        dtype: dtype of the views. uint8: they are not normalized.
        decoder: settings of the GPU decoder. None: the defaults.
    """

    ahead = 1

    def __init__(
        self,
        views: Sequence[ViewGraph],
        pool: Pool,
        *,
        batch: int,
        threads: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        dtype: torch.dtype,
        decoder: GpuDecoderSettings | None = None,
    ) -> None:
        self._views, self._pool, self._device, self._dtype = views, pool, device, dtype
        gpu = device.type == "cuda"
        build: Callable[..., Any] = pipeline_def(enable_conditionals=True)(views_of_images)
        self._build = lambda: build(
            views,
            gpu,
            [0.0] if dtype == torch.uint8 else [255 * m for m in mean],
            [1.0] if dtype == torch.uint8 else [255 * s for s in std],
            {torch.uint8: types.UINT8, torch.float16: types.FLOAT16}.get(dtype, types.FLOAT),
            decoder or GpuDecoderSettings(),
            batch_size=batch,
            num_threads=threads,
            device_id=device.index,
            prefetch_queue_depth=1,  # batches that the first call begins; later ones need not wait for it
            seed=0,
        )
        self._stream = torch.cuda.Stream(device) if gpu else None
        self._refused_before: set[bytes] = set()
        self._fed: deque[_Batch] = deque()
        self._pipeline = self._start()

    def begin(
        self, images: Sequence[bytes], views: Sequence[AugmentationParams]
    ) -> Callable[[], list[torch.Tensor]]:
        """See `AugmentationBackend`."""
        batch = _Batch(images, self._numbers(views))
        try:
            self._feed(batch)
        except DecodeError as error:
            return partial(_raise, error)
        return partial(self._finish, batch)

    def _finish(self, batch: _Batch) -> list[torch.Tensor]:
        try:
            return self._views_of(batch)
        except RuntimeError:
            self._find_refused(batch.images)
        return self._views_of(batch)

    def _feed(self, batch: _Batch) -> None:
        self._schedule(self._prepare(batch.images), batch.numbers)
        self._fed.append(batch)

    def _views_of(self, batch: _Batch) -> list[torch.Tensor]:
        """Return the views of a batch, after DALI has finished those that it was fed before, even if nobody waits for
        them any more."""
        if batch.views is None and batch not in self._fed:
            self._feed(batch)  # its pipeline was given up
        while batch.views is None:
            self._fed.popleft().views = self._take()
        return batch.views

    def _start(self) -> Any:
        """Return a new pipeline. What the last one was fed is given up."""
        self._fed.clear()
        pipeline = self._build()
        try:
            pipeline.build()
        except RuntimeError as error:
            raise UserError(
                f"DALI cannot start: {first_line(error)}",
                where=f"device {self._device}",
                fix="set data.executor=opencv, or install the CUDA driver that DALI needs",
            ) from error
        return pipeline

    def _prepare(self, images: Sequence[bytes]) -> list[NDArray[np.uint8]]:
        """Return the input of DALI for each image: its own bytes if it is a plain JPEG, otherwise a PPM file.

        Headers and end markers are checked first, because one bad image makes DALI fail the whole batch.
        """
        refused: dict[int, str] = {}

        def prepare(row: int) -> NDArray[np.uint8]:
            data = images[row]
            try:
                if check(data, decode=False).plain_jpeg and not self._was_refused(data):
                    return np.frombuffer(data, np.uint8)
                return _ppm(decode_rgb(data))
            except UnusableImage as error:
                refused[row] = str(error)
                return np.empty(0, np.uint8)

        prepared = list(self._pool.map(prepare, range(len(images))))
        if refused:
            raise DecodeError(refused)
        return prepared

    def _was_refused(self, data: bytes) -> bool:
        return bool(self._refused_before) and data in self._refused_before

    def _find_refused(self, images: Sequence[bytes]) -> None:
        """Find the images that made DALI fail the batch.

        They are remembered, and DALI does not get them again. Images that another decoder accepts are fed as pixels,
        and the others are rejected.
        """
        refused: dict[int, str] = {}
        same = [AugmentationParams(v.size, *_whole()) for v in self._views]
        prepared = self._prepare(images)
        self._pipeline, is_new = self._start(), True
        for row, image in enumerate(images):
            try:
                self._schedule([prepared[row]], self._numbers(same))
                self._take()
                is_new = False
            except RuntimeError:
                # A failed pipeline is unusable, and a new one takes seconds to build.
                self._pipeline, is_new = self._start(), True
                self._refused_before.add(image)
                try:
                    decode_rgb(image)
                except UnusableImage as error:
                    refused[row] = str(error)
        if self._device.type == "cuda" and not is_new:
            # The first batch of a pipeline fixes how many images its hardware decoder takes at once.
            self._pipeline = self._start()
        if refused:
            raise DecodeError(refused)

    def _numbers(self, views: Sequence[AugmentationParams]) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        for i, (view, graph) in enumerate(zip(views, self._views, strict=True)):
            box = view.box.astype(np.float32)
            arrays |= {f"start{i}": box[:, :2], f"end{i}": box[:, :2] + box[:, 2:]}
            arrays[f"flip{i}"] = view.flip.astype(np.int32)
            if graph.color:
                arrays[f"colored{i}"] = view.color_changes()
                arrays |= {f"brightness{i}": view.brightness, f"contrast{i}": view.contrast}
                arrays |= {f"saturation{i}": view.saturation, f"hue{i}": 360 * view.hue}
            if graph.blur:
                blurred = view.blur_sigma > 0
                arrays |= {
                    f"blurred{i}": blurred,
                    f"sigma{i}": np.where(blurred, view.blur_sigma, np.float32(1)),
                }
            if graph.solarize:
                arrays[f"solarize{i}"] = view.solarize
        return arrays

    def _schedule(self, prepared: list[NDArray[np.uint8]], numbers: dict[str, NDArray[Any]]) -> None:
        """Let DALI begin a batch."""
        self._pipeline.feed_input("images", prepared)
        for name, array in numbers.items():
            self._pipeline.feed_input(name, np.ascontiguousarray(array))
        self._pipeline.schedule_run()

    def _take(self) -> list[torch.Tensor]:
        """Wait for the batch that DALI began first. Return V x [B, 3, S, S]."""
        # DALI lends the memory until the last tensor that shares it is gone.
        outputs = [torch.from_dlpack(out.as_tensor()) for out in self._pipeline.outputs()]
        if self._stream is None:
            tensors = [out.to(self._dtype) for out in outputs]
        else:
            # DALI takes the memory back when the tensor is gone, even if a kernel of another stream will still read it.
            # The copies have a stream of their own, because waiting for the default stream would wait for the training
            # step.
            with torch.cuda.stream(self._stream):
                tensors = [out.to(self._dtype, copy=True) for out in outputs]
            self._stream.synchronize()
        return [tensor.permute(0, 3, 1, 2) for tensor in tensors]


def _raise(error: DecodeError) -> list[torch.Tensor]:
    raise error


def _whole() -> tuple[NDArray[Any], ...]:
    """Parameters of a view that every image has: its first pixels, unchanged."""
    one, zero, no = np.ones(1, np.float32), np.zeros(1, np.float32), np.zeros(1, np.bool_)
    return np.array([[0, 0, 1, 1]]), one, one, one, zero, zero, no, no


def _ppm(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pixels `[H, W, 3]` as a PPM file, which is lossless and needs no computation."""
    height, width, _ = pixels.shape
    return np.frombuffer(b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes(), np.uint8)
