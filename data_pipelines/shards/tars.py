"""Tar files as tables of members. Members that could be unpacked outside of the folder are refused."""

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from data_pipelines.errors import UserError


class Member(NamedTuple):
    """A regular file inside a tar."""

    name: str
    offset: int
    """Offset of its content in the tar file."""
    size: int
    """Size of its content in bytes."""


def members(path: Path) -> Iterator[Member]:
    """Yield the regular files of an uncompressed tar in stored order.

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
        yield from _members(file, str(path))


def inner_members(path: Path, outer: Member) -> Iterator[Member]:
    """Yield the regular files of a tar that is itself a member. Offsets count in the outer file.

    Raises:
        UserError: as for `members`.
    """
    with path.open("rb") as file:
        inside = _Window(file, outer.offset, outer.size)
        for member in _members(inside, f"{path} / {outer.name}"):  # type: ignore[arg-type]
            yield member._replace(offset=outer.offset + member.offset)


def _members(file: IO[bytes], where: str) -> Iterator[Member]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                if not info.isdir():
                    yield _safe(info, where)
                # tarfile keeps every header, which takes gigabytes for a million members.
                tar.members.clear()  # type: ignore[attr-defined]
            # tarfile treats a broken header as the end of the archive, which would silently lose the rest.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError(f"cut short or corrupt at byte {tar.offset}")
    except tarfile.TarError as error:
        raise UserError(
            f"the tar cannot be read: {error}",
            where=where,
            fix="make sure that it is a complete, uncompressed tar (gunzip it first), or copy it again",
        ) from error


def _safe(info: tarfile.TarInfo, where: str) -> Member:
    name = PurePosixPath(info.name)
    if name.is_absolute() or ".." in name.parts:
        raise UserError(
            f"member {info.name!r} points outside of the folder it is unpacked to",
            where=where,
            fix="do not trust this file; pack the images again with relative names",
        )
    if not info.isreg() or info.issparse():
        raise UserError(
            f"member {info.name!r} is a link, a device or a sparse file, not a regular file",
            where=where,
            fix="pack the images themselves (tar --dereference)",
        )
    return Member(str(name), info.offset_data, info.size)


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
