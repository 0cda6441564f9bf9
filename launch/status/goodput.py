"""Goodput: the fraction of the allocated device-time in which a run made steps that count, and where the rest went.

The time of a run is one line, from its submission or first start to its end or the present. Each moment has one cause.
All times are whole milliseconds, so the causes add up exactly. Clocks of nodes may differ: time never goes backward on
the line, and what overlaps counts once. Loads no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from launch.status.attempt_facts import AttemptFacts


class Cause(StrEnum):
    """What a moment of a run was used for. These words are keys of `all4one status --json`."""

    USEFUL = "useful"
    """Steps that count, and the evaluations and saves among them if their time is not known."""
    REDONE = "redone"
    """Steps that were repeated, or that are in no checkpoint."""
    STARTING = "starting"
    """From the start of the job to the first finished step of the attempt, without evaluations."""
    EVALUATING = "evaluating"
    """Evaluations during training."""
    SAVING = "saving"
    """Steps waited for a copy of the state, or the run for its last write."""
    DEAD = "dead"
    """From the last sign of a step until the failure was noticed, and from the end of the processes until their job
    gave back its nodes."""
    SPARE = "spare"
    """Nodes waited to take the place of another one, or were lost. This is device-time beside that of the other
    causes: it adds nothing to the time of the run."""
    QUEUED = "queued"
    """The job waited for nodes."""
    IDLE = "idle"
    """There was neither a process nor a job."""
    UNKNOWN = "unknown"
    """The records do not tell."""


NOT_ALLOCATED = (Cause.QUEUED, Cause.IDLE)
"""Causes of time in which the run had no devices."""
WITHIN_STEPS = (Cause.EVALUATING, Cause.SAVING)
"""Causes whose time is part of that of the steps around them if an attempt of an earlier version did not record it."""


@dataclass(frozen=True)
class Goodput:
    """Where the time of a run, or of several ones, went."""

    fraction: float | None
    """Useful fraction of the allocated device-time. None: it is not known, or there is no device-time."""
    elapsed_seconds: float
    """The sum of `seconds`."""
    allocated_device_seconds: float
    """The sum of `device_seconds`. A device is a process."""
    seconds: Mapping[Cause, float | None]
    """Time by cause. None: it is not known, and part of the causes around it."""
    device_seconds: Mapping[Cause, float | None]
    """The same times the number of devices, which is 0 while none are allocated."""


def goodput(
    attempts: Sequence[AttemptFacts],
    *,
    submissions: Mapping[str, float],
    ended: float | None,
    seconds_per_step: float = 0.0,
) -> Goodput:
    """Return where the time of a run went.

    Args:
        attempts: its attempts, oldest first.
        submissions: when each job was submitted, in seconds since 1970, by its number.
        ended: the last sign of a step of the newest attempt: the present while it runs, otherwise the time of the
            newest record of the metrics. None: that is not known.
        seconds_per_step: duration of a step. It dates the last step of attempts of earlier versions.
    """
    line, tells_times = _Line(), all(one.tells_times for one in attempts)
    for position, one in enumerate(attempts):
        before = attempts[position - 1] if position else None
        _until_start(line, before, one, submissions)
        successor = attempts[position + 1] if position + 1 < len(attempts) else None
        _attempt(line, one if tells_times else one.without_parts(), successor, ended, seconds_per_step)
    return line.sum(set() if tells_times else set(WITHIN_STEPS))


def together(several: Sequence[Goodput]) -> Goodput:
    """Return where the time of several runs went."""
    summed = [
        {cause: _sum_of([getattr(one, name)[cause] for one in several]) for cause in Cause}
        for name in ("seconds", "device_seconds")
    ]
    allocated = sum(one.allocated_device_seconds for one in several)
    known = allocated > 0 and all(
        one.fraction is not None or not one.allocated_device_seconds for one in several
    )
    return Goodput(
        fraction=(summed[1][Cause.USEFUL] or 0.0) / allocated if known else None,
        elapsed_seconds=sum(one.elapsed_seconds for one in several),
        allocated_device_seconds=allocated,
        seconds=summed[0],
        device_seconds=summed[1],
    )


def _sum_of(values: Sequence[float | None]) -> float | None:
    return None if None in values else sum(value for value in values if value is not None)


@dataclass
class _Line:
    """The time of a run up to now, in milliseconds."""

    now: int | None = None
    """None: nothing has happened."""
    spent: dict[Cause, int] = field(default_factory=lambda: dict.fromkeys(Cause, 0))
    devices: dict[Cause, int] = field(default_factory=lambda: dict.fromkeys(Cause, 0))
    spares: int = 0
    """Devices of the job that have no process."""

    def advance(self, to: float, cause: Cause, devices: int) -> None:
        """Go on to a moment, in seconds since 1970, if it is later."""
        moment = round(1000 * to)
        if self.now is None:
            self.now = moment
        self.add(max(0, moment - self.now), cause, devices)

    def add(self, duration: int, cause: Cause, devices: int) -> None:
        """Go on by some milliseconds."""
        assert self.now is not None
        self.now += duration
        self.spent[cause] += duration
        self.devices[cause] += duration * devices
        self.devices[Cause.SPARE] += duration * self.spares * (devices > 0)

    def sum(self, unrecorded: set[Cause]) -> Goodput:
        """Return the sums. The time of unrecorded causes is not known."""
        allocated = sum(self.devices.values())
        is_known = allocated > 0 and not self.devices[Cause.UNKNOWN]
        return Goodput(
            fraction=self.devices[Cause.USEFUL] / allocated if is_known else None,
            elapsed_seconds=sum(self.spent.values()) / 1000,
            allocated_device_seconds=allocated / 1000,
            seconds={c: None if c in unrecorded else n / 1000 for c, n in self.spent.items()},
            device_seconds={c: None if c in unrecorded else n / 1000 for c, n in self.devices.items()},
        )


def _until_start(
    line: _Line, before: AttemptFacts | None, one: AttemptFacts, submissions: Mapping[str, float]
) -> None:
    """Go on from the end of an attempt to the start of the next one."""
    submitted = one.submitted or submissions.get(one.job or "")
    held = before.devices if before is not None else 0
    is_over = before is None or before.end is not None or (before.job is None and one.tells_times)
    if before is not None and one.is_in_same_allocation(before):
        line.advance(one.start, Cause.STARTING if before.end is not None else Cause.DEAD, held)
        return
    if one.job is None:
        line.advance(one.start, Cause.IDLE if is_over else Cause.UNKNOWN, 0 if is_over else held)
        return
    if before is None:
        line.advance(submitted if submitted is not None else one.allocated or one.start, Cause.QUEUED, 0)
    elif one.job == before.job and one.submitted is not None:
        line.advance(min(one.submitted, one.start), Cause.DEAD, held)
    elif not is_over:
        # The old job was over at the latest when the user submitted another one.
        is_later = line.now is not None and submitted is not None and 1000 * submitted > line.now
        over = submitted if is_later and submitted is not None else one.allocated or one.start
        line.advance(min(over, one.start), Cause.UNKNOWN, held)
    elif one.job != before.job:
        known = submitted is not None
        line.advance(min(submitted or one.start, one.start), Cause.IDLE if known else Cause.UNKNOWN, 0)
    if one.allocated is not None:
        line.advance(min(one.allocated, one.start), Cause.QUEUED, 0)
        line.spares = one.spares
        line.advance(one.start, Cause.STARTING, one.devices)
    line.advance(one.start, Cause.QUEUED, 0)


def _attempt(
    line: _Line,
    one: AttemptFacts,
    successor: AttemptFacts | None,
    ended: float | None,
    seconds_per_step: float,
) -> None:
    """Go on from the start of an attempt to its end."""
    line.spares = one.spares
    latest = successor.start if successor is not None else float("inf")
    tells_sign = one.last_sign(successor, ended)
    done = one.ready + one.made * seconds_per_step if one.ready is not None else one.start
    sign = min(tells_sign if tells_sign is not None else done, latest)
    end = min(one.end, latest) if one.end is not None else sign
    sign = min(sign, end) if one.has_failed else end
    first = min(one.first_step if one.first_step is not None else sign, sign)
    early = [seconds for at, seconds in one.evaluations if at <= first]
    late = [seconds for at, seconds in one.evaluations if at > first]
    _phase(line, one, first, {Cause.EVALUATING: sum(early)}, is_training=False)
    parts = {Cause.EVALUATING: sum(late), Cause.SAVING: one.saving}
    _phase(line, one, sign, parts, is_training=one.made > 0)
    line.advance(end, Cause.DEAD if tells_sign is not None else Cause.UNKNOWN, one.devices)


def _phase(
    line: _Line, one: AttemptFacts, to: float, parts: Mapping[Cause, float], *, is_training: bool
) -> None:
    """Go on to a moment. Known parts of the time come first, and the rest is for steps, or for the start."""
    assert line.now is not None
    left = max(0, round(1000 * to) - line.now)
    for cause, seconds in parts.items():
        part = min(left, max(0, round(1000 * seconds)))
        line.add(part, cause, one.devices)
        left -= part
    if not is_training:
        line.add(left, Cause.STARTING, one.devices)
        return
    useful = left * one.kept // one.made
    line.add(useful, Cause.USEFUL, one.devices)
    line.add(left - useful, Cause.REDONE, one.devices)
