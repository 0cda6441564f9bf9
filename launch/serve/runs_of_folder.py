"""The runs of a folder, and a line about each. What has not changed is not read again."""

import math
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.formatting import readable
from data_pipelines.masking import masked
from launch.serve.damage import DAMAGE
from launch.serve.plain_settings import read_settings
from launch.status.run_status import status
from trainer.runs.records import parse_record
from trainer.runs.run_folder import RunFolder, runs_below
from trainer.runs.run_lock import is_held

BROKEN, PROFILE = "cannot be read", "profile"
"""States of folders that are no sound runs: one that cannot be read, and one with the results of `all4one profile`."""
PROFILE_FILE = "profile.json"
_LOOK_AGAIN_S = 1.0
"""Time for which a list of folders holds, seconds."""
_TAIL, _PART = 1 << 14, 1 << 19
"""Bytes at the end of the metrics that tell the newest step, loss and speed, and of each part before them in which the
newest evaluation is looked for."""
_MOST_TAIL = 1 << 23
"""Maximum number of bytes that are searched for it."""


@dataclass(frozen=True)
class RunSummary:
    """What the list of runs tells about one of them. None: it is not known."""

    id: str
    """Path within the folder, and the name of the run in URLs."""
    state: str
    problem: str | None = None
    """Why the run cannot be read."""
    description: str | None = None
    method: str | None = None
    backbone: str | None = None
    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    knn: float | None = None
    """Newest kNN accuracy, in [0, 1]."""
    images_per_second: float | None = None
    seconds_left: float | None = None
    attempts: int | None = None
    goodput: float | None = None
    """Useful fraction of the allocated device-time."""
    updated: float | None = None
    """When its newest record was written, seconds since 1970."""


class RunsOfFolder:
    """The runs in a folder, or the run that the folder is. Any thread may call.

    Args:
        folder: an existing folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._root = folder.resolve()
        self._lock = threading.Lock()
        self._found: dict[str, RunFolder] = {}
        self._outside: dict[str, Path] = {}
        self._looked = float("-inf")
        self._known: dict[str, tuple[tuple[Any, ...], RunSummary]] = {}

    @property
    def name(self) -> str:
        """Name of the folder."""
        return readable(self._root.name or str(self._root))

    def runs(self) -> dict[str, RunFolder]:
        """Return the runs by id. Links that lead out of the folder are not among them."""
        with self._lock:
            if time.monotonic() - self._looked > _LOOK_AGAIN_S:
                self._look()
            return dict(self._found)

    def run(self, wanted: str) -> RunFolder:
        """Return the run with an id. An id is looked up and never used as a path, so it leads nowhere else.

        Raises:
            UserError: there is no such run.
        """
        if (found := self.runs().get(wanted)) is None:
            raise UserError("there is no such run", where=wanted, fix="go back to the list of runs")
        return found

    def holds(self, path: Path) -> bool:
        """Whether a file is in the folder, also if links on the way to it are followed."""
        try:
            return path.resolve().is_relative_to(self._root)
        except (OSError, RuntimeError):
            return False

    def summaries(self) -> list[RunSummary]:
        """Return a line about each run, in the order of their ids."""
        runs = self.runs()
        with self._lock:
            found = [self._summary(name, run) for name, run in runs.items()]
            self._known = {name: self._known[name] for name in runs}
            outside = [
                RunSummary(name, BROKEN, f"the folder is or holds a link that leads out of {self.name}")
                for name in self._outside
            ]
        return sorted([*found, *outside], key=lambda one: one.id)

    def _look(self) -> None:
        single = RunFolder(self.folder)
        every = [single] if single.config.is_file() else runs_below(self.folder)
        named = {readable(run.path.relative_to(self.folder).as_posix()): run for run in every}
        self._found = {name: run for name, run in named.items() if all(map(self.holds, _files(run)))}
        self._outside = {name: run.path for name, run in named.items() if name not in self._found}
        self._looked = time.monotonic()

    def _summary(self, name: str, run: RunFolder) -> RunSummary:
        held = is_held(run.path)
        mark = (held, *map(_mark, _files(run)))
        if name not in self._known or self._known[name][0] != mark:
            self._known[name] = (mark, _summarize(name, run))
        return self._known[name][1]


def changes(run: RunFolder) -> tuple[Any, ...]:
    """Return a value that changes with what the page of a run shows."""
    return (is_held(run.path), *map(_mark, _files(run)))


def _files(run: RunFolder) -> list[Path]:
    return [
        *(run.config, run.metrics, run.ledger, run.rank_times, run.checkpoints / "latest"),
        *(run.path / name for name in ("eval.json", "study_eval.json", PROFILE_FILE)),
    ]


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _summarize(name: str, run: RunFolder) -> RunSummary:
    try:
        values = read_settings(run.config)
        if (run.path / PROFILE_FILE).is_file() and not run.metrics.is_file():
            return _described(name, PROFILE, values, run.path / PROFILE_FILE)
        records = list(_newest_records(run.metrics))
        speeds = [
            (record["step"], record.get("time", {}).get("images_per_second"))
            for record in reversed(records)
            if record.get("kind") == "train"
        ]
        found = status(run, None, None, speeds)
    except UserError as error:
        return RunSummary(name, BROKEN, f"{error.where}: {error.what}" if error.where else error.what)
    except (OSError, *DAMAGE) as error:
        return RunSummary(name, BROKEN, masked(f"its records cannot be read: {error}"))
    return _described(
        name,
        found.state,
        values,
        run.metrics,
        step=found.step,
        total_steps=found.total_steps,
        epoch=_newest(records, "epoch"),
        loss=_newest(records, "loss"),
        knn=_newest(records, "knn_momentum", "knn_online"),
        images_per_second=found.images_per_second,
        seconds_left=found.seconds_left,
        attempts=found.attempts,
        goodput=found.goodput.fraction,
    )


def _described(name: str, state: str, values: Mapping[str, Any], newest: Path, **facts: Any) -> RunSummary:
    mark = _mark(newest)
    finite = {name: v if not isinstance(v, float) or math.isfinite(v) else None for name, v in facts.items()}
    return RunSummary(
        name,
        state,
        description=masked(str(values.get("description") or "")) or None,
        method=_name_of(values, "method"),
        backbone=_name_of(values, "backbone"),
        updated=mark[0] / 1e9 if mark else None,
        **finite,
    )


def _name_of(values: Mapping[str, Any], part: str) -> str | None:
    found = values.get(part)
    return str(found["name"]) if isinstance(found, dict) and "name" in found else None


def _newest(records: list[dict[str, Any]], *names: str) -> float | None:
    """Return the newest of some values, given records from the newest to older ones."""
    return next((record[name] for record in records for name in names if name in record), None)


def _newest_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the last records of the metrics, newest first, and the newest evaluation if it is not among them."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        end = file.seek(0, 2)
        begin, evaluated = max(0, end - _TAIL), False
        file.seek(begin)
        lines = file.read().split(b"\n")
        for line in reversed(lines[begin > 0 :]):  # the first line may have lost its beginning
            if line and (record := parse_record(line)) is not None and "step" in record:
                evaluated |= record.get("kind") == "eval"
                yield record
        rest = lines[0]
        while begin > max(0, end - _MOST_TAIL) and not evaluated:
            earlier = max(0, begin - _PART)
            file.seek(earlier)
            block = file.read(begin - earlier) + rest
            begin, place = earlier, block.rfind(b'"kind": "eval"')
            if place >= 0:
                start, stop = block.rfind(b"\n", 0, place) + 1, block.find(b"\n", place)
                record = parse_record(block[start : stop if stop >= 0 else len(block)])
                evaluated = record is not None
                if record is not None:
                    yield record
            rest = block[: block.find(b"\n") + 1]
