"""The output folder of a build: existing content, locking and free space."""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.shards.index import BUILDING, CLASSES, DATASET, INDEX, QUARANTINE

PLAN = "plan"
"""File in the notes folder that identifies the build."""


def make_way(out: Path, *, overwrite: bool, plan: str) -> None:
    """Make sure that a folder is empty or contains the beginning of the same build.

    Args:
        out: the folder. It is created if missing.
        overwrite: whether to remove an existing dataset of all4one, finished or not.
        plan: fingerprint of the build.

    Raises:
        UserError: the folder cannot be created, or contains something else.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        found = {path.name for path in out.iterdir()}
    except OSError as error:
        raise UserError(
            f"the output folder cannot be created: {error.strerror}", where=out, fix="choose another folder"
        ) from error
    ours = {BUILDING, INDEX, DATASET, QUARANTINE, CLASSES, *(path.name for path in out.glob("*shard-*.tar*"))}
    ours |= {path.name for path in out.glob(".*.tmp")}
    if found - ours or (found and not found & {BUILDING, DATASET}):
        raise UserError(
            f"the output folder is not empty: it contains {min(found - ours or found)!r}",
            where=out,
            fix="choose an empty or new folder",
        )
    begun = out / BUILDING / PLAN
    goes_on = begun.read_text() == plan if begun.exists() else DATASET not in found
    if goes_on:
        return
    if not overwrite:
        state = (
            "a finished dataset"
            if DATASET in found
            else "an interrupted build of another source or with other options"
        )
        raise UserError(
            f"the output folder is not empty: it contains {state}",
            where=out,
            fix="choose another folder, or replace the content with --overwrite",
        )
    with locked(out):
        # The record is removed first, so that an interruption does not leave something that looks like a whole dataset.
        for name in sorted(found - {BUILDING}, key=lambda name: name != DATASET):
            (out / name).unlink()
        shutil.rmtree(out / BUILDING)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Lock the folder against other builds. Workers inherit the lock, so it lasts until the last writer ends.

    Raises:
        UserError: another build is writing, or the folder is not writable.
    """
    try:
        (out / BUILDING).mkdir(exist_ok=True)
        lock = (out / BUILDING / "lock").open("w")
    except OSError as error:
        raise UserError(
            f"the output folder is not writable: {error.strerror}", where=out, fix="choose another folder"
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


def disk_full(out: Path, needed: int) -> UserError:
    """Return the error for a disk that lacks space for `needed` more bytes."""
    free = shutil.disk_usage(out).free
    return UserError(
        f"the disk is full: the shards need {needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free",
        where=out,
        fix="free some space and run the same command again to resume, or choose a folder on another disk",
    )
