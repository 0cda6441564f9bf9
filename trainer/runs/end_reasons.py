"""How attempts end: the exit codes of their processes, and the reasons in the ledger."""

from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """Exit codes of a rank."""

    FINISHED = 0
    """All steps are done."""
    USER_ERROR = 2
    """Something that the user can fix ended the attempt."""
    LOST_PEER = 3
    """Another rank ended first. That rank knows the reason."""
    STALLED = 4
    """The rank made no step for too long."""
    INTERRUPTED = 130
    """SIGINT asked to stop."""
    TIME_IS_UP = 140
    """SIGUSR2 asked to stop: a time limit or a preemption is near."""
    TERMINATED = 143
    """SIGTERM asked to stop."""


STOPPED = (ExitCode.INTERRUPTED, ExitCode.TERMINATED)
"""Exit codes of an attempt on this machine that its user stopped."""


class EndReason(StrEnum):
    """Why an attempt ended. Ledgers on disk hold these words."""

    FINISHED = "finished"
    """All steps are done."""
    INTERRUPTED = "interrupted"
    """SIGINT asked to stop."""
    TIME_IS_UP = "time is up"
    """SIGUSR2 asked to stop."""
    TERMINATED = "terminated"
    """SIGTERM asked to stop, and SLURM gives no reason."""
    PREEMPTED = "preempted"
    """Another job took the nodes."""
    REQUEUED = "requeued"
    """SLURM put the job back into the queue."""
    CANCELLED = "cancelled"
    """The job was cancelled."""
    ERROR = "error"
    """An exception ended a rank."""
    LOST_RANK = "lost a rank"
    """A rank lost its connection to another rank. That rank knows the reason."""
    KILLED = "killed"
    """A signal killed a rank."""
    STALLED = "stalled"
    """The ranks made no step for too long."""
    RUNNING = "running"
    """The attempt has not ended. Only shown, never written."""
    NO_END = "no end noted"
    """The attempt is over, and no process recorded why. Only shown, never written."""
    CUT_OFF = "cut off"
    """Its node lost contact with the others and kept running for a while. Only shown, never written."""


REASONS: dict[int, EndReason] = {
    ExitCode.FINISHED: EndReason.FINISHED,
    ExitCode.INTERRUPTED: EndReason.INTERRUPTED,
    ExitCode.TIME_IS_UP: EndReason.TIME_IS_UP,
    ExitCode.TERMINATED: EndReason.TERMINATED,
}
"""Reason in the ledger for the exit code of an attempt that ended in order."""
