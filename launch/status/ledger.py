"""Attempts of a run and their cost, from its ledger and its metrics. Loads no torch."""

import re
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from data_pipelines.errors import UserError
from launch.node_check.record import node_checks
from trainer.runs.end_reasons import EndReason
from trainer.runs.rank_times import STRAGGLER
from trainer.runs.records import Speed, read_ledger, read_speeds
from trainer.runs.run_folder import RunFolder
from trainer.runs.saved_progress import FELL_BACK, OF_RANK, SURVIVED

Record = Mapping[str, Any]
_GLOBAL_BATCH = re.compile(r"^train:\n(?:  .*\n)*?  global_batch: ([1-9][0-9]*)\n", re.MULTILINE)
"""The setting as `RunFolder.write_config` writes it."""


@dataclass(frozen=True)
class Hours:
    """Device-hours, where one device is one process. Evaluations and checkpoints count with the steps around them."""

    useful: float = 0.0
    """Hours of steps that count."""
    lost: float = 0.0
    """Hours of steps that were repeated, or that are in no checkpoint."""
    starting: float = 0.0
    """Hours from each start to its first step. An attempt without a step counts here as a whole."""

    def __add__(self, other: "Hours") -> "Hours":
        return Hours(self.useful + other.useful, self.lost + other.lost, self.starting + other.starting)


@dataclass(frozen=True)
class AttemptSummary:
    """One start of a run's processes, and how it ended. Times are seconds since 1970."""

    number: int
    job: str | None
    """SLURM job number. None: the run was started without SLURM."""
    nodes: str
    """Nodes as a SLURM hostlist. Empty without SLURM."""
    devices: int
    start: float
    end: float
    """The recorded end. If there is none, the present time for a running attempt, otherwise about the time of its last
    step."""
    reason: str
    """The reason in the ledger, or `running`, `no end noted` or `cut off`."""
    message: str
    """Details of the end."""
    first_step: int
    """The step from which it started or resumed."""
    kept: int
    """Number of its steps that count."""
    lost: int
    """Number of its steps that do not count."""
    replayed: int
    """Number of steps of earlier attempts that it repeated."""
    hours: Hours
    went_on_from: str = ""
    """From what the ranks started again in the same allocation after the loss of one: a state that a rank has saved, or
    the last checkpoint. Empty: they did not."""
    slow_nodes: tuple[str, ...] = ()
    """Nodes of ranks that have computed clearly longer than the others, sorted."""
    bad_nodes: tuple[str, ...] = ()
    """Nodes that the check before it found bad, sorted, also those that a spare has replaced."""

    @property
    def how_it_ended(self) -> str:
        """Reason and details of the end, and from what the ranks started again."""
        said = f"{self.reason}: {self.message}" if self.message else self.reason
        return f"{said}. The ranks went on from {self.went_on_from}" if self.went_on_from else said


def read_attempts(
    run: RunFolder, *, running: bool, saved: int, speeds: Sequence[Speed] | None = None
) -> list[AttemptSummary]:
    """Return the attempts of a run, oldest first.

    Args:
        run: the run.
        running: whether its processes are alive. Then the newest attempt is running unless its end is recorded.
        saved: step of the newest checkpoint, or 0 without one. Steps of ended attempts beyond it are lost.
        speeds: what `read_speeds` returns for its metrics. None: they are read.
    """
    records = read_ledger(run.ledger)
    trained = read_speeds(run.metrics) if speeds is None else speeds
    history = _History(records, trained, saved, global_batch(run))
    return [
        history.attempt(position, running and position == len(history.starts) - 1)
        for position in range(len(history.starts))
    ]


def total(attempts: Iterable[AttemptSummary]) -> Hours:
    """Return the device-hours of all attempts."""
    return sum((attempt.hours for attempt in attempts), Hours())


def global_batch(run: RunFolder) -> int:
    """Return the global batch size.

    Raises:
        UserError: the run's configuration is damaged, or was written by another program.
    """
    try:
        # `status` of many runs reads nothing else of the settings, and parsing them would take most of its time.
        if found := _GLOBAL_BATCH.search(run.config.read_text()):
            return _count(found[1])
        # libyaml reads many runs several times faster than Python does, and one decimal number is the same to both.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return _count(yaml.load(run.config.read_bytes(), loader)["train"]["global_batch"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError, ValueError, RecursionError):
        raise UserError(
            "is not the configuration of a run",
            where=run.config,
            fix="restore the file, or move it elsewhere",
        ) from None


class _History:
    """The records by attempt.

    Later attempts show what an attempt reached and kept, because they start from a checkpoint and record how far the
    metrics went beyond it.
    """

    def __init__(self, records: Sequence[Record], trained: Sequence[Speed], saved: int, batch: int) -> None:
        self.starts = [r for r in records if r["event"] == "start"]
        self._ready = {r["attempt"]: r for r in records if r["event"] == "ready"}
        self._slow = [(r["attempt"], r["node"]) for r in records if r["event"] == STRAGGLER]
        self._checks = node_checks(records)
        self._ends: dict[int, Record] = {}
        for record in (r for r in records if r["event"] == "end"):
            known = self._ends.get(record["attempt"])
            # the cause of a lost rank is recorded after it, and is the reason
            if known is None or known["reason"] == EndReason.LOST_RANK:
                self._ends[record["attempt"]] = record
        self._went_on = {
            r["attempt"]: _went_on_from(r) for r in records if r["event"] in (SURVIVED, FELL_BACK)
        }
        self._trained, self._saved, self._batch = trained, saved, batch

    def attempt(self, position: int, alive: bool) -> AttemptSummary:
        """Return the attempt at a position. If `alive`, it is running unless its end is recorded."""
        start, number = self.starts[position], self.starts[position]["attempt"]
        successor = self.starts[position + 1] if position + 1 < len(self.starts) else None
        ready, noted = self._ready.get(number), self._ends.get(number)
        alive = alive and noted is None
        first, kept, lost = self._steps(position, ready, noted, alive)
        end = self._end(start, ready, noted, alive, kept + lost, successor)
        reason, message = _reason(start, noted, alive, successor)
        begun = min(max(ready["time"], start["time"]), end) if ready and kept + lost else end
        useful = (end - begun) * kept / (kept + lost or 1)
        per_second = start["world_size"] / 3600
        return AttemptSummary(
            number=number,
            job=start.get("job"),
            nodes=start.get("nodes") or "",
            devices=start["world_size"],
            start=start["time"],
            end=end,
            reason=reason,
            message=message,
            first_step=first,
            kept=kept,
            lost=lost,
            replayed=ready.get("replayed", 0) if ready else 0,
            hours=Hours(
                useful * per_second, (end - begun - useful) * per_second, (begun - start["time"]) * per_second
            ),
            went_on_from=self._went_on.get(number, ""),
            slow_nodes=tuple(sorted({node for attempt, node in self._slow if attempt == number})),
            bad_nodes=tuple(
                sorted({node for check in self._checks if check.attempt == number for node in check.bad})
            ),
        )

    def _steps(
        self, position: int, ready: Record | None, noted: Record | None, alive: bool
    ) -> tuple[int, int, int]:
        """Return the first step of an attempt, the number of its steps that count, and of those that do not."""
        if ready is None:
            return 0, 0, 0
        later = [r for s in self.starts[position + 1 :] if (r := self._ready.get(s["attempt"])) is not None]
        signs = [ready["step"], (noted or {}).get("step", 0)]
        bounds = [r["step"] for r in later]
        if later:
            signs.append(later[0]["step"] + later[0].get("replayed", 0))
        else:
            signs += [step for step, _ in self._trained[-1:]]
            if not alive and "step" not in (noted or {}):
                bounds.append(self._saved)
                signs.append(self._saved)
        reached = max(signs)
        kept = max(0, min(reached, *bounds) - ready["step"]) if bounds else reached - ready["step"]
        return ready["step"], kept, reached - ready["step"] - kept

    def _end(
        self,
        start: Record,
        ready: Record | None,
        noted: Record | None,
        alive: bool,
        steps: int,
        successor: Record | None,
    ) -> float:
        if alive:
            end = time.time()
        elif noted is not None:
            end = noted["time"]
        elif ready is not None:
            end = ready["time"] + steps * self._seconds_per_step(ready["step"], ready["step"] + steps)
        else:
            end = start["time"]
        if successor is not None:  # a node that was cut off may record an end long after it lost the run
            end = min(end, successor["time"])
        return float(max(end, start["time"]))

    def _seconds_per_step(self, first: int, last: int) -> float:
        """Return the duration of a step of this attempt, or of all attempts if its records are gone."""
        speeds = {step: speed for step, speed in self._trained if speed}
        own = [speed for step, speed in speeds.items() if first < step <= last]
        return self._batch / statistics.median(own or speeds.values()) if speeds else 0.0


def _went_on_from(record: Record) -> str:
    if record["event"] == FELL_BACK:
        return f"the checkpoint of step {record['step']}"
    return f"the {record.get('source', OF_RANK)}, step {record['step']}"


def _reason(start: Record, noted: Record | None, alive: bool, successor: Record | None) -> tuple[str, str]:
    if alive:
        return EndReason.RUNNING, ""
    if noted is not None:
        late = successor is not None and noted["time"] > successor["time"]
        reason = EndReason.CUT_OFF if late and noted["reason"] == EndReason.ERROR else noted["reason"]
        return reason, noted.get("message", "")
    if successor is not None and start.get("job") and successor.get("job") == start["job"]:
        return EndReason.NO_END, "SLURM restarted the job because a node failed or all processes were killed"
    return EndReason.NO_END, "the processes were killed, or their node failed"


def _count(value: Any) -> int:
    """Return a value as a whole number from 1. Raise a ValueError if it is none, or if no program can count so far."""
    if not 0 < (number := int(value)) < 1 << 63:
        raise ValueError(f"{number} is not a number of images")
    return number
