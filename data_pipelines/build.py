"""Writes a source as shards with their index.

Which image goes into which shard is settled before anything is written, so the shards are the same for any
number of workers. Each finished shard leaves a note in `.building/`; a build that was interrupted goes on from
these notes, and only when every shard is there is the index written.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import sync, write_whole
from data_pipelines.images import UnusableImage, check
from data_pipelines.index import (
    BUILDING,
    CLASSES,
    DATASET,
    INDEX,
    QUARANTINE,
    ROW,
    DatasetRecord,
    write_index,
)
from data_pipelines.philox import Stream, permutation
from data_pipelines.sources import Item, Source
from data_pipelines.workers import spread

_BLOCK = 512
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class BuildOptions(NamedTuple):
    """What decides the content of the shards."""

    shard_bytes: int = 256_000_000
    """Bytes of a shard, at most; a larger image has a shard of its own."""
    shard_samples: int = 10_000
    """Samples of a shard, at most."""
    seed: int = 0
    """Seed of the order in which the images are spread over the shards."""
    decode: bool = True
    """Decode each image wholly before it is accepted; otherwise only header and end marker are looked at."""


class _Task(NamedTuple):
    out: Path
    number: int
    items: list[Item]
    decode: bool
    needed: int
    """Bytes of all shards, for the message when the disk is full."""


class _Note(NamedTuple):
    """What is known of a finished shard."""

    size: int
    rows: list[list[int]]
    quarantined: list[dict[str, str]]


def build(
    source: Source,
    out: Path,
    options: BuildOptions = BuildOptions(),  # noqa: B008
    *,
    workers: int = 1,
    overwrite: bool = False,
    report: Callable[[int], object] = lambda _: None,
) -> DatasetRecord:
    """Write a source as a set of shards.

    Args:
        source: what to write.
        out: folder of the set; made where it is missing.
        options: what decides the content of the shards.
        workers: processes that write side by side.
        overwrite: replace a set, finished or not, that is there already.
        report: told how many images are done, each time some more are.

    Raises:
        UserError: the folder holds something else, another build is writing to it, the disk is full, or no image
            can be used.
    """
    plan = _plan(source.items, options)
    needed = sum(_shard_size(sum(map(_content, items))) for items in plan)
    _make_way(out, overwrite, _fingerprint(source, options))
    with _locked(out):
        write_whole(out / BUILDING / "plan", _fingerprint(source, options).encode())
        tasks = [_Task(out, number, items, options.decode, needed) for number, items in enumerate(plan)]
        written = sum(path.stat().st_size for path in out.glob("shard-*.tar"))
        if needed - written > (free := shutil.disk_usage(out).free):
            raise _disk_full(out, needed - written, free)
        import webdataset  # noqa: F401  here, before the workers fork: it imports torch, once is enough

        notes, done = [], 0
        for task, note in zip(tasks, spread(_write_shard, tasks, workers=workers), strict=True):
            notes.append(note)
            done += len(task.items)
            report(done)
        record = _finish(out, notes, source.classes)
    shutil.rmtree(out / BUILDING)
    return record


def _plan(items: list[Item], options: BuildOptions) -> list[list[Item]]:
    """The items of each shard: spread evenly, since sources are sorted by class."""
    order = permutation(options.seed, Stream.BUILD, epoch=0, items=np.arange(len(items)))
    plan: list[list[Item]] = []
    content = 0
    for number in order:
        item = items[number]
        grown = content + _content(item)
        if not plan or len(plan[-1]) >= options.shard_samples or _shard_size(grown) > options.shard_bytes:
            plan.append([])
            grown = _content(item)
        plan[-1].append(item)
        content = grown
    return plan


def _padded(size: int, unit: int = _BLOCK) -> int:
    return -(-size // unit) * unit


def _content(item: Item) -> int:
    """Bytes of a sample in a shard: each member has a header and is padded, and a label is a member of its own."""
    return _BLOCK + _padded(item.size) + (2 * _BLOCK if item.label >= 0 else 0)


def _shard_size(content: int) -> int:
    """Bytes of a shard: two empty blocks end it, and its whole is padded to a record."""
    return _padded(content + 2 * _BLOCK, tarfile.RECORDSIZE)


def _fingerprint(source: Source, options: BuildOptions) -> str:
    digest = hashlib.sha256(repr((options, source.classes)).encode())
    for item in source.items:
        digest.update(repr(item).encode())
    return digest.hexdigest()


def _make_way(out: Path, overwrite: bool, plan: str) -> None:
    """Make sure that the folder is empty or holds the beginning of this very build."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        found = {path.name for path in out.iterdir()}
    except OSError as error:
        raise UserError(
            f"the output folder cannot be made: {error.strerror}", where=out, fix="name another folder"
        ) from error
    ours = {BUILDING, INDEX, DATASET, QUARANTINE, CLASSES, *(path.name for path in out.glob("*shard-*.tar*"))}
    ours |= {path.name for path in out.glob(".*.tmp")}
    if found - ours or (found and not found & {BUILDING, DATASET}):
        raise UserError(
            f"the output folder is not empty: it holds {min(found - ours or found)!r}",
            where=out,
            fix="name an empty or new folder",
        )
    begun = out / BUILDING / "plan"
    if DATASET not in found and (not begun.exists() or begun.read_text() == plan):
        return
    if not overwrite:
        state = (
            "a finished set"
            if DATASET in found
            else "an interrupted build of another source or other options"
        )
        raise UserError(
            f"the output folder is not empty: it holds {state}",
            where=out,
            fix="name another folder, or replace what is there: --overwrite",
        )
    with _locked(out):
        # The record goes first: what is left after an interruption must not read as a whole set.
        for name in sorted(found - {BUILDING}, key=lambda name: name != DATASET):
            (out / name).unlink()
        shutil.rmtree(out / BUILDING)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep other builds out; workers inherit the lock, so it lasts as long as anybody writes."""
    try:
        (out / BUILDING).mkdir(exist_ok=True)
        lock = (out / BUILDING / "lock").open("w")
    except OSError as error:
        raise UserError(
            f"the output folder cannot be written to: {error.strerror}", where=out, fix="name another folder"
        ) from error
    with lock:
        for waited in range(50):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waited == 49:
                    raise UserError(
                        "another build is writing to this folder",
                        where=out,
                        fix="wait until it ends, or stop it",
                    ) from None
                time.sleep(0.1)
        yield


def _write_shard(task: _Task) -> _Note:
    """Write one shard and its note, or take the note of a run before this one."""
    path = task.out / f"shard-{task.number:06d}.tar"
    note_path = task.out / BUILDING / f"{task.number:06d}.json"
    if note_path.exists():
        note = _Note(**json.loads(note_path.read_bytes()))
        if not note.rows or (path.exists() and path.stat().st_size == note.size):
            return note
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        note = _write_tar(temporary, task, path.name)
        if note.rows:
            temporary.replace(path)
            sync(task.out)
        write_whole(note_path, json.dumps(note._asdict()).encode())
    except OSError as error:
        if error.errno in _FULL:
            raise _disk_full(task.out, task.needed, shutil.disk_usage(task.out).free) from error
        raise UserError(
            f"the shard cannot be written: {error.strerror}",
            where=path,
            fix="mend the folder, then run again",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return note


def _write_tar(temporary: Path, task: _Task, name: str) -> _Note:
    from webdataset import TarWriter

    rows: list[list[int]] = []
    quarantined: list[dict[str, str]] = []
    with temporary.open("wb") as file:
        with TarWriter(file, encoder=False, mtime=0) as tar:
            for item in task.items:
                try:
                    data = _read(item)
                    header = check(data, decode=task.decode)
                except UnusableImage as error:
                    quarantined.append({"key": item.key, "shard": name, "reason": str(error)})
                    continue
                sample: dict[str, Any] = {"__key__": item.key, header.format.value: data}
                if item.label >= 0:
                    sample["cls"] = str(item.label).encode()
                tar.write(sample)
                offset = tar.tarstream.offset - _padded(len(data))
                rows.append([offset, len(data), item.label, header.width, header.height, zlib.crc32(data)])
        file.flush()
        os.fsync(file.fileno())
        return _Note(file.tell(), rows, quarantined)


def _read(item: Item) -> bytes:
    try:
        return item.read()
    except OSError as error:
        raise UnusableImage(f"cannot be read: {error.strerror}") from error


def _finish(out: Path, notes: list[_Note], classes: tuple[str, ...]) -> DatasetRecord:
    kept = [(number, note) for number, note in enumerate(notes) if note.rows]
    quarantined = [entry for note in notes for entry in note.quarantined]
    if not kept:
        reasons = ", ".join(sorted({entry["reason"] for entry in quarantined}))
        raise UserError(f"no image of the source can be used: {reasons}", where=out, fix="look at the source")
    rows = np.array([(shard, *row) for shard, (_, note) in enumerate(kept) for row in note.rows], dtype=ROW)
    shards = [(f"shard-{number:06d}.tar", note.size) for number, note in kept]
    return write_index(out, rows, classes=classes, shards=shards, quarantined=quarantined)


def _disk_full(out: Path, needed: int, free: int) -> UserError:
    return UserError(
        f"the disk is full: the shards need {needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free",
        where=out,
        fix="make room or name a folder on another disk, then run the same command again: it goes on",
    )
