"""An opened set of shards: the index in memory, the images by one positioned read each."""

import os
import tarfile
import zlib
from collections import OrderedDict
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError
from data_pipelines.index import INDEX, DatasetRecord, mend, read_index, read_record

_MAX_OPEN = 256


class BadSample(Exception):
    """A sample whose bytes are not those that were indexed.

    Args:
        sample: row of the index.
        reason: what is wrong, in a few words.
    """

    def __init__(self, sample: int, reason: str) -> None:
        self.sample, self.reason = sample, reason
        super().__init__(f"sample {sample}: {reason}")

    def __reduce__(self) -> tuple[object, ...]:
        return BadSample, (self.sample, self.reason)


class ShardSet:
    """An indexed set of shards.

    Reading is safe from several threads. Use `ShardSet.open`.
    """

    def __init__(self, folder: Path, record: DatasetRecord, index: NDArray[np.void]) -> None:
        self.folder = folder
        self.classes = record.classes
        self.index = index
        """`[N]` of `data_pipelines.index.ROW`."""
        self.fingerprint = record.fingerprint
        """Hash of the index: another one is another set."""
        self.shard_sizes = [shard.samples for shard in record.shards]
        """Samples of each shard."""
        self._names = [shard.name for shard in record.shards]
        self._files = _Files([folder / name for name in self._names])

    @classmethod
    def open(cls, folder: Path) -> "ShardSet":
        """Open a folder of shards that has an index.

        Raises:
            UserError: the folder or its index is missing, of another version, stale or foreign; names the shard
                and the command that mends it.
        """
        folder = Path(folder)
        record = read_record(folder)
        index = read_index(folder, record)
        _check_shards(folder, record)
        _check_rows(folder, record, index)
        return cls(folder, record, index)

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 where nothing is labelled."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.index)

    def sizes(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Height and width `[B, 2]` of samples `[B]`, pixels as stored."""
        rows = self.index[samples]
        return np.stack([rows["height"], rows["width"]], axis=1).astype(np.int64)

    def read(self, sample: int) -> bytes:
        """The encoded image of a sample.

        Raises:
            BadSample: it cannot be read, is short, or its CRC differs from the index.
        """
        row = self.index[sample]
        size = int(row["size"])
        try:
            data = self._files.read(int(row["shard"]), size, int(row["offset"]))
        except OSError as error:
            raise BadSample(int(sample), f"cannot be read: {error.strerror}") from error
        if len(data) < size:
            raise BadSample(int(sample), "cut short")
        if zlib.crc32(data) != row["crc32"]:
            raise BadSample(int(sample), "CRC differs from the index")
        return data

    def key(self, sample: int) -> str:
        """`SHARD.tar/KEY` of a sample, from the header that stands before it; the shard and offset where that
        header cannot be read.
        """
        row = self.index[sample]
        shard, offset = int(row["shard"]), int(row["offset"])
        try:
            block = self._files.read(shard, tarfile.BLOCKSIZE, offset - tarfile.BLOCKSIZE)
            name = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").name
        except (OSError, tarfile.HeaderError):
            return f"{self._names[shard]}@{offset}"
        folder, _, base = name.rpartition("/")
        key = base.partition(".")[0]
        return f"{self._names[shard]}/{folder}/{key}" if folder else f"{self._names[shard]}/{key}"


class _Files:
    """Positioned reads from many files, of which the last used stay open."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._lock = Lock()
        self._open: OrderedDict[int, _Descriptor] = OrderedDict()

    def read(self, number: int, size: int, offset: int) -> bytes:
        with self._lock:
            descriptor = self._open.pop(number, None) or _Descriptor(self._paths[number])
            self._open[number] = descriptor
            if len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
        return os.pread(descriptor.number, size, offset)


class _Descriptor:
    """An open file that closes when the last thread that reads from it lets go."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


def _check_shards(folder: Path, record: DatasetRecord) -> None:
    for shard in record.shards:
        path = folder / shard.name
        try:
            size = path.stat().st_size
        except OSError:
            raise UserError(
                "the shard is missing", where=path, fix=f"restore it, or {mend(folder)}"
            ) from None
        if size != shard.size:
            raise UserError(
                f"the shard has {size} bytes but the index was made for {shard.size}",
                where=path,
                fix=mend(folder),
            )


def _check_rows(folder: Path, record: DatasetRecord, index: NDArray[np.void]) -> None:
    """Refuse an index that cannot be that of these shards, by the first and last row of each."""
    last = 0
    for number, shard in enumerate(record.shards):
        first, last = last, last + shard.samples
        for row in index[[first, last - 1]] if shard.samples else ():
            if row["shard"] != number or not 512 <= row["offset"] <= shard.size - row["size"]:
                raise UserError(
                    f"the index {INDEX} belongs to other shards", where=folder / shard.name, fix=mend(folder)
                )
    if last != len(index):
        raise UserError(f"{INDEX} and the shards differ in samples", where=folder, fix=mend(folder))
