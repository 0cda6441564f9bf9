"""Index WebDataset shards from any origin: find each sample's image, label, size and CRC.

`shard_samples` and `shard_labels` define what a sample, its image and its label are. Without a label it is unlabeled.
"""

import os
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError
from data_pipelines.formatting import amount, counted, quoted, readable
from data_pipelines.imaging.depth import dim_warning, highest, is_deep
from data_pipelines.imaging.images import UnusableImage, check
from data_pipelines.shards.index import (
    BUILDING,
    CLASSES,
    DATASET,
    ROW,
    DatasetRecord,
    finished_checksum,
    write_index,
)
from data_pipelines.shards.tars import Warn
from data_pipelines.sources.classes import read_classes
from data_pipelines.sources.image_sources import Place
from data_pipelines.sources.shard_label_sets import LabelScan, ScannedLabels, set_labels
from data_pipelines.sources.shard_labels import LABEL_FIELDS, ClassNames
from data_pipelines.sources.shard_samples import (
    DOTS_FIX,
    IMAGES,
    Sample,
    choose_ending,
    choose_image,
    hidden_were_skipped,
    read_samples,
    shard_paths,
)
from data_pipelines.workers import spread

_MAX_DEEP = 8
"""Number of 16-bit images of a shard whose values are looked at."""


class _Task(NamedTuple):
    folder: Path
    path: Path
    decode: bool
    names: ClassNames | None
    """The known classes."""
    labels: bool
    fields: Sequence[str]
    endings: bool
    """Whether an extension such as `input.jpg` also names an image."""


class _Scan(NamedTuple):
    size: int
    rows: NDArray[np.void]
    """`crc32` is that of the image alone, and there is no label yet."""
    labels: ScannedLabels
    quarantined: list[dict[str, str]]
    left_out: Counter[str]
    """Extensions of samples without an image."""
    hidden: int
    doubts: list[str]
    deep: tuple[int, int]
    """Number of 16-bit images that were looked at, and their highest value."""


def index_folder(
    folder: Path,
    *,
    decode: bool = False,
    workers: int = 1,
    classes: Path | None = None,
    labels: bool = True,
    label_field: str | None = None,
    report: Callable[[int], object] = lambda _: None,
    warn: Warn = lambda _: None,
) -> DatasetRecord:
    """Index the `*.tar` of a folder, or of its subfolders if the folder itself has none.

    Class names are the lines of `classes`, or of `classes.txt` in the folder. Without these they are the numbers up to
    the highest label, or the sorted labels if these are names.

    Args:
        folder: folder of the shards.
        decode: whether to decode each image completely. Otherwise only header and end marker are checked.
        workers: number of worker processes.
        classes: file with the class names, one per line.
        labels: whether to read labels.
        label_field: the field of `.json` that holds the label. None: the usual ones.
        report: called with the number of finished shards.
        warn: called with each warning, such as the number of members that were left out.

    Raises:
        UserError: there are no shards, the folder is not writable, a shard is truncated or compressed, a label is not a
            class, samples cannot be told apart, or no image is usable.
    """
    if not labels and (classes is not None or label_field is not None):
        option = "--classes" if classes is not None else "--label-column"
        raise UserError(f"{option} and --no-labels exclude each other", fix="leave out one of them")
    paths = shard_paths(folder, warn)
    _require_indexable(folder, paths)
    names = read_classes(folder / CLASSES, missing_ok=True) if classes is None else read_classes(classes)
    known = ClassNames(names, CLASSES if classes is None else str(classes)) if names else None
    fields = LABEL_FIELDS if label_field is None else (label_field,)
    task = _Task(folder, folder, decode, known, labels, fields, endings=False)
    scans = _scan_all(task, paths, workers, report)
    if not any(len(scan.rows) for scan in scans):  # perhaps all images have names such as KEY.input.jpg
        scans = _scan_all(task._replace(endings=True), paths, workers, report)
    if not any(len(scan.rows) for scan in scans):
        raise _nothing_usable(folder, scans)
    found = set_labels([scan.labels for scan in scans], known, labels=labels, warn=warn)
    rows = _finish_rows(scans, found.numbers)
    _warn_of_left_out(folder, scans, warn)
    shards = [
        (path.relative_to(folder).as_posix(), scan.size) for path, scan in zip(paths, scans, strict=True)
    ]
    quarantined = [entry for scan in scans for entry in scan.quarantined]
    return write_index(folder, rows, classes=found.classes, shards=shards, quarantined=quarantined)


def _require_indexable(folder: Path, paths: Sequence[Path]) -> None:
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
    for path in paths:
        name = path.relative_to(folder)
        if readable(name) != os.fsdecode(os.fsencode(name)):
            raise UserError("the name of the shard is not UTF-8", where=readable(path), fix="rename the file")
        if "\\" in str(name):
            raise UserError(
                "the name of the shard has a backslash", where=readable(path), fix="rename the file"
            )


def _scan_all(
    task: _Task, paths: Sequence[Path], workers: int, report: Callable[[int], object]
) -> list[_Scan]:
    scans = []
    for scan in spread(_scan, [task._replace(path=path) for path in paths], workers=workers):
        scans.append(scan)
        report(len(scans))
    return scans


def _scan(task: _Task) -> _Scan:
    doubts: list[str] = []
    listed = read_samples(task.path, doubts.append)
    if not listed.samples:
        doubts.append(f"{readable(task.path)} contains no samples")
    rows: list[tuple[int, ...]] = []
    quarantined: list[dict[str, str]] = []
    left_out: Counter[str] = Counter()
    labels = LabelScan(task.path, task.names, task.fields, enabled=task.labels)
    deep = top = 0
    for sample, image in _by_image(listed.samples, task.endings):
        try:
            if image is None:
                left_out.update(sample.files.keys())
                raise UnusableImage("no image among its members")
            member = sample.files[image]
            data = Place(task.path, member.offset, member.size).read()
            header = check(data, decode=task.decode)
        except UnusableImage as error:
            key = readable(sample.key)
            shard = task.path.relative_to(task.folder).as_posix()
            quarantined.append({"key": key, "shard": shard, "reason": str(error)})
            continue
        if deep < _MAX_DEEP and is_deep(data):
            deep, top = deep + 1, max(top, highest(data))
        labels.add(sample)
        place = (0, member.offset, member.size, -1)
        rows.append((*place, header.width, header.height, zlib.crc32(data)))
    return _Scan(
        task.path.stat().st_size,
        np.array(rows, dtype=ROW),
        labels.result(),
        quarantined,
        left_out,
        listed.hidden,
        doubts,
        (deep, top),
    )


def _by_image(samples: Sequence[Sample], endings: bool) -> list[tuple[Sample, str | None]]:
    """Return the samples with the extensions of their images, in the order of the images, as the index needs it."""
    chosen = [
        (sample, choose_image(sample.files) or (choose_ending(sample.files, IMAGES) if endings else None))
        for sample in samples
    ]

    def place(entry: tuple[Sample, str | None]) -> int:
        sample, image = entry
        members = sample.files.values() if image is None else [sample.files[image]]
        return min(member.offset for member in members)

    return sorted(chosen, key=place)


def _finish_rows(scans: Sequence[_Scan], numbers: NDArray[np.int64]) -> NDArray[np.void]:
    for number, scan in enumerate(scans):
        scan.rows["shard"] = number
    rows = np.concatenate([scan.rows for scan in scans])
    rows["label"] = numbers
    fields = (rows[name].tolist() for name in ("crc32", "label", "width", "height"))
    rows["crc32"] = [finished_checksum(*values) for values in zip(*fields, strict=True)]
    return rows


def _nothing_usable(folder: Path, scans: Sequence[_Scan]) -> UserError:
    reasons = Counter(entry["reason"] for scan in scans for entry in scan.quarantined)
    left_out = _dotted(sum((scan.left_out for scan in scans), Counter()))
    if not reasons:
        return UserError("the shards contain no samples", where=folder, fix="pack images into the shards")
    what = f"no image of the shards is usable: {counted(reasons)}"
    if left_out:
        what += f". Looked for {', '.join(f'.{name}' for name in IMAGES)}. Found {counted(left_out)}"
    if any(_has_dots_in_names(scan) for scan in scans):
        fix = DOTS_FIX
    elif left_out:
        fix = f"convert the images while the shards are built: all4one data build {quoted(folder)} OUT"
    else:
        fix = "check the images in the shards"
    return UserError(what, where=folder, fix=fix)


def _has_dots_in_names(scan: _Scan) -> bool:
    """Return whether samples have several images each, because the names of all of them start alike up to a dot."""
    images = sum(count for name, count in scan.left_out.items() if name.rpartition(".")[2] in IMAGES)
    return images > len(scan.quarantined)


def _dotted(extensions: Counter[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for name, count in extensions.items():
        found[f".{readable(name.rpartition('.')[2])}" if name else "no extension"] += count
    return found


def _warn_of_left_out(folder: Path, scans: Sequence[_Scan], warn: Warn) -> None:
    for doubt in (doubt for scan in scans for doubt in scan.doubts):
        warn(doubt)
    if hidden := sum(scan.hidden for scan in scans):
        warn(hidden_were_skipped(hidden))
    if left_out := _dotted(sum((scan.left_out for scan in scans), Counter())):
        samples = sum(entry["reason"].startswith("no image") for scan in scans for entry in scan.quarantined)
        none = f"no image that training reads ({', '.join(IMAGES)})"
        warn(
            f"{amount(samples, f'sample has {none} and was', f'samples have {none} and were')} left out. "
            f"Their members: {counted(left_out)}. `all4one data build {quoted(folder)} OUT` also reads other formats"
        )
    if (warning := dim_warning(*_sum_deep(scans))) is not None:
        warn(warning)


def _sum_deep(scans: Sequence[_Scan]) -> tuple[int, int]:
    return sum(scan.deep[0] for scan in scans), max((scan.deep[1] for scan in scans), default=0)
