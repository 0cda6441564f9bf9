"""Parquet files of images, as in Hugging Face datasets. They are read with pyarrow, an optional dependency.

Listing reads footers and labels. The smallest part of a file that can be read alone is a row group of about a hundred
images. If the images of a shard came from as many groups, each shard would read the whole dataset. The build therefore
shuffles row groups and keeps the rows of each together. Every group is read once, or twice if it continues in a second
shard.
"""

import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.errors import UserError
from data_pipelines.imaging.images import UnusableImage
from data_pipelines.sources.classes import ordered_classes, read_classes, sorts_otherwise
from data_pipelines.sources.image_sources import LabelOptions
from data_pipelines.sources.items import Item, Source, make_keys
from data_pipelines.sources.parquet_columns import class_names, image_column, label_column, no_label_note
from data_pipelines.sources.shard_labels import LabelError, as_label
from data_pipelines.sources.splits import group_by_split

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
    note: str | None
    """What the user should know."""


def open_parquet(
    path: Path,
    files: Sequence[Path] | None = None,
    options: LabelOptions = LabelOptions(),  # noqa: B008
) -> dict[str, Source]:
    """List a Parquet file or a folder of them, by split.

    A file `train-00000-of-00005.parquet` belongs to the split `train`, as does a file in a folder `train`. The image is
    in the column `image` (or `img`, or the only one of its type), as bytes or as Hugging Face's struct of bytes and
    path. `parquet_columns.label_column` finds the label. Class names come from Hugging Face's schema. Without it,
    labels are numbered in the order of their values in all splits.

    Args:
        path: the file or folder.
        files: the files. None: all of the folder.
        options: how the images get their classes.

    Returns:
        The source of each split by name. A single split has the name `""`.

    Raises:
        UserError: pyarrow is missing, or a file cannot be read, lacks these columns or does not match the others.
    """
    if options.file is not None:
        raise UserError("this source contains its own labels", where=path, fix="leave out --labels")
    if files is None:
        files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    grouped = group_by_split(path if path.is_dir() else path.parent, files, _split)
    splits = {split: [_list(file, options) for file in listed] for split, listed in grouped.items()}
    listed = [file for part in splits.values() for file in part]
    classes, label_of = _classes(listed, options)
    notes = [note for note in dict.fromkeys(file.note for file in listed[:1]) if note]
    if (
        not options.numeric
        and options.classes is None
        and sorts_otherwise(classes)
        and sorted(classes) == [*classes]
    ):
        notes.append("the labels are numbers as text. To sort them by value, add --numeric-classes")
    sources = {split: _source(part, classes, label_of) for split, part in splits.items()}
    first = next(iter(sources))
    sources[first] = sources[first]._replace(notes=tuple(notes))
    return sources


def _split(path: Path) -> str:
    match = _SPLIT.fullmatch(path.stem)
    return match["split"] or match["whole"] if match else ""


def _list(path: Path, options: LabelOptions) -> _Listed:
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
            column = image_column(schema, path)
            label = label_column(schema, path, options.column) if options.enabled else None
            values = (
                file.read([label], use_threads=False).column(0).to_pylist()
                if label
                else [None] * footer.num_rows
            )
            labels = [_value(value, label, path) for value in values]
            note = no_label_note(schema, path) if label is None and options.enabled else None
            groups = []
            for number in range(footer.num_row_groups):
                group = footer.row_group(number)
                chunks = (group.column(index) for index in range(group.num_columns))
                size = sum(
                    chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column
                )
                groups.append((group.num_rows, size // max(1, group.num_rows)))
            return _Listed(path, groups, labels, class_names(schema, label), note)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"the Parquet file cannot be read: {error}", where=path, fix="copy it again"
        ) from error


def _value(value: Any, label: str | None, path: Path) -> int | str | None:
    if isinstance(value, int | str | None):
        return value
    try:
        return as_label(value)
    except LabelError:
        raise UserError(
            f"the column {label!r} holds {type(value).__name__}, not one number or string per row",
            where=path,
            fix="add a column `label` with the class of each image, or name another one with --label-column",
        ) from None


def _classes(files: Sequence[_Listed], options: LabelOptions) -> tuple[tuple[str, ...], dict[Any, int]]:
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
    where = "schema"
    if options.classes is not None:
        names, where = tuple(read_classes(options.classes)), str(options.classes)
    if names and options.classes is not None and ordered and isinstance(ordered[0], str):
        if unknown := [value for value in ordered if value not in names]:
            raise UserError(
                f"the label {unknown[0]!r} is not among the class names",
                where=where,
                fix="add it, one name per line",
            )
        return names, {name: number for number, name in enumerate(names)}
    if options.numeric and all(isinstance(value, str) for value in ordered):
        ordered = ordered_classes(ordered, numeric=True)
    if not names or not all(isinstance(value, int) for value in ordered):
        return tuple(str(value) for value in ordered), {value: number for number, value in enumerate(ordered)}
    if beyond := [value for value in ordered if not 0 <= value < len(names)]:
        raise UserError(
            f"the label {beyond[0]} is outside the {len(names)} classes of the {where}",
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
        column = image_column(file.schema_arrow, path)
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
