"""Checks that the index of a local dataset is the one that was written, by its fingerprint.

Hashing takes a second for some ten million samples. The result is kept by size and time of the file: in this process,
and for large indexes also in the user's cache folder.
"""

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from data_pipelines.errors import UserError
from data_pipelines.formatting import readable
from data_pipelines.shards.index import INDEX, DatasetRecord, fingerprint, index_fix

_LARGE = 16 << 20
"""Bytes of an index from which on the result is kept on the disk."""
_SETTLED_NS = 2_000_000_000
"""Age of a file from which on a further change has another time."""
_checked: set[str] = set()


def require_unchanged(folder: Path, record: DatasetRecord, rows: NDArray[np.void]) -> None:
    """Raise a UserError if the index differs from the one whose fingerprint is in `dataset.json`.

    Args:
        folder: folder of the dataset.
        record: content of `dataset.json`.
        rows: the index.
    """
    path = folder / INDEX
    status = path.stat()
    state = (os.path.realpath(path), status.st_size, status.st_mtime_ns, status.st_ino, record.fingerprint)
    key = hashlib.sha256(repr(state).encode("utf-8", "surrogateescape")).hexdigest()
    note = user_cache_path("all4one") / "indexes" / key
    large = status.st_size >= _LARGE
    if key in _checked or (large and note.exists()):
        return
    if fingerprint(rows) != record.fingerprint:
        raise UserError(
            "the index was changed after it was written, so its rows may point to other samples",
            where=readable(path),
            fix=f"restore it, or {index_fix(folder)}",
        )
    if time.time_ns() - status.st_mtime_ns < _SETTLED_NS:
        return
    _checked.add(key)
    if large:
        with suppress(OSError):
            note.parent.mkdir(parents=True, exist_ok=True)
            note.touch()
