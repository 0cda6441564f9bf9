"""Commands of `all4one` as tests run them: forks of one process that has imported everything.

A command spends seconds on imports, and hundreds of commands are run. Besides the imports, a fork behaves as a new
process does: it has its own session, environment, working folder and output. `test_wheel.py` and `test_examples.py`
run the command itself, and so does SLURM.
"""

import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from namespaces import enter
from rank_processes import forks

from launch.local.rank_processes import like_a_new_process

ROOT = Path(__file__).resolve().parents[1]


def all4one(*arguments: object) -> list[str]:
    """The command line of `all4one`."""
    return [sys.executable, "-m", "launch.cli", *map(str, arguments)]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str = ""
    """The errors, if they were kept apart from the output."""

    @property
    def words(self) -> str:
        """The output without the line breaks that a narrow terminal makes."""
        return " ".join(self.out.split())

    @property
    def error_words(self) -> str:
        """The errors without line breaks."""
        return " ".join(self.err.split())


def run(
    *arguments: object,
    cwd: object = None,
    env: dict[str, str] | None = None,
    machine: int | None = None,
    program: Path | None = None,
    apart: bool = False,
    timeout: float | None = None,
) -> Result:
    """Run a command to its end.

    Args:
        arguments: those of `all4one`.
        cwd: working folder. None: that of this process.
        env: environment. None: that of this process.
        machine: a process of the machine to run on. None: this one.
        program: file of a program that runs in place of `all4one`. None: there is none.
        apart: whether errors are kept apart from the output.
        timeout: how long the command may take, seconds.
    """
    with tempfile.NamedTemporaryFile() as errors:
        command = Command(
            *arguments,
            cwd=cwd,
            env=env,
            machine=machine,
            program=program,
            errors=Path(errors.name) if apart else None,
        )
        out = command.communicate(timeout)[0]
        assert command.returncode is not None
        return Result(command.returncode, out, errors.read().decode(errors="replace"))


def run_program(program: Path, *arguments: object, **options: Any) -> Result:
    """Run a program to its end in the root of the project. The options are those of `run`."""
    return run(*arguments, cwd=ROOT, program=program, timeout=550, **options)


class Command:
    """A command in the background, with the methods of `subprocess.Popen` that tests use.

    Args:
        arguments: those of `all4one`.
        cwd: working folder. None: that of this process.
        env: environment. None: that of this process.
        machine: a process of the machine to run on. None: this one.
        program: file of a program that runs in place of `all4one`. None: there is none.
        errors: file for the errors. None: they come with the output.
    """

    def __init__(
        self,
        *arguments: object,
        cwd: object = None,
        env: dict[str, str] | None = None,
        machine: int | None = None,
        program: Path | None = None,
        errors: Path | None = None,
    ) -> None:
        context = forks()
        self._output, output = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_command,
            args=(
                list(map(str, arguments)),
                output,
                str(cwd or Path.cwd()),
                dict(env or os.environ),
                machine,
                program,
                errors,
            ),
        )
        self._process.start()
        output.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("all4one", timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """All that the command and its ranks write until the last of them has ended."""
        deadline, parts = time.monotonic() + (timeout or 10_000), list[bytes]()
        while self._output.poll(max(0, deadline - time.monotonic())):
            part = os.read(self._output.fileno(), 1 << 16)
            if not part:
                self.wait(max(0.1, deadline - time.monotonic()))
                return b"".join(parts).decode(errors="replace"), None
            parts.append(part)
        raise subprocess.TimeoutExpired("all4one", timeout or 0, output=b"".join(parts))

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _command(
    arguments: list[str],
    output: Connection,
    folder: str,
    environment: dict[str, str],
    machine: int | None,
    program: Path | None,
    errors: Path | None,
) -> None:
    """Run a command or a program in this fork."""
    if machine is not None:
        enter(machine)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the process that forks ignores it
    with like_a_new_process(os.dup(output.fileno())):
        output.close()
        if errors is not None:
            with errors.open("ab", buffering=0) as file:
                os.dup2(file.fileno(), 2)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["all4one", *arguments]
        if program is not None:
            sys.path.insert(0, str(program.parent))  # as Python does, so that it finds the modules beside it
            runpy.run_path(str(program), run_name="__main__")
            return
        from launch.cli import main

        main()
