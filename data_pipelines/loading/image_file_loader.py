"""Batches of image files without an index, resized and normalized as for evaluation."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_pipelines.imaging.augment import AugmentationParams, center_crop_params
from data_pipelines.imaging.foreign import as_known_format
from data_pipelines.imaging.images import Header, UnusableImage, check
from data_pipelines.loading.batch_decoder import BatchDecoder
from data_pipelines.prefetch import Prefetch
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.sources.image_files import Picture


class PictureBatch(NamedTuple):
    """The usable pictures of a batch."""

    images: Tensor
    """`[b, 3, S, S]`, channels-last memory, normalized."""
    names: list[str]
    """Names of the b pictures."""


class _Made(NamedTuple):
    batch: PictureBatch | None
    bad: dict[str, str]


class _Read(NamedTuple):
    name: str
    data: bytes
    header: Header


class PictureLoader:
    """Loads each picture once, in order. Unusable pictures are left out.

    At most `settings.prefetch` batches are read ahead, and pictures are listed no further than that.

    Args:
        pictures: pictures to load. They are iterated once, in a thread.
        settings: executor, threads, prefetch, sizes.
        batch: maximum number of pictures in a batch.
        device: device of the batches.
    """

    def __init__(
        self, pictures: Iterable[Picture], settings: DataSettings, *, batch: int, device: torch.device
    ) -> None:
        self._pictures, self._settings, self._batch = iter(pictures), settings, batch
        self._size = settings.views[0].size
        plain = ViewSettings(
            size=self._size, color_jitter_prob=0, grayscale_prob=0, blur_prob=0, solarize_prob=0, flip_prob=0
        )
        self._decoder = BatchDecoder(settings, [plain], batch=batch, device=device, dtype=torch.float32)
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
        self._decoder.close()

    def __enter__(self) -> "PictureLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self) -> Iterator[_Made]:
        self._decoder.use_device()
        while listed := list(islice(self._pictures, self._batch)):
            bad: dict[str, str] = {}
            good: list[_Read] = []
            for picture, read in zip(listed, self._decoder.pool.map(_read, listed), strict=True):
                if isinstance(read, str):
                    bad[picture.name] = read
                else:
                    good.append(read)
            yield _Made(self._views(good, bad), bad)

    def _views(self, good: list[_Read], bad: dict[str, str]) -> PictureBatch | None:
        """Return the batch of pictures that can be decoded. Reasons for the others are added to `bad`."""
        decoded, refused = self._decoder.decode(
            choose=lambda refused: [row for row in range(len(good)) if row not in refused],
            image=lambda row: good[row].data,
            params=lambda rows: [self._params([good[row].header for row in rows])],
        )
        bad |= {good[row].name: reason for row, reason in refused.items()}
        if not decoded.rows:
            return None
        return PictureBatch(decoded.views[0], [good[row].name for row in decoded.rows])

    def _params(self, headers: list[Header]) -> AugmentationParams:
        sizes = np.array([(header.height, header.width) for header in headers])  # [b, 2]
        return center_crop_params(sizes, resize=self._settings.eval_resize, crop=self._size)


def _read(picture: Picture) -> _Read | str:
    """Read a picture. Returns why it cannot be used if it is unusable."""
    try:
        data = as_known_format(picture.content.read())
        return _Read(picture.name, data, check(data, decode=False))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except UnusableImage as error:
        return str(error)
