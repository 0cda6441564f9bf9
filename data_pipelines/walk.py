"""The files below a folder, also where links lead to them."""

import os
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.errors import UserError


def files_below(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Files in the order of names, those of a folder before those of the folders in it, listed while they are read.

    What is hidden is passed over. Links are followed, but for those to a folder that they lie in.

    Args:
        folder: the folder.
        above: device and inode of the folders on the way to it.

    Raises:
        UserError: a folder cannot be read.
    """
    try:
        status = folder.stat()
        with os.scandir(folder) as listed:
            entries = sorted((e for e in listed if not is_hidden(e.name)), key=lambda e: e.name)
    except OSError as error:
        raise UserError(
            f"the folder cannot be read: {error.strerror}", where=error.filename, fix="mend its permissions"
        ) from error
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    # a listing says what an entry is; only a link must be looked at, which a million files would not wait for
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
    """Whether a file or folder of this name is nothing that a user wants read."""
    return name.startswith(".") or name == "__MACOSX"
