"""What `all4one data reshard`, `merge` and `split` do before they write shards: open, check and divide sets."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.formatting import amount
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.shards.validation_split import validation_fraction, validation_per_class
from data_pipelines.sources.indexed_sets import part_of
from data_pipelines.sources.items import Source
from data_pipelines.urls import Url, place

TRAIN, VALIDATION = "train", "validation"
_SHOWN_CLASSES = 5


def open_different(places: Sequence[str]) -> list[ShardSet]:
    """Open the datasets of a merge.

    Raises:
        UserError: there are fewer than two, one cannot be opened, or one is given twice.
    """
    if len(places) < 2:
        raise UserError(
            "a merge needs two sets or more",
            where=places[0] if places else None,
            fix="give several sets before OUT, or write one set again: all4one data reshard SET OUT",
        )
    sets = [ShardSet.open(one) for one in places]
    for number, one in enumerate(sets):
        for other in sets[:number]:
            if one.fingerprint == other.fingerprint:
                raise UserError(
                    f"the set has the same samples as {other.folder}, so each would come twice",
                    where=one.folder,
                    fix="give each set once",
                )
    return sets


def output_folder(out: str, sets: Sequence[ShardSet], parts: Sequence[str] = ("",)) -> Path:
    """Return the folder of the output.

    Args:
        out: the folder as the user gives it.
        sets: the datasets that are read.
        parts: subfolders of `out` that are written. An empty name is `out` itself.

    Raises:
        UserError: it is a URL or a file, it lies in a folder that is read, or something that is read lies in it.
    """
    folder = place(out)
    if isinstance(folder, Url):
        raise UserError(
            "shards are written to local folders only", where="OUT", fix="give a local folder, then upload it"
        )
    if folder.exists() and not folder.is_dir():
        raise UserError("is a file, not a folder", where=folder, fix="choose a new or empty folder for OUT")
    written = [(folder / part).resolve() for part in parts]
    for one in sets:
        if not isinstance(one.folder, Path):
            continue
        read = one.folder.resolve()
        lies_inside = any(path.is_relative_to(read) for path in [folder.resolve(), *written])
        if lies_inside or any(_holds(path, one.folder, one) for path in written):
            raise UserError(
                f"the output would lie in the folder of {one.folder}, which is read, or around it",
                where=folder,
                fix="choose a folder for OUT that is apart from the sets",
            )
    return folder


def _holds(path: Path, folder: Path, shards: ShardSet) -> bool:
    """Return whether a folder holds a dataset, or a shard that a dataset links to."""
    if folder.resolve().is_relative_to(path):
        return True
    return path.exists() and any(
        (folder / shard.name).resolve().is_relative_to(path) for shard in shards.record.shards
    )


def split(
    source: Source, *, fraction: Fraction | None, per_class: int | None, seed: int, where: object
) -> Mapping[str, Source]:
    """Divide the samples of a source into a training and a validation part. Each sample is in exactly one of them.

    Args:
        source: the samples.
        fraction: fraction of the samples for validation, in (0, 1). The classes keep their proportions.
        per_class: number of samples of each class for validation, in place of a fraction.
        seed: seed of the choice.
        where: the dataset, for messages.

    Raises:
        UserError: a part would be empty, or a number for each class leaves a class without training samples.
    """
    labels = np.array([item.label for item in source.items], np.int64)
    if per_class is not None:
        _require_more(labels, source.classes, per_class, where)
        chosen = validation_per_class(labels, per_class, seed)
    else:
        assert fraction is not None
        chosen = validation_fraction(labels, fraction, seed)
        if chosen.all() or not chosen.any():
            raise UserError(
                f"the fraction {float(fraction):g} of {amount(len(labels), 'sample', 'samples')} leaves the "
                f"{TRAIN if chosen.all() else VALIDATION} part empty",
                where=where,
                fix=f"use a {'smaller' if chosen.all() else 'larger'} --fraction",
            )
    parts = {TRAIN: part_of(source, ~chosen), VALIDATION: part_of(source, chosen)}
    notes = [*source.notes, *_missing(source, parts)]
    return parts | {TRAIN: parts[TRAIN]._replace(notes=tuple(notes))}


def _require_more(labels: np.ndarray, classes: Sequence[str], per_class: int, where: object) -> None:
    if not classes:
        raise UserError(
            "the set has no labels, so --per-class cannot be used", where=where, fix="use --fraction"
        )
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    few = np.flatnonzero((counts > 0) & (counts <= per_class))
    if len(few):
        name, count = classes[few[0]], int(counts[few[0]])
        others = f", and {amount(len(few) - 1, 'other class', 'other classes')}" if len(few) > 1 else ""
        raise UserError(
            f"--per-class {per_class} leaves no training sample of class {name!r}, which has {count}{others}",
            where=where,
            fix="use a smaller --per-class, or --fraction",
        )


def _missing(source: Source, parts: Mapping[str, Source]) -> list[str]:
    """Warn of classes that have samples in only one of the parts."""
    notes = []
    everywhere = {item.label for item in source.items} - {-1}
    for name, part in parts.items():
        if lacks := sorted(everywhere - {item.label for item in part.items}):
            shown = ", ".join(source.classes[label] for label in lacks[:_SHOWN_CLASSES])
            more = ", …" if len(lacks) > _SHOWN_CLASSES else ""
            notes.append(
                f"{amount(len(lacks), 'class has', 'classes have')} too few samples for a place in the {name} part: "
                f"{shown}{more}"
            )
    return notes
