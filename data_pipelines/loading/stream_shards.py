"""Samples of shards that are read as streams. Shards that fail are skipped, and each is named once."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.loading.stream_files import CountedFile, ShardFailed, open_stream, reason_of
from data_pipelines.sources.shard_samples import IMAGES
from data_pipelines.urls import shown

_MAX_FAILURES = 10
"""Number of consecutive shard failures after which a run stops. So many failures point to the network, not to a
shard."""
_log = logging.getLogger(__name__)

RawSample = dict[str, Any]
"""Maps extensions to bytes, and has `__key__` and `__url__`."""


class FailedShards:
    """Counts and names shards that fail.

    Args:
        urls: all shards.
    """

    def __init__(self, urls: list[str]) -> None:
        self._urls, self._in_a_row = urls, 0
        self._named: set[str] = set()
        self._new: dict[str, str] = {}

    def works(self) -> None:
        """Note that a shard gave a sample."""
        self._in_a_row = 0

    def name(self, url: str, reason: str) -> None:
        """Print the reason for a shard, once."""
        if url not in self._named:
            self._named.add(url)
            self._new[shard_name(url)] = reason
            _log.warning("%s: %s", shown(url), reason)

    def failed(self, url: str, reason: str) -> None:
        """Note that a shard failed.

        Raises:
            UserError: too many failed in a row.
        """
        self.name(url, f"{reason}. The shard is skipped")
        self._in_a_row += 1
        if self._in_a_row >= min(_MAX_FAILURES, 2 * len(self._urls)):
            raise UserError(
                f"no shard can be read; the last error was: {reason}",
                where=shown(url),
                fix="check the URL and the network",
            )

    def take(self) -> dict[str, str]:
        """Return the reasons for shards named since the last call, by name."""
        new, self._new = self._new, {}
        return new


def samples_of(shards: Iterable[dict[str, str]], failures: FailedShards) -> Iterator[RawSample]:
    """Yield the samples of shards.

    Args:
        shards: maps `url` to the URL of each shard, as webdataset does.
        failures: is told about shards that fail.

    Raises:
        UserError: too many shards failed in a row.
    """
    for shard in shards:
        url = shard["url"]
        file: CountedFile | None = None
        count = 0
        try:
            with open_stream(url) as file:
                for sample in _read(url, file):
                    count += 1
                    failures.works()
                    yield sample
                rest = file.rest()
            if not count:
                raise ShardFailed("it contains no samples")
            if doubt := _doubt(rest, file):
                failures.name(url, doubt)
        except UserError:
            raise
        except Exception as error:  # of the network, of tarfile, of webdataset and of any file system
            failures.failed(url, reason_of(error, file))


def _doubt(rest: int, file: CountedFile) -> str | None:
    """Return what is odd about the end of a shard whose samples were read. tarfile ends silently at a broken header."""
    if rest:
        return (
            f"{rest:,} bytes behind the end of the tar are not read. It is corrupt there, or tars were concatenated. "
            "Index it (all4one data index), or pack it again"
        )
    if not file.has_end():
        return f"the tar has no end blocks after {file.received:,} bytes. If it was cut, its last samples are missing"
    return None


def shard_name(url: str) -> str:
    """Return the file name of a shard."""
    return shown(url).rpartition("/")[2]


def _read(url: str, file: CountedFile) -> Iterator[RawSample]:
    """Yield the samples of a shard, whose members must be neighbors.

    Raises:
        ShardFailed: they are not.
    """
    from webdataset.handlers import reraise_exception
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    members = tar_file_iterator(file, handler=reraise_exception)
    named = ({**member, "__url__": url} for member in members)
    has_image: dict[str, bool] = {}
    for sample in group_by_keys(named, handler=reraise_exception):
        key = sample["__key__"]
        found = any(name.rpartition(".")[2] in IMAGES for name in sample)
        if has_image.setdefault(key, found) != found:
            raise ShardFailed(
                f"the members of {key!r} lie apart, which a stream cannot join. Index the shards (all4one data index), "
                "or pack them again with tar --sort=name"
            )
        yield sample
