"""Write the shards of one build task in a worker.

Image sizes may be estimates until the images are read (see `sources.Content`), so a task may fill more than its planned
shard. `shard-000003.tar` is then followed by `shard-000003_001.tar`. The index lists shards in the order of their
names.
"""

import errno
import json
import os
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.build.output_folder import disk_full
from data_pipelines.errors import UserError
from data_pipelines.files import sync, write_whole
from data_pipelines.imaging.depth import highest, is_deep, rescaled
from data_pipelines.imaging.foreign import as_known_format
from data_pipelines.imaging.images import Header, UnusableImage, check, decode_rgb
from data_pipelines.imaging.recode import Recoding
from data_pipelines.shards.index import BUILDING, checksum
from data_pipelines.sources.image_sources import Item, Place
from data_pipelines.sources.zips import Deflated

_BLOCK = 512
_OF_ONE_FILE = {errno.ENOENT, errno.EACCES, errno.EPERM}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Task(NamedTuple):
    """The input of one call of `write_shards`."""

    out: Path
    number: int
    items: list[Item]
    decode: bool
    recoding: Recoding
    shard_bytes: int
    needed: int
    """Size of all shards in bytes, for the error message if the disk is full."""


class Note(NamedTuple):
    """Facts about a finished shard."""

    name: str
    size: int
    rows: list[list[int]]
    """The fields of `index.ROW` after the first. Empty if no image was usable; then there is no file."""
    quarantined: list[dict[str, str]]
    deep: int = 0
    """Number of PNGs of 16 bits."""
    highest: int = 0
    """Their highest value."""


def write_shards(task: Task) -> list[Note]:
    """Write the shards of a task with a note, or return the note of an earlier attempt.

    Raises:
        UserError: the disk is full, or the folder is not writable.
    """
    note_path = task.out / BUILDING / f"{task.number:06d}.json"
    if note_path.exists():
        notes = [Note(*fields) for fields in json.loads(note_path.read_bytes())]
        if all(not note.rows or _is_there(task.out / note.name, note.size) for note in notes):
            return notes
    notes = []
    rest = task.items
    path = task.out / f"shard-{task.number:06d}.tar"
    try:
        while rest:
            note, used = _write_shard(task, rest, path)
            notes.append(note)
            rest = rest[used:]
            path = task.out / f"shard-{task.number:06d}_{len(notes):03d}.tar"
        write_whole(note_path, json.dumps(notes).encode())
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(task.out, task.needed) from error
        raise UserError(
            f"the shard cannot be written: {error.strerror}",
            where=path,
            fix="make the folder writable, then run the same command again",
        ) from error
    return notes


def prepare(item: Item, *, decode: bool, recoding: Recoding) -> tuple[bytes, Header]:
    """Return an image as it is stored in a shard.

    Raises:
        UnusableImage: it is not usable for training, or only its own file is missing or not readable.
        UserError: its source cannot be read. Then the build must stop, because it would skip all of its images.
    """
    try:
        data = item.read()
    except OSError as error:
        if _is_alone(item) and error.errno in _OF_ONE_FILE:
            raise UnusableImage(f"cannot be read: {error.strerror}") from error
        where = item.content.file if isinstance(item.content, Place | Deflated) else item.key
        raise UserError(
            f"the source cannot be read: {error.strerror or error}",
            where=where,
            fix="check its disk, then run the same command again to resume; if a file stays unreadable, remove it "
            "from the source, and the build starts over",
        ) from error
    data = as_known_format(data)
    if recoding.values is not None:
        data = rescaled(data, recoding.values)
    header = check(data, decode=False)
    if recoding.applies(header):
        return recoding.apply(data, header)
    if decode:
        decode_rgb(data, header)
    return data, header


def _is_alone(item: Item) -> bool:
    """Return whether the image has its own file, in an existing folder with other files."""
    place = item.content
    if not isinstance(place, Place) or place.offset:
        return False
    try:
        return any(path != place.file for path in place.file.parent.iterdir())
    except OSError:
        return False


def sample_bytes(size: int, label: int) -> int:
    """Return the bytes of a sample in a shard. Each member has a header and padding, and the label is its own
    member."""
    return _BLOCK + _padded(size, _BLOCK) + (2 * _BLOCK if label >= 0 else 0)


def shard_size(samples: int) -> int:
    """Return the size of a shard with `samples` bytes of samples: two empty blocks end it, and it is padded to a
    record."""
    return _padded(samples + 2 * _BLOCK, tarfile.RECORDSIZE)


def _write_shard(task: Task, items: list[Item], path: Path) -> tuple[Note, int]:
    """Write one shard atomically. Return its note and how many of the items it contains."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        note, used = _write_tar(temporary, task, items, path.name)
        if note.rows:
            temporary.replace(path)
            sync(task.out)
    finally:
        temporary.unlink(missing_ok=True)
    return note, used


def _write_tar(temporary: Path, task: Task, items: list[Item], name: str) -> tuple[Note, int]:
    from webdataset import TarWriter

    rows: list[list[int]] = []
    quarantined: list[dict[str, str]] = []
    samples = deep = top = 0
    used = len(items)
    with temporary.open("wb") as file:
        with TarWriter(file, encoder=False, mtime=0) as tar:
            for number, item in enumerate(items):
                try:
                    data, header = prepare(item, decode=task.decode, recoding=task.recoding)
                except UnusableImage as error:
                    quarantined.append({"key": item.key, "shard": name, "reason": str(error)})
                    continue
                samples += sample_bytes(len(data), item.label)
                if rows and shard_size(samples) > task.shard_bytes:
                    used = number
                    break
                if is_deep(data):
                    deep, top = deep + 1, max(top, highest(data))
                sample: dict[str, Any] = {"__key__": item.key, header.format.value: data}
                if item.label >= 0:
                    sample["cls"] = str(item.label).encode()
                tar.write(sample)
                offset = tar.tarstream.offset - _padded(len(data), _BLOCK)
                rows.append(
                    [
                        offset,
                        len(data),
                        item.label,
                        header.width,
                        header.height,
                        checksum(data, item.label, header.width, header.height),
                    ]
                )
        file.flush()
        os.fsync(file.fileno())
        return Note(name, file.tell(), rows, quarantined, deep, top), used


def _is_there(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def _padded(size: int, unit: int) -> int:
    return -(-size // unit) * unit
