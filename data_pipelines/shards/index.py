"""The index of a dataset on disk: `index.npy` has one row per sample, and `dataset.json` describes the dataset.

All files are first written under temporary names and renamed once they are on the disk, `dataset.json` last. A dataset
without it is incomplete and cannot be opened.
"""

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from data_pipelines.errors import UserError
from data_pipelines.files import replacing, sync
from data_pipelines.formatting import quoted, readable
from data_pipelines.urls import Url
from data_pipelines.walk import files_below

VERSION = 2
INDEX, DATASET, QUARANTINE, CLASSES = "index.npy", "dataset.json", "quarantine.jsonl", "classes.txt"
BUILDING = ".building"
"""Folder of notes that a build keeps in its output until the dataset is complete."""
_SHARD = re.compile(r"(?:(?!\.)[^/\\\0]+/)*(?!\.)[^/\\\0]+\.tar")
"""Names of shards: paths in the folder of the dataset, such as `part-00/shard-000.tar`. They become names of local
files, so they must not lead elsewhere."""
_LOOKED_AT = 100_000
"""Number of files that are looked at for a hint. A folder of images may have millions."""
_HASHED = 1 << 20
"""Number of rows that are hashed at a time."""
ROW = np.dtype(
    [
        ("shard", "<i4"),
        ("offset", "<i8"),
        ("size", "<u4"),
        ("label", "<i4"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("crc32", "<u4"),
    ]
)
"""Fields of one sample: shard number, offset and length of the encoded image, label (-1: none), size in pixels as
stored, and the `checksum` of these. Rows are sorted by shard and offset."""


class ShardRecord(NamedTuple):
    """One shard in `dataset.json`. It is a list of three values there, because a dataset may have ten thousand
    shards."""

    name: str
    """Path in the folder of the dataset, with `/` between folders."""
    size: int
    """Length of the file in bytes."""
    samples: int


class DatasetRecord(BaseModel):
    """The content of `dataset.json`."""

    model_config = ConfigDict(frozen=True)

    version: int
    fingerprint: str
    """SHA-256 of the index."""
    samples: int
    quarantined: int
    classes: tuple[str, ...]
    shards: tuple[ShardRecord, ...]


def index_fix(folder: Path) -> str:
    """Return the command that rebuilds the index of a folder."""
    return f"run: all4one data index {quoted(folder)}"


def write_index(
    folder: Path,
    rows: NDArray[np.void],
    *,
    classes: Sequence[str],
    shards: Sequence[tuple[str, int]],
    quarantined: Sequence[dict[str, str]],
) -> DatasetRecord:
    """Write the index of a dataset, which completes it.

    Args:
        folder: folder of the shards.
        rows: `[N]` of `ROW`, sorted by shard and offset.
        classes: names of the classes in the order of the labels.
        shards: name (see `ShardRecord`) and length in bytes of each shard.
        quarantined: key, shard and reason of each skipped sample.

    Raises:
        UserError: the disk is full or the folder is not writable.
    """
    counts = np.bincount(rows["shard"], minlength=len(shards))
    record = DatasetRecord(
        version=VERSION,
        fingerprint=fingerprint(rows),
        samples=len(rows),
        quarantined=len(quarantined),
        classes=tuple(readable(name) for name in classes),
        shards=tuple(
            ShardRecord(name=name, size=size, samples=int(count))
            for (name, size), count in zip(shards, counts, strict=True)
        ),
    )
    try:
        with ExitStack() as stack:
            # all are on the disk before the first is renamed; the record, which completes the dataset, comes last
            written = {
                name: stack.enter_context(replacing(folder / name)) for name in (DATASET, INDEX, QUARANTINE)
            }
            if classes:
                written[CLASSES] = stack.enter_context(replacing(folder / CLASSES))
                written[CLASSES].write_bytes("".join(f"{name}\n" for name in record.classes).encode())
            lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in quarantined)
            written[QUARANTINE].write_bytes(lines.encode("utf-8", "backslashreplace"))
            with written[INDEX].open("wb") as file:
                np.save(file, rows)
            written[DATASET].write_bytes(record.model_dump_json(indent=1).encode())
            for temporary in written.values():
                sync(temporary)
            (folder / DATASET).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"the index cannot be written: {error.strerror}",
            where=folder,
            fix="free some space, or make the folder writable",
        ) from error
    return record


def checksum(image: bytes, label: int, width: int, height: int) -> int:
    """Return the CRC-32 of an encoded image and of its index fields, which also reveals a changed label."""
    return finished_checksum(zlib.crc32(image), label, width, height)


def finished_checksum(image_crc: int, label: int, width: int, height: int) -> int:
    """Return the `checksum` of an image whose own CRC-32 is known."""
    return zlib.crc32(struct.pack("<iII", label, width, height), image_crc)


def fingerprint(rows: NDArray[np.void]) -> str:
    """Return the hash of an index."""
    digest = hashlib.sha256()
    for start in range(0, len(rows), _HASHED):
        digest.update(rows[start : start + _HASHED].tobytes())
    return digest.hexdigest()


def read_record(folder: Path) -> DatasetRecord:
    """Read `dataset.json` of a folder.

    Raises:
        UserError: the folder or its index is missing, or the index has another version.
    """
    if not folder.is_dir():
        raise UserError(
            "there is no such folder",
            where=folder,
            fix="give the folder that contains the .tar files, or build one: all4one data build SOURCE OUT",
        )
    try:
        content = (folder / DATASET).read_bytes()
    except FileNotFoundError:
        if (folder / BUILDING).exists():
            raise UserError(
                "the build of these shards was interrupted",
                where=folder,
                fix="run the same build command again",
            ) from None
        if (shard := _first_shard(folder)) is not None:
            if (shard.parent / DATASET).exists():
                raise UserError(
                    "the folder is not a set, but its subfolders are",
                    where=folder,
                    fix=f"give {shard.parent}",
                ) from None
            raise UserError("the shards have no index", where=folder, fix=index_fix(folder)) from None
        raise UserError(
            "the folder contains no shards", where=folder, fix="build some: all4one data build SOURCE OUT"
        ) from None
    except OSError as error:
        raise UserError(
            f"the file cannot be read: {error.strerror}", where=folder / DATASET, fix="make the file readable"
        ) from error
    return parse_record(content, where=folder / DATASET, fix=index_fix(folder))


def parse_record(content: bytes, *, where: Path | Url, fix: str) -> DatasetRecord:
    """Parse the bytes of a `dataset.json`.

    Args:
        content: content of the file.
        where: the file, for errors.
        fix: how to fix it, for errors.

    Raises:
        UserError: the bytes are not a record, or have another version.
    """
    try:
        record = DatasetRecord.model_validate_json(content)
    except ValidationError as error:
        raise UserError(
            f"the file is not an index of all4one{_instead(content)}", where=where, fix=fix
        ) from error
    if wrong := next((shard.name for shard in record.shards if not _SHARD.fullmatch(shard.name)), None):
        raise UserError(
            f"the file is not an index of all4one: {wrong!r} is not the path of a shard in its folder",
            where=where,
            fix=fix,
        )
    if record.version != VERSION:
        raise UserError(
            f"the index has version {record.version}, but this program reads version {VERSION}",
            where=where,
            fix=fix,
        )
    return record


def _first_shard(folder: Path) -> Path | None:
    """Return a shard in a folder or in its subfolders."""
    with suppress(UserError):  # a folder that cannot be read
        return next((path for path in islice(files_below(folder), _LOOKED_AT) if path.suffix == ".tar"), None)
    return None


def _instead(content: bytes) -> str:
    """Say what a file holds in place of an index."""
    if content.lstrip()[:1] == b"<":
        return ", but a web page (HTML), such as a login page"
    try:
        json.loads(content)
    except json.JSONDecodeError as error:
        if error.pos >= len(content.decode("utf-8", "replace").rstrip()) - 1 or "Unterminated" in error.msg:
            return f": it ends in the middle, after {len(content):,} bytes"
    except ValueError:
        pass
    return ""


def read_index(folder: Path, record: DatasetRecord) -> NDArray[np.void]:
    """Return the index `[N]` of a folder, memory-mapped.

    Raises:
        UserError: it is missing, or does not belong to `record`.
    """
    path = folder / INDEX
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError("the index is missing", where=path, fix=index_fix(folder)) from None
    except Exception as error:  # a broken header is parsed by Python's tokenizer, which raises its own errors
        raise UserError("the index cannot be read", where=path, fix=index_fix(folder)) from error
    if rows.dtype != ROW or rows.shape != (record.samples,):
        raise UserError("the index belongs to another dataset", where=path, fix=index_fix(folder))
    return rows


def read_quarantine(folder: Path) -> list[dict[str, str]]:
    """Return key, shard and reason of each sample that was skipped when the dataset was built."""
    return [json.loads(line) for line in (folder / QUARANTINE).read_text().splitlines()]
