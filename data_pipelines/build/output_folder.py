"""The folder that a build writes to: what may be there already, who writes, and how much room there is."""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.shards.index import BUILDING, CLASSES, DATASET, INDEX, QUARANTINE

PLAN = "plan"
"""File in the folder of notes that tells builds apart."""


def make_way(out: Path, *, overwrite: bool, plan: str) -> None:
    """Make sure that a folder is empty or holds the beginning of this very build.

    Args:
        out: the folder; made where it is missing.
        overwrite: remove the set of ours, finished or not, that is there.
        plan: fingerprint of the build.

    Raises:
        UserError: the folder cannot be made, or holds something else.
    """
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
    begun = out / BUILDING / PLAN
    goes_on = begun.read_text() == plan if begun.exists() else DATASET not in found
    if goes_on:
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
    with locked(out):
        # The record goes first: what is left after an interruption must not read as a whole set.
        for name in sorted(found - {BUILDING}, key=lambda name: name != DATASET):
            (out / name).unlink()
        shutil.rmtree(out / BUILDING)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep other builds out; workers inherit the lock, so it lasts as long as anybody writes.

    Raises:
        UserError: another build is writing, or the folder cannot be written to.
    """
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


def disk_full(out: Path, needed: int) -> UserError:
    """The message of a disk that has no room for `needed` more bytes."""
    free = shutil.disk_usage(out).free
    return UserError(
        f"the disk is full: the shards need {needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free",
        where=out,
        fix="make room or name a folder on another disk, then run the same command again: it goes on",
    )
