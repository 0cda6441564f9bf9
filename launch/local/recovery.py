"""Restarts the ranks of a run after the loss of one, from the step that another one has saved."""

import signal
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress

from launch.local.last_words import last_words
from launch.local.processes import Failure
from launch.local.run_watch import RunWatch
from trainer.checkpoints.store import CheckpointStore
from trainer.runs.end_reasons import EndReason, ExitCode
from trainer.runs.passed_lock import pass_on
from trainer.runs.records import read_ledger
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import RunLock
from trainer.runs.saved_progress import FELL_BACK, SURVIVED

MOST_RESTARTS = 3
"""Number of restarts without a new step on the disk after which ranks do not start again."""
KILLS = {signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
"""Signals that end a rank without its will. Others ask it to stop."""
_EXCEPTION = 1
"""Exit code of Python after an exception that nobody caught. Only after this error a restart may help."""


class RunRecovery:
    """Restarts the ranks of a run, unless the failure would come again.

    Ranks of which a signal has killed one start again until `MOST_RESTARTS` restarts in a row have saved no new step.
    After an exception they start again only if the attempt has saved a new step, because an exception usually comes
    again in the same place. After an error that the user must fix, they never start again.

    Args:
        run: the run that is trained.
        lock: its lock, which this process holds.
    """

    def __init__(self, run: RunFolder, lock: RunLock) -> None:
        self._run, self._lock = run, lock
        self._saved, self._attempts, self._in_vain = self._newest_step(), run.attempts(), 0
        self.environment: Mapping[str, str] = pass_on(lock)
        self._watch: RunWatch | None = None

    def forking(self) -> AbstractContextManager[None]:
        """Return a context in which the lock has no thread."""
        return self._lock.without_thread()

    def watch(self, nodes: Mapping[int, str]) -> RunWatch:
        """Return the watch of the ranks of one start, on the nodes with these names."""
        guard = self._run.read_config().guard
        least = guard.hang_seconds if guard.stall_seconds else 0
        self._watch = RunWatch(self._run, nodes, least, before=self._watch)
        return self._watch

    def restarts(self, failure: Failure) -> bool:
        """Record a failure, and return whether the ranks start again."""
        reason = EndReason.STALLED if failure.hung else _reason(failure.code)
        if reason is None or self._lock.lost:  # the newest attempt may be that of another process
            return False
        saved, attempts = self._newest_step(), self._run.attempts()
        has_new_step = saved > self._saved
        if attempts > self._attempts and not self._has_end(attempts):
            with suppress(OSError):  # a full disk may be what the rank has failed of
                self._run.note("end", attempt=attempts, reason=reason, message=_short(failure), saved=saved)
        if reason == EndReason.ERROR and not (failure.code == _EXCEPTION and has_new_step):
            return False
        self._in_vain = 0 if has_new_step else self._in_vain
        self._saved, self._attempts = saved, attempts
        if self._in_vain >= MOST_RESTARTS:
            print(f"the ranks have started again {self._in_vain} times without a new step", file=sys.stderr)
            return False
        self._in_vain += 1
        self._note_fallback(attempts, saved)
        print(f"{failure.message}\nthe ranks start again from step {saved}", file=sys.stderr, flush=True)
        return True

    def _note_fallback(self, attempt: int, saved: int) -> None:
        """Record that no rank of an attempt has saved a step after the failure, so that the last checkpoint counts."""
        own = [r["event"] for r in read_ledger(self._run.ledger) if r.get("attempt") == attempt]
        if "ready" in own and SURVIVED not in own:
            self._run.note(FELL_BACK, attempt=attempt, step=saved)

    def _has_end(self, attempt: int) -> bool:
        """Whether the ledger tells why an attempt ended."""
        return any(
            r["event"] == "end" and r["attempt"] == attempt and r["reason"] != EndReason.LOST_RANK
            for r in read_ledger(self._run.ledger)
        )

    def _newest_step(self) -> int:
        return CheckpointStore(self._run.checkpoints).newest_step()


def _short(failure: Failure) -> str:
    """Return the first line of the message on a failure. If it announces a rank's output, also the error in that."""
    first, *output = failure.message.splitlines() or [""]
    return f"{first} {last_words(output, failure.code)}".rstrip() if first.endswith(":") else first


def _reason(code: int) -> EndReason | None:
    """Return the reason in the ledger for the exit code of a failed rank. None: the rank or SLURM records it."""
    if code > 128:
        return EndReason.KILLED if code - 128 in KILLS else None
    if code == ExitCode.STALLED:
        return None
    return EndReason.LOST_RANK if code == ExitCode.LOST_PEER else EndReason.ERROR
