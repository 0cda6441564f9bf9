"""Runs that train at the same time on this machine, each in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from data_pipelines.errors import UserError
from launch.local.last_words import last_lines
from launch.local.processes import HANDED_ON, SignalForwarder, signals_forwarded
from launch.local.rank_processes import allow_forks, module_command
from launch.local.standard_files import open_log
from launch.local.worker import end_with_parent
from launch.messages import print_or_raise
from trainer.runs.end_reasons import ExitCode
from trainer.runs.run_folder import RunFolder

OUTPUT = "output.log"
"""File in the folder of a run with the output of its process."""
LOOK_SECONDS = 0.2
_ON_STOP = (
    "stopping all runs after their step or the next. The third signal ends them at once, without a checkpoint"
)


@dataclass(frozen=True)
class _Training:
    run: RunFolder
    part: Mapping[str, str]
    process: "subprocess.Popen[bytes]"

    @property
    def pid(self) -> int:
        return self.process.pid

    def poll(self) -> int | None:
        return self.process.poll()

    def wait(self) -> object:
        return self.process.wait()


class SideBySide:
    """Processes that train runs at the same time. Used as a context, in which signals are forwarded to all of them.

    They end with this process.

    Args:
        parts: variables that give each run its part of this machine, as `machine_parts` returns them. Their number is
            that of runs at the same time.
    """

    def __init__(self, parts: Sequence[Mapping[str, str]]) -> None:
        self._free = list(parts)
        self._training: list[_Training] = []
        self._context = ExitStack()
        self._forwarder: SignalForwarder | None = None

    def __enter__(self) -> "SideBySide":
        self._forwarder = self._context.enter_context(signals_forwarded(self._training, _ON_STOP))
        return self

    def __exit__(self, *exception: object) -> None:
        for one in self._training:  # there are some only after an exception. They save a checkpoint
            one.process.terminate()
        for one in self._training:
            one.wait()
        self._context.close()

    @property
    def stop_code(self) -> int:
        """Exit code if a signal has asked to stop. 0: none has."""
        asked = self._forwarder.first if self._forwarder else None
        return 0 if asked is None else 128 + HANDED_ON[signal.Signals(asked)]

    @property
    def has_room(self) -> bool:
        """Whether another run may start."""
        return bool(self._free) and not self.stop_code

    @property
    def runs(self) -> list[RunFolder]:
        """The runs whose processes have not ended."""
        return [one.run for one in self._training]

    def start(self, run: RunFolder, module: str, *arguments: str) -> None:
        """Start a process for a run on a free part of this machine.

        Args:
            run: the run, which has a folder.
            module: the module to execute, which calls `run_process`.
            arguments: its arguments.
        """
        part, output = self._free.pop(0), open_log(run.path / OUTPUT)
        try:
            process = subprocess.Popen(
                module_command(module, *arguments),
                env=os.environ | part | {"ALL4ONE_PARENT": str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,  # Ctrl-C on the terminal reaches it once, through this process
            )
        finally:
            os.close(output)
        self._training.append(_Training(run, part, process))
        if self.stop_code:  # the signal may have come before this process could be told
            process.terminate()

    def wait(self) -> list[tuple[RunFolder, int]]:
        """Wait until a process ends, or several. Return their runs and exit codes, -N if signal N ended one."""
        while self._training:
            if ended := [one for one in self._training if one.poll() is not None]:
                for one in ended:
                    self._training.remove(one)
                    self._free.append(one.part)
                return [(one.run, one.process.returncode) for one in ended]
            time.sleep(LOOK_SECONDS)
        return []


def run_process(work: Callable[[], int]) -> int:
    """Do the work of a process of `SideBySide`, and return the exit code.

    The process ends with its parent and may fork ranks. SIGTERM interrupts it. Errors that the user can fix print one
    message.
    """
    end_with_parent()
    allow_forks()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return work()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except (UserError, OSError) as error:
        print_or_raise(error)
    return ExitCode.USER_ERROR


def print_failure(run: RunFolder) -> None:
    """Print that a run has failed, and the last lines of its process."""
    log = run.path / OUTPUT
    lines = [f"{run.path.name} failed. The last lines of {log}:", *(f"  {line}" for line in last_lines(log))]
    print("\n".join(lines), file=sys.stderr, flush=True)
