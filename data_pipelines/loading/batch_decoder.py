"""Turns encoded images into augmented views with a thread pool and a backend. Images that fail are left out."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipelines.cores import cores_per_process
from data_pipelines.errors import UserError
from data_pipelines.imaging.augment import AugmentationParams
from data_pipelines.imaging.backend import AugmentationBackend, DecodeError
from data_pipelines.settings import DataSettings, ViewSettings


class DecodedBatch(NamedTuple):
    """The images of a batch that could be decoded."""

    views: list[Tensor]
    """V x `[b, 3, S, S]`, channels-last memory, normalized. For a GPU they are pixels (uint8), in pinned memory or on
    it. Empty if no image could be decoded."""
    rows: list[int]
    """Index of the image in each of the b rows."""


class BatchDecoder:
    """Decodes and augments batches of images.

    Args:
        settings: backend, threads, normalization.
        views: settings of the views, which the backend must support.
        batch: maximum number of images in a batch.
        device: device that the views are for.
        dtype: dtype of normalized views on a CPU.

    Raises:
        UserError: the settings ask for DALI, and it cannot be used.
    """

    def __init__(
        self,
        settings: DataSettings,
        views: Sequence[ViewSettings],
        *,
        batch: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.device = _device_with_index(device)
        threads = settings.decode_threads or cores_per_process()
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="images")
        self._backend = _make_backend(
            self.pool,
            settings,
            views,
            batch=batch,
            threads=threads,
            device=self.device,
            dtype=torch.uint8 if self.device.type == "cuda" else dtype,
        )

    def use_device(self) -> None:
        """Select the decoder's device in the calling thread. A new thread starts on device 0, even if its process uses
        another."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def numbers(self, values: NDArray[np.int64]) -> Tensor:
        """Return labels or ids `[b]` as a tensor, in pinned memory if the device is a GPU."""
        tensor = torch.from_numpy(values)
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    @property
    def ahead(self) -> int:
        """Number of batches to begin before the one that is finished next."""
        return self._backend.ahead

    def begin(
        self,
        choose: Callable[[Mapping[int, str]], list[int]],
        image: Callable[[int], bytes],
        params: Callable[[list[int]], Sequence[AugmentationParams]],
    ) -> Callable[[], tuple[DecodedBatch, dict[int, str]]]:
        """Begin to decode a batch. If the backend refuses images, repeat without them until it accepts the whole batch.

        Args:
            choose: returns the images of the batch, in order, without those refused so far. An empty list: there are
                no more images.
            image: returns the bytes of an image.
            params: returns the parameters of every view of the given images.

        Returns a function that finishes the batch. It returns the batch, and the reason for each refused image.
        """

        def start(rows: list[int]) -> Callable[[], list[Tensor]]:
            return self._backend.begin([image(row) for row in rows], params(rows))

        def finish() -> tuple[DecodedBatch, dict[int, str]]:
            refused: dict[int, str] = {}
            rows, views = first, begun
            while rows:
                try:
                    return DecodedBatch(views(), rows), refused
                except DecodeError as error:
                    refused |= {rows[position]: reason for position, reason in error.rows.items()}
                rows = choose(refused)
                views = start(rows) if rows else views
            return DecodedBatch([], []), refused

        first = choose({})
        begun: Callable[[], list[Tensor]] = start(first) if first else list
        return finish

    def decode(
        self,
        choose: Callable[[Mapping[int, str]], list[int]],
        image: Callable[[int], bytes],
        params: Callable[[list[int]], Sequence[AugmentationParams]],
    ) -> tuple[DecodedBatch, dict[int, str]]:
        """Begin a batch and finish it. See `begin`."""
        return self.begin(choose, image, params)()

    def close(self) -> None:
        """Stop the threads. Idempotent."""
        self.pool.shutdown(wait=True, cancel_futures=True)


def _device_with_index(device: torch.device) -> torch.device:
    """Return the device. A CUDA device without a number gets that of the current device."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _make_backend(
    pool: ThreadPoolExecutor,
    settings: DataSettings,
    views: Sequence[ViewSettings],
    *,
    batch: int,
    threads: int,
    device: torch.device,
    dtype: torch.dtype,
) -> AugmentationBackend:
    """Return the backend that the settings name.

    Args:
        pool: threads that it may use.
        settings: executor (the backend), normalization.
        views: settings of the views, which the backend must support.
        batch: maximum number of images in a batch.
        threads: number of the pool's threads.
        device: device that the views are for. A CUDA device has its index.
        dtype: dtype of the views. uint8: pixels.

    Raises:
        UserError: the settings ask for DALI, and it cannot be used.
    """
    name = settings.executor
    if name == "auto":
        name = "dali" if device.type == "cuda" else "opencv"
    if name == "opencv":
        from data_pipelines.imaging.opencv import OpenCVBackend

        return OpenCVBackend(
            pool, threads=threads, mean=settings.mean, std=settings.std, device=device, dtype=dtype
        )
    try:
        from data_pipelines.imaging.dali import DaliBackend
        from data_pipelines.imaging.dali_graph import ViewGraph
    except ImportError as error:
        raise UserError(
            f"DALI cannot be imported: {error}",
            where="data.executor",
            fix="install nvidia-dali-cuda130 (or -cuda120), or set data.executor=opencv",
        ) from error
    graphs = [
        ViewGraph(
            view.size,
            color=view.color_jitter_prob > 0 or view.grayscale_prob > 0,
            blur=view.blur_prob > 0,
            solarize=view.solarize_prob > 0,
        )
        for view in views
    ]
    return DaliBackend(
        graphs,
        pool,
        batch=batch,
        threads=threads,
        mean=settings.mean,
        std=settings.std,
        device=device,
        dtype=dtype,
        decoder=settings.gpu_decoder,
    )
