"""Opens a dataset by URL: downloads its index into the cache and checks it."""

import errno
import json
import re
from threading import Event
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError
from data_pipelines.shards.cache import Cache, CacheFull, Descriptor
from data_pipelines.shards.cached_files import CachedFiles, download, name_in_cache
from data_pipelines.shards.index import (
    DATASET,
    INDEX,
    ROW,
    DatasetRecord,
    fingerprint,
    parse_record,
    read_index,
)
from data_pipelines.shards.remote import CHUNK, Remote, RemoteError, is_web_page
from data_pipelines.urls import Url, shown

REMOTE_INDEX_FIX = (
    "index the shards where they are local (all4one data index FOLDER), "
    "then upload index.npy and dataset.json"
)
_OPENING_TRIES = 5
_OPENING_SECONDS = 60.0  # for all tries of one read


class Opened(NamedTuple):
    """A remote dataset."""

    record: DatasetRecord
    rows: NDArray[np.void]
    """The index, `[N]` of `data_pipelines.shards.index.ROW`."""
    files: CachedFiles


def open_remote(url: Url, cache: Cache, ahead: int, fraction: float = 1.0) -> Opened:
    """Open a dataset by URL. Its index is downloaded unless it is in the cache.

    Args:
        url: a folder with shards, `dataset.json` and `index.npy`.
        cache: cache for the index and the shards.
        ahead: maximum number of shards to download ahead of the current block.
        fraction: fraction of the cache that the shards which are needed next may take.

    Raises:
        UserError: the folder does not exist or access is denied, the index is missing or broken, or the cache is not
            writable.
    """
    remote = Remote(url, Event())
    try:
        record = _read_record(remote)
        index, held = _read_index(remote, cache, record)
    except RemoteError as error:
        what, fix = {
            errno.ENOENT: ("there is no such file, but a remote dataset needs its index", REMOTE_INDEX_FIX),
            errno.EACCES: (
                f"access is refused ({error.strerror})",
                "make sure that fsspec finds your credentials",
            ),
        }.get(
            error.errno or 0,
            (
                f"cannot be read ({error.strerror})",
                "check the network, the server and your credentials, then try again",
            ),
        )
        raise UserError(what, where=error.filename, fix=fix) from error
    except (CacheFull, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it does not fit under data.cache_bytes"
        raise UserError(
            f"the index cannot be stored in the cache: {reason}",
            where=cache.folder,
            fix="free some space, or set data.cache to another folder on a local disk",
        ) from error
    return Opened(record, index, CachedFiles(url, cache, record, held, ahead, fraction))


def _read_record(remote: Remote) -> DatasetRecord:
    data = b""
    while more := remote.read(
        DATASET, len(data), len(data) + CHUNK, tries=_OPENING_TRIES, seconds=_OPENING_SECONDS
    ):
        if data and data.startswith(more):  # a server without ranges sends the whole file again
            break
        data += more
        if _is_json(data) or is_web_page(data):
            break
    where = Url(shown(remote.url / DATASET))
    record = parse_record(data, where=where, fix=REMOTE_INDEX_FIX)
    # It becomes the name of a local folder.
    if not re.fullmatch(r"[0-9a-f]{64}", record.fingerprint):
        raise UserError("the file is not an index of all4one", where=where, fix=REMOTE_INDEX_FIX)
    return record


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


def _read_index(remote: Remote, cache: Cache, record: DatasetRecord) -> tuple[NDArray[np.void], Descriptor]:
    name, fresh = name_in_cache(record, INDEX), False
    while (held := cache.open(name)) is None or not cache.keep(name, held):
        start = remote.read(INDEX, 0, 10, tries=_OPENING_TRIES, seconds=_OPENING_SECONDS)
        if not start.startswith(b"\x93NUMPY") or len(start) < 10:
            came = "a web page (HTML)" if start.lstrip()[:1] == b"<" else f"{start[:10]!r}"
            raise UserError(
                f"the file is not an index: the server sent {came}",
                where=shown(remote.url / INDEX),
                fix=REMOTE_INDEX_FIX,
            )
        size = 10 + int.from_bytes(start[8:10], "little") + record.samples * ROW.itemsize  # header and rows
        cache.fetch(name, size, download(remote, INDEX, size), Event())
        fresh = True
    where = shown(remote.url / INDEX)
    try:
        index = read_index((cache.folder / name).parent, record)
    except UserError as error:
        cache.drop(name, held)
        raise UserError(error.what, where=where, fix=REMOTE_INDEX_FIX) from error
    if fresh and fingerprint(np.asarray(index)) != record.fingerprint:
        cache.drop(name, held)
        raise UserError(
            f"the index and {DATASET} beside it belong to different datasets",
            where=where,
            fix=REMOTE_INDEX_FIX,
        )
    return index, held
