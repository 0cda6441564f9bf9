"""Damages to the text files of a run: flipped bits, and values of a wrong kind."""

import copy
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

WRONG = (None, True, "x", -1, 10**400, 1e308, math.nan, math.inf, [], [1, "a"], {}, {"a": 1}, {1: {"b": []}})
"""Values that a setting or record may have after an edit by hand, a bad disk, or another program's version."""


def with_flipped_bits(whole: bytes, count: int, chooser: random.Random) -> bytes:
    """The content of a file with some bits flipped."""
    damaged = bytearray(whole)
    for _ in range(count):
        damaged[chooser.randrange(len(whole))] ^= 1 << chooser.randrange(8)
    return bytes(damaged)


def with_wrong_value(path: Path, whole: bytes, chooser: random.Random) -> bytes:
    """The content of a file of YAML, JSON or lines of JSON with a value, at any depth, of a wrong kind."""
    lines = whole.splitlines() if path.suffix == ".jsonl" else [whole]
    line = chooser.randrange(len(lines))
    values = yaml.safe_load(lines[line])  # JSON is YAML
    container, key = chooser.choice(list(places_in(values)))
    container[key] = copy.deepcopy(chooser.choice(WRONG))
    lines[line] = (yaml.safe_dump(values) if path.suffix == ".yaml" else json.dumps(values)).encode()
    return b"\n".join(lines) + b"\n"


def places_in(values: Any) -> Iterator[tuple[Any, Any]]:
    """Each container of nested values with each of its keys."""
    keys = values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
    for key in list(keys):
        yield values, key
        yield from places_in(values[key])
