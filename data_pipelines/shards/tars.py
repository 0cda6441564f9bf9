"""Tar files as tables of members. Members that could be unpacked outside of the folder are refused."""

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from data_pipelines.errors import UserError
from data_pipelines.formatting import readable

Warn = Callable[[str], object]
_EMPTY = tarfile.NUL * tarfile.BLOCKSIZE
_CHUNK = 128 * tarfile.BLOCKSIZE


class Member(NamedTuple):
    """A regular file inside a tar."""

    name: str
    offset: int
    """Offset of its content in the tar file."""
    size: int
    """Size of its content in bytes."""


def members(path: Path, warn: Warn = lambda _: None) -> Iterator[Member]:
    """Yield the regular files of an uncompressed tar in stored order.

    Tars that were concatenated are read to the last one. A tar may lack the empty blocks at its end.

    Args:
        path: the tar.
        warn: called with each doubt about the tar.

    Raises:
        UserError: the file does not exist, or is not a tar, compressed or truncated. Or a member is a link or device,
            or its name is absolute or contains `..`.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(
            f"the tar cannot be opened: {error.strerror}", where=path, fix="give a readable file"
        ) from error
    with file:
        yield from _members(file, readable(path), warn)


def inner_members(path: Path, outer: Member, warn: Warn = lambda _: None) -> Iterator[Member]:
    """Yield the regular files of a tar that is itself a member. Offsets count in the outer file.

    Raises:
        UserError: as for `members`.
    """
    with path.open("rb") as file:
        inside = _Window(file, outer.offset, outer.size)
        where = f"{readable(path)} / {readable(outer.name)}"
        for member in _members(inside, where, warn):  # type: ignore[arg-type]
            yield member._replace(offset=outer.offset + member.offset)


def _members(file: IO[bytes], where: str, warn: Warn) -> Iterator[Member]:
    start: int | None = 0
    try:
        while start is not None:
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (info := tar.next()) is not None:
                    if not info.isdir():
                        yield _safe(info, where)
                    # tarfile keeps every header, which takes gigabytes for a million members.
                    tar.members.clear()  # type: ignore[attr-defined]
                start = _after(file, tar.offset, where, warn)
    except tarfile.TarError as error:
        raise UserError(
            f"the tar cannot be read: {error}",
            where=where,
            fix="make sure that it is a complete, uncompressed tar (gunzip it first), or copy it again",
        ) from error


def _after(file: IO[bytes], end: int, where: str, warn: Warn) -> int | None:
    """Return the offset of the next tar behind the last member of one, or None.

    Raises:
        tarfile.ReadError: the members end with something else than a block of zeros or the end of the file. tarfile
            treats a broken header as the end of the archive, which would silently lose the rest.
    """
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if not block:
        warn(f"{where} has no end blocks. If it was cut when it was copied, its last samples are missing")
        return None
    if block != _EMPTY:
        raise tarfile.ReadError(f"cut short or corrupt at byte {end}")
    position = end + tarfile.BLOCKSIZE
    while chunk := file.read(_CHUNK):
        if rest := chunk.lstrip(tarfile.NUL):
            position += (len(chunk) - len(rest)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
            file.seek(position)
            try:
                tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
            except tarfile.HeaderError:
                return None  # other data, which every program ignores
            return position
        position += len(chunk)
    return None


def _safe(info: tarfile.TarInfo, where: str) -> Member:
    name = PurePosixPath(info.name)
    shown = repr(readable(info.name))
    if name.is_absolute() or ".." in name.parts:
        raise UserError(
            f"member {shown} points outside of the folder it is unpacked to",
            where=where,
            fix="do not trust this file; pack the images again with relative names",
        )
    if info.isreg() and not info.issparse():
        return Member(str(name), info.offset_data, info.size)
    if info.issparse():
        what, fix = "a sparse file", "pack the images again without the option --sparse (-S) of tar"
    elif info.islnk():
        what, fix = (
            f"a hard link to {readable(info.linkname)!r}",
            "pack the images again: tar --hard-dereference",
        )
    elif info.issym():
        what, fix = f"a link to {readable(info.linkname)!r}", "pack the images again: tar --dereference"
    else:
        what, fix = "a device or a pipe", "pack only regular files"
    raise UserError(f"member {shown} is {what}, not a regular file", where=where, fix=fix)


class _Window:
    """A part of a file as a separate readable file."""

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._position = file, offset, size, 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        self._position = position
        return position

    def read(self, size: int) -> bytes:
        self._file.seek(self._offset + self._position)
        data = self._file.read(max(0, min(size, self._size - self._position)))
        self._position += len(data)
        return data
