"""Runs a job as N processes on this machine, and supervises them. Light: it loads no torch."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from data_pipelines.errors import UserError

GRACE_SECONDS = 5.0  # that the others get to end by themselves when one has failed
TAIL_LINES = 25


def launch(module: str, arguments: list[str], *, nproc: int, logs: Path) -> int:
    """Run `python -m MODULE ARGUMENTS` as `nproc` ranks of one process group, until all have ended.

    Rank 0 has this process's output; the others write to `logs/rank_R.log`. Signals that ask to stop are handed on.
    When a rank fails the others are ended, and the end of a failed rank's log is printed.

    Returns the exit code: 0, or that of the first rank that failed.
    """
    if nproc < 1:
        raise UserError(f"--nproc must be at least 1, not {nproc}")
    logs.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    ranks = [_start(module, arguments, rank, nproc, port, logs) for rank in range(nproc)]
    previous = {number: signal.signal(number, _hand_on(ranks)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code, failed = _supervise(ranks)
    finally:
        for process in ranks:
            if process.poll() is None:
                process.kill()
                process.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)
    if failed:
        print(_tail(logs / f"rank_{failed}.log", failed), file=sys.stderr)
    return code


def _start(
    module: str, arguments: list[str], rank: int, nproc: int, port: int, logs: Path
) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ALL4ONE_PARENT": str(os.getpid()),
    }
    command = [sys.executable, "-m", module, *arguments]
    # a new session: Ctrl-C on the terminal reaches the ranks once, through this process
    if rank == 0:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    with (logs / f"rank_{rank}.log").open("ab") as log:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _hand_on(ranks: list[subprocess.Popen[bytes]]):  # type: ignore[no-untyped-def]
    def handler(number: int, frame: FrameType | None) -> None:
        for process in ranks:
            if process.poll() is None:
                process.send_signal(number)

    return handler


def _supervise(ranks: list[subprocess.Popen[bytes]]) -> tuple[int, int]:
    """Wait for all. Returns the exit code, and the rank whose log explains it (0: the one that printed here)."""
    deadline, code, first_failed = float("inf"), 0, 0
    while any(process.poll() is None for process in ranks):
        time.sleep(0.05)
        failed = [r for r, process in enumerate(ranks) if process.poll() not in (None, 0)]
        if failed and code == 0:
            first_failed = failed[0]
            code = _exit_code(ranks[first_failed])
            deadline = time.monotonic() + GRACE_SECONDS
        if time.monotonic() > deadline:
            for process in ranks:
                process.kill()
    failed = [r for r, process in enumerate(ranks) if process.returncode]
    if failed and code == 0:
        first_failed, code = failed[0], _exit_code(ranks[failed[0]])
    stopped = code in (130, 143)
    return code, 0 if stopped else first_failed


def _exit_code(process: subprocess.Popen[bytes]) -> int:
    """A shell's convention: 128 + number where a signal ended the process."""
    code = process.returncode
    return 128 - code if code < 0 else code


def _tail(log: Path, rank: int) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(
        [f"rank {rank} failed; the end of {log}:", *(f"  {line}" for line in lines[-TAIL_LINES:])]
    )


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
