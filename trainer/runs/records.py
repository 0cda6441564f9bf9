"""Records as lines of JSON: the ledger, the metrics and other lists of a run. Loads no torch.

Kills, full disks and bad sectors leave lines that are cut short or changed. Whole lines are read, and others are
skipped, so one bad byte hides nothing but its own line.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from data_pipelines.masking import masked_values

Record = dict[str, Any]
Check = Callable[[Any], bool]
Speed = tuple[int, float | None]
"""Step and images per second of a training record."""

_YEAR_10000 = 253_402_300_800
"""The first time that no calendar of Python shows, seconds since 1970."""

RENAMED_VALUES = {
    "neighbour": "neighbor",
    "neighbour_agreement": "neighbor_agreement",
    "neighbour_age": "neighbor_age",
    "neighbour_cosine": "neighbor_cosine",
    "neighbour_share": "neighbor_share",
}
"""Names of metrics in metrics.jsonl of version 0.1, with their names today."""


def read_records(path: Path) -> list[Record]:
    """Read the records of a file, with the names of today. Damaged lines are skipped.

    If the file does not exist, there are no records.
    """
    return [record for line in _lines(path) if (record := parse_record(line)) is not None]


def count_damaged(path: Path) -> int:
    """Return the number of lines that `read_records` skips, except for a last line that was cut short."""
    return _damaged(_load(line) is not None for line in _lines(path))


def read_ledger(path: Path) -> list[Record]:
    """Read the records of a ledger that hold all that its readers rely on."""
    return [
        r
        for r in read_records(path)
        if all(key in r for key in ("event", *_NEEDED.get(str(r.get("event")), ())))
    ]


def read_evaluations(path: Path) -> list[Record]:
    """Return the records of evaluations in the metrics. This is faster than `read_records`, because they are few."""
    lines = (line for line in _lines(path) if b'"eval"' in line)
    return [r for line in lines if (r := parse_record(line)) is not None and r.get("kind") == "eval"]


def read_speeds(path: Path) -> list[Speed]:
    """Return (step, images per second) of each training record in the metrics, in the order of the file.

    This takes a fraction of the time and memory of `read_records`, which matters for long runs. The speed is None if it
    was not recorded.
    """
    return [speed for line in _lines(path) if (speed := _speed(_json(line))) is not None]


def read_speeds_and_damage(path: Path) -> tuple[list[Speed], int]:
    """Return what `read_speeds` and `count_damaged` return, from one reading of the file."""
    speeds: list[Speed] = []
    whole: list[bool] = []
    for line in _lines(path):
        record = _json(line)
        whole.append(isinstance(record, dict) and _is_sound(record))
        if (speed := _speed(record)) is not None:
            speeds.append(speed)
    return speeds, _damaged(whole)


def _damaged(whole: Iterable[bool]) -> int:
    """Return how many lines are damaged, from whether each is whole. A last line was cut short, which is usual."""
    skipped = [not one for one in whole]
    return sum(skipped) - bool(skipped and skipped[-1])


def _speed(record: Any) -> Speed | None:
    """Return (step, images per second) of a training record. None: it is none, or it is damaged."""
    try:
        if record["kind"] != "train":
            return None
        step, speed = record["step"], record.get("time", {}).get("images_per_second")
    except (KeyError, TypeError, AttributeError):
        return None
    return (step, speed) if _is_count(step) and (speed is None or _is_number(speed)) else None


def append_record(path: Path, record: Record) -> None:
    """Append a record as one line, without passwords of URLs. If the last line was cut short, it is ended first."""
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + json.dumps(masked_values(record)).encode() + b"\n")


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file that are not empty. If it does not exist, there are none."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        yield from (line for line in file if not line.isspace())


def parse_record(line: bytes) -> Record | None:
    """Return the record in a line with the names of today. None: the line is damaged."""
    found = _load(line)
    if found is None:
        return None
    return {RENAMED_VALUES.get(str(key), str(key)): _printable(value) for key, value in found.items()}


def _load(line: bytes) -> Record | None:
    """Return the record in a line as it was written. None: the line is damaged."""
    found = _json(line)
    return found if isinstance(found, dict) and _is_sound(found) else None


def _json(line: bytes) -> Any:
    """Return the value in a line. None: it is not JSON, or not UTF-8."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _printable(value: Any) -> Any:
    """Return a value whose text holds no control characters, which could steer the terminal that shows it."""
    if isinstance(value, list):
        return [_printable(one) for one in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(one) for key, one in value.items()}
    if isinstance(value, str) and not value.isprintable():
        return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in value)
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_time(value: Any) -> bool:
    return _is_number(value) and 0 <= value < _YEAR_10000


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_optional_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_optional_number(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_optional_time(value: Any) -> bool:
    return value is None or _is_time(value)


def _are_times(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_lists_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_are_texts, value))


def _are_texts_by_node(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_are_texts, value.values()))


def _are_nodes_by_node(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


_NEEDED = {
    "start": ("time", "attempt", "world_size"),
    "ready": ("time", "attempt", "step", "total_steps"),
    "saved": ("attempt", "step"),
    "survived": ("attempt", "step"),
    "fell_back": ("attempt", "step"),
    "rollback": ("attempt", "to_step"),
    "replicas_differ": ("attempt", "step", "ranks", "nodes", "to_step"),
    "stepped": ("time", "attempt", "step"),
    "evaluated": ("time", "attempt", "step", "seconds"),
    "straggler": ("attempt", "step", "rank", "node", "slower"),
    "node_check": ("attempt", "count", "seconds", "stopped", "bad", "swapped", "links", "common"),
    "end": ("time", "attempt", "reason"),
}
"""What the readers of the ledger rely on, by event."""
_LEDGER: dict[str, Check] = {
    "event": _is_text,
    "time": _is_time,
    "attempt": _is_count,
    "world_size": _is_count,
    "step": _is_count,
    "total_steps": _is_count,
    "from_step": _is_count,
    "to_step": _is_count,
    "saved": _is_count,
    "replayed": _is_count,
    "ranks": _are_counts,
    "rank": _is_count,
    "node": _is_text,
    "slower": _is_number,
    "last_equal": _is_count,
    "restart": _is_count,
    "reason": _is_text,
    "message": _is_text,
    "data": _is_text,
    "validation": _is_optional_text,
    "job": _is_optional_text,
    "nodes": _is_optional_text,
    "last_recorded": _is_optional_number,
    "submitted": _is_optional_time,
    "allocated": _is_optional_time,
    "seconds": _is_number,
    "saving": _is_number,
    "count": _is_count,
    "stopped": _is_flag,
    "bad": _are_texts_by_node,
    "swapped": _are_nodes_by_node,
    "links": _are_lists_of_texts,
    "common": _are_texts,
}
"""What the values of the ledger must be where they are present."""


def _is_sound(record: Record) -> bool:
    """Whether the values of a record of the ledger or the metrics have the right types. Other records always do."""
    if "event" in record:
        return all(check(record[name]) for name, check in _LEDGER.items() if name in record)
    if "kind" in record:
        values = (value for name, value in record.items() if name not in ("kind", "time"))
        return (
            _is_text(record["kind"])
            and _is_count(record.get("step"))
            and _are_times(record.get("time", {}))
            and all(map(_is_number, values))
        )
    return True
