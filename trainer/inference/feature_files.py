"""Feature files that grow batch by batch and get their final name when they are complete."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import replacing, require_writable
from trainer.inference.embed import Rows

ROW_GROUP_BYTES = 64_000_000
"""Bytes of features in one row group of a Parquet file, exceeded by at most one batch."""

Write = Callable[[Rows], None]


@contextmanager
def feature_file(path: Path, feature_dim: int) -> Iterator[Write]:
    """Yield a function that writes rows to a file. The file gets its name at the end of the block.

    If the block fails, nothing is left behind.

    `.npy`: features [N, F] float32, and a text file with one of the N keys per line (`\\` and line breaks in a key are
    written `\\\\` and `\\n`). `.parquet`: columns `key`, `label` (null without a label) and `embedding`.

    Args:
        path: a file that `require_place` accepted.
        feature_dim: F.
    """
    with FORMATS[path.suffix](path, feature_dim) as write:
        yield write


def require_place(path: Path) -> None:
    """Create the folder of a feature file. Raise a UserError if the file cannot be written there."""
    if path.suffix not in FORMATS:
        raise UserError(
            "a feature file must end in .parquet or .npy", where=path, fix="choose another file with --out"
        )
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise UserError(
                "writing Parquet files needs pyarrow, which is not installed",
                where=path,
                fix="run: pip install pyarrow, or use --out features.npy",
            ) from error
    require_writable(path)


def keys_of(path: Path) -> Path:
    """Return the text file of keys beside a `.npy` file."""
    return path.with_suffix(".txt")


@contextmanager
def _npy(path: Path, feature_dim: int) -> Iterator[Write]:
    rows = 0

    def head(file: Any) -> int:
        """Write the header for the current number of rows. numpy pads it, so the number may grow."""
        shape = {"descr": "<f4", "fortran_order": False, "shape": (rows, feature_dim)}
        np.lib.format.write_array_header_1_0(file, shape)
        return int(file.tell())

    with (
        replacing(path) as features_to,
        replacing(keys_of(path)) as keys_to,
        features_to.open("wb") as features,
        keys_to.open("w", encoding="utf-8") as keys,
    ):
        length = head(features)

        def write(batch: Rows) -> None:
            nonlocal rows
            features.write(np.ascontiguousarray(batch.features, "<f4").tobytes())
            keys.writelines(_line(key) + "\n" for key in batch.keys)
            rows += len(batch.keys)

        yield write
        features.seek(0)
        assert head(features) == length


def _line(key: str) -> str:
    return key.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


@contextmanager
def _parquet(path: Path, feature_dim: int) -> Iterator[Write]:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    kind = pyarrow.list_(pyarrow.float32(), feature_dim)
    schema = pyarrow.schema([("key", pyarrow.string()), ("label", pyarrow.int64()), ("embedding", kind)])
    waiting: list[Rows] = []

    with replacing(path) as temporary, ParquetWriter(temporary, schema) as file:

        def flush() -> None:
            if not waiting:
                return
            values = pyarrow.array(np.concatenate([rows.features for rows in waiting]).reshape(-1))
            columns = [
                pyarrow.array([key for rows in waiting for key in rows.keys], pyarrow.string()),
                pyarrow.array([label for rows in waiting for label in _labels(rows)], pyarrow.int64()),
                pyarrow.FixedSizeListArray.from_arrays(values, feature_dim),
            ]
            file.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
            waiting.clear()

        def write(batch: Rows) -> None:
            waiting.append(batch)
            if sum(rows.features.nbytes for rows in waiting) >= ROW_GROUP_BYTES:
                flush()

        yield write
        flush()


def _labels(rows: Rows) -> list[int | None]:
    if rows.labels is None:
        return [None] * len(rows.keys)
    return [label if label >= 0 else None for label in rows.labels]


FORMATS = {".npy": _npy, ".parquet": _parquet}
