"""Atomic file writes that survive a power failure."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_pipelines.errors import UserError


@contextmanager
def replacing(path: Path, *, several: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside `path`. At the end of the block, the file written there replaces `path`.

    If the block or the disk fails, `path` stays as it was and the temporary file is removed. A killed process leaves
    the temporary file, and the next writer of `path` reuses its name.

    Args:
        path: the file.
        several: whether several processes may replace it at once. Each then uses its own temporary name, and the last
            one wins.
    """
    # Containers of several nodes may have the same process IDs.
    by = f".{os.uname().nodename}.{os.getpid()}" if several else ""
    temporary = path.with_name(f".{path.name}{by}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Replace the content of a file atomically. Several processes may do so at once."""
    with replacing(path, several=True) as temporary:
        temporary.write_bytes(content)


def require_writable(path: Path) -> None:
    """Create the folder of an output file. Raise a UserError if the file cannot be written there."""
    if path.is_dir():
        raise UserError("is a folder", where=path, fix="choose another file name with --out")
    require_place(path)


def require_place(path: Path) -> None:
    """Create the parent folder of an output. Raise a UserError if nothing can be written there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"its folder cannot be created: {error.strerror}",
            where=path,
            fix="choose another path with --out",
        ) from None
    if not os.access(path.parent, os.W_OK):
        raise UserError("its folder is not writable", where=path, fix="choose another path with --out")


def sync(path: Path) -> None:
    """Wait until the bytes of a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_if_possible(path: Path) -> None:
    """Remove a file or folder, as much of it as can be removed."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
