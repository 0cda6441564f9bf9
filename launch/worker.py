"""What each rank of a training job runs: `python -m launch.worker RUN`, in an environment that names its group."""

import ctypes
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

from data_pipelines.errors import UserError

PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Ask the kernel to kill this process when its launcher dies, so that nothing is left training behind it."""
    parent = os.environ.get("ALL4ONE_PARENT")
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before the request was in force
        os.kill(os.getpid(), signal.SIGKILL)


def stop_at_once() -> None:
    """Until the trainer catches signals there is nothing to save: end quietly with the shell's code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os._exit(128 + number))


def train_run(folder: Path) -> int:
    """Train the run in a folder as one rank. Returns the exit code."""
    from trainer.distributed import from_first, initialise
    from trainer.loop import Trainer
    from trainer.run import open_run
    from trainer.run_lock import RunLock
    from trainer.signals import StopRequest

    run = open_run(folder)
    with StopRequest() as stop:
        process = initialise()
        lock = RunLock(run.path, attempt=run.attempts() + 1) if process.is_first else None
        with lock or nullcontext():
            attempt = from_first(run.attempts() + 1 if process.is_first else None)
            if process.is_first:
                run.note("start", attempt=attempt, world_size=process.world_size, host=os.uname().nodename)
            trainer = Trainer(run.read_config(), run, process, attempt, stop, lock)
            code = trainer.train()
            if process.is_first:
                reason = {0: "finished", 130: "interrupted", 143: "terminated"}[code]
                run.note("end", attempt=attempt, reason=reason, step=trainer.step)
            trainer.parts.engine.close()
    return code


def main() -> int:
    """Run one rank; a user's mistake is one message and exit code 2."""
    end_with_parent()
    stop_at_once()
    try:
        return train_run(Path(sys.argv[1]))
    except UserError as error:
        if os.environ.get("RANK") == "0":
            from rich.console import Console

            Console(stderr=True, highlight=False).print(
                f"[bold red]error:[/] {_escape(error)}", soft_wrap=True
            )
        else:
            print(f"error: {error}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(2)  # the process group cannot be closed in order: the other ranks may be inside a collective


def _escape(error: UserError) -> str:
    from rich.markup import escape

    return escape(str(error))


if __name__ == "__main__":
    sys.exit(main())
