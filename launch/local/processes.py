"""Runs a job as N processes on this machine, and supervises them. Loads no torch."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType

from data_pipelines.errors import UserError
from launch.local.rank_processes import RankProcess, prepare, start_rank
from launch.local.standard_files import open_standard_files
from trainer.distributed.rendezvous import STORE_SOCKET
from trainer.runs.end_reasons import STOPPED, ExitCode

GRACE_SECONDS = 5.0  # time in which the others may end by themselves after one failed
TAIL_LINES = 25
HANDED_ON = {  # a closed terminal stops a run like SIGTERM
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGHUP: signal.SIGTERM,
}


def launch(
    module: str,
    arguments: list[str],
    *,
    nproc: int,
    logs: Path,
    on_stop: str = "stopping. The third signal ends the processes at once",
) -> int:
    """Run `main()` of a module as `nproc` ranks of one process group, until all have ended.

    Rank 0 writes to this process's output. The others write to `logs/rank_R.log`. In the main thread, signals that ask
    to stop are forwarded to the ranks. Under nohup, SIGHUP is not forwarded.
    When a rank fails, the others are ended, and the end of the failed rank's log is printed.

    Args:
        module: module with two functions: `main() -> int`, which each rank runs and which calls `heed_signals`, and
            `import_all()`, which imports what `main` needs.
        arguments: arguments of each rank.
        nproc: number of ranks.
        logs: folder of the other ranks' output.
        on_stop: message printed when the first signal asks to stop.

    Returns the exit code: 0, or that of the first rank that failed. The caller must report where stalled ranks hung.
    """
    if nproc < 1:
        raise UserError(f"--nproc must be at least 1, not {nproc}")
    logs.mkdir(parents=True, exist_ok=True)
    open_standard_files()
    under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    may_heed = threading.current_thread() is threading.main_thread()  # Python's rule for signal handlers
    heeded = [number for number in HANDED_ON if may_heed and not (under_nohup and number == signal.SIGHUP)]
    ranks: list[RankProcess] = []
    forwarder = SignalForwarder(ranks, on_stop)
    previous = {number: signal.signal(number, forwarder) for number in heeded}
    if may_heed:
        # If a parent process has set it to be ignored, the kernel forgets how the ranks ended.
        previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        prepare(module)
        if forwarder.first is not None:
            return 128 + HANDED_ON[signal.Signals(forwarder.first)]
        for rank in _start(module, arguments, nproc, logs):
            ranks.append(rank)
        code, failed = _supervise(ranks)
    finally:
        for process in ranks:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)
    if forwarder.has_killed:
        print("ended at once, without a checkpoint", file=sys.stderr)
    elif failed is not None:
        print(_explain(ranks[failed], failed, logs / f"rank_{failed}.log"), file=sys.stderr)
    return code


def _start(module: str, arguments: list[str], nproc: int, logs: Path) -> Iterator[RankProcess]:
    """Start the ranks one after the other."""
    group = {
        "WORLD_SIZE": str(nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
        "MASTER_ADDR": "127.0.0.1",
        "ALL4ONE_PARENT": str(os.getpid()),
    }
    if not os.environ.get("GLOO_SOCKET_IFNAME") and "lo" in {name for _, name in socket.if_nameindex()}:
        group["GLOO_SOCKET_IFNAME"] = "lo"
    with socket.create_server(("127.0.0.1", 0), backlog=nproc) as listener:
        group |= {"MASTER_PORT": str(listener.getsockname()[1]), STORE_SOCKET: str(listener.fileno())}
        yield start_rank(module, arguments, group | {"RANK": "0", "LOCAL_RANK": "0"}, listener=listener)
    # The listener is closed here by now. Otherwise, forks would hold it open after the death of rank 0.
    for rank in range(1, nproc):
        place = group | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        yield start_rank(module, arguments, place, log=logs / f"rank_{rank}.log")


class SignalForwarder:
    """Forwards a signal to every rank. The third signal kills the ranks at once, even in a hung collective."""

    def __init__(self, ranks: list[RankProcess], on_stop: str) -> None:
        self._ranks, self._on_stop, self._times = ranks, on_stop, 0
        self.first: int | None = None
        """The first signal that came."""

    @property
    def has_killed(self) -> bool:
        """Whether the ranks were killed because the user asked three times."""
        return self._times >= 3

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. `signal.signal` calls this."""
        self._times += 1
        self.first = self.first or number
        handed_on = HANDED_ON[signal.Signals(number)] if self._times < 3 else signal.SIGKILL
        for process in self._ranks:
            if process.poll() is None:
                with suppress(ProcessLookupError):  # the signal came while its end was being noted
                    os.kill(process.pid, handed_on)
        if self._times == 1:
            os.write(2, f"\n{self._on_stop}\n".encode())


def _supervise(ranks: list[RankProcess]) -> tuple[int, int | None]:
    """Wait for all ranks. Returns the exit code, and the rank that failed by itself, if there is one."""
    deadline, failed = float("inf"), list[int]()
    while any(process.poll() is None for process in ranks):
        time.sleep(0.05)
        failed += [
            r for r, process in enumerate(ranks) if process.poll() not in (None, 0) and r not in failed
        ]
        if failed:
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        if time.monotonic() > deadline:
            break  # the others wait in a collective for the failed rank
    failed += [r for r, process in enumerate(ranks) if process.poll() not in (None, 0) and r not in failed]
    if not failed:
        return 0, None
    culprit = next((r for r in failed if ranks[r].poll() != ExitCode.LOST_PEER), failed[0])
    code = _exit_code(ranks[culprit])
    return code, None if code in (*STOPPED, ExitCode.STALLED) else culprit


def _exit_code(process: RankProcess) -> int:
    """Return the exit code in the shell's convention: 128 + number if a signal ended the process."""
    code = process.poll() or 0
    return 128 - code if code < 0 else code


def _explain(process: RankProcess, rank: int, log: Path) -> str:
    """Return the message on a rank's failure. Rank 0 has already printed its own error on this terminal."""
    lines = []
    if (process.poll() or 0) < 0:
        name = signal.Signals(-(process.poll() or 0)).name
        lines.append(f"rank {rank} was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else ""))
    if rank:
        tail = log.read_text(errors="replace").splitlines()[-TAIL_LINES:] if log.exists() else []
        lines += [f"rank {rank} failed. The last lines of {log}:", *(f"  {line}" for line in tail)]
    return "\n".join(lines)
