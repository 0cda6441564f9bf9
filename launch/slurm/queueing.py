"""Jobs that are queued together: all of them are queued and recorded, or none of them stays in the queue."""

import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

from data_pipelines.errors import UserError, first_line
from launch.local.rank_processes import STOP_SIGNALS
from launch.slurm import slurm_commands


class JobsLeftQueued(UserError):
    """Jobs that should be cancelled are still queued. The folders of their runs must stay, because they train there."""


class JobsQueuedTogether:
    """Context manager for queueing jobs. If its block fails or is interrupted, it cancels those that are queued.

    If SLURM does not cancel them, it raises `JobsLeftQueued`.

    A job that no file lists would train a run that nobody knows. Signals that ask to stop are therefore held back
    during the block, also from the `sbatch` that it starts. They take effect after the call that queues a job, when
    its number is known.
    """

    def __init__(self) -> None:
        self.numbers: list[str] = []
        """Numbers of the queued jobs."""
        self._received: list[int] = []
        self._before: dict[signal.Signals, Any] = {}
        self._mask: set[int | signal.Signals] = set()

    def __enter__(self) -> "JobsQueuedTogether":
        if threading.current_thread() is threading.main_thread():  # Python's rule for signal handlers
            heeded = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heeded}
            self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, heeded)  # the commands inherit it
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._before:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        try:
            if (kind is not None or self._received) and (problem := cancel_all(self.numbers)):
                raise JobsLeftQueued(f"{_why(error)}. {problem.what}", fix=problem.fix) from None
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)
        if kind is None:
            self._stop_if_asked()

    def add(self, numbers: Sequence[str]) -> None:
        """Note jobs that have just been queued. Raises KeyboardInterrupt or SystemExit if a signal asks to stop."""
        self.numbers += numbers
        if self._before:  # signals that wait come now
            held = signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        self._stop_if_asked()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)

    def _stop_if_asked(self) -> None:
        if signal.SIGINT in self._received:
            raise KeyboardInterrupt
        if self._received:
            raise SystemExit(128 + self._received[0])


def _why(error: BaseException | None) -> str:
    """Return why jobs are cancelled: the problem of an error, or a signal."""
    if isinstance(error, UserError):
        return error.what
    return first_line(error) if isinstance(error, Exception) else "interrupted"


def cancel_all(numbers: Sequence[str]) -> UserError | None:
    """Cancel jobs and print their numbers. If they cannot be cancelled, return the error with the command to run."""
    if not numbers:
        return None
    jobs = f"{len(numbers)} jobs that were" if len(numbers) > 1 else "the job that was"
    try:
        slurm_commands.cancel(
            *numbers
        )  # one command: a controller that does not answer is waited for only once
    except UserError as error:
        named = ", ".join(numbers)
        return UserError(
            f"{jobs[0].upper()}{jobs[1:]} already queued ({named}) could not be cancelled: {error.what}",
            fix=f"run scancel {' '.join(numbers)}",
        )
    print(f"cancelled {jobs} already queued: {', '.join(numbers)}", file=sys.stderr)
    return None
