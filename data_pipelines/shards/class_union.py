"""Joins the classes of several datasets by name, and renumbers labels to match."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from data_pipelines.shards.index import checksum


def join_classes(sets: Sequence[tuple[Path | str, tuple[str, ...]]]) -> tuple[str, ...]:
    """Return every class name of several datasets once: those of the first dataset, then the new ones of each next.

    Args:
        sets: folder and class names of each dataset. Datasets without labels have no names.

    Raises:
        UserError: two datasets have different numbers as class names. A number says nothing about the class, so the
            same number may mean two classes.
    """
    numbered = [(folder, names) for folder, names in sets if names and all(map(str.isdecimal, names))]
    for folder, names in numbered[1:]:
        first, first_names = numbered[0]
        if names != first_names:
            raise UserError(
                f"its {len(names)} classes have numbers as names, and so have the {len(first_names)} classes of "
                f"{first}. Equal numbers may mean different classes, so their labels cannot be joined",
                where=folder,
                fix=f"name its classes: all4one data index {quoted(folder)} --classes FILE",
            )
    return tuple(dict.fromkeys(name for _, names in sets for name in names))


def renumbered(rows: NDArray[np.void], before: Sequence[str], after: Sequence[str]) -> NDArray[np.void]:
    """Return index rows `[N]` with labels that count through other class names. The checksums stay valid.

    Args:
        rows: rows of an index.
        before: class names that the labels count through.
        after: class names that contain all of these that have samples.
    """
    place = {name: number for number, name in enumerate(after)}
    labels = np.array([*(place.get(name, -1) for name in before), -1], np.int32)  # the last one stands for -1
    if (labels[:-1] == np.arange(len(before))).all():
        return rows
    # A CRC-32 is linear: with another label, it changes by a value that depends only on the two labels.
    changes = np.array(
        [checksum(b"", old, 0, 0) ^ checksum(b"", int(new), 0, 0) for old, new in enumerate(labels[:-1])]
        + [0],
        np.uint32,
    )
    rows = rows.copy()
    rows["crc32"] ^= changes[rows["label"]]
    rows["label"] = labels[rows["label"]]
    return rows
