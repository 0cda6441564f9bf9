"""Indexes WebDataset shards, ours or somebody else's: finds each sample's image, label, size and CRC.

A sample is the run of members that share a key: the name up to the first dot of its last part. Its image is
`.jpg`, `.jpeg`, `.png` or `.webp`; its label is `.cls` (an integer as text), or the first of the fields `label`,
`cls` and `class` of `.json` that is there; without either it is unlabelled.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError
from data_pipelines.images import UnusableImage, check
from data_pipelines.index import BUILDING, CLASSES, DATASET, ROW, DatasetRecord, write_index
from data_pipelines.sources import Place
from data_pipelines.tars import Member, members
from data_pipelines.workers import spread

_IMAGES = ("jpg", "jpeg", "png", "webp")
_LABEL_FIELDS = ("label", "cls", "class")
_MAX_CLASSES = 1_000_000


class _Task(NamedTuple):
    path: Path
    decode: bool
    classes: int
    """Labels must be below this."""


class _Scan(NamedTuple):
    size: int
    rows: NDArray[np.void]
    quarantined: list[dict[str, str]]


def index_folder(
    folder: Path, *, decode: bool = False, workers: int = 1, report: Callable[[int], object] = lambda _: None
) -> DatasetRecord:
    """Index all `*.tar` of a folder.

    Class names are the lines of `classes.txt`; without that file they are the numbers up to the highest label.

    Args:
        folder: where the shards lie.
        decode: decode each image wholly; otherwise only header and end marker are looked at.
        workers: processes that read side by side.
        report: told how many shards are done.

    Raises:
        UserError: no shards, a shard that is cut or compressed, a label that is no class, or no usable image.
    """
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise UserError("the folder holds no .tar files", where=folder, fix="name the folder of the shards")
    if (folder / BUILDING).exists() and not (folder / DATASET).exists():
        raise UserError(
            "the build of these shards was interrupted", where=folder, fix="run the same build command again"
        )
    classes = _read_classes(folder / CLASSES)
    tasks = [_Task(path, decode, len(classes) or _MAX_CLASSES) for path in paths]
    scans = []
    for scan in spread(_scan, tasks, workers=workers):
        scans.append(scan)
        report(len(scans))
    for number, scan in enumerate(scans):
        scan.rows["shard"] = number
    rows = np.concatenate([scan.rows for scan in scans])
    quarantined = [entry for scan in scans for entry in scan.quarantined]
    if not len(rows):
        raise UserError(
            f"no image of the shards can be used; {len(quarantined)} were refused",
            where=folder,
            fix="look at them",
        )
    if not classes:
        classes = [str(label) for label in range(int(rows["label"].max()) + 1)]
    shards = [(path.name, scan.size) for path, scan in zip(paths, scans, strict=True)]
    return write_index(folder, rows, classes=classes, shards=shards, quarantined=quarantined)


def _read_classes(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("the class names cannot be read", where=path, fix="write one name a line") from error


def _scan(task: _Task) -> _Scan:
    rows: list[tuple[int, ...]] = []
    quarantined: list[dict[str, str]] = []
    for key, files in _samples(task.path):
        image = next((files[name] for name in _IMAGES if name in files), None)
        try:
            if image is None:
                raise UnusableImage("no image among its members")
            data = Place(task.path, image.offset, image.size).read()
            header = check(data, decode=task.decode)
        except UnusableImage as error:
            quarantined.append({"key": key, "shard": task.path.name, "reason": str(error)})
            continue
        label = _label(task, key, files)
        rows.append((0, image.offset, image.size, label, header.width, header.height, zlib.crc32(data)))
    return _Scan(task.path.stat().st_size, np.array(rows, dtype=ROW), quarantined)


def _samples(path: Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """Key and members by extension of each sample."""
    for key, group in groupby(members(path), key=lambda member: _split(member.name)[0]):
        yield key, {_split(member.name)[1]: member for member in group}


def _split(name: str) -> tuple[str, str]:
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _label(task: _Task, key: str, files: dict[str, Member]) -> int:
    where = f"{task.path}/{key}"
    if "cls" in files:
        text: object = _text(task.path, files["cls"])
    elif "json" in files:
        try:
            fields = json.loads(_text(task.path, files["json"]))
            text = next((fields[name] for name in _LABEL_FIELDS if fields.get(name) is not None), -1)
        except (ValueError, AttributeError) as error:
            raise UserError(
                "its .json is not a JSON object", where=where, fix="mend or remove the sample"
            ) from error
    else:
        return -1
    try:
        label = int(text) if isinstance(text, str | int) else None
    except ValueError:
        label = None
    if label is None:
        raise UserError(
            f"its label is not a whole number: {text!r}", where=where, fix="number the classes from 0"
        )
    if not -1 <= label < task.classes:
        raise UserError(
            f"its label {label} is outside the {task.classes:,} classes",
            where=where,
            fix=f"mend the label, or write all class names into {CLASSES}, one a line",
        )
    return label


def _text(path: Path, member: Member) -> str:
    return Place(path, member.offset, member.size).read().decode("utf-8", "replace").strip()
