"""Parts of a dataset: some of its classes (`data.classes`), its larger images (`data.min_side`), or a number of its
samples (`data.max_samples`)."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError
from data_pipelines.philox import RandomStream
from data_pipelines.shards.class_union import renumbered
from data_pipelines.shards.index import fingerprint
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.shards.subsets import balanced_sample

_SEED = 0
"""Seed of the choice of samples. It is not the seed of the run, so that runs with other seeds see the same samples."""
_SHOWN_CLASSES = 20
"""Number of class names that a message lists."""


def require_known(names: Sequence[str], sets: Sequence[tuple[Path | str, tuple[str, ...]]]) -> None:
    """Raise a UserError if a name of `data.classes` is a class of no dataset. The message has the nearest names.

    Args:
        names: names of classes.
        sets: folder and class names of each dataset.
    """
    known = list(dict.fromkeys(name for _, classes in sets for name in classes))
    folders = " and ".join(str(folder) for folder, _ in sets)
    lacks = f"{folders} {'has' if len(sets) == 1 else 'have'} no"
    for name in names:
        if name in known:
            continue
        if not known:
            raise UserError(f"{lacks} labels", where="data.classes", fix="remove data.classes")
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        few = ", ".join(known) if len(known) <= _SHOWN_CLASSES else "a name in classes.txt of the set"
        raise UserError(
            f"{lacks} class {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""),
            where="data.classes",
            fix=f"use {few}",
        )


def only_classes(shards: ShardSet, names: Sequence[str]) -> ShardSet:
    """Return the samples of some classes. Their labels count through these classes, in the order of the dataset.

    Raises:
        UserError: the dataset has no sample of these classes.
    """
    classes = tuple(name for name in shards.classes if name in set(names))
    wanted = [number for number, name in enumerate(shards.classes) if name in classes]
    ids = np.flatnonzero(np.isin(shards.index["label"], wanted))
    if not len(ids):
        raise UserError(
            f"the set has no samples of the classes in data.classes ({', '.join(names)})",
            where=shards.folder,
            fix="name classes of this set too, or use another set",
        )
    return _part(shards, ids, classes)


def at_least(shards: ShardSet, pixels: int) -> ShardSet:
    """Return the samples whose shorter side has at least so many pixels as stored.

    Raises:
        UserError: all images are smaller.
    """
    sides = np.minimum(shards.index["width"], shards.index["height"])
    ids = np.flatnonzero(sides >= pixels)
    if len(ids) == len(shards):
        return shards
    if not len(ids):
        raise UserError(
            f"data.min_side={pixels} leaves no samples of this set, whose largest image has a shorter side of "
            f"{sides.max()} pixels",
            where=shards.folder,
            fix="set a smaller data.min_side, or remove it",
        )
    return _part(shards, ids, shards.classes)


def at_most(shards: ShardSet, count: int) -> ShardSet:
    """Return a number of samples, spread over the classes as evenly as possible. A smaller set stays as it is.

    Raises:
        UserError: the number is 0.
    """
    if count == 0:
        raise UserError(
            "data.max_samples leaves no samples of this set",
            where=shards.folder,
            fix="set a larger data.max_samples, give the set a larger weight, or remove it",
        )
    if count >= len(shards):
        return shards
    ids = balanced_sample(shards.index["label"], count, _SEED, RandomStream.TRIAL)
    return _part(shards, ids, shards.classes)


def _part(shards: ShardSet, ids: NDArray[np.int64], classes: tuple[str, ...]) -> ShardSet:
    part = shards.subset(ids)
    index = renumbered(part.index, shards.classes, classes)
    return part.with_classes(classes, index, fingerprint(index))
