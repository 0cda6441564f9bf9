"""`eval.json`: all results of one checkpoint on one pair of datasets. Every evaluation adds to the file."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from data_pipelines.console import plain_console
from data_pipelines.errors import UserError
from data_pipelines.files import write_whole
from data_pipelines.formatting import percent
from trainer.evaluation.measures.intervals import wilson_interval

SAME = {"weights": "weights", "train_index": "training set", "validation_index": "validation set"}
"""What results in one file must have in common, and its name in messages."""


def mismatches(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the names of what differs between two files of results. Empty: the results fit into one file."""
    return [name for key, name in SAME.items() if one.get(key) != other.get(key)]


def merged(*several: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Merge results by backbone and evaluator. For the same evaluator, the last result counts."""
    names = dict.fromkeys(name for backbones in several for name in backbones)
    return {
        name: {
            evaluator: result
            for backbones in several
            for evaluator, result in backbones.get(name, {}).items()
        }
        for name in names
    }


class Results:
    """The results in a file, together with those added here.

    Results that are already in the file, or that another evaluation adds meanwhile, stay if they belong to the same
    weights and datasets. Otherwise they are replaced and a warning is printed.

    Args:
        path: the file.
        facts: source, checkpoint, train, validation, images, and the hashes weights, train_index and validation_index.
        quiet: whether to print no warning about replaced results.

    Raises:
        UserError: the file contains something else.
    """

    def __init__(self, path: Path, facts: dict[str, Any], *, quiet: bool = False) -> None:
        self.path, self._quiet = path, quiet
        self.found: dict[str, Any] = {**facts, "backbones": {}}
        """The content of the file after `write`."""
        self._added: dict[str, dict[str, Any]] = {}
        self._take_in()

    def add(self, backbone: str, evaluator: str, result: dict[str, Any]) -> None:
        """Add the result of an evaluator, which replaces its earlier result."""
        for of in (self._added, self.found["backbones"]):
            of.setdefault(backbone, {})[evaluator] = result

    def write(self) -> None:
        """Write the file atomically. Raises a UserError if it cannot be written."""
        self._take_in()
        try:
            write_whole(self.path, (json.dumps(self.found, indent=2) + "\n").encode())
        except OSError as error:
            raise UserError(
                f"cannot be written: {error.strerror}", where=self.path, fix="choose another file with --out"
            ) from None

    def _take_in(self) -> None:
        """Merge the current content of the file with the added results."""
        before = read_results(self.path) or {"backbones": {}}
        there = before["backbones"]
        if other := mismatches(before, self.found):
            if any(there.values()) and not self._quiet:
                evaluators = sorted({evaluator for evaluated in there.values() for evaluator in evaluated})
                print(
                    f"replacing {self.path}: its results ({', '.join(evaluators)}) differ in {', '.join(other)}; "
                    "use --out to keep both",
                    file=sys.stderr,
                )
                self._quiet = True
            there = {}
        self.found["backbones"] = merged(there, self._added)

    def show(self) -> None:
        """Print the whole content of the file as tables."""
        console, found = plain_console(), self.found
        accuracy = Table(
            "backbone",
            "evaluator",
            "top-1 %",
            "95 % interval",
            "95 % bootstrap",
            "top-5 %",
            "calibration error %",
            title=_title(found),
        )
        ranking = Table("backbone", "evaluator", "mAP %", "recall@1 %", "recall@5 %", "recall@10 %")
        corrupted = list[Table]()
        for name, evaluated in found["backbones"].items():
            for evaluator, result in evaluated.items():
                if "top1" in result:
                    accuracy.add_row(
                        name,
                        evaluator,
                        percent(result["top1"], unit=False),
                        _interval(result, found["images"]),
                        _range(*result["top1_bootstrap"]) if "top1_bootstrap" in result else "",
                        percent(result["top5"], unit=False),
                        percent(result["calibration_error"], unit=False)
                        if "calibration_error" in result
                        else "",
                    )
                elif "mean_corruption_error" in result:
                    corrupted.append(_robustness(name, result))
                else:
                    figures = ("map", "recall_at_1", "recall_at_5", "recall_at_10")
                    ranking.add_row(
                        name, evaluator, *(percent(result[figure], unit=False) for figure in figures)
                    )
        for table in (accuracy, ranking, *corrupted):
            if table.row_count:
                console.print(table)


def main_figure(result: Mapping[str, Any]) -> float:
    """Return the figure of a result that tables of several results compare."""
    return float(next(result[key] for key in ("top1", "map", "mean_corruption_error") if key in result))


def read_results(path: Path) -> dict[str, Any] | None:
    """Return the content of a file of results, or None if there is no file.

    Raises:
        UserError: the file holds something else.
    """
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        assert isinstance(found["backbones"], dict)
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise UserError(
            "does not contain results of `all4one eval`",
            where=path,
            fix="move it elsewhere, or choose another file with --out",
        ) from None
    return dict(found)


def _title(found: dict[str, Any]) -> str:
    return f"{found['source']} on {found['images']} images of {found['validation']}"


def _robustness(backbone: str, result: dict[str, Any]) -> Table:
    """Return the error of a backbone for each corruption and level."""
    levels = range(1, len(next(iter(result["errors"].values()))) + 1)
    table = Table(
        "corruption",
        *(f"level {level}" for level in levels),
        "mean",
        title=f"error % of {backbone} on corrupted images",
        show_footer=True,
    )
    for kind, errors in result["errors"].items():
        table.add_row(kind, *(percent(error, unit=False) for error in (*errors, sum(errors) / len(errors))))
    by_level = zip(*result["errors"].values(), strict=True)
    footers = [sum(errors) / len(result["errors"]) for errors in by_level]
    clean = percent(result["clean_error"], unit=False)
    table.columns[0].footer = f"mean (clean {clean})"
    for column, error in zip(table.columns[1:], (*footers, result["mean_corruption_error"]), strict=True):
        column.footer = percent(error, unit=False)
    return table


def _interval(result: dict[str, Any], images: int) -> str:
    if "top1_std" in result:
        return f"deviation {percent(result['top1_std'], unit=False)} of {len(result['subsets'])} subsets"
    return _range(*wilson_interval(result["top1"], images))


def _range(low: float, high: float) -> str:
    return f"{percent(low, unit=False)} to {percent(high, unit=False)}"
