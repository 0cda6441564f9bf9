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
from data_pipelines.urls import Url, shown


def open_train_shards(settings: DataSettings) -> ShardSet:
    """Open the set that `data.train` names, or the mix of several sets.

    A mix is one dataset. Its samples and shards count through the sets in their order. Its classes are the union of all
    classes by name. Sets without labels add samples with the label -1. Names of shards begin with the folder of their
    set. Its index is in memory: 32 bytes per sample in each process.

    Raises:
        UserError: as for `ShardSet.open`, the labels of two sets cannot be joined, or a set of a mix has no samples.
    """
    places = settings.train_places
    if len(places) == 1:
        return ShardSet.open(places[0], settings)
    remote = sum(isinstance(place, Url) for place in places)
    sets = [ShardSet.open(place, settings, cache_fraction=1 / max(1, remote)) for place in places]
    for number, one in enumerate(sets):
        if len(one) == 0:
            raise UserError(
                "the set has no samples",
                where=one.folder,
                fix=f"remove it from data.train, where it is number {number} (counted from 0)",
            )
    return _mixed(sets, _weights(settings, sets))


def with_classes_of(shards: ShardSet, train_set: ShardSet) -> ShardSet:
    """Return a validation set with labels that count through the classes of a mix.

    The set stays as it is if the training set is not a mix, or if it has a class that the mix does not have.
    """
    if train_set.mix is None or not set(shards.classes) <= set(train_set.classes):
        return shards
    index = renumbered(shards.index, shards.classes, train_set.classes)
    return shards.with_classes(train_set.classes, index)


def _weights(settings: DataSettings, sets: Sequence[ShardSet]) -> tuple[Fraction, ...]:
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
            ShardRecord(f"{_name(one.folder)}/{shard.name}", shard.size, shard.samples)
            for one in sets
            for shard in one.record.shards
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
