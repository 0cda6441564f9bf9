"""Loaders for training and evaluation.

A global batch of G samples consists of the positions [step G, (step + 1) G) of its epoch. It is split into
`accumulation` contiguous micro-batches, and each rank takes a contiguous part of every micro-batch. The samples do not
depend on the number of ranks or threads, on prefetching, or on where the run was resumed.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipelines.imaging.augment import AugmentationParams, center_crop_params, numbers_of_views
from data_pipelines.loading.batch_reader import ReadBatch, Reader
from data_pipelines.loading.micro_batches import MicroBatchLoader, bring_to
from data_pipelines.loading.mixed_order import order_of
from data_pipelines.loading.prefetching_batches import (
    Batch,
    BatchPartition,
    LoadedBatch,
    PrefetchingBatches,
)
from data_pipelines.loading.quarantine import Quarantine
from data_pipelines.loading.sample_order import Draw
from data_pipelines.prefetch import Prefetch, finished, never
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.shards.cache import ReadCancelled
from data_pipelines.shards.shard_set import ShardSet


class EvalBatch(NamedTuple):
    """One batch of an evaluation."""

    images: Tensor
    """`[b, 3, S, S]`, channels-last memory, normalized."""
    labels: Tensor
    """`[b]` int64, -1 if unlabeled."""
    ids: Tensor
    """`[b]` int64 sample ids, which are rows of the index."""


class TrainLoader(MicroBatchLoader):
    """Endless batches of augmented views for one rank.

    Args:
        shards: the training set.
        settings: views, executor, threads, prefetch, shuffling.
        seed: seed of the run.
        rank: rank of this process.
        world_size: number of processes that share each global batch.
        global_batch: samples of one optimizer step over all ranks.
        accumulation: micro-batches of one optimizer step.
        device: device of the batches.
        dtype: dtype of the views.
        quarantine: file to which bad samples are appended. None: they are only counted.
        give_up: polled while waiting for a batch. If it returns true, the batches end.

    Raises:
        UserError: the global batch is not a multiple of `accumulation * world_size`, or is larger than the dataset.
    """

    def __init__(
        self,
        shards: ShardSet,
        settings: DataSettings,
        *,
        seed: int,
        rank: int,
        world_size: int,
        global_batch: int,
        accumulation: int = 1,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        quarantine: Path | None = None,
        give_up: Callable[[], bool] = never,
    ) -> None:
        self._partition = BatchPartition(rank, world_size, global_batch, accumulation)
        self._order = order_of(
            shards, seed=seed, global_batch=global_batch, shuffle_block=settings.shuffle_block
        )
        self._shards, self._settings, self._seed = shards.copy(), settings, seed
        self._reader = Reader(
            self._shards, settings, settings.views, batch=self._partition.batch, device=device, dtype=dtype
        )
        batches = PrefetchingBatches(
            self._make,
            settings.prefetch,
            Quarantine(settings.max_bad_fraction, quarantine),
            end_reads=self._shards.files.stop,
            give_up=give_up,
        )
        super().__init__(batches, self._order.steps_per_epoch, bring_to(self._reader.device, dtype, settings))

    def batches(self, start_step: int) -> Iterator[Batch]:
        """See `MicroBatchLoader`."""
        self._batches.stop()
        self._shards.files.start()
        return super().batches(start_step)

    def close(self) -> None:
        """Stop the threads. Idempotent."""
        super().close()
        self._reader.close()

    def _make(self, step: int) -> Iterator[LoadedBatch]:
        with suppress(ReadCancelled):
            yield from finished(self._begin(step), self._reader.ahead)

    def _begin(self, step: int) -> Iterator[Callable[[], LoadedBatch]]:
        """Yield functions that finish the batches from a global step on."""
        while True:
            epoch, inside = divmod(step, self.steps_per_epoch)
            for offset in self._partition.starts:
                start = inside * self._partition.global_batch + offset
                self._shards.files.expect(self._order.upcoming(epoch, start))
                draw = self._order.draw(epoch, start, start + self._partition.batch)
                read = self._reader.begin(draw.ids, partial(self._numbers, draw), replace=True)
                yield partial(_loaded, read, epoch, step)
            step += 1

    def _numbers(self, draw: Draw, rows: NDArray[np.int64]) -> list[AugmentationParams]:
        samples, passes = draw.ids[rows], draw.passes[rows]
        sizes = self._shards.sizes(samples)
        return numbers_of_views(self._settings.views, sizes, seed=self._seed, epoch=passes, samples=samples)


def _loaded(finish: Callable[[], ReadBatch], epoch: int, step: int) -> LoadedBatch:
    read = finish()
    return LoadedBatch(Batch(read.views, read.labels, read.ids), read.bad, epoch, step)


class EvalLoader:
    """Each sample of a dataset once over all ranks, in the order of the index, without randomness.

    The shorter side of an image is resized to `settings.eval_resize`, and its center is cropped to the first view's
    size. Rank r takes samples r, r + world_size, and so on. Its last batch may be smaller. Unusable samples are skipped
    and counted.

    Args:
        shards: the dataset to evaluate on.
        settings: executor, threads, prefetch, sizes.
        rank: rank of this process.
        world_size: number of processes that share the dataset.
        batch: maximum batch size of this rank.
        device: device of the batches.
        dtype: dtype of the images.
        give_up: polled while waiting for a batch. If it returns true, the batches end.
    """

    def __init__(
        self,
        shards: ShardSet,
        settings: DataSettings,
        *,
        rank: int,
        world_size: int,
        batch: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        give_up: Callable[[], bool] = never,
    ) -> None:
        self._shards, self._settings, self._batch = shards.copy(), settings, batch
        self._give_up = give_up
        self._samples = np.arange(rank, len(shards), world_size)
        self._size = settings.views[0].size
        plain = ViewSettings(
            size=self._size, color_jitter_prob=0, grayscale_prob=0, blur_prob=0, solarize_prob=0, flip_prob=0
        )
        self._reader = Reader(self._shards, settings, [plain], batch=batch, device=device, dtype=dtype)
        self._bring = bring_to(self._reader.device, dtype, settings, keep=True)
        self.bad: dict[str, str] = {}
        """Reason for each sample skipped so far, by `SHARD.tar/KEY`."""

    @property
    def bad_samples(self) -> int:
        """Number of samples skipped so far."""
        return len(self.bad)

    def __len__(self) -> int:
        return -(-len(self._samples) // self._batch)

    def __iter__(self) -> Iterator[EvalBatch]:
        for batch in self._bring(self._read()):
            yield EvalBatch(batch.views[0], batch.labels, batch.ids)

    def _read(self) -> Iterator[Batch]:
        self._shards.files.start()
        prefetch = Prefetch(
            self._make, self._settings.prefetch, end_reads=self._shards.files.stop, give_up=self._give_up
        )
        try:
            for read in prefetch:
                self.bad |= read.bad
                if read.views:
                    yield Batch(read.views, read.labels, read.ids)
        finally:
            prefetch.close()

    def close(self) -> None:
        """Stop the threads. Idempotent."""
        self._shards.files.stop()
        self._reader.close()

    def __enter__(self) -> "EvalLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self) -> Iterator[ReadBatch]:
        with suppress(ReadCancelled):
            yield from finished(self._begin(), self._reader.ahead)

    def _begin(self) -> Iterator[Callable[[], ReadBatch]]:
        """Yield functions that finish the batches."""
        for start in range(0, len(self._samples), self._batch):
            samples = self._samples[start : start + self._batch]
            shard = int(self._shards.index["shard"][samples[0]])
            self._shards.files.expect([number] for number in range(shard, len(self._shards.shard_sizes)))
            yield self._reader.begin(samples, partial(self._numbers, samples), replace=False)

    def _numbers(self, samples: NDArray[np.int64], rows: NDArray[np.int64]) -> list[AugmentationParams]:
        return [
            center_crop_params(
                self._shards.sizes(samples[rows]), resize=self._settings.eval_resize, crop=self._size
            )
        ]
