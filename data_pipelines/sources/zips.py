"""Zip files as tables of members, which are read later by their position."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, NoReturn

from data_pipelines.errors import UserError
from data_pipelines.formatting import readable
from data_pipelines.imaging.images import UnusableImage
from data_pipelines.sources.items import Place

_LOCAL_HEADER = struct.Struct("<26xHH")
"""The fixed part of the header before a member: it ends with the lengths of the name and of the extra field."""
_ENCRYPTED = 1
"""Flag of members that need a password."""


class Deflated(NamedTuple):
    """A compressed member of a zip."""

    file: Path
    offset: int
    stored: int
    """Number of compressed bytes."""
    size: int
    """Size of the content in bytes."""

    def read(self) -> bytes:
        """Return the content.

        Raises:
            OSError: the file cannot be read.
            UnusableImage: the compressed bytes are damaged.
        """
        data = Place(self.file, self.offset, self.stored).read()
        try:
            return zlib.decompress(data, -zlib.MAX_WBITS, self.size)
        except zlib.error as error:
            raise UnusableImage(f"cannot be decompressed: {error}") from None


class ZipMember(NamedTuple):
    """A regular file in a zip."""

    name: PurePosixPath
    content: Place | Deflated


def zip_members(path: Path) -> Iterator[ZipMember]:
    """Yield the regular files of a zip in stored order.

    Raises:
        UserError: the file cannot be opened or is not a complete zip. Or a member needs a password, is compressed by
            another method than deflate, or its name is absolute or contains `..`.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
                if not info.is_dir():
                    yield _member(path, file, info)
    except OSError as error:
        raise UserError(
            f"the zip cannot be opened: {error.strerror}", where=readable(path), fix="give a readable file"
        ) from error
    except (zipfile.BadZipFile, struct.error) as error:
        raise UserError(
            f"the zip cannot be read: {error}",
            where=readable(path),
            fix="copy it again, and check it: unzip -t",
        ) from error


def _member(path: Path, file: BinaryIO, info: zipfile.ZipInfo) -> ZipMember:
    name = PurePosixPath(info.filename)
    if name.is_absolute() or ".." in name.parts:
        _refuse(path, info, "points outside of the folder it is unpacked to", "pack the images again")
    if info.flag_bits & _ENCRYPTED:
        _refuse(path, info, "needs a password", "unpack the zip, and build from the folder")
    file.seek(info.header_offset)
    lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    offset = info.header_offset + _LOCAL_HEADER.size + sum(lengths)
    if info.compress_type == zipfile.ZIP_STORED:
        return ZipMember(name, Place(path, offset, info.file_size))
    if info.compress_type != zipfile.ZIP_DEFLATED:
        method = zipfile.compressor_names.get(info.compress_type, f"method {info.compress_type}")  # type: ignore[attr-defined]
        _refuse(path, info, f"is compressed by {method}", "unpack the zip, and build from the folder")
    return ZipMember(name, Deflated(path, offset, info.compress_size, info.file_size))


def _refuse(path: Path, info: zipfile.ZipInfo, what: str, fix: str) -> NoReturn:
    raise UserError(f"member {readable(info.filename)!r} {what}", where=readable(path), fix=fix)
