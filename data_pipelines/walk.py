"""The files below a folder, also where links lead to them."""

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
        paths = sorted(path for path in folder.iterdir() if not is_hidden(path.name))
    except OSError as error:
        raise UserError(
            f"the folder cannot be read: {error.strerror}", where=error.filename, fix="mend its permissions"
        ) from error
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    yield from (path for path in paths if path.is_file())
    for path in paths:
        if path.is_dir():
            yield from files_below(path, above | {here})


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is nothing that a user wants read."""
    return name.startswith(".") or name == "__MACOSX"
