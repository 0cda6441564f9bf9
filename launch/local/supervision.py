"""Decides what happens to the ranks of one start: which one saves after a failure, when the others end, and why."""

from dataclasses import dataclass

from launch.local.saver_choice import choose_tasks
from trainer.runs.end_reasons import STOPPED, ExitCode
from trainer.runs.supervisor import Holdings, Task

GRACE_SECONDS = 5.0
"""Time in which the others may report and end by themselves after one rank failed."""
NOTICE_SECONDS = 0.5
"""Time in which the others may notice the failure by themselves. After it they are told. A rank that waits for a GPU
cannot notice it."""


@dataclass(frozen=True)
class Outcome:
    """How all ranks of a start ended."""

    code: int
    """Exit code in the shell's convention: 128 + number if a signal ended the rank."""
    failed: int | None
    """The rank that failed by itself. None: none failed, or the failure needs no explanation."""


class Supervision:
    """What is known of the ranks of one start.

    Args:
        world_size: number of ranks.
        saves: whether a rank that is left may save.
    """

    def __init__(self, world_size: int, *, saves: bool) -> None:
        self.codes: dict[int, int] = {}
        """Exit codes of the ranks that have ended, in the order of their ends. -N: signal N ended it."""
        self.reports: dict[int, Holdings] = {}
        """What each rank holds that has lost a peer."""
        self._world_size = world_size
        self._answered = not saves
        self._saver: int | None = None
        self._awaited = set[int]()
        """The ranks that hand something to the saver. It hears of its task once they have ended."""
        self._task_of_saver: Task | None = None
        self._deadline = float("inf")
        self._interrupted = False

    def ended(self, rank: int, code: int, now: float) -> None:
        """Note the end of a rank."""
        self.codes.setdefault(rank, code)
        if code != 0:
            self._deadline = min(self._deadline, now + GRACE_SECONDS)

    @property
    def over(self) -> bool:
        """Whether all ranks have ended."""
        return len(self.codes) == self._world_size

    def answer(self, now: float) -> dict[int, Task] | None:
        """Return the tasks of ranks that have reported. Each rank gets one, once all others have ended or are late. The
        rank that saves gets it later if others hand their copies to it. None: not now."""
        if self._task_of_saver is not None and self._awaited <= self.codes.keys():
            task, self._task_of_saver = self._task_of_saver, None
            assert self._saver is not None
            return {self._saver: task}
        living = set(range(self._world_size)) - self.codes.keys()
        failed = any(self.codes.values())
        if self._answered or not failed or not (now > self._deadline or living <= self.reports.keys()):
            return None
        self._answered = True
        tasks = choose_tasks({r: one for r, one in self.reports.items() if r in living}, self._world_size)
        self._saver = next((rank for rank, task in tasks.items() if task.saves), None)
        if self._saver is not None and len(tasks) > 1:
            self._task_of_saver, self._awaited = tasks[self._saver], tasks.keys() - {self._saver}
        return {
            rank: tasks.get(rank, Task()) for rank in self.reports if rank != self._saver or not self._awaited
        }

    def must_interrupt(self, now: float) -> bool:
        """Whether ranks that have not noticed the loss of another one are told of it. Once it is true."""
        failed = [code for code in self.codes.values() if code and code not in STOPPED]
        living = set(range(self._world_size)) - self.codes.keys()
        late = now > self._deadline - GRACE_SECONDS + NOTICE_SECONDS
        if self._interrupted or self._answered or not failed or not late or living <= self.reports.keys():
            return False
        self._interrupted = True
        return True

    def must_end(self, now: float) -> bool:
        """Whether the ranks that still run are killed: they wait for one that failed, and none of them saves."""
        is_saving = self._saver is not None and self._saver not in self.codes
        return now > self._deadline and self._answered and not is_saving

    def outcome(self) -> Outcome:
        """Return how the ranks ended. A rank that only lost a peer counts if no other one failed."""
        failed = [rank for rank, code in self.codes.items() if code != 0]
        if not failed:
            return Outcome(0, None)
        culprit = next((r for r in failed if self.codes[r] != ExitCode.LOST_PEER), failed[0])
        code = self.codes[culprit]
        code = 128 - code if code < 0 else code
        return Outcome(code, None if code in (*STOPPED, ExitCode.STALLED) else culprit)
