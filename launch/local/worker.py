"""What each rank of a training run does. The environment describes its process group."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from data_pipelines.errors import UserError, first_line
from data_pipelines.log import LOGGER
from launch.local.imports import collector_paused
from launch.local.kept_output import keep_output
from launch.local.rank_processes import heed_signals
from launch.messages import print_or_raise
from trainer.distributed.lost_peer import is_lost_peer
from trainer.distributed.record_layout import Phase
from trainer.runs.end_reasons import REASONS, EndReason, ExitCode
from trainer.runs.hang_watch import HangWatch
from trainer.runs.passed_lock import passed_lock
from trainer.runs.records import read_records
from trainer.runs.run_folder import RunFolder, open_run
from trainer.runs.run_lock import RunLock
from trainer.runs.stop_signals import StopRequest

PR_SET_PDEATHSIG = 1
Result = TypeVar("Result")


@dataclass(frozen=True)
class End:
    """How an attempt ended, the same on every rank."""

    code: int
    """Exit code."""
    reason: str
    """Reason in the ledger."""


def end_with_parent() -> None:
    """Ask the kernel to kill this process when its launcher dies, so that no rank keeps training without it."""
    parent = os.environ.get("ALL4ONE_PARENT")
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # the launcher died before the request took effect
        os.kill(os.getpid(), signal.SIGKILL)


def train_run(
    folder: Path,
    stop: StopRequest,
    *,
    lock_wait_s: float = 0,
    reason: Callable[[int], str] = REASONS.__getitem__,
    **facts: Any,
) -> End:
    """Train the run in a folder as one rank.

    Args:
        folder: the run's folder.
        stop: catches the signals that ask to stop.
        lock_wait_s: how long to wait for the lock of an attempt that died, seconds.
        reason: returns the reason in the ledger for an exit code. Rank 0 calls it.
        facts: additional values for the ledger's record of this attempt.
    """
    with collector_paused():
        import_all()
    import torch

    from trainer.distributed.objects import broadcast_object
    from trainer.distributed.process_group import initialize
    from trainer.loop import Trainer
    from trainer.runs.attempt_times import last_recorded
    from trainer.runs.components import AttemptContext
    from trainer.runs.determinism import resumes_bitwise

    run = open_run(folder)
    config, begun = run.read_config(), run.attempts()
    with HangWatch(run, begun + 1, int(os.environ["RANK"]), config.guard.stall_seconds) as watch:
        watch.doing("joining the other ranks", Phase.START)
        process = initialize()
        passed = passed_lock(run.path) if process.is_first else None
        own = (
            RunLock(run.path, attempt=begun + 1, wait_s=lock_wait_s)
            if process.is_first and not passed
            else None
        )
        with own or nullcontext():
            number = watch.attempt = broadcast_object(run.attempts() + 1 if process.is_first else None)
            watch.met()
            note = run.note if process.is_first else _nothing
            note(
                "start",
                attempt=number,
                world_size=process.world_size,
                host=os.uname().nodename,
                last_recorded=last_recorded(run),
                **facts,
            )
            try:
                if code := stop.agreed():
                    end = End(code, broadcast_object(reason(code) if process.is_first else None))
                    note("end", attempt=number, reason=end.reason)
                    return end
                logged = _last_step(run)
                watch.doing("opening data, model and checkpoint", Phase.START)
                trainer = Trainer(AttemptContext(run, config, process, number, passed or own), stop, watch)
                validation = trainer.parts.validation_set
                note(
                    "ready",
                    attempt=number,
                    step=trainer.step,
                    total_steps=trainer.parts.total_steps,
                    replayed=max(0, logged - trainer.step),
                    torch_threads=torch.get_num_threads(),
                    bitwise_resume=resumes_bitwise(config, process.device),
                    data=trainer.parts.train_set.fingerprint,
                    validation=None if validation is None else validation.fingerprint,
                )
                code = trainer.train()
            except Exception as error:
                watch.wait_if_stalled()
                why = EndReason.LOST_RANK if is_lost_peer(error) else EndReason.ERROR
                note("end", attempt=number, reason=why, message=first_line(error))
                raise
            watch.doing("ending")
            end = End(code, broadcast_object(reason(code) if process.is_first else None))
            saving = round(trainer.times.saving, 3)
            note("end", attempt=number, reason=end.reason, step=trainer.step, saving=saving)
            trainer.parts.engine.close()
    return end


def _last_step(run: RunFolder) -> int:
    """Return the last step that earlier attempts logged."""
    return max((r["step"] for r in read_records(run.metrics) if r.get("kind") == "train"), default=0)


def _nothing(event: str, **facts: Any) -> None:
    pass


def run_with_error_report(work: Callable[[], Result]) -> Result:
    """Return the result of a rank's work. Errors that the user can fix print one message and end the process with
    code 2. A lost peer ends it with code 3."""
    try:
        return work()
    except (UserError, OSError) as error:
        print_or_raise(error)
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        LOGGER.warning("another rank has ended")  # that one says why
        os._exit(ExitCode.LOST_PEER)
    os._exit(
        ExitCode.USER_ERROR
    )  # the process group cannot be closed in order, because other ranks may be inside a collective


def import_all() -> None:
    """Import what a rank needs, so that forks of this process need not."""
    import trainer.loop  # noqa: F401
    from trainer.distributed.process_group import import_deepspeed

    import_deepspeed()


def main() -> int:
    """Train the run in the folder `sys.argv[1]` as one rank, with its log in the folder `sys.argv[2]`.

    Returns the exit code.
    """
    end_with_parent()
    keeps = os.environ["RANK"] == "0"  # the launcher writes the output of the others to files
    with keep_output(Path(sys.argv[2]) / "rank_0.log") if keeps else nullcontext():
        return run_with_error_report(_train)


def _train() -> int:
    with StopRequest() as stop:
        heed_signals()
        return train_run(Path(sys.argv[1]), stop).code
