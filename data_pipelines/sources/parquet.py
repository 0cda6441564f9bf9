"""Parquet files of images, as in Hugging Face datasets. They are read with pyarrow, an optional dependency.

Listing reads footers and labels. The smallest part of a file that can be read alone is a row group of about a hundred
images. If the images of a shard came from as many groups, each shard would read the whole dataset. The build therefore
shuffles row groups and keeps the rows of each together. Every group is read once, or twice if it continues in a second
shard.
"""

import json
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.errors import UserError
from data_pipelines.imaging.images import UnusableImage
from data_pipelines.sources.image_sources import Item, Source, make_keys

_IMAGES, _LABELS = ("image", "img"), ("label", "fine_label")
_SPLIT = re.compile(r"(?P<split>\w+)-\d+-of-\d+.*|(?P<whole>train|validation|valid|val|test|unlabeled)")
_BATCH = 16
"""Number of rows that a worker holds at a time."""


class Row(NamedTuple):
    """The image in one row of a row group."""

    file: Path
    group: int
    row: int
    size: int
    """Mean bytes of an image in the group."""

    def read(self) -> bytes:
        """Read the image. Reading is fast if rows are requested in order."""
        import pyarrow

        try:
            if _cursor(self.file, self.group).start > self.row:
                _cursor.cache_clear()
            return _cursor(self.file, self.group).read(self.row)
        except (pyarrow.ArrowException, OSError, EOFError) as error:
            _cursor.cache_clear()
            # a disk error has an errno, but an error of damaged bytes has none
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise UnusableImage(f"row group {self.group} of {self.file.name} cannot be read") from error


class _Listed(NamedTuple):
    path: Path
    groups: list[tuple[int, int]]
    """Number of rows and mean bytes of an image, for each row group."""
    labels: list[Any]
    """One label per row. None without a label."""
    names: tuple[str, ...]
    """Names of the classes by label, if the file has them."""


def is_parquet(path: Path) -> bool:
    """Return whether a path is a Parquet file or a folder that contains some."""
    return path.suffix == ".parquet" if path.is_file() else any(path.glob("*.parquet"))


def open_parquet(path: Path) -> dict[str, Source]:
    """List a Parquet file or a folder of them, by split.

    A file `train-00000-of-00005.parquet` belongs to the split `train`. The image is in the column `image` (or `img`),
    as bytes or as Hugging Face's struct of bytes and path. The label is in `label` (or `fine_label`). Class names come
    from Hugging Face's schema. Without it, labels are numbered in the order of their values in all splits.

    Args:
        path: the file or folder.

    Returns:
        The source of each split by name. A single split has the name `""`.

    Raises:
        UserError: pyarrow is missing, or a file cannot be read, lacks these columns or does not match the others.
    """
    paths = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    splits: dict[str, list[_Listed]] = {}
    for file in paths:
        splits.setdefault(_split(file), []).append(_list(file))
    if len(splits) == 1:
        splits = {"": next(iter(splits.values()))}
    elif "" in splits:
        raise UserError(
            f"some file names contain a split, but {splits[''][0].path.name!r} does not",
            where=path,
            fix="rename the files of each split to SPLIT-00000-of-00001.parquet",
        )
    files = [file for listed in splits.values() for file in listed]
    classes, label_of = _classes(files)
    return {split: _source(listed, classes, label_of) for split, listed in splits.items()}


def _split(path: Path) -> str:
    match = _SPLIT.fullmatch(path.stem)
    return match["split"] or match["whole"] if match else ""


def _list(path: Path) -> _Listed:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(
            "reading Parquet files needs pyarrow, which is not installed",
            where=path,
            fix="run: pip install pyarrow",
        ) from error
    try:
        # No threads here and below, because threads do not survive the fork of the workers.
        with ParquetFile(path, pre_buffer=False) as file:
            schema, footer = file.schema_arrow, file.metadata
            column = _leaf(schema, path)
            label = next((name for name in _LABELS if name in schema.names), None)
            labels = (
                file.read([label], use_threads=False).column(0).to_pylist()
                if label
                else [None] * footer.num_rows
            )
            if (
                odd := next((value for value in labels if not isinstance(value, int | str | None)), None)
            ) is not None:
                raise UserError(
                    f"the column {label!r} holds {type(odd).__name__}, not one number or string per row",
                    where=path,
                    fix="add a column `label` with the class of each image",
                )
            groups = []
            for number in range(footer.num_row_groups):
                group = footer.row_group(number)
                chunks = (group.column(index) for index in range(group.num_columns))
                size = sum(
                    chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column
                )
                groups.append((group.num_rows, size // max(1, group.num_rows)))
            return _Listed(path, groups, labels, _names(schema, label))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"the Parquet file cannot be read: {error}", where=path, fix="copy it again"
        ) from error


def _leaf(schema: Any, path: Path) -> str:
    """Return the path of the bytes column in the schema."""
    from pyarrow import types

    for name in _IMAGES:
        if name not in schema.names:
            continue
        kind = schema.field(name).type
        inner = name
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind, inner = kind.field("bytes").type, f"{name}.bytes"
        if types.is_binary(kind) or types.is_large_binary(kind):
            return inner
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise UserError(
        f"the file has no column `image` of encoded images. Its columns: {columns}",
        where=path,
        fix="rename the column to `image`; its type must be binary, or a struct with a binary field `bytes`",
    )


def _names(schema: Any, label: str | None) -> tuple[str, ...]:
    """Return the class names from Hugging Face's part of the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(features[label]["names"])
    except (ValueError, LookupError, TypeError):
        return ()


def _classes(files: Sequence[_Listed]) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Return the class names, and the class index of each value of the label column."""
    values = {label for file in files for label in file.labels if label is not None and label != -1}
    names = files[0].names
    for file in files:
        if file.names != names:
            raise UserError(
                f"the files have different class names than {files[0].path.name!r}",
                where=file.path,
                fix="build the files of each dataset into a separate folder",
            )
    try:
        ordered = sorted(values)
    except TypeError as error:
        raise UserError(
            "the labels are numbers in some files and strings in others",
            where=files[0].path.parent,
            fix="build the files of each dataset into a separate folder",
        ) from error
    if not names or not all(isinstance(value, int) for value in ordered):
        return tuple(str(value) for value in ordered), {value: number for number, value in enumerate(ordered)}
    if beyond := [value for value in ordered if not 0 <= value < len(names)]:
        raise UserError(
            f"the label {beyond[0]} is outside the {len(names)} classes of the schema",
            where=files[0].path.parent,
            fix="correct the labels or the schema",
        )
    return names, {value: value for value in ordered}


def _source(files: Sequence[_Listed], classes: tuple[str, ...], label_of: dict[Any, int]) -> Source:
    places = [
        Row(file.path, group, row, size)
        for file in files
        for group, (rows, size) in enumerate(file.groups)
        for row in range(rows)
    ]
    names = (f"{file.path.stem}-{number:06d}" for file in files for number in range(len(file.labels)))
    labels = (label_of.get(label, -1) for file in files for label in file.labels)
    items = [
        Item(key, place, label) for key, place, label in zip(make_keys(names), places, labels, strict=True)
    ]
    return Source(items, classes, tuple(rows for file in files for rows, _ in file.groups))


class _Cursor:
    """The images of a row group, read from the first on."""

    def __init__(self, path: Path, group: int) -> None:
        from pyarrow.parquet import ParquetFile

        # Reads pages on demand instead of the whole row group at once.
        file = ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        column = _leaf(file.schema_arrow, path)
        self._batches = file.iter_batches(_BATCH, row_groups=[group], columns=[column], use_threads=False)
        self._rows: list[bytes | None] = []
        self.start = 0
        """Number of the first row that is still in memory."""

    def read(self, row: int) -> bytes:
        while row >= self.start + len(self._rows):
            self.start += len(self._rows)
            batch = next(self._batches, None)
            if batch is None:
                raise EOFError
            column = batch.column(0)
            self._rows = (column.flatten()[0] if column.type.num_fields else column).to_pylist()
        return self._rows[row - self.start] or b""


@lru_cache(maxsize=1)
def _cursor(path: Path, group: int) -> _Cursor:
    return _Cursor(path, group)


# Each worker opens its own files, because files opened by the parent would be shared by all workers.
os.register_at_fork(after_in_child=_cursor.cache_clear)
