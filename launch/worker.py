"""What each rank of a training job runs: `python -m launch.worker RUN`, in an environment that names its group."""

import ctypes
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError
from launch.local import LOST_PEER
from launch.messages import of_the_disk, print_error

PR_SET_PDEATHSIG = 1
PEER_IS_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
REASONS = {0: "finished", 130: "interrupted", 143: "terminated"}


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
    from trainer.attempt import Attempt
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
            number = from_first(run.attempts() + 1 if process.is_first else None)
            note = run.note if process.is_first else _nothing
            note("start", attempt=number, world_size=process.world_size, host=os.uname().nodename)
            try:
                trainer = Trainer(Attempt(run, run.read_config(), process, number, lock), stop)
                code = trainer.train()
            except Exception as error:
                note("end", attempt=number, reason="error", message=str(error).splitlines()[0])
                raise
            note("end", attempt=number, reason=REASONS[code], step=trainer.step)
            trainer.parts.engine.close()
    return code


def _nothing(event: str, **facts: Any) -> None:
    pass


def main() -> int:
    """Run one rank; a user's mistake is one message and exit code 2."""
    end_with_parent()
    stop_at_once()
    try:
        return train_run(Path(sys.argv[1]))
    except UserError as error:
        print_error(error)
    except OSError as error:
        if (message := of_the_disk(error)) is None:
            raise
        print_error(message)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in PEER_IS_GONE):
            raise
        print(f"rank {os.environ['RANK']}: another rank has ended", file=sys.stderr, flush=True)
        os._exit(LOST_PEER)
    os._exit(2)  # the process group cannot be closed in order: other ranks may be inside a collective


if __name__ == "__main__":
    sys.exit(main())
