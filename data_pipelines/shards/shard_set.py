"""An opened dataset: the index in memory, and each image by one positioned read."""

import os
import tarfile
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError
from data_pipelines.formatting import readable
from data_pipelines.settings import DataSettings
from data_pipelines.shards.cache import Cache
from data_pipelines.shards.index import INDEX, DatasetRecord, checksum, index_fix, read_index, read_record
from data_pipelines.shards.index_check import require_unchanged
from data_pipelines.shards.joined_files import ShardFiles
from data_pipelines.shards.local_files import LocalFiles
from data_pipelines.shards.remote_set import REMOTE_INDEX_FIX, open_remote
from data_pipelines.urls import Url, place

_CHECKED = 1000


class BadSample(Exception):
    """A sample whose bytes differ from those that were indexed.

    Args:
        sample: row of the index.
        reason: what is wrong, in a few words.
    """

    def __init__(self, sample: int, reason: str) -> None:
        self.sample, self.reason = sample, reason
        super().__init__(f"sample {sample}: {reason}")

    def __reduce__(self) -> tuple[object, ...]:
        return BadSample, (self.sample, self.reason)


class Mix(NamedTuple):
    """How the samples of several sets in one dataset are mixed."""

    num_shards: tuple[int, ...]
    """Number of shards of each set, in order."""
    fractions: tuple[Fraction, ...]
    """Fraction of every epoch that each set gives. They add up to exactly 1."""


class ShardSet:
    """An indexed dataset in shards.

    Reading is safe from several threads. Use `ShardSet.open`.
    """

    def __init__(
        self,
        folder: Path | str,
        record: DatasetRecord,
        index: NDArray[np.void],
        files: ShardFiles,
    ) -> None:
        self.folder = folder
        """Folder of the dataset. That of a mix is the names of all its folders, for messages."""
        self.classes = record.classes
        self.index = index
        """`[N]` of `data_pipelines.shards.index.ROW`."""
        self.fingerprint = record.fingerprint
        """Hash of the index. Different datasets have different hashes."""
        self.shard_sizes = [shard.samples for shard in record.shards]
        """Number of samples in each shard."""
        self.files = files
        """The source of the bytes."""
        self.record = record
        """Content of `dataset.json`."""
        self.mix: Mix | None = None
        """How several sets are mixed. None: this is one set."""

    @classmethod
    def open(
        cls, folder: Path | str, settings: DataSettings | None = None, *, cache_fraction: float = 1.0
    ) -> "ShardSet":
        """Open a folder of shards that has an index.

        Args:
            folder: a local folder or a URL.
            settings: settings of the cache for URLs, and of read-ahead. None: the defaults.
            cache_fraction: fraction of the cache that the shards which are read next may take, in (0, 1].

        Raises:
            UserError: the folder or its index is missing, was changed, has another version, or does not match the
                shards. The message names the shard and the command that fixes it. Or a URL cannot be read.
        """
        folder = place(folder)
        files: ShardFiles
        if isinstance(folder, Url):
            settings = settings or DataSettings()
            cache = Cache(settings.cache_folder, settings.cache_bytes)
            record, index, files = open_remote(folder, cache, settings.prefetch_shards, cache_fraction)
        else:
            record = read_record(folder)
            index = read_index(folder, record)
            _check_shards(folder, record)
            names = [shard.name for shard in record.shards]
            files = LocalFiles(folder, names, settings is not None and settings.read_ahead)
        _check_rows(folder, record, index)
        if isinstance(folder, Path):
            require_unchanged(folder, record, index)
        return cls(folder, record, index, files)

    def copy(self) -> "ShardSet":
        """Return the same dataset with separate open files, downloads and window, for one of several readers."""
        other = self._with(self.index, self.shard_sizes)
        other.mix = self.mix
        return other

    def subset(self, samples: NDArray[np.int64]) -> "ShardSet":
        """Return some of the samples as a separate dataset with ids from 0. Reading is independent, as with `copy`. A
        subset of a mix is one set without weights.

        Args:
            samples: `[n]` ids in increasing order.
        """
        index = self.index[samples]
        sizes = np.bincount(index["shard"], minlength=len(self.shard_sizes))
        return self._with(index, sizes.tolist())

    def with_classes(
        self, classes: tuple[str, ...], index: NDArray[np.void], fingerprint: str | None = None
    ) -> "ShardSet":
        """Return the same dataset with other class names and an index `[N]` whose labels count through them.

        Args:
            classes: names of the classes.
            index: the same rows with other labels.
            fingerprint: hash of the dataset. None: it stays.
        """
        changed = {"classes": classes, "fingerprint": fingerprint or self.fingerprint}
        other = ShardSet(self.folder, self.record.model_copy(update=changed), index, self.files)
        other.shard_sizes = self.shard_sizes
        return other

    def _with(self, index: NDArray[np.void], shard_sizes: list[int]) -> "ShardSet":
        other = ShardSet(self.folder, self.record, index, self.files.copy())
        other.shard_sizes = shard_sizes
        return other

    @property
    def num_classes(self) -> int:
        """Number of classes. 0 if nothing is labeled."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.index)

    def sizes(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return height and width `[B, 2]` of samples `[B]`, in pixels as stored."""
        rows = self.index[samples]
        return np.stack([rows["height"], rows["width"]], axis=1).astype(np.int64)

    def read(self, sample: int) -> bytes:
        """Read the encoded image of a sample.

        Raises:
            BadSample: it cannot be read, is short, or its CRC differs from the index.
            ReadCancelled: `files.stop` was called.
        """
        shard, offset, size, label, width, height, crc32 = (int(value) for value in self.index[sample])
        if not _lies_inside(self.record, shard, offset, size):
            raise BadSample(int(sample), "its index row points outside of the shards")

        def is_right(data: bytes) -> bool:
            return checksum(data, label, width, height) == crc32

        try:
            data = self.files.read(shard, size, offset)
            if is_right(data):
                return data
            data = self.files.read_again(shard, size, offset, is_right)
        except OSError as error:
            raise BadSample(int(sample), f"cannot be read: {error.strerror}") from error
        if is_right(data):
            return data
        raise BadSample(int(sample), "cut short" if len(data) < size else "CRC differs from the index")

    def key(self, sample: int) -> str:
        """Return `SHARD.tar/KEY` of a sample, read from its tar header. If the header cannot be read, return shard and
        offset. In a mix, the folder of its set comes before the shard."""
        row = self.index[sample]
        shard, offset = int(row["shard"]), int(row["offset"])
        if not _lies_inside(self.record, shard, offset, int(row["size"])):
            return f"{INDEX}@{sample}"
        try:
            name = self.member_name(sample)
        except (OSError, tarfile.HeaderError):
            return f"{self._name(shard)}@{offset}"
        folder, _, base = readable(name).rpartition("/")
        key = base.partition(".")[0]
        return f"{self._name(shard)}/{folder}/{key}" if folder else f"{self._name(shard)}/{key}"

    def member_name(self, sample: int) -> str:
        """Return the name of a sample's image in its shard, read from its tar header. Only its first 100 bytes are
        certain.

        Raises:
            OSError: the shard cannot be read.
            tarfile.HeaderError: there is no header before the image.
        """
        shard, offset = self.index[["shard", "offset"]][sample].item()
        block = self.files.read(shard, tarfile.BLOCKSIZE, offset - tarfile.BLOCKSIZE)
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").name

    def folder_of(self, sample: int) -> Path | Url:
        """Return the folder that holds a sample."""
        return self.files.folder_of(int(self.index["shard"][sample]))

    def location(self, sample: int) -> Path | str:
        """Return `FOLDER/SHARD.tar/KEY` of a sample, for messages."""
        return self.folder / self.key(sample) if isinstance(self.folder, Path | Url) else self.key(sample)

    def _name(self, shard: int) -> str:
        return self.record.shards[shard].name


def _check_shards(folder: Path, record: DatasetRecord) -> None:
    descriptor = os.open(
        folder, os.O_RDONLY
    )  # relative paths are faster, and a dataset may have ten thousand shards
    try:
        for shard in record.shards:
            try:
                size = os.stat(shard.name, dir_fd=descriptor).st_size
            except OSError:
                raise UserError(
                    "the shard is missing",
                    where=folder / shard.name,
                    fix=f"restore it, or {index_fix(folder)}",
                ) from None
            if size != shard.size:
                raise UserError(
                    f"the shard has {size} bytes but the index was made for {shard.size}",
                    where=folder / shard.name,
                    fix=index_fix(folder),
                )
    finally:
        os.close(descriptor)


def _check_rows(folder: Path | Url, record: DatasetRecord, index: NDArray[np.void]) -> None:
    """Refuse an index that does not match the shards, by the first and last row of up to a thousand of them.

    The checksum of each sample finds whatever this check misses.
    """
    fix = REMOTE_INDEX_FIX if isinstance(folder, Url) else index_fix(folder)
    size = np.array([shard.size for shard in record.shards], np.int64)
    samples = np.array([shard.samples for shard in record.shards], np.int64)
    ends = np.cumsum(samples)
    if samples.sum() != len(index):
        raise UserError(f"{INDEX} and the shards have different numbers of samples", where=folder, fix=fix)
    filled = np.flatnonzero(samples)
    filled = filled[:: 1 + len(filled) // _CHECKED]
    for positions in (ends - samples, ends - 1):
        rows = index[positions[filled]]
        wrong = (rows["shard"] != filled) | (rows["offset"] < tarfile.BLOCKSIZE)
        wrong |= rows["offset"] > size[filled] - rows["size"]
        if wrong.any():
            shard = record.shards[filled[wrong.argmax()]]
            raise UserError(f"the index {INDEX} belongs to other shards", where=folder / shard.name, fix=fix)


def _lies_inside(record: DatasetRecord, shard: int, offset: int, size: int) -> bool:
    return 0 <= shard < len(record.shards) and 0 <= offset <= record.shards[shard].size - size
