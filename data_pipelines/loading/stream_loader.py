"""Batches from WebDataset URLs without an index. Shards are drawn with replacement and read as streams.

For sets that cannot be indexed. The settings define how many samples an epoch has. Some samples are seen twice in an
epoch and some not at all. A resumed run gets other samples than an uninterrupted one would.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data_pipelines.errors import UserError
from data_pipelines.formatting import readable
from data_pipelines.imaging.augment import AugmentationParams, numbers_of_views
from data_pipelines.imaging.images import UnusableImage, check
from data_pipelines.loading.batch_decoder import BatchDecoder
from data_pipelines.loading.micro_batches import MicroBatchLoader, bring_to
from data_pipelines.loading.prefetching_batches import (
    Batch,
    BatchPartition,
    LoadedBatch,
    PrefetchingBatches,
)
from data_pipelines.loading.quarantine import Quarantine
from data_pipelines.loading.stream_shards import FailedShards, RawSample, samples_of, shard_name
from data_pipelines.prefetch import never
from data_pipelines.settings import DataSettings
from data_pipelines.sources.shard_labels import LOOKED_FOR, LabelError, read_label
from data_pipelines.sources.shard_samples import choose_image
from data_pipelines.urls import without_signature

_UNLABELED = 100
"""Number of samples without a label, from the first on, after which a run with classes stops."""


class StreamSet:
    """A set that is read as a stream.

    Args:
        settings: URLs, and the number of samples and classes that they hold.

    Raises:
        UserError: a URL would run a shell command and `data.allow_pipe` is false.
    """

    def __init__(self, settings: DataSettings) -> None:
        from webdataset.shardlists import expand_urls

        self.folder = str(settings.train)
        self.urls = list(expand_urls(self.folder))
        self.classes = tuple(str(label) for label in range(settings.stream.classes))
        signed_alike = "::".join(map(without_signature, self.folder.split("::")))
        self.fingerprint = hashlib.sha256(signed_alike.encode()).hexdigest()
        self._samples = settings.stream.samples
        pipes = [url for url in self.urls if url.lstrip().startswith("pipe:")]
        if pipes and not settings.allow_pipe:
            raise UserError(
                "this URL runs a shell command",
                where=pipes[0],
                fix="if you trust whoever wrote it, set data.allow_pipe=true",
            )

    @property
    def num_classes(self) -> int:
        """Number of classes. 0: there are no labels."""
        return len(self.classes)

    def __len__(self) -> int:
        return self._samples


class _Sample(NamedTuple):
    name: str
    image: bytes
    label: int
    height: int
    width: int


class StreamLoader(MicroBatchLoader):
    """Endless batches of augmented views for one rank, from a stream of shards.

    Every rank draws shards independently with its own seed, and shuffles samples in a buffer.

    Args:
        stream: the training set.
        settings: views, executor, threads, prefetch, buffer.
        seed: seed of the run.
        rank: rank of this process, below `world_size`.
        world_size: number of processes that share each global batch.
        global_batch: number of samples in one optimizer step over all ranks.
        accumulation: micro-batches of one optimizer step.
        device: device of the batches.
        dtype: data type of the views.
        quarantine: file to which unusable samples are appended. None: they are only counted.
        give_up: polled while waiting for a batch. If it returns true, the batches end there.

    Raises:
        UserError: the global batch is not a multiple of `accumulation * world_size`, or exceeds an epoch.
    """

    def __init__(
        self,
        stream: StreamSet,
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
        if len(stream) < global_batch:
            raise UserError(
                f"data.stream.samples ({len(stream)}) is below one global batch of {global_batch}",
                fix="set it to the samples that the shards hold",
            )
        self._stream, self._settings, self._seed = stream, settings, seed
        self._decoder = BatchDecoder(
            settings, settings.views, batch=self._partition.batch, device=device, dtype=dtype
        )
        self._failures = FailedShards(stream.urls)
        self._labels = 0
        self._unlabeled = 0
        batches = PrefetchingBatches(
            self._make, settings.prefetch, Quarantine(settings.max_bad_fraction, quarantine), give_up=give_up
        )
        super().__init__(
            batches, len(stream) // global_batch, bring_to(self._decoder.device, dtype, settings)
        )

    def close(self) -> None:
        """Stop the threads. Idempotent."""
        super().close()
        self._decoder.close()

    def _make(self, step: int) -> Iterator[LoadedBatch]:
        self._decoder.use_device()
        samples = self._samples(step)
        while True:
            for offset in self._partition.starts:
                batch, bad = self._fill(samples, step * self._partition.global_batch + offset)
                shards = self._failures.take()
                yield LoadedBatch(batch, bad, step // self.steps_per_epoch, step, shards)
            step += 1

    def _samples(self, start_step: int) -> Iterator[RawSample]:
        """Yield raw samples in the order in which they are drawn."""
        import webdataset

        seed = np.random.SeedSequence((self._seed, self._partition.rank, start_step)).generate_state(1)[0]
        pipeline = webdataset.DataPipeline(
            webdataset.ResampledShards(
                self._stream.urls, seed=int(seed), deterministic=True, worker_seed=lambda: 0
            ),
            partial(samples_of, failures=self._failures),
            webdataset.shuffle(self._settings.stream.buffer, rng=random.Random(int(seed))),
        )
        yield from pipeline

    def _label(self, raw: RawSample) -> int:
        """Return the label of a sample, or -1.

        Raises:
            LabelError: it is not a class.
            UserError: the settings promise labels, and there are none.
        """
        if not self._stream.num_classes:
            return -1
        label = read_label(raw, self._stream.num_classes)
        self._labels += label is not None
        self._unlabeled += label is None
        if not self._labels and self._unlabeled >= _UNLABELED:
            raise UserError(
                f"none of the first {self._unlabeled} samples has a label, such as this one. Looked for {LOOKED_FOR}. "
                f"Found {_members(raw)}",
                where=_name(raw),
                fix="pack labels into the shards, or set data.stream.classes=0",
            )
        return -1 if label is None else label

    def _fill(self, samples: Iterator[RawSample], first: int) -> tuple[Batch, dict[str, str]]:
        """Return the next usable samples as a batch, and the reason for each unusable one. Sample ids count from
        `first` and determine the views."""
        drawn: list[_Sample] = []
        unusable: dict[str, str] = {}
        ids = np.arange(first, first + self._partition.batch)

        def choose(refused: Mapping[int, str]) -> list[int]:
            """Return the samples that are left, with new samples in place of the refused ones."""
            while len(drawn) - len(refused) < self._partition.batch:
                raw = next(samples)
                try:
                    drawn.append(_usable(raw, self._label(raw)))
                except (UnusableImage, LabelError) as error:
                    unusable[_name(raw)] = str(error)
                if len(unusable) + len(refused) > 10 * self._partition.batch + 100:
                    name, reason = next(reversed(unusable.items()), (_name(raw), "it cannot be decoded"))
                    raise UserError(
                        f"{len(unusable) + len(refused)} samples could not be used for one batch, such as this one: "
                        f"{reason}",
                        where=name,
                        fix="look at the shards",
                    )
            return [row for row in range(len(drawn)) if row not in refused]

        def params(rows: list[int]) -> Sequence[AugmentationParams]:
            sizes = np.array([[drawn[row].height, drawn[row].width] for row in rows])
            return numbers_of_views(self._settings.views, sizes, seed=self._seed, epoch=0, samples=ids)

        decoded, refused = self._decoder.decode(choose, lambda row: drawn[row].image, params)
        labels = np.array([drawn[row].label for row in decoded.rows])
        bad = unusable | {drawn[row].name: reason for row, reason in refused.items()}
        return Batch(decoded.views, self._decoder.numbers(labels), self._decoder.numbers(ids)), bad


def _members(raw: RawSample) -> str:
    return ", ".join(f".{name}" for name in raw if not name.startswith("__"))


def _usable(raw: RawSample, label: int) -> _Sample:
    image = choose_image(raw)
    if image is None:
        raise UnusableImage("no image among its members")
    header = check(raw[image], decode=False)
    return _Sample(_name(raw), raw[image], label, header.height, header.width)


def _name(raw: RawSample) -> str:
    """`SHARD.tar/KEY`."""
    return f"{shard_name(raw['__url__'])}/{readable(raw['__key__'])}"
