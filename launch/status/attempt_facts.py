"""What the ledger tells about the time of each attempt. Loads no torch."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from launch.status.ledger import AttemptSummary
from trainer.runs.attempt_times import EVALUATED, STEPPED
from trainer.runs.end_reasons import EndReason
from trainer.runs.saved_progress import FELL_BACK, SURVIVED

Record = Mapping[str, Any]
_FAILED = (EndReason.ERROR, EndReason.LOST_RANK, EndReason.KILLED, EndReason.STALLED)
"""Recorded reasons of ends that come some time after the last step."""


@dataclass(frozen=True)
class AttemptFacts:
    """The times of an attempt as recorded, in seconds since 1970."""

    job: str | None
    """SLURM job number. None: the run was started without SLURM."""
    restart: int
    """How often SLURM had restarted the job."""
    devices: int
    submitted: float | None
    """When this start of the job was queued. None: it is not recorded."""
    allocated: float | None
    """When this start of the job got its nodes. None: it is not recorded."""
    start: float
    ready: float | None
    """When its first step could begin. None: it never came that far."""
    first_step: float | None
    """When its first step was finished. Of earlier versions it is `ready`. None: it made no step."""
    end: float | None
    """The recorded end. None: there is none."""
    has_failed: bool
    """Whether it ended some time after its last step, or has no recorded end."""
    evaluations: Sequence[tuple[float, float]]
    """The end and the duration of each evaluation, seconds."""
    saving: float
    """Seconds that steps waited for saves, as far as recorded."""
    kept: int
    """Number of its steps that count."""
    made: int
    """Number of its steps, with those before a rollback."""
    signs: Sequence[float]
    """Times of the records that show that it was at work."""
    last_recorded: float | None
    """When earlier attempts wrote the newest record of the metrics, as found at the start of this one."""
    tells_times: bool
    """Whether a version recorded it that tells the first step, evaluations and saves."""
    spares: int = 0
    """Devices of the job that had no process."""

    def is_in_same_allocation(self, before: "AttemptFacts") -> bool:
        """Whether this attempt began in the job and start of another one, without a wait in the queue."""
        return self.job is not None and (self.job, self.restart) == (before.job, before.restart)

    def without_parts(self) -> "AttemptFacts":
        """Return the same facts without evaluations and saves, whose time then counts with what is around them."""
        return replace(self, evaluations=(), saving=0.0)

    def last_sign(self, successor: "AttemptFacts | None", ended: float | None) -> float | None:
        """Return the time of the last sign of a step. None: it is not known.

        Args:
            successor: the next attempt. None: this is the newest one.
            ended: the last sign of a step of the newest attempt.
        """
        recorded, is_known = ended, ended is not None or self.tells_times
        if successor is not None:
            recorded, is_known = successor.last_recorded, successor.tells_times
        return max(self.start if recorded is None else recorded, *self.signs) if is_known else None


def read_facts(records: Sequence[Record], history: Sequence[AttemptSummary]) -> list[AttemptFacts]:
    """Return the facts of each attempt.

    Args:
        records: records of the ledger.
        history: the attempts as `read_attempts` returns them.
    """
    starts = [r for r in records if r["event"] == "start"]
    by_attempt = defaultdict[int, list[Record]](list)
    for record in records:
        if "attempt" in record:
            by_attempt[record["attempt"]].append(record)
    # An attempt that began between the two readings of the ledger is not in the records yet.
    pairs = zip(starts, history, strict=False)
    return [_facts(start, by_attempt[one.number], one) for start, one in pairs]


def _facts(start: Record, own: Sequence[Record], one: AttemptSummary) -> AttemptFacts:
    by_event = {str(r["event"]): r for r in own}
    ready, stepped, end = (by_event.get(event) for event in ("ready", STEPPED, "end"))
    tells_times = "last_recorded" in start
    begun = stepped if tells_times else ready
    # A survivor saves some time after the last step.
    work = [r for r in own if r["event"] not in ("start", "end", SURVIVED, FELL_BACK) and "time" in r]
    back = [r for r in own if r["event"] == "rollback" and "from_step" in r]
    rolled_back = sum(max(0, r["from_step"] - r["to_step"]) for r in back)
    return AttemptFacts(
        job=start.get("job"),
        restart=start.get("restart") or 0,
        devices=one.devices,
        submitted=start.get("submitted"),
        allocated=start.get("allocated"),
        start=start["time"],
        ready=ready["time"] if ready else None,
        first_step=begun["time"] if begun else None,
        end=end["time"] if end else None,
        has_failed=end is None or end["reason"] in _FAILED,
        evaluations=[(r["time"], r["seconds"]) for r in own if r["event"] == EVALUATED],
        saving=max((r["saving"] for r in own if "saving" in r), default=0.0),
        kept=one.kept,
        made=max(one.kept + one.lost + rolled_back, int(stepped is not None)),
        signs=[start["time"], *(r["time"] for r in work)],
        last_recorded=start.get("last_recorded"),
        tells_times=tells_times,
        spares=start.get("spare_devices") or 0,
    )
