"""`eval.json`: what has been found of one checkpoint on one pair of sets, added to by every evaluation of it."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data_pipelines.errors import UserError
from data_pipelines.files import write_whole
from trainer.evaluation.linear_fast import wilson_interval

SAME = {"weights": "weights", "train_index": "a training set", "validation_index": "a validation set"}
"""What results must share to stand in one file, and how a message calls it."""


def mismatches(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What results of two files are not of alike, as a message calls it; empty where they may stand in one."""
    return [name for key, name in SAME.items() if one.get(key) != other.get(key)]


def merged(*several: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Results by backbone and judge, all together; of the same judge the last one counts."""
    names = dict.fromkeys(name for backbones in several for name in backbones)
    return {
        name: {judge: result for backbones in several for judge, result in backbones.get(name, {}).items()}
        for name in names
    }


class Results:
    """The results in a file, with those that are added; what is there already, or comes there meanwhile by another
    evaluation, stays where it is of the same weights and sets, and is said to be replaced where it is not.

    Args:
        path: the file.
        facts: source, checkpoint, train, validation and images; weights, train_index and validation_index, which are
            hashes.
        quiet: whether nothing is said of what is replaced.

    Raises:
        UserError: the file holds something else.
    """

    def __init__(self, path: Path, facts: dict[str, Any], *, quiet: bool = False) -> None:
        self.path, self._quiet = path, quiet
        self.found: dict[str, Any] = {**facts, "backbones": {}}
        """What the file holds once `write` is called."""
        self._added: dict[str, dict[str, Any]] = {}
        self._take_in()

    def add(self, backbone: str, judge: str, result: dict[str, Any]) -> None:
        """Note what a judge found; what the same judge found before is replaced."""
        for of in (self._added, self.found["backbones"]):
            of.setdefault(backbone, {})[judge] = result

    def write(self) -> None:
        """Write the file, all or nothing. Raises a UserError where it cannot be written."""
        self._take_in()
        try:
            write_whole(self.path, (json.dumps(self.found, indent=2) + "\n").encode())
        except OSError as error:
            raise UserError(
                f"cannot be written: {error.strerror}", where=self.path, fix="choose another place with --out"
            ) from None

    def _take_in(self) -> None:
        """What the file says by now, and over it what was added."""
        before = _read(self.path) or {"backbones": {}}
        there = before["backbones"]
        if other := mismatches(before, self.found):
            if any(there.values()) and not self._quiet:
                judges = sorted({judge for judged in there.values() for judge in judged})
                print(
                    f"replacing {self.path}: what it says ({', '.join(judges)}) is of other {', '.join(other)}; "
                    "keep both with --out",
                    file=sys.stderr,
                )
                self._quiet = True
            there = {}
        self.found["backbones"] = merged(there, self._added)

    def show(self) -> None:
        """Print all that the file holds as tables."""
        console, found = Console(), self.found
        accuracy = Table("backbone", "judge", "top-1 %", "95 % interval", "top-5 %", title=_title(found))
        ranking = Table("backbone", "judge", "mAP %", "recall@1 %", "recall@5 %", "recall@10 %")
        for name, judged in found["backbones"].items():
            for judge, result in judged.items():
                if "top1" in result:
                    interval = _interval(result, found["images"])
                    accuracy.add_row(
                        name, judge, _percent(result["top1"]), interval, _percent(result["top5"])
                    )
                else:
                    figures = ("map", "recall_at_1", "recall_at_5", "recall_at_10")
                    ranking.add_row(name, judge, *(_percent(result[figure]) for figure in figures))
        for table in (accuracy, ranking):
            if table.row_count:
                console.print(table)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        assert isinstance(found["backbones"], dict)
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise UserError(
            "holds no results of `all4one eval`", where=path, fix="move it away, or choose another with --out"
        ) from None
    return dict(found)


def _title(found: dict[str, Any]) -> str:
    return f"{found['source']} on {found['images']} images of {found['validation']}"


def _interval(result: dict[str, Any], images: int) -> str:
    if "top1_std" in result:
        return f"deviation {_percent(result['top1_std'])} of {len(result['subsets'])} subsets"
    low, high = wilson_interval(result["top1"], images)
    return f"{_percent(low)} to {_percent(high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
