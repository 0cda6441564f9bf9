"""A table for spreadsheets, with one row per record and one column per value."""

import csv
import io
from collections.abc import Sequence
from typing import Any, ClassVar

from trainer.monitoring.writers.base import Record, numbers
from trainer.runs.owned_file import OwnedFile


class CsvTable:
    """`metrics.csv`: columns `kind` and `step`, then all values in the order of their first appearance.

    All rows always have all columns. If a record has a new value, the file is replaced by one with a wider header. If
    a record lacks a value, its cell is empty. A failed write is repeated with the next record. If another program
    changes or removes the file, it is replaced too.
    """

    recovers: ClassVar[bool] = True

    def __init__(self, file: OwnedFile) -> None:
        self._file = file
        self._records: list[Record] = []
        self._columns: list[str] = []
        self._whole = False  # whether the file has all records

    def restart(self, step: int, records: Sequence[Record]) -> None:
        """Replace the file by one with these records."""
        self._records = list(records)
        self._replace()

    def write(self, record: Record) -> None:
        """Append a row. If a column is new or the file lacks records, replace the file."""
        self._records.append(record)
        if not self._whole or not _columns([record]) <= {*self._columns}:
            self._replace()
            return
        self._whole = False
        self._whole = self._file.append(_text([self._row(record)]))
        if not self._whole:
            self._replace()

    def close(self) -> None:
        """Replace the file if it lacks records."""
        if not self._whole:
            self._replace()

    def _replace(self) -> None:
        self._whole = False
        self._columns = list(dict.fromkeys(name for r in self._records for name in _row(r)))
        rows = [self._columns, *(self._row(record) for record in self._records)]
        self._file.replace(_text(rows))
        self._whole = True

    def _row(self, record: Record) -> list[Any]:
        values = _row(record)
        return [values.get(name, "") for name in self._columns]


def _row(record: Record) -> dict[str, Any]:
    return {"kind": record["kind"], "step": record["step"], **dict(numbers(record))}


def _columns(records: Sequence[Record]) -> set[str]:
    return {name for record in records for name in _row(record)}


def _text(rows: Sequence[Sequence[Any]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()
