"""The output of every training loader: endless micro-batches of one rank."""

from collections.abc import Callable, Iterable, Iterator
from typing import Self

import torch

from data_pipelines.loading.device_batches import DeviceBatches
from data_pipelines.loading.prefetching_batches import Batch, PrefetchingBatches
from data_pipelines.settings import DataSettings

Bring = Callable[[Iterable[Batch]], Iterator[Batch]]
"""Yields a loader's batches normalized on their device."""


def bring_to(
    device: torch.device, dtype: torch.dtype, settings: DataSettings, *, keep: bool = False
) -> Bring:
    """Return what brings batches to a device. On a CPU they are complete and stay as they are.

    Args:
        device: device of the batches.
        dtype: dtype of the normalized views.
        settings: normalization.
        keep: see `DeviceBatches`.
    """
    if device.type != "cuda":
        return iter
    return DeviceBatches(device, dtype, mean=settings.mean, std=settings.std, keep=keep).bring


class MicroBatchLoader:
    """Endless micro-batches of augmented views for one rank, as a context manager: the base of the training loaders.

    Args:
        batches: the batches from any step on.
        steps_per_epoch: number of global steps in an epoch.
        bring: brings the batches to their device.
    """

    def __init__(self, batches: PrefetchingBatches, steps_per_epoch: int, bring: Bring) -> None:
        self._batches, self.steps_per_epoch, self._bring = batches, steps_per_epoch, bring

    @property
    def wait_seconds(self) -> float:
        """Total time that the consumer has waited for data, seconds."""
        return self._batches.wait_seconds

    @property
    def bad_samples(self) -> int:
        """Number of unusable samples so far, each of which was replaced by another one."""
        return self._batches.bad_samples

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Yield the micro-batches of all global steps from `start_step` on, `accumulation` of each, without end.

        A new call stops the iteration of an earlier one.

        Raises:
            TooManyBadSamples: more samples are bad than `settings.max_bad_fraction` allows.
            UserError: no shard can be read, or no sample of a micro-batch is usable.
        """
        return self._batches.batches(start_step)

    def on_device(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches of this loader normalized on its device. On a GPU, a batch is valid until the next one is
        taken."""
        return self._bring(batches)

    def close(self) -> None:
        """Stop the threads. Idempotent."""
        self._batches.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
