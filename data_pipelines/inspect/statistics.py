"""Statistics of a dataset and of its pixels, and the time to load one epoch."""

import time
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipelines.cores import cores_per_process
from data_pipelines.devices import choose_device
from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from data_pipelines.imaging.images import UnusableImage, decode_rgb
from data_pipelines.loading.loaders import TrainLoader
from data_pipelines.settings import DataSettings
from data_pipelines.shards.shard_set import BadSample, ShardSet

QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)


class Statistics(NamedTuple):
    """Facts from the index alone. No image is read."""

    samples: int
    shards: int
    image_bytes: int
    """Total bytes of all encoded images."""
    quantiles: dict[str, NDArray[np.float64]]
    """Values at `QUANTILES` of `shorter side`, `longer side` (pixels), `aspect` (width over height) and `bytes`."""
    per_class: NDArray[np.int64]
    """`[classes]` number of samples in each class."""
    unlabeled: int


def statistics(shards: ShardSet) -> Statistics:
    """Compute the statistics of a dataset."""
    index = shards.index
    width, height = index["width"].astype(np.int64), index["height"].astype(np.int64)
    values = {
        "shorter side": np.minimum(width, height),
        "longer side": np.maximum(width, height),
        "aspect": width / np.maximum(height, 1),
        "bytes": index["size"],
    }
    labels = index["label"]
    return Statistics(
        samples=len(index),
        shards=len(shards.shard_sizes),
        image_bytes=int(index["size"].sum(dtype=np.int64)),
        quantiles={name: np.quantile(value, QUANTILES) for name, value in values.items()},
        per_class=np.bincount(labels[labels >= 0], minlength=shards.num_classes),
        unlabeled=int((labels < 0).sum()),
    )


class PixelStatistics(NamedTuple):
    """Color statistics of a dataset, as `data.mean` and `data.std` expect them."""

    images: int
    """Number of images that were decoded."""
    mean: tuple[float, float, float]
    """Mean of red, green and blue in [0, 1]."""
    std: tuple[float, float, float]
    """Standard deviation of red, green and blue in [0, 1]."""


def pixel_statistics(shards: ShardSet, *, images: int = 1000) -> PixelStatistics:
    """Compute mean and standard deviation of the pixels of images that are spread evenly over a dataset.

    Each image counts equally, whatever its size. Images that cannot be decoded are left out.

    Args:
        shards: the dataset.
        images: maximum number of images to decode.

    Raises:
        UserError: none of the images can be decoded.
    """
    samples = np.unique(np.linspace(0, len(shards) - 1, min(images, len(shards))).round().astype(np.int64))
    moments = []
    for sample in samples.tolist():
        try:
            pixels = decode_rgb(shards.read(sample)).reshape(-1, 3) / np.float32(255)  # [H W, 3]
        except (BadSample, UnusableImage):
            continue
        moments.append(
            (pixels.mean(axis=0, dtype=np.float64), np.square(pixels).mean(axis=0, dtype=np.float64))
        )
    if not moments:
        raise UserError(
            f"none of {len(samples):,} images can be decoded",
            where=shards.folder,
            fix=f"look at the shards: all4one data verify {quoted(shards.folder)} --decode",
        )
    mean, square = np.mean(moments, axis=0)  # [3] each
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return PixelStatistics(len(moments), _rounded(mean), _rounded(std))


def _rounded(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 4) for value in values)
    return red, green, blue


def preparing_speed(shards: ShardSet, settings: DataSettings, *, images: int = 512, batch: int = 32) -> float:
    """Measure images per second that this machine reads, decodes and augments, on the first images of an epoch.

    Args:
        shards: the dataset.
        settings: views, executor, threads.
        images: number of images to measure, at least one batch.
        batch: batch size.
    """
    batch = min(batch, len(shards))
    device = choose_device()
    with TrainLoader(
        shards, settings, seed=0, rank=0, world_size=1, global_batch=batch, device=device
    ) as loader:
        batches = loader.batches(0)
        for _ in islice(batches, 1 + settings.prefetch):  # skips the batches prefetched during start-up
            pass
        began, count = time.perf_counter(), max(1, images // batch)
        for _ in islice(batches, count):
            pass
        return count * batch / (time.perf_counter() - began)


def threads_of(settings: DataSettings) -> int:
    """Return the number of decoding threads of each process."""
    return settings.decode_threads or cores_per_process()
