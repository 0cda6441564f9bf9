"""Index WebDataset shards from any origin: find each sample's image, label, size and CRC.

A sample is a sequence of members with the same key: the name up to the first dot of its last part. Its image is `.jpg`,
`.jpeg`, `.png` or `.webp`. Its label is `.cls` (an integer as text), or the first existing field of `label`, `cls` and
`class` in `.json`. Without either it is unlabeled.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError
from data_pipelines.imaging.images import UnusableImage, check
from data_pipelines.shards.index import BUILDING, CLASSES, DATASET, ROW, DatasetRecord, checksum, write_index
from data_pipelines.shards.tars import Member, members
from data_pipelines.sources.image_sources import Place
from data_pipelines.workers import spread

_IMAGES = ("jpg", "jpeg", "png", "webp")
_LABELS = ("cls", "json")  # the first that exists is used
_LABEL_FIELDS = ("label", "cls", "class")
_MAX_CLASSES = 1_000_000


class _Task(NamedTuple):
    path: Path
    decode: bool
    classes: int
    """Labels must be below this number."""


class _Scan(NamedTuple):
    size: int
    rows: NDArray[np.void]
    quarantined: list[dict[str, str]]


def index_folder(
    folder: Path, *, decode: bool = False, workers: int = 1, report: Callable[[int], object] = lambda _: None
) -> DatasetRecord:
    """Index all `*.tar` of a folder.

    Class names are the lines of `classes.txt`. Without that file they are the numbers up to the highest label.

    Args:
        folder: folder of the shards.
        decode: whether to decode each image completely. Otherwise only header and end marker are checked.
        workers: number of worker processes.
        report: called with the number of finished shards.

    Raises:
        UserError: there are no shards, the folder is not writable, a shard is truncated or compressed, a label is not a
            class, or no image is usable.
    """
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise UserError(
            "the folder contains no .tar files", where=folder, fix="give the folder of the shards"
        )
    if (folder / BUILDING).exists() and not (folder / DATASET).exists():
        raise UserError(
            "the build of these shards was interrupted", where=folder, fix="run the same build command again"
        )
    if not os.access(folder, os.W_OK):
        raise UserError(
            "the index cannot be written: this folder is read-only",
            where=folder,
            fix="make the folder writable, or link the shards into another folder and index that folder",
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
            f"no image of the shards is usable; {len(quarantined)} were rejected",
            where=folder,
            fix="check the images in the shards",
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
        raise UserError(
            "the class names cannot be read", where=path, fix="write one name per line"
        ) from error


def _scan(task: _Task) -> _Scan:
    rows: list[tuple[int, ...]] = []
    quarantined: list[dict[str, str]] = []
    for key, files in _samples(task.path):
        name = choose_image(files)
        try:
            if name is None:
                raise UnusableImage("no image among its members")
            image = files[name]
            data = Place(task.path, image.offset, image.size).read()
            header = check(data, decode=task.decode)
        except UnusableImage as error:
            quarantined.append({"key": key, "shard": task.path.name, "reason": str(error)})
            continue
        label = _label(task, key, files)
        rows.append(
            (
                0,
                image.offset,
                image.size,
                label,
                header.width,
                header.height,
                checksum(data, label, header.width, header.height),
            )
        )
    return _Scan(task.path.stat().st_size, np.array(rows, dtype=ROW), quarantined)


def _samples(path: Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yield key and members by extension of each sample."""
    for key, group in groupby(members(path), key=lambda member: _split(member.name)[0]):
        yield key, {_split(member.name)[1]: member for member in group}


def _split(name: str) -> tuple[str, str]:
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _label(task: _Task, key: str, files: dict[str, Member]) -> int:
    texts: dict[str, bytes] = {}
    if (name := next((name for name in _LABELS if name in files), None)) is not None:
        texts[name] = Place(task.path, files[name].offset, files[name].size).read()
    try:
        return read_label(texts, task.classes)
    except LabelError as error:
        raise UserError(str(error), where=f"{task.path}/{key}", fix=error.fix) from None


class LabelError(Exception):
    """An invalid label. The message gives the reason.

    Args:
        what: what is wrong with the label.
        fix: how the creator of the shards can fix it.
    """

    def __init__(self, what: str, fix: str) -> None:
        self.fix = fix
        super().__init__(what)


def choose_image(files: Mapping[str, object]) -> str | None:
    """Return the extension of the member that is the sample's image, or None if there is none."""
    return next((name for name in _IMAGES if name in files), None)


def read_label(texts: Mapping[str, bytes], classes: int) -> int:
    """Return the label in a sample's `.cls` or `.json`, or -1 if it has neither.

    Args:
        texts: content of the members by extension.
        classes: number of classes.

    Raises:
        LabelError: it is not a whole number, or outside the classes.
    """
    text: object = -1
    if "cls" in texts:
        text = texts["cls"].decode("utf-8", "replace").strip()
    elif "json" in texts:
        try:
            fields = json.loads(texts["json"])
            text = next((fields[name] for name in _LABEL_FIELDS if fields.get(name) is not None), -1)
        except (ValueError, AttributeError):
            raise LabelError("its .json is not a JSON object", "correct or remove the sample") from None
    try:
        label = int(text) if isinstance(text, str | int) else None
    except ValueError:
        label = None
    if label is None:
        raise LabelError(f"its label is not a whole number: {text!r}", "number the classes from 0")
    if not -1 <= label < classes:
        raise LabelError(
            f"its label {label} is outside the {classes:,} classes",
            f"correct the label, or write all class names to {CLASSES}, one per line",
        )
    return label
