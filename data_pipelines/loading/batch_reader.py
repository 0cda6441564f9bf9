"""Reads a batch from shards into tensors: read, decode, augment, and replace bad samples by good ones."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from data_pipelines.imaging.augment import AugmentationParams
from data_pipelines.loading.batch_decoder import BatchDecoder
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.shards.shard_set import BadSample, ShardSet

Numbers = Callable[[NDArray[np.int64]], Sequence[AugmentationParams]]


class ReadBatch(NamedTuple):
    """A batch of samples that was read and decoded."""

    views: list[Tensor]
    """V x `[b, 3, S, S]`, channels-last memory, as `DecodedBatch.views`."""
    labels: Tensor
    """`[b]` int64, on the CPU."""
    ids: Tensor
    """`[b]` int64. Rows of replaced samples have the id of the replacement."""
    bad: dict[str, str]
    """Reason for each sample that could not be used, by `SHARD.tar/KEY`."""


class Reader:
    """Reads batches of samples.

    Args:
        shards: set that holds the samples.
        settings: backend, threads, normalization.
        views: settings of the views, which the backend must support.
        batch: maximum number of samples in a batch.
        device: device that the batches are for.
        dtype: dtype of normalized views on a CPU.
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
        self._shards = shards
        self._decoder = BatchDecoder(settings, views, batch=batch, device=device, dtype=dtype)

    @property
    def device(self) -> torch.device:
        """The device that the batches are for. A GPU has its index."""
        return self._decoder.device

    def begin(
        self, samples: NDArray[np.int64], numbers: Numbers, *, replace: bool
    ) -> Callable[[], ReadBatch]:
        """Read the batch of samples `[b]` and begin to decode it.

        Args:
            samples: sample ids.
            numbers: returns the augmentation parameters of every view of the samples in the given rows of the batch.
            replace: whether to replace each bad sample by the next good one of the batch, counted cyclically.
                Otherwise bad samples are left out, and the batch is shorter or even empty.

        Returns a function that finishes the batch.

        Raises:
            UserError: the function raises it if bad samples must be replaced, and the batch has no good one.
        """
        self._decoder.use_device()
        contents = list(self._decoder.pool.map(self._content, samples.tolist()))
        unread = {row: c.reason for row, c in enumerate(contents) if isinstance(c, BadSample)}

        def choose(refused: Mapping[int, str]) -> list[int]:
            bad = {**unread, **refused}
            if len(bad) == len(samples):
                return []
            if replace:
                return _substitute(len(samples), bad)
            return [row for row in range(len(samples)) if row not in bad]

        def image(row: int) -> bytes:
            content = contents[row]
            assert isinstance(content, bytes)
            return content

        decode = self._decoder.begin(choose, image, lambda rows: numbers(np.array(rows, np.int64)))

        def finish() -> ReadBatch:
            decoded, refused = decode()
            bad = unread | refused
            if replace and not decoded.rows:
                raise self._all_bad(samples, bad)
            ids = samples[decoded.rows]
            labels = self._shards.index["label"][ids].astype(np.int64)
            return ReadBatch(
                decoded.views,
                self._decoder.numbers(labels),
                self._decoder.numbers(ids),
                {self._shards.key(int(samples[row])): reason for row, reason in bad.items()},
            )

        return finish

    @property
    def ahead(self) -> int:
        """Number of batches to begin before the one that is finished next."""
        return self._decoder.ahead

    def close(self) -> None:
        """Stop the threads. Idempotent."""
        self._decoder.close()

    def _content(self, sample: int) -> bytes | BadSample:
        try:
            return self._shards.read(sample)
        except BadSample as error:
            return error

    def _all_bad(self, samples: NDArray[np.int64], bad: dict[int, str]) -> UserError:
        first = int(samples[0])
        folder = self._shards.folder_of(first)
        here = isinstance(folder, Path)
        return UserError(
            f"none of {len(samples)} samples of a batch can be used, such as this one: {bad[0]}",
            where=self._shards.location(first),
            fix=f"look at the shards: all4one data verify {quoted(folder)} --decode"
            if here
            else "look at the shards there",
        )


def _substitute(count: int, bad: dict[int, str]) -> list[int]:
    """Return, for each row, the row whose sample it gets: its own, or the next good one. At least one must be good."""
    return [next(r % count for r in range(row, row + count) if r % count not in bad) for row in range(count)]
