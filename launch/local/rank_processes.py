"""Starts the ranks of this machine, as forks of their launcher where that is safe.

Importing torch, torchvision and DeepSpeed takes seconds of CPU time and thousands of small reads. A launcher that has
imported them once can fork any number of ranks within milliseconds.
"""

import atexit
import ctypes
import importlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from launch.local.imports import collector_paused
from launch.local.process_name import name_of_rank, name_process
from launch.local.standard_files import open_log, read_nothing, write_output_to
from trainer.distributed.rank_state import RecordMemory

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""Signals that ask a process to stop."""
COUNTS_BY_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""Variable with which torch asks NVML for devices, which leaves the CUDA driver uninitialized (docs of torch.cuda)."""
_LEAVING_SECONDS = 0.1
"""Time in which a thread that was joined leaves the system's list. On a busy machine it is there for a moment."""
NOT_INITIALIZED = 3
"""CUDA_ERROR_NOT_INITIALIZED (CUDA driver API): this process has not touched a device."""


@dataclass
class _Forking:
    """What this process knows of forks."""

    allowed: bool = False
    """Whether the process owns its interpreter, as that of the `all4one` command does."""
    begun: bool = False
    """Whether the process has forked, or is a fork."""


_forking = _Forking()


class RankProcess(Protocol):
    """A running rank."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def poll(self) -> int | None:
        """Return its exit code, or -N if signal N ended it. None: it still runs."""

    def wait(self) -> object:
        """Wait until it has ended."""


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of this project.

    Python does not search the working directory for modules (`-P`), so that a user's folder `trainer` or file
    `launch.py` there does not run instead of ours.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def allow_forks() -> None:
    """Let the ranks be forks of this process. The `all4one` command and the agents of SLURM jobs call it.

    Only they own their interpreter. A fork of a user's program would inherit what that has set in torch, such as
    the default dtype, and its open files and output.
    """
    _forking.allowed = True


def heed_signals() -> None:
    """Let the signals through that ask this rank to stop. Each rank calls it as soon as its own handlers are set."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def prepare(module: str) -> None:
    """Import what the ranks of a module need, if they can be forks of this process."""
    if not can_fork():
        return
    is_set = COUNTS_BY_NVML in os.environ
    os.environ.setdefault(COUNTS_BY_NVML, "1")
    try:
        with collector_paused():
            importlib.import_module(module).import_all()
    finally:
        if not is_set:
            del os.environ[COUNTS_BY_NVML]


def start_rank(
    module: str,
    arguments: list[str],
    environment: dict[str, str],
    *,
    sockets: Sequence[socket.socket] = (),
    record: RecordMemory | None = None,
    log: Path | None = None,
) -> RankProcess:
    """Start a rank that calls `main()` of a module, and ends with the code that it returns.

    Args:
        module: module with two functions: `import_all()`, and `main() -> int`, which calls `heed_signals`.
        arguments: arguments of the rank, which it finds in `sys.argv[1:]`.
        environment: variables that the rank has in addition to those of this process.
        sockets: sockets that the rank inherits under the same numbers.
        record: memory of the rank's record, which it inherits too. None: nobody reads what the rank does.
        log: file to which the rank's output is appended. None: it writes to the output of this process.
    """
    if record is not None:
        environment = environment | record.environment
    if can_fork():
        return _Fork(module, arguments, environment, log)
    output = None if log is None else open_log(log)
    try:
        return subprocess.Popen(
            module_command("launch.local.rank_processes", module, *arguments),
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=[*(one.fileno() for one in sockets), *([] if record is None else [record.fileno()])],
        )
    finally:
        if output is not None:
            os.close(output)


def can_fork() -> bool:
    """Return whether a fork of this process would work as a new process does.

    It would not if the process does not own its interpreter, if another thread may hold a lock, if OpenMP has started
    its threads (a fork waits for them forever), or if the CUDA driver is initialized (a fork cannot use it).
    """
    return _forking.allowed and sys.platform == "linux" and not _has_threads() and not _has_cuda()


def _has_threads() -> bool:
    """Return whether threads run besides the main thread and those of OpenBLAS, which ends them at the first fork."""
    from threadpoolctl import threadpool_info

    pools = [pool for pool in threadpool_info() if pool["internal_api"] == "openblas"]
    expected = 1 if _forking.begun else 1 + sum(pool["num_threads"] - 1 for pool in pools)
    if threading.active_count() > 1:
        return True
    deadline = time.monotonic() + _LEAVING_SECONDS
    while len(list(Path("/proc/self/task").iterdir())) > expected:
        if time.monotonic() > deadline:
            return True
        time.sleep(0.002)
    return False


def _has_cuda() -> bool:
    """Return whether this process has initialized the CUDA driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False  # the machine has no driver
    return driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) != NOT_INITIALIZED


class _Fork:
    """A rank that is a fork of this process."""

    def __init__(
        self, module: str, arguments: list[str], environment: dict[str, str], log: Path | None
    ) -> None:
        self._process: BaseProcess = multiprocessing.get_context("fork").Process(
            target=_run_fork, args=(module, arguments, environment, log), name=f"rank {environment['RANK']}"
        )
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()  # or the fork would print it again
        # Until the fork has its own handlers, it must not run those of this process.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            self._process.start()
            _forking.begun = True
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> None:
        self._process.join()


def _run_fork(module: str, arguments: list[str], environment: dict[str, str], log: Path | None) -> None:
    """Run this fork as a rank to its end."""
    with like_a_new_process(None if log is None else open_log(log)):
        os.environ.update(environment)
        code = _main(module, arguments)
    sys.exit(code)


@contextmanager
def like_a_new_process(output: int | None) -> Iterator[None]:
    """Give this fork its own session, signal handlers, exit handlers and output.

    Args:
        output: file descriptor of standard output and error. None: they stay as they are.
    """
    _forking.begun = True
    os.setsid()  # Ctrl-C on the terminal reaches the ranks once, through their launcher
    _forget_exit_handlers()
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # the launcher may have replaced its own
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    read_nothing()
    if output is not None:
        write_output_to(output)
    try:
        yield
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends a fork without them


def _forget_exit_handlers() -> None:
    """Leave the launcher's exit handlers and finalizers to the launcher, and let those of this fork run at its end.

    A finalizer of the launcher would remove temporary folders that the launcher still uses. `weakref.finalize`
    registers with `atexit` only once in a process, so a fork of a process that has done so must do it again.
    """
    finalize: Any = weakref.finalize
    for finalizer in list(finalize._registry):
        finalizer.atexit = False
    finalize._registered_with_atexit = False
    atexit._clear()


def _main(module: str, arguments: list[str]) -> int:
    """Run this process as a rank to its end. Returns the exit code."""
    name_process(name_of_rank(os.environ["RANK"]))
    os.environ.pop("SLURM_CPUS_PER_TASK", None)  # an interactive job's: all ranks share these cores
    sys.argv = [module, *arguments]
    return int(importlib.import_module(module).main())


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], sys.argv[2:]))
