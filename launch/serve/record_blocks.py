"""Many records of metrics.jsonl parsed at once, which is several times faster than one by one."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.runs.records import RENAMED_VALUES

TRAINING = "train"
"""Kind of the records of training steps."""
_FACTS = ("kind", "step", "epoch", "time")
_LARGEST = 1e300
"""A value that is as large as this is damaged. `trainer.runs.records` draws the same line."""


@dataclass(frozen=True)
class Block:
    """The values of some successive records."""

    steps: np.ndarray
    """Step [n] of each record, int64."""
    epochs: np.ndarray
    """Epoch [n] of each record, float64."""
    training: np.ndarray
    """Whether each record [n] is one of a training step, int8."""
    columns: Mapping[str, tuple[np.ndarray, np.ndarray]]
    """For each value the places [m] of the records that have it, ascending, and the values [m]."""
    last: Mapping[str, int]
    """The last step of each kind of record."""
    first: Mapping[str, int]
    """The first step of each kind of record."""

    def continues(self, last: Mapping[str, int]) -> bool:
        """Whether the records come after the given last steps, as they do unless a run has resumed between them."""
        return all(step > last.get(kind, -1) for kind, step in self.first.items())


def parse_block(lines: Sequence[bytes]) -> Block | None:
    """Return the records in whole lines.

    None: a line is damaged, a record is not usual, or the steps of one kind do not ascend. The lines are then read one
    by one.
    """
    try:
        records = json.loads(b"[" + b",".join(lines) + b"]")
        groups = defaultdict[tuple[Any, ...], list[int]](list)
        for place, record in enumerate(records):
            groups[(record["kind"], tuple(record), tuple(record.get("time", ())))].append(place)
        if len(records) != len(lines) or not all(isinstance(kind, str) for kind, _, _ in groups):
            return None
        return _block(records, groups)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def _block(records: list[dict[str, Any]], groups: Mapping[tuple[Any, ...], list[int]]) -> Block | None:
    steps = np.array([record["step"] for record in records])
    epochs = np.array([record["epoch"] for record in records], np.float64)
    if steps.dtype != np.int64 or not np.isfinite(epochs).all() or (steps >= 1 << 53).any():
        return None
    kinds, parts = (
        defaultdict[str, list[int]](list),
        defaultdict[str, list[tuple[np.ndarray, np.ndarray]]](list),
    )
    for (kind, names, times), numbers in groups.items():
        kinds[kind] += numbers
        members = [records[number] for number in numbers]
        places = np.array(numbers)
        for name in names:
            if name not in _FACTS:
                parts[RENAMED_VALUES.get(name, name)].append(
                    (places, _numbers([one[name] for one in members]))
                )
        for name in times:
            parts[RENAMED_VALUES.get(name, name)].append(
                (places, _numbers([one["time"][name] for one in members]))
            )
    of_kind = {kind: steps[sorted(numbers)] for kind, numbers in kinds.items()}
    if any((np.diff(own) <= 0).any() or own[0] < 0 for own in of_kind.values()):
        return None
    training = np.zeros(len(records), np.int8)
    training[kinds.get(TRAINING, [])] = 1
    return Block(
        steps,
        epochs,
        training,
        {name: _joined(found) for name, found in parts.items()},
        last={kind: int(own[-1]) for kind, own in of_kind.items()},
        first={kind: int(own[0]) for kind, own in of_kind.items()},
    )


def _numbers(values: list[Any]) -> np.ndarray:
    found = np.array(values)
    if found.dtype.kind not in "if" or not (np.abs(found) < _LARGEST).all():
        raise ValueError("not a number")
    return found.astype(np.float64)


def _joined(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of records with different keys in the order of the records."""
    places, values = (np.concatenate(several) for several in zip(*parts, strict=True))
    order = np.argsort(places, kind="stable")
    return places[order], values[order]
