"""Finds images that occur more than once in one or several datasets, by the content of their files."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipelines.shards.image_checksums import image_checksums
from data_pipelines.shards.shard_set import BadSample, ShardSet


class Occurrence(NamedTuple):
    """Where an image occurs."""

    number: int
    """Number of the dataset, from 0."""
    sample: int


class Found(NamedTuple):
    """Result of a search."""

    groups: list[list[Occurrence]]
    """The occurrences of each image that occurs more than once, in the order of datasets and samples."""
    bad: list[tuple[Occurrence, str]]
    """Samples that may be equal to others and cannot be read, each with the reason."""

    def between(self) -> list[list[Occurrence]]:
        """Return the groups that belong to more than one dataset."""
        return [group for group in self.groups if len({one.number for one in group}) > 1]

    def within(self, number: int) -> list[list[Occurrence]]:
        """Return the occurrences in one dataset of each image that occurs more than once there."""
        parts = ([one for one in group if one.number == number] for group in self.groups)
        return [part for part in parts if len(part) > 1]


def likely_duplicates(sets: Sequence[ShardSet]) -> list[Occurrence]:
    """Return the samples whose size and checksum occur more than once in these datasets. No image is read.

    Equal files have equal ones. Other files have equal ones too, but only about one pair in four billion of the same
    size. Labels do not matter.
    """
    together = np.concatenate([_contents(shards) for shards in sets])
    order = np.argsort(together, kind="stable")
    same = together[order][1:] == together[order][:-1]
    twice = np.zeros(len(order), bool)
    twice[1:] |= same
    twice[:-1] |= same
    rows = np.sort(order[twice])
    ends = np.cumsum([0, *map(len, sets)])
    numbers = np.searchsorted(ends, rows, side="right") - 1
    return [*map(Occurrence, numbers.tolist(), (rows - ends[numbers]).tolist())]


def find_duplicates(
    sets: Sequence[ShardSet], likely: Sequence[Occurrence], report: Callable[[int], object] = lambda _: None
) -> Found:
    """Find images whose files are equal, byte for byte.

    Args:
        sets: the datasets.
        likely: the samples to compare, as `likely_duplicates` returns them.
        report: called with the number of samples that were read.
    """
    by_hash: dict[bytes, list[Occurrence]] = defaultdict(list)
    bad = []
    for read, one in enumerate(likely, 1):
        try:
            by_hash[hashlib.sha256(sets[one.number].read(one.sample)).digest()].append(one)
        except BadSample as error:
            bad.append((one, error.reason))
        report(read)
    return Found(sorted(group for group in by_hash.values() if len(group) > 1), bad)


def _contents(shards: ShardSet) -> NDArray[np.uint64]:
    """Return a number for each sample that is the same for equal files, [N]: their size and their checksum."""
    size = shards.index["size"].astype(np.uint64)
    return (size << np.uint64(32)) | image_checksums(np.asarray(shards.index)).astype(np.uint64)
