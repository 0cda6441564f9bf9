"""The samples of indexed datasets as a source, so that they can be written to other shards without decoding.

Listing reads the indexes, and the header of each sample for its key. The images are read later, by the workers that
write the shards. Each is compared with its checksum.
"""

import os
import tarfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError
from data_pipelines.formatting import amount, readable
from data_pipelines.imaging.images import UnusableImage
from data_pipelines.shards.class_union import join_classes, renumbered
from data_pipelines.shards.shard_set import BadSample, ShardSet
from data_pipelines.sources.items import Item, Source, make_keys
from data_pipelines.sources.shard_samples import split_name
from data_pipelines.urls import Url, shown
from data_pipelines.workers import spread

_OPEN_SETS = 256
"""Number of datasets that a process keeps open."""


class SetOrigin(NamedTuple):
    """An indexed dataset from which samples are taken."""

    place: str
    """Folder or URL."""
    fingerprint: str

    def __repr__(self) -> str:
        """Return the fingerprint. A set that was moved, or whose URL has another signature, is the same set."""
        return self.fingerprint

    def open(self) -> ShardSet:
        """Return the dataset, opened once in each process.

        Raises:
            UserError: it cannot be opened, or has been indexed again since it was listed.
        """
        return _opened(self, os.getpid())


class StoredSample(NamedTuple):
    """The encoded image of a sample of a dataset."""

    origin: SetOrigin
    sample: int
    """Row of the index."""
    size: int

    @property
    def size_is_exact(self) -> bool:
        """Whether `size` is no estimate."""
        return True

    def read(self) -> bytes:
        """Return the bytes of the image.

        Raises:
            UnusableImage: the bytes differ from those that were indexed.
            UserError: the shard cannot be read. Then the build must stop, because it would lose good samples.
        """
        shards = self.origin.open()
        try:
            return shards.read(self.sample)
        except BadSample as error:
            if isinstance(error.__cause__, OSError):
                raise _unreadable(shards, self.sample, error.reason) from error
            raise UnusableImage(error.reason) from error


class _KeyTask(NamedTuple):
    """The samples of one shard."""

    origin: SetOrigin
    first: int
    last: int


def list_sets(
    sets: Sequence[ShardSet], *, workers: int = 1, report: Callable[[int], object] = lambda _: None
) -> Source:
    """List the samples of one or several datasets in their order.

    Classes are joined by name. Keys stay. A key that occurs again gets a number, and a character that is not allowed
    becomes `_`.

    Args:
        sets: the datasets. Their folders are read again by name, so they are not subsets.
        workers: number of processes that read keys.
        report: called with the number of samples whose keys were read.

    Raises:
        UserError: the classes of two datasets cannot be joined, or a shard cannot be read.
    """
    classes = join_classes([(one.folder, one.classes) for one in sets])
    origins = [SetOrigin(str(one.folder), one.fingerprint) for one in sets]
    tasks = [
        _KeyTask(origin, end - size, end)
        for one, origin in zip(sets, origins, strict=True)
        for size, end in zip(one.shard_sizes, np.cumsum(one.shard_sizes).tolist(), strict=True)
    ]
    names: list[str] = []
    for found in spread(_read_names, tasks, workers=workers):
        names += found
        report(len(names))
    keys = make_keys(names, folders=True)
    items, changed = list[Item](), 0
    for one, origin in zip(sets, origins, strict=True):
        labels = renumbered(one.index, one.classes, classes)["label"].tolist()
        for sample, (size, label) in enumerate(zip(one.index["size"].tolist(), labels, strict=True)):
            key = next(keys)
            changed += key != names[len(items)]
            items.append(Item(key, StoredSample(origin, sample, size), label))
    return Source(items, classes, _runs(sets), tuple(_notes(sets, items, changed)))


def part_of(source: Source, chosen: NDArray[np.bool_]) -> Source:
    """Return some of the items of a source, with the same classes and without its notes.

    Args:
        source: the source.
        chosen: mask `[N]` of the items.
    """
    ends = np.cumsum([0, *source.runs])
    before = np.cumsum([0, *chosen])
    runs = np.diff(before[ends]) if source.runs else np.array([], np.int64)
    return Source(
        [source.items[number] for number in np.flatnonzero(chosen)],
        source.classes,
        tuple(runs[runs > 0].tolist()),
    )


@lru_cache(maxsize=_OPEN_SETS)
def _opened(origin: SetOrigin, process: int) -> ShardSet:
    """Open a dataset. A fork must not use the files and connections of its parent, so it has another `process`."""
    shards = ShardSet.open(origin.place)
    if shards.fingerprint != origin.fingerprint:
        raise UserError(
            "the set was indexed again while it was read",
            where=shards.folder,
            fix="run the same command again",
        )
    return shards


def _read_names(task: _KeyTask) -> list[str]:
    shards = task.origin.open()
    return [_name(shards, sample) for sample in range(task.first, task.last)]


def _name(shards: ShardSet, sample: int) -> str:
    """Return the key of a sample. A sample without a header is named by its shard and offset."""
    try:
        return readable(split_name(shards.member_name(sample))[0])
    except tarfile.HeaderError:
        shard, offset = shards.index[["shard", "offset"]][sample].item()
        return f"{PurePosixPath(shards.record.shards[shard].name).stem}-{offset}"
    except OSError as error:
        raise _unreadable(shards, sample, f"cannot be read: {error.strerror}") from error


def _unreadable(shards: ShardSet, sample: int, reason: str) -> UserError:
    shard = shards.record.shards[int(shards.index["shard"][sample])].name
    where = (
        shown(str(shards.folder / shard)) if isinstance(shards.folder, Url) else f"{shards.folder}/{shard}"
    )
    return UserError(
        f"the shard {reason}",
        where=where,
        fix="check its disk or the network, then run the same command again to resume",
    )


def _runs(sets: Sequence[ShardSet]) -> tuple[int, ...]:
    """Return the runs of samples that are read together: the shards of remote sets, so that each is downloaded once."""
    if not any(isinstance(one.folder, Url) for one in sets):
        return ()
    return tuple(
        size
        for one in sets
        for size in (one.shard_sizes if isinstance(one.folder, Url) else [1] * len(one))
        if size
    )


def _notes(sets: Sequence[ShardSet], items: Sequence[Item], changed: int) -> list[str]:
    notes = []
    unlabeled = [one for one in sets if not one.classes]
    if 0 < len(unlabeled) < len(sets):
        samples = sum(map(len, unlabeled))
        places = ", ".join(shown(str(one.folder)) for one in unlabeled)
        notes.append(
            f"{amount(samples, 'sample has', 'samples have')} no label, because {places} has no classes"
        )
    if changed:
        notes.append(
            f"{amount(changed, 'key was', 'keys were')} changed. Keys are unique, have at most 90 characters, and "
            "consist of letters, digits, -, _ and /"
        )
    if any(isinstance(one.folder, Url) for one in sets):
        notes.append("the samples of a remote shard stay together, so that each shard is downloaded once")
    return notes
