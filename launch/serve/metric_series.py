"""The recorded values of a run in memory. A file is read once, and then only what was appended."""

import os
import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from launch.report.curves import POINTS, thinned_places, values_of
from launch.serve.record_blocks import TRAINING, Block, parse_block
from trainer.runs.records import Speed, parse_record

_BLOCK = 1 << 22
"""Bytes that are parsed at once. Between blocks, other threads of the server have their turn."""
_LEAST_PREVIEWED, _LINE = 1 << 22, 1 << 13
"""Size of a file from which it has a preview, and the most bytes of two lines of it."""
_MOST_STEPS = 1 << 53
"""A number of steps that is damaged, and that a browser would not count exactly."""
_KNOWN_END = 128
"""Number of bytes before the end of what was read that tell whether the file is still the same."""


class Series(NamedTuple):
    """Points of one value, by ascending step."""

    steps: list[int]
    epochs: list[float]
    values: list[float]


class Update(NamedTuple):
    """What a page gets of a run's values."""

    cursor: str
    """What to give to get only later points."""
    whole: bool
    """Whether these are all points. Otherwise they follow those that the page has."""
    series: dict[str, Series]


class Window(NamedTuple):
    """The part of the values that a page shows."""

    low: float | None = None
    """First epoch or step. None: the first recorded one."""
    high: float | None = None
    """Last epoch or step. None: the last recorded one."""
    by_step: bool = False
    """Whether `low` and `high` are steps."""
    points: int = POINTS
    """Maximum number of points of each value."""


@dataclass
class _Column:
    """One value. Most values are not in every record."""

    records: "array[int]" = field(default_factory=lambda: array("I"))
    """Numbers of the records that have it, ascending."""
    values: "array[float]" = field(default_factory=lambda: array("d"))


class MetricSeries:
    """The values of one run. Any thread may call, one at a time.

    Args:
        path: the run's metrics.jsonl. It need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._forget()

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the values take."""
        columns = list(self._columns.values())  # another thread may add one
        return 17 * len(self._steps) + sum(12 * len(one.values) for one in columns)

    def update(self, window: Window, cursor: str = "", names: Collection[str] = ()) -> Update:
        """Read what was appended, and return the points of a window.

        Args:
            window: the part to return. The thinned points contain every peak.
            cursor: cursor of the last update. If it is still valid and few points were added, only these are returned,
                and `window` is not used.
            names: names of the values to return. Empty: all.

        Raises:
            OSError: the file cannot be read.
        """
        with self._lock:
            self._read_new()
            now = f"{self._generation}.{len(self._steps)}"
            wanted = {n: c for n, c in self._columns.items() if not names or n in names}
            since = self._since(cursor)
            if since is not None and len(self._steps) - since <= window.points:
                fresh = {
                    n: list(range(bisect_left(c.records, since), len(c.records))) for n, c in wanted.items()
                }
                return Update(now, False, self._series({n: p for n, p in fresh.items() if p}))
            return Update(now, True, self._series(dict(self._thinned(wanted, window))))

    def preview(self, points: int) -> Update | None:
        """Return points that are read here and there in a large file, within milliseconds. Peaks may be missing.

        None: the file is small, or has been read already. Then `update` is as fast.
        """
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                if size - self._offset < _LEAST_PREVIEWED:
                    return None
                blocks = [os.pread(file.fileno(), _LINE, place * size // points) for place in range(points)]
                blocks.append(os.pread(file.fileno(), _LINE, max(0, size - _LINE)))
        except OSError:
            return None
        whole = [
            block.split(b"\n")[1:-1] for block in blocks
        ]  # the first and the last line of a block are cut
        chosen = [lines[0] for lines in whole[:-1] if lines] + whole[-1][-1:]
        sample = MetricSeries(self._path)
        sample._add_lines(b"\n".join(dict.fromkeys(chosen)))
        return Update("", True, sample._series({n: range(len(c.values)) for n, c in sample._columns.items()}))

    def speeds(self) -> list[Speed]:
        """Read what was appended, and return what `read_speeds` returns: step and images/s of each training record."""
        with self._lock:
            self._read_new()
            speeds: list[float | None] = [None] * len(self._steps)
            if column := self._columns.get("images_per_second"):
                for record, value in zip(column.records, column.values, strict=True):
                    speeds[record] = value
            return [
                (step, speed)
                for step, is_training, speed in zip(self._steps, self._training, speeds, strict=True)
                if is_training
            ]

    def newest(self) -> list[dict[str, Any]]:
        """Return the newest record of each value, as few records as the report's headline needs."""
        with self._lock:
            found: dict[int, dict[str, Any]] = {}
            for name, column in self._columns.items():
                record = column.records[-1]
                facts = {"step": self._steps[record], "epoch": self._epochs[record]}
                found.setdefault(record, facts)[name] = column.values[-1]
            return [found[record] for record in sorted(found)]

    def _forget(self) -> None:
        self._generation = time.time_ns()  # also tells apart what an earlier server has read
        self._offset, self._known_end, self._identity = 0, b"", 0
        self._steps, self._epochs, self._training = array("q"), array("d"), array("b")
        self._columns: dict[str, _Column] = {}
        self._last: dict[str, int] = {}  # the last step of each kind of record

    def _since(self, cursor: str) -> int | None:
        """Return the number of records that a page knows. None: it knows none, or others."""
        generation, _, count = cursor.partition(".")
        if generation != str(self._generation) or not count.isdigit() or int(count) > len(self._steps):
            return None
        return int(count)

    def _read_new(self) -> None:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            if self._offset:
                self._forget()
            return
        with file:
            if self._offset and not self._is_continued(file):
                self._forget()
            self._identity = _identity(file)
            file.seek(self._offset)
            while block := file.read(_BLOCK):
                # The last line may be half written. It is read again when its end is there.
                whole = block.rfind(b"\n") + 1
                if whole == 0 and len(block) < _BLOCK:
                    break
                if whole == 0:  # no record is as long as a block, so this is no text
                    whole = len(block)
                self._add_lines(block[:whole])
                self._offset += whole
                self._known_end = (self._known_end + block[:whole])[-_KNOWN_END:]
                file.seek(self._offset)

    def _is_continued(self, file: IO[bytes]) -> bool:
        """Whether the file still begins with what was read. A resumed run replaces its file."""
        if _identity(file) != self._identity:
            return False
        file.seek(self._offset - len(self._known_end))
        return file.read(len(self._known_end)) == self._known_end

    def _add_lines(self, block: bytes) -> None:
        lines = [line for line in block.split(b"\n") if line]
        found = parse_block(lines)
        if found is not None and found.continues(self._last):
            self._add_block(found)
            return
        for line in lines:
            if (record := parse_record(line)) is not None:
                self._add_record(record)

    def _add_block(self, block: Block) -> None:
        first = len(self._steps)
        self._steps.frombytes(block.steps.tobytes())
        self._epochs.frombytes(block.epochs.tobytes())
        self._training.frombytes(block.training.tobytes())
        self._last |= block.last
        for name, (places, values) in block.columns.items():
            column = self._columns.setdefault(name, _Column())
            column.records.frombytes((places + first).astype(np.uint32).tobytes())
            column.values.frombytes(values.tobytes())

    def _add_record(self, record: Mapping[str, Any]) -> None:
        kind, step, epoch = record.get("kind"), record.get("step"), record.get("epoch")
        if not isinstance(kind, str) or not isinstance(epoch, int | float):
            return
        if not isinstance(step, int) or step >= _MOST_STEPS:
            return
        if kind == TRAINING and step <= self._last.get(TRAINING, -1):
            self._go_back(step)
        number, is_again = len(self._steps), step <= self._last.get(kind, -1)
        self._last[kind] = step
        self._steps.append(step)
        self._epochs.append(epoch)
        self._training.append(kind == TRAINING)
        for name, value in values_of(record):
            column = self._columns.setdefault(name, _Column())
            if is_again and column.records and self._steps[column.records[-1]] >= step:
                column.values[-1] = value  # evaluated again after a resume
                continue
            column.records.append(number)
            column.values.append(value)

    def _go_back(self, step: int) -> None:
        """Drop the records of a step and of later ones, because the run has resumed from an earlier step."""
        kept = bisect_left(self._steps, step)
        self._generation = time.time_ns()
        del self._steps[kept:], self._epochs[kept:], self._training[kept:]
        for column in self._columns.values():
            place = bisect_left(column.records, kept)
            del column.records[place:], column.values[place:]
        self._columns = {name: column for name, column in self._columns.items() if column.records}
        self._last = {kind: min(last, step - 1) for kind, last in self._last.items()}

    def _thinned(self, wanted: Mapping[str, _Column], window: Window) -> Iterator[tuple[str, Sequence[int]]]:
        """Yield the places of the points of a window by name, with one more on each side, so that lines go on."""
        axis = self._steps if window.by_step else self._epochs
        first = 0 if window.low is None else bisect_left(axis, window.low)
        last = len(axis) if window.high is None else bisect_left(axis, window.high)
        for name, column in wanted.items():
            begin = max(0, bisect_left(column.records, first) - (window.low is not None))
            end = min(len(column.records), bisect_left(column.records, last) + (window.high is not None))
            kept = thinned_places(np.array(column.values[begin:end]), window.points)
            yield name, [begin + place for place in kept]

    def _series(self, places: Mapping[str, Sequence[int]]) -> dict[str, Series]:
        found = {}
        for name, wanted in places.items():
            records, values = self._columns[name].records, self._columns[name].values
            at = [records[place] for place in wanted]
            found[name] = Series(
                [self._steps[record] for record in at],
                [self._epochs[record] for record in at],
                [values[place] for place in wanted],
            )
        return found


def _identity(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_ino
