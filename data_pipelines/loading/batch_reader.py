"""One batch from shards to tensors: read, decode, augment, and put good samples in the place of bad ones."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipelines.errors import UserError
from data_pipelines.imaging.augment import AugmentationParams
from data_pipelines.imaging.backend import AugmentationBackend, DecodeError
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.shards.shard_set import BadSample, ShardSet

Numbers = Callable[[NDArray[np.int64]], Sequence[AugmentationParams]]


class ReadBatch(NamedTuple):
    """What became of a batch of samples."""

    views: list[Tensor]
    """V x `[b, 3, S, S]`, channels-last memory, normalized."""
    labels: Tensor
    """`[b]` int64."""
    ids: Tensor
    """`[b]` int64, with replacements in place."""
    bad: dict[str, str]
    """Reason for each sample that could not be used, by `SHARD.tar/KEY`."""


class Reader:
    """Reads batches with a pool of threads and one executor.

    Args:
        shards: where the samples are.
        settings: executor, threads, normalization.
        views: what the executor must be able to do.
        batch: samples of a batch, at most.
        device: where the batches go.
        dtype: of the views.
    """

    def __init__(
        self,
        shards: ShardSet,
        settings: DataSettings,
        views: Sequence[ViewSettings],
        *,
        batch: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._shards, self._device = shards, (device := device_with_index(device))
        threads = settings.decode_threads or share_of_cores()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="images")
        self._executor = make_executor(
            self._pool, settings, views, batch=batch, threads=threads, device=device, dtype=dtype
        )

    def read(self, samples: NDArray[np.int64], numbers: Numbers, *, replace: bool) -> ReadBatch:
        """Make the batch of samples `[b]`.

        Args:
            samples: sample ids.
            numbers: gives the numbers of every view of the samples it is asked for.
            replace: a bad sample's row is taken by the next good sample of the batch, counted cyclically, and the
                others stay; otherwise bad samples are left out and the batch is shorter, perhaps empty.

        Raises:
            UserError: bad samples are to be replaced and none of the batch is good.
        """
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # a thread starts on device 0, whatever its process uses
        bad: dict[int, str] = {}  # by row
        contents = list(self._pool.map(self._content, samples.tolist()))
        for row, content in enumerate(contents):
            if isinstance(content, BadSample):
                bad[row] = content.reason
        rows, views = list(range(len(samples))), []
        while len(bad) < len(samples):
            rows = _substitute(len(samples), bad) if replace else [row for row in rows if row not in bad]
            try:
                images = [content for row in rows if isinstance(content := contents[row], bytes)]
                views = self._executor.run(images, numbers(samples[rows]))
                break
            except DecodeError as error:
                bad |= {rows[row]: reason for row, reason in error.rows.items()}
        else:
            if replace:
                raise self._all_bad(samples, bad)
            rows = []
        ids = samples[rows]
        labels = torch.from_numpy(self._shards.index["label"][ids].astype(np.int64))
        return ReadBatch(
            views,
            labels.to(self._device, non_blocking=True),
            torch.from_numpy(ids).to(self._device, non_blocking=True),
            {self._shards.key(int(samples[row])): reason for row, reason in bad.items()},
        )

    def close(self) -> None:
        """Stop the threads. Idempotent."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _content(self, sample: int) -> bytes | BadSample:
        try:
            return self._shards.read(sample)
        except BadSample as error:
            return error

    def _all_bad(self, samples: NDArray[np.int64], bad: dict[int, str]) -> UserError:
        folder = self._shards.folder
        here = isinstance(folder, Path)
        return UserError(
            f"none of {len(samples)} samples of a batch can be used, such as this one: {bad[0]}",
            where=folder / self._shards.key(int(samples[0])),
            fix=f"look at the shards: all4one data verify {folder} --decode"
            if here
            else "look at the shards there",
        )


def _substitute(count: int, bad: dict[int, str]) -> list[int]:
    """Row whose sample stands in each row: its own, or that of the next good one; one at least is good."""
    return [next(r % count for r in range(row, row + count) if r % count not in bad) for row in range(count)]


def device_with_index(device: torch.device) -> torch.device:
    """The device, with the number of the current one where a CUDA device has none."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def share_of_cores() -> int:
    """Cores that this process may use, where several share the machine."""
    if bound := os.environ.get("SLURM_CPUS_PER_TASK"):
        return int(bound)
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def make_executor(
    pool: ThreadPoolExecutor,
    settings: DataSettings,
    views: Sequence[ViewSettings],
    *,
    batch: int,
    threads: int,
    device: torch.device,
    dtype: torch.dtype,
) -> AugmentationBackend:
    """The executor that the settings name.

    Args:
        pool: threads that it may use.
        settings: executor, normalization.
        views: what it must be able to do.
        batch: images of a batch, at most.
        threads: number of the pool's threads.
        device: where the views go; a CUDA device has its index.
        dtype: of the views.

    Raises:
        UserError: DALI is asked for and cannot be used.
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
        from data_pipelines.imaging.dali import DaliBackend, ViewGraph
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
