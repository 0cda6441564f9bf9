"""The labels of all samples of a set of shards, numbered together."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError
from data_pipelines.formatting import counted, readable
from data_pipelines.shards.tars import Warn
from data_pipelines.sources.image_sources import Place
from data_pipelines.sources.shard_labels import (
    LOOKED_FOR,
    MAX_CLASSES,
    ClassNames,
    Label,
    LabelError,
    label_member,
    parse_label,
    require_class,
    weak_label,
    weak_member,
)
from data_pipelines.sources.shard_samples import IMAGES, Sample


class ScannedLabels(NamedTuple):
    """The labels of one shard, by sample."""

    labels: list[Label]
    """-1 without a label."""
    weak: list[Label | None]
    """Labels in members that hold labels only if the whole set has no others. None: there is no such member. Empty: at
    least one of these members is something else."""
    extensions: Counter[str]
    """Extensions of the members that are not images."""
    first: dict[type, str]
    """A sample with a number, and a sample with a name."""


class SetLabels(NamedTuple):
    """The labels of a set."""

    numbers: NDArray[np.int64]
    """Class of each sample. -1 without a label."""
    classes: tuple[str, ...]


class LabelScan:
    """Collects the labels of the samples of a shard.

    Args:
        path: the shard.
        names: the known classes.
        fields: fields of `.json` that may hold the label.
        enabled: whether labels are read at all.
    """

    def __init__(
        self, path: Path, names: ClassNames | None, fields: Sequence[str], *, enabled: bool = True
    ) -> None:
        self._path, self._names, self._fields, self._enabled = path, names, fields, enabled
        self._labels: list[Label] = []
        self._weak: list[Label | None] = []
        self._weak_works = True
        self._extensions: Counter[str] = Counter()
        self._first: dict[type, str] = {}

    def add(self, sample: Sample) -> None:
        """Read the label of the next sample.

        Raises:
            UserError: it is not a label, or not among the known classes.
        """
        label: Label = -1
        weak: Label | None = None
        if self._enabled:
            self._extensions.update(name for name in sample.files if name.rpartition(".")[2] not in IMAGES)
            try:
                if (name := label_member(sample.files)) is not None:
                    label = self._checked(parse_label(name, self._read(sample, name), self._fields))
                if label == -1:
                    weak = self._weak_of(sample)
            except LabelError as error:
                where = f"{readable(self._path)}/{readable(sample.key)}"
                raise UserError(str(error), where=where, fix=error.fix) from None
        if label != -1:
            self._first.setdefault(type(label), f"{readable(self._path)}/{readable(sample.key)}")
        self._labels.append(label)
        self._weak.append(weak)

    def result(self) -> ScannedLabels:
        """Return what was found."""
        weak = self._weak if self._weak_works else []
        return ScannedLabels(self._labels, weak, self._extensions, self._first)

    def _checked(self, label: Label) -> Label:
        if self._names is not None:
            return self._names.number(label)
        return require_class(label, MAX_CLASSES) if isinstance(label, int) else label

    def _weak_of(self, sample: Sample) -> Label | None:
        name = weak_member(sample.files) if self._weak_works else None
        if name is None:
            return None
        label = weak_label(name, self._read(sample, name))
        try:
            if isinstance(label, str) and self._names is not None:
                return self._names.number(label)
            if isinstance(label, int):
                return self._checked(label)
        except LabelError:
            pass
        self._weak_works = False
        return None

    def _read(self, sample: Sample, name: str) -> bytes:
        member = sample.files[name]
        return Place(self._path, member.offset, member.size).read()


def set_labels(
    scans: Sequence[ScannedLabels], names: ClassNames | None, *, labels: bool = True, warn: Warn
) -> SetLabels:
    """Number the labels of all shards of a set.

    Args:
        scans: labels of each shard.
        names: the known classes.
        labels: whether labels are wanted.
        warn: called if labels are missing.

    Raises:
        UserError: some labels are numbers and others are names.
    """
    found = [label for scan in scans for label in scan.labels]
    if not labels:
        return SetLabels(np.full(len(found), -1), ())
    if all(label == -1 for label in found):
        weak = [label for scan in scans for label in scan.weak]
        if len(weak) == len(found) and any(label is not None for label in weak):
            found = [-1 if label is None else label for label in weak]
    result = _numbered(found, scans, names)
    _warn_of_missing(result.numbers, sum((scan.extensions for scan in scans), Counter()), warn)
    return result


def _numbered(found: Sequence[Label], scans: Iterable[ScannedLabels], names: ClassNames | None) -> SetLabels:
    texts = {label for label in found if isinstance(label, str)}
    if texts and any(isinstance(label, int) and label >= 0 for label in found):
        first = {kind: where for scan in reversed(list(scans)) for kind, where in scan.first.items()}
        raise UserError(
            f"some labels are numbers and others are names, such as {min(texts)!r}",
            where=first.get(str),
            fix=f"use one kind for all samples. {first.get(int)} has a number",
        )
    if texts:
        names = ClassNames(sorted(texts))
    if names is not None:
        numbers = np.array([names.number(label) for label in found], np.int64)
        return SetLabels(numbers, names.names)
    numbers = np.array(found, np.int64)
    return SetLabels(numbers, tuple(str(label) for label in range(int(numbers.max(initial=-1)) + 1)))


def _warn_of_missing(numbers: NDArray[np.int64], extensions: Counter[str], warn: Warn) -> None:
    missing = int((numbers < 0).sum())
    if missing == len(numbers) and extensions:
        members = Counter({f".{readable(name)}": count for name, count in extensions.items()})
        warn(
            f"no sample has a label. Looked for {LOOKED_FOR}. Found {counted(members)}. If the set has no labels, use "
            f"--no-labels; if another field of .json holds them, use --label-column FIELD"
        )
    elif 0 < missing < len(numbers):
        warn(f"{missing:,} of {len(numbers):,} samples have no label")
