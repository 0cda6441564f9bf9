"""Unpacks a compressed tar for a build. Images are read by their position, which a compressed file does not have."""

import bz2
import gzip
import lzma
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.formatting import readable
from data_pipelines.sources.shard_samples import is_compressed_tar

_FILES: dict[str, type[gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]] = {
    ".gz": gzip.GzipFile,
    ".tgz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".tbz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".txz": lzma.LZMAFile,
}
_COPIED = 1 << 22
"""Bytes that are unpacked at a time."""


def can_unpack(path: Path) -> bool:
    """Return whether a name is that of a compressed tar that is unpacked here."""
    return path.suffix.lower() in _FILES and is_compressed_tar(path)


@contextmanager
def unpacked(path: Path, out: Path) -> Iterator[Path]:
    """Unpack a compressed tar to a hidden folder beside the output, and remove it in the end.

    The path of the copy is always the same, so that a build that is resumed recognizes its source.

    Args:
        path: the compressed tar.
        out: folder of the dataset that is built.

    Raises:
        UserError: the file cannot be unpacked.
    """
    folder = out.parent / f".{out.name}.unpacked"
    tar = folder / f"{path.name.removesuffix(path.suffix).removesuffix('.tar')}.tar"
    try:
        _unpack(path, tar)
        yield tar
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(path: Path, tar: Path) -> None:
    try:
        tar.parent.mkdir(parents=True, exist_ok=True)
        with _FILES[path.suffix.lower()](path) as packed, tar.open("wb") as file:
            shutil.copyfileobj(packed, file, _COPIED)
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(
                f"the tar cannot be unpacked to {readable(tar)}: {error.strerror}",
                where=readable(path),
                fix="free space for the unpacked tar there, or unpack it elsewhere and build from that",
            ) from error
        raise UserError(
            f"the tar cannot be decompressed: {error}",
            where=readable(path),
            fix="make sure that it is complete, or copy it again",
        ) from error
