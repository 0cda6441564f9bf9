"""Batches of pictures that no index lists, sized and normalized as for evaluation."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_pipelines.imaging.augment import center_crop_params
from data_pipelines.imaging.backend import DecodeError
from data_pipelines.imaging.images import Header, UnusableImage, check
from data_pipelines.loading.batch_reader import device_with_index, make_executor, share_of_cores
from data_pipelines.prefetch import Prefetch
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.sources.image_files import Picture


class PictureBatch(NamedTuple):
    """What can be used of a batch of pictures."""

    images: Tensor
    """`[b, 3, S, S]`, channels-last memory, normalized."""
    names: list[str]
    """The b pictures' names."""


class _Made(NamedTuple):
    batch: PictureBatch | None
    bad: dict[str, str]


class _Read(NamedTuple):
    name: str
    data: bytes
    header: Header


class PictureLoader:
    """Each picture once, in order; those that cannot be used are left out.

    No more than `settings.prefetch` batches are read ahead, and pictures are listed no further than that.

    Args:
        pictures: what to load; iterated once, in a thread.
        settings: executor, threads, prefetch, sizes.
        batch: pictures of a batch, at most.
        device: where the batches go.
    """

    def __init__(
        self, pictures: Iterable[Picture], settings: DataSettings, *, batch: int, device: torch.device
    ) -> None:
        self._pictures, self._settings, self._batch = iter(pictures), settings, batch
        self._device = device_with_index(device)
        self._size = settings.views[0].size
        threads = settings.decode_threads or share_of_cores()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pictures")
        plain = ViewSettings(
            size=self._size, color_jitter_prob=0, grayscale_prob=0, blur_prob=0, solarize_prob=0, flip_prob=0
        )
        self._executor = make_executor(
            self._pool,
            settings,
            [plain],
            batch=batch,
            threads=threads,
            device=self._device,
            dtype=torch.float32,
        )
        self.bad: dict[str, str] = {}
        """Reason for each picture left out so far, by name."""

    def __iter__(self) -> Iterator[PictureBatch]:
        prefetch = Prefetch(self._make, self._settings.prefetch)
        try:
            for made in prefetch:
                self.bad |= made.bad
                if made.batch is not None:
                    yield made.batch
        finally:
            prefetch.close()

    def close(self) -> None:
        """Stop the threads. Idempotent."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "PictureLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self) -> Iterator[_Made]:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # a thread starts on device 0, whatever its process uses
        while listed := list(islice(self._pictures, self._batch)):
            bad: dict[str, str] = {}
            good: list[_Read] = []
            for picture, read in zip(listed, self._pool.map(_read, listed), strict=True):
                if isinstance(read, str):
                    bad[picture.name] = read
                else:
                    good.append(read)
            yield _Made(self._views(good, bad), bad)

    def _views(self, good: list[_Read], bad: dict[str, str]) -> PictureBatch | None:
        """The batch of what can be decoded; reasons for the others go to `bad`."""
        while good:
            sizes = np.array([(read.header.height, read.header.width) for read in good])  # [b, 2]
            numbers = center_crop_params(sizes, resize=self._settings.eval_resize, crop=self._size)
            try:
                (images,) = self._executor.run([read.data for read in good], [numbers])
            except DecodeError as error:
                bad |= {good[row].name: reason for row, reason in error.rows.items()}
                good = [read for row, read in enumerate(good) if row not in error.rows]
                continue
            return PictureBatch(images, [read.name for read in good])
        return None


def _read(picture: Picture) -> _Read | str:
    """The picture's bytes, or why it cannot be used."""
    try:
        data = picture.place.read()
        return _Read(picture.name, data, check(data, decode=False))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except UnusableImage as error:
        return str(error)
