"""The program that SLURM runs as each task of a job: a rank that saves on a signal, or the agent of a node.

Light to import: signals are caught before torch is loaded.

SIGUSR2 comes before a time limit. If the cluster is configured so, it also comes before a preemption. All ranks then
save together, and rank 0 requests the requeue. SIGTERM comes from `scancel` and from SLURM's own requeue and
preemption. All ranks then save, and none requests a requeue. SIGINT comes from `all4one cancel`. All ranks then save,
and rank 0 cancels the job, whichever other signals came too. A preempted job that ended by itself would not start
again, so its ranks wait until SLURM ends them.
"""

import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from submitit.helpers import DelayedSubmission

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from data_pipelines.log import LOGGER
from launch.local.worker import End, run_with_error_report
from launch.slurm import slurm_commands
from launch.slurm.containers.relayed_command import use_relay
from launch.slurm.forwarded_signals import forwarded_signals
from launch.slurm.job_start import Start
from launch.slurm.rank_of_job import begin_task, is_cancelled, train_as_rank
from launch.slurm.requeue import GRACE_SECONDS, requeue_from_rank
from trainer.runs.end_reasons import EndReason, ExitCode
from trainer.runs.stop_signals import StopRequest

DECIDED = (EndReason.REQUEUED, EndReason.CANCELLED)
"""Reasons for which SLURM has already ended the job. Its ranks end at once and release the nodes. Nothing is lost."""


class TrainJob:
    """Training of a run, as a callable that submitit pickles.

    Args:
        run: the run's folder, on a file system that all nodes share.
        max_requeues: number of restarts after which the job requests no more.
        chained: whether another job may resume the run after this one.
        tasks: number of ranks that the agent of each node runs. 0: each task of the job is a rank.
        nodes: number of nodes that have ranks, if there are agents. Further nodes are spares. 0: all nodes.
    """

    tasks = nodes = 0  # of jobs that were queued by version 0.1

    def __init__(
        self, run: Path, max_requeues: int, *, chained: bool = False, tasks: int = 0, nodes: int = 0
    ) -> None:
        self.run, self.max_requeues, self.chained = run, max_requeues, chained
        self.tasks, self.nodes = tasks, nodes

    def __call__(self) -> None:
        """Train as the rank or the node that the environment names, and end in the way that SLURM needs."""
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit has just installed its handler
        assert callable(requeue)
        relay = use_relay(self.run / "slurm" / "commands")  # it ends when this is closed
        try:
            self._work(requeue)
        finally:
            if relay is not None:
                relay.close()

    def _work(self, requeue: Callable[..., Any]) -> None:
        if self.tasks:
            from launch.slurm.node_job import run_node

            with forwarded_signals() as forwarder:
                end, is_first = run_node(self.run, self.tasks, self.nodes, forwarder)
                self._end(end, is_first, is_terminated=signal.SIGTERM in forwarder.received, requeue=requeue)
            return
        with StopRequest() as stop:
            rank = begin_task(Start.this().logs(self.run))
            end = run_with_error_report(partial(train_as_rank, self.run, stop))
            is_terminated = stop.received == ExitCode.TERMINATED
            self._end(end, rank == 0, is_terminated=is_terminated, requeue=requeue)

    def _end(self, end: End, is_first: bool, *, is_terminated: bool, requeue: Callable[..., Any]) -> None:
        """End this process in the way that SLURM needs.

        Args:
            end: how the attempt ended.
            is_first: whether this process requests a requeue or a cancellation for all.
            is_terminated: whether this process received SIGTERM.
            requeue: submitit's request of a requeue.
        """
        start = Start.this()
        if end.reason == EndReason.CANCELLED:
            if is_first:
                self._cancel_if_asked(start)
            if end.code != ExitCode.TERMINATED:  # otherwise SLURM is ending the job already
                _wait_to_be_ended()
        elif end.code == ExitCode.TIME_IS_UP and start.restart >= self.max_requeues:
            self._say_used_up(start)
        elif end.code in (ExitCode.TIME_IS_UP, ExitCode.TERMINATED) and end.reason not in DECIDED:
            if end.code == ExitCode.TIME_IS_UP and is_first and not is_terminated:
                requeue_from_rank(lambda: requeue(signal.SIGUSR2, None))
            _wait_to_be_ended()
        if end.code:
            raise SystemExit(end.code)

    def _cancel_if_asked(self, start: Start) -> None:
        """Cancel this job if `all4one cancel` has asked for it. If SLURM has cancelled it, there is nothing to do."""
        if is_cancelled(start, self.run):
            try:
                slurm_commands.cancel(start.job)
            except UserError as error:
                LOGGER.error("job %s could not be cancelled: %s", start.job, error.what)

    def _say_used_up(self, start: Start) -> None:
        if self.chained:
            said = (
                "the time limit is near. The next job of the chain resumes the run. After the last job, run:"
            )
        else:
            said = (
                f"the time limit is near, and SLURM has restarted the job {start.restart} times, the maximum of "
                "slurm.max_requeues. Resume the run with:"
            )
        LOGGER.warning("%s all4one resume %s", said, quoted(self.run))

    def checkpoint(self) -> DelayedSubmission | None:
        """Return the job to requeue, which is this one, or None if it must not restart. Submitit calls this when it
        requeues."""
        if Start.this().restart >= self.max_requeues:
            return None
        return DelayedSubmission(self)


def _wait_to_be_ended() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(GRACE_SECONDS)
