"""Files that are seen either as before or whole, and that survive a power cut."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipelines.errors import UserError


@contextmanager
def replacing(path: Path, *, several: bool = False) -> Iterator[Path]:
    """A temporary name beside `path`; the file that the block writes there takes the place of `path` at its end.

    Where the block or the disk fails, `path` stays as it was and the temporary file is removed. A process that is
    killed leaves it, and whoever replaces `path` next takes the same name.

    Args:
        path: the file.
        several: whether several processes may replace it at once, each by a name of its own; the last one wins.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp" if several else f".{path.name}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Replace the content of a file, all or nothing; several processes may."""
    with replacing(path, several=True) as temporary:
        temporary.write_bytes(content)


def require_writable(path: Path) -> None:
    """Make the folder of a file that will be written; raise a UserError where it cannot be written there."""
    if path.is_dir():
        raise UserError("is a folder", where=path, fix="choose another name with --out")
    require_place(path)


def require_place(path: Path) -> None:
    """Make the folder that a file or folder will be written into; raise a UserError where nothing can be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"its folder cannot be made: {error.strerror}", where=path, fix="choose another place with --out"
        ) from None
    if not os.access(path.parent, os.W_OK):
        raise UserError("its folder is not writable", where=path, fix="choose another place with --out")


def sync(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
