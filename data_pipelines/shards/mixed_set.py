"""Opens the training sets of `data.train` as one dataset: a single one as it is, several as a weighted mix."""

import hashlib
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.settings import DataSettings
from data_pipelines.shards.class_union import join_classes, renumbered
from data_pipelines.shards.index import VERSION, DatasetRecord, ShardRecord
from data_pipelines.shards.joined_files import JoinedFiles
from data_pipelines.shards.shard_set import Mix, ShardSet
from data_pipelines.shards.trial_sets import at_least, at_most, only_classes, require_known
from data_pipelines.urls import Url, shown


def open_train_shards(settings: DataSettings) -> ShardSet:
    """Open the set that `data.train` names, or the mix of several sets.

    `data.classes`, `data.min_side` and `data.max_samples` leave samples out. In a mix, each set keeps at most its
    fraction of `data.max_samples`.

    A mix is one dataset. Its samples and shards count through the sets in their order. Its classes are the union of all
    classes by name. Sets without labels add samples with the label -1. Names of shards begin with the folder of their
    set. Its index is in memory: 32 bytes per sample in each process.

    Raises:
        UserError: as for `ShardSet.open`, the labels of two sets cannot be joined, there is no such class, or no
            samples of a set are left.
    """
    places = settings.train_places
    remote = sum(isinstance(place, Url) for place in places)
    sets = [ShardSet.open(place, settings, cache_fraction=1 / max(1, remote)) for place in places]
    if settings.classes is not None:
        require_known(settings.classes, [(one.folder, one.classes) for one in sets])
        sets = [only_classes(one, settings.classes) for one in sets]
    if settings.min_side:
        sets = [at_least(one, settings.min_side) for one in sets]
    if len(sets) == 1:
        return at_most(sets[0], settings.max_samples) if settings.max_samples else sets[0]
    for number, one in enumerate(sets):
        if len(one) == 0:
            raise UserError(
                "the set has no samples",
                where=one.folder,
                fix=f"remove it from data.train, where it is number {number} (counted from 0)",
            )
    fractions = _fractions(settings, sets)
    if settings.max_samples:
        counts = split_by_fractions(settings.max_samples, fractions)
        sets = [at_most(one, count) for one, count in zip(sets, counts, strict=True)]
    return _mixed(sets, fractions)


def with_classes_of(shards: ShardSet, train_set: ShardSet, classes: Sequence[str] | None = None) -> ShardSet:
    """Return a validation set with labels that count through the classes of a mix, or through chosen classes.

    The set stays as it is if the training set is neither. Its labels stay if it has a class that the training set does
    not have.

    Args:
        shards: the validation set.
        train_set: the training set.
        classes: names of the classes that the training set was restricted to. None: all.

    Raises:
        UserError: the validation set has no sample of these classes.
    """
    if classes is not None:
        shards = only_classes(shards, classes)
    elif train_set.mix is None:
        return shards
    if shards.classes == train_set.classes or not set(shards.classes) <= set(train_set.classes):
        return shards
    index = renumbered(shards.index, shards.classes, train_set.classes)
    return shards.with_classes(train_set.classes, index)


def split_by_fractions(samples: int, fractions: Sequence[Fraction]) -> list[int]:
    """Split a number of samples by fractions that add up to 1. Each part is off by less than one sample.

    What rounding down leaves over goes to the parts with the largest remainders, and of equal ones to the earlier.
    """
    exact = [samples * fraction for fraction in fractions]
    parts = [int(part) for part in exact]
    by_remainder = sorted(range(len(parts)), key=lambda number: parts[number] - exact[number])
    for number in by_remainder[: samples - sum(parts)]:
        parts[number] += 1
    return parts


def _fractions(settings: DataSettings, sets: Sequence[ShardSet]) -> tuple[Fraction, ...]:
    """Return the fraction of the samples that each set gives. They add up to exactly 1."""
    assert isinstance(settings.train, tuple)
    asked = [
        # The text of a float is the decimal number that the user gave: 0.1 is a tenth.
        Fraction(len(shards)) if one.weight is None else Fraction(str(one.weight))
        for one, shards in zip(settings.train, sets, strict=True)
    ]
    return tuple(weight / sum(asked) for weight in asked)


def _mixed(sets: Sequence[ShardSet], fractions: tuple[Fraction, ...]) -> ShardSet:
    classes = join_classes([(one.folder, one.classes) for one in sets])
    indexes = [renumbered(one.index, one.classes, classes) for one in sets]
    index = np.concatenate(indexes)
    counts = [len(one.shard_sizes) for one in sets]
    index["shard"] += np.repeat(np.cumsum([0, *counts[:-1]]), [len(one) for one in sets]).astype(np.int32)
    record = DatasetRecord(
        version=VERSION,
        fingerprint=_fingerprint(sets, fractions),
        samples=len(index),
        quarantined=sum(one.record.quarantined for one in sets),
        classes=classes,
        shards=tuple(
            ShardRecord(f"{_name(one.folder)}/{shard.name}", shard.size, samples)
            for one in sets
            for shard, samples in zip(one.record.shards, one.shard_sizes, strict=True)
        ),
    )
    files = JoinedFiles([one.files for one in sets], counts)
    mixed = ShardSet(" + ".join(_name(one.folder) for one in sets), record, index, files)
    mixed.mix = Mix(tuple(counts), fractions)
    return mixed


def _name(folder: Path | str) -> str:
    return shown(str(folder)).rstrip("/")


def _fingerprint(sets: Sequence[ShardSet], fractions: Sequence[Fraction]) -> str:
    """Return a hash of everything that decides the samples of a mix: the sets, their class names and fractions."""
    parts = [
        [one.fingerprint, one.classes, str(fraction)] for one, fraction in zip(sets, fractions, strict=True)
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
