"""Recursive listing of the files in a folder, following links."""

import os
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.errors import UserError


def files_below(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Yield files lazily, sorted by name. The files of a folder come before those of its subfolders.

    Hidden entries are skipped. Links are followed, except links to a folder that contains them.

    Args:
        folder: the folder.
        above: device and inode of the folders on the path to it.

    Raises:
        UserError: a folder cannot be read.
    """
    try:
        status = folder.stat()
        with os.scandir(folder) as listed:
            entries = sorted((e for e in listed if not is_hidden(e.name)), key=lambda e: e.name)
    except OSError as error:
        raise UserError(
            f"the folder cannot be read: {error.strerror}",
            where=error.filename,
            fix="make the folder readable",
        ) from error
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    # the listing gives the type of each entry; only links need a stat call, which is slow for a million files
    folders = []
    for entry in entries:
        path = Path(entry.path)
        linked = entry.is_symlink()
        if path.is_file() if linked else entry.is_file():
            yield path
        elif path.is_dir() if linked else entry.is_dir():
            folders.append(path)
    for path in folders:
        yield from files_below(path, above | {here})


def is_hidden(name: str) -> bool:
    """Return whether a file or folder with this name is hidden and therefore skipped."""
    return name.startswith(".") or name == "__MACOSX"


def is_hidden_member(name: str) -> bool:
    """Return whether a member of a tar is hidden: a file of macOS (`._NAME`, `__MACOSX`) or one that starts with a
    dot."""
    parts = name.split("/")
    return parts[-1].startswith(".") or "__MACOSX" in parts
