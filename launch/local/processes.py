"""Runs a job as N processes on this machine, and supervises them. Loads no torch."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from data_pipelines.errors import UserError
from launch.local.last_words import last_lines
from launch.local.memory_kills import memory_kills, why_killed
from launch.local.rank_processes import RankProcess, prepare, start_rank
from launch.local.rank_records import RankRecords
from launch.local.roll_call import RollCall
from launch.local.run_watch import RunWatch
from launch.local.standard_files import open_standard_files
from launch.local.wait_for_ranks import wait_for_ranks
from launch.local.watched_ranks import WatchedRanks, nodes_here
from trainer.distributed.rendezvous import STORE_SOCKET
from trainer.runs.end_reasons import ExitCode

HANDED_ON = {  # a closed terminal stops a run like SIGTERM
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGHUP: signal.SIGTERM,
}


@dataclass(frozen=True)
class Failure:
    """How the ranks of one start failed."""

    code: int
    """Exit code of the rank that failed by itself, in the shell's convention: 128 + number if a signal ended it."""
    message: str
    """What is known of the failure, for the user."""
    hung: bool = False
    """Whether the rank hung, and its supervisor has killed it."""


class Recovery(Protocol):
    """Decides whether ranks that failed start again."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables of the ranks."""

    def forking(self) -> AbstractContextManager[None]:
        """Return a context in which this process has no thread, so that it can fork."""

    def watch(self, nodes: Mapping[int, str]) -> RunWatch:
        """Return the watch of the ranks of one start.

        Args:
            nodes: name of the node of each rank.
        """

    def restarts(self, failure: Failure) -> bool:
        """Return whether the ranks start again, and tell the user."""


def launch(
    module: str,
    arguments: list[str],
    *,
    nproc: int,
    logs: Path,
    on_stop: str = "stopping. The third signal ends the processes at once",
    recovery: Recovery | None = None,
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
        recovery: decides whether failed ranks start again. Before, one of those that are left may save. None: they
            never start again.

    Returns the exit code: 0, or that of the first rank that failed. The caller must report where stalled ranks hung.
    """
    if nproc < 1:
        raise UserError(f"--nproc must be at least 1, not {nproc}")
    logs.mkdir(parents=True, exist_ok=True)
    open_standard_files()
    ranks: list[RankProcess] = []
    with signals_forwarded(ranks, on_stop) as forwarder:
        while True:
            end = _run(module, arguments, nproc, logs, ranks, forwarder, recovery)
            if isinstance(end, int):
                return end
            if recovery is None or not recovery.restarts(end):
                print(end.message, file=sys.stderr)
                return end.code


def _run(
    module: str,
    arguments: list[str],
    nproc: int,
    logs: Path,
    ranks: list[RankProcess],
    forwarder: "SignalForwarder",
    recovery: Recovery | None,
) -> int | Failure:
    """Start the ranks once, and wait for all. Returns the exit code, or the failure of a rank."""
    ranks.clear()
    kills = memory_kills()
    roll = None if recovery is None else RollCall()
    watched = None
    try:
        with nullcontext() if recovery is None else recovery.forking():
            prepare(module)
            if forwarder.first is not None:
                return 128 + HANDED_ON[signal.Signals(forwarder.first)]
            environment = {} if recovery is None else dict(recovery.environment)
            records = None if recovery is None else RankRecords()
            for rank in _start(module, arguments, nproc, logs, environment, roll, records):
                ranks.append(rank)
        if recovery is not None and records is not None:
            watched = WatchedRanks(recovery.watch(nodes_here(nproc)), records)
        outcome = wait_for_ranks(ranks, roll, watched)
    finally:
        for process in ranks:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
        if roll is not None:
            roll.close()
        if watched is not None:
            watched.close()
    if forwarder.has_killed:
        print("ended at once, without a checkpoint", file=sys.stderr)
        return outcome.code
    if outcome.failed is None:
        return outcome.code
    hung = None if watched is None else watched.message()
    message = hung or _explain(
        ranks[outcome.failed], outcome.failed, logs / f"rank_{outcome.failed}.log", kills
    )
    if forwarder.first is not None:  # the user has asked to stop
        print(message, file=sys.stderr)
        return outcome.code
    return Failure(ExitCode.STALLED if hung else outcome.code, message, hung=hung is not None)


def _start(
    module: str,
    arguments: list[str],
    nproc: int,
    logs: Path,
    environment: dict[str, str],
    roll: RollCall | None,
    records: RankRecords | None,
) -> Iterator[RankProcess]:
    """Start the ranks one after the other."""
    group = environment | {
        "WORLD_SIZE": str(nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
        "MASTER_ADDR": "127.0.0.1",
        "ALL4ONE_PARENT": str(os.getpid()),
    }
    if not os.environ.get("GLOO_SOCKET_IFNAME") and "lo" in {name for _, name in socket.if_nameindex()}:
        group["GLOO_SOCKET_IFNAME"] = "lo"
    with socket.create_server(("127.0.0.1", 0), backlog=nproc) as listener:
        group |= {"MASTER_PORT": str(listener.getsockname()[1]), STORE_SOCKET: str(listener.fileno())}
        yield _start_one(module, arguments, group, 0, roll, records, None, [listener])
    # The listener is closed here by now. Otherwise, forks would hold it open after the death of rank 0.
    for rank in range(1, nproc):
        yield _start_one(module, arguments, group, rank, roll, records, logs / f"rank_{rank}.log", [])


def _start_one(
    module: str,
    arguments: list[str],
    group: dict[str, str],
    rank: int,
    roll: RollCall | None,
    records: RankRecords | None,
    log: Path | None,
    sockets: list[socket.socket],
) -> RankProcess:
    """Start one rank, with a connection to the roll call, and a record."""
    place = group | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    if roll is None or records is None:
        return start_rank(module, arguments, place, sockets=sockets, log=log)
    theirs, named = roll.connect(rank)
    with theirs:
        inherited = [*sockets, theirs]
        return start_rank(
            module, arguments, place | named, sockets=inherited, record=records.add(rank), log=log
        )


@contextmanager
def signals_forwarded(processes: Sequence[RankProcess], on_stop: str) -> Iterator["SignalForwarder"]:
    """Return a context in which signals that ask to stop are forwarded to processes. Under nohup, SIGHUP is not.

    Args:
        processes: the processes. Their number may change meanwhile.
        on_stop: message printed when the first signal asks to stop.
    """
    under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    may_heed = threading.current_thread() is threading.main_thread()  # Python's rule for signal handlers
    heeded = [number for number in HANDED_ON if may_heed and not (under_nohup and number == signal.SIGHUP)]
    forwarder = SignalForwarder(processes, on_stop)
    previous = {number: signal.signal(number, forwarder) for number in heeded}
    if may_heed:
        # If a parent process has set it to be ignored, the kernel forgets how the processes ended.
        previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield forwarder
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class SignalForwarder:
    """Forwards a signal to every process. The third signal kills them at once, even in a hung collective."""

    def __init__(self, processes: Sequence[RankProcess], on_stop: str) -> None:
        self._processes, self._on_stop, self._times = processes, on_stop, 0
        self.first: int | None = None
        """The first signal that came."""

    @property
    def has_killed(self) -> bool:
        """Whether the processes were killed because the user asked three times."""
        return self._times >= 3

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. `signal.signal` calls this."""
        self._times += 1
        self.first = self.first or number
        handed_on = HANDED_ON[signal.Signals(number)] if self._times < 3 else signal.SIGKILL
        for process in self._processes:
            if process.poll() is None:
                with suppress(ProcessLookupError):  # the signal came while its end was being noted
                    os.kill(process.pid, handed_on)
        if self._times == 1:
            os.write(2, f"\n{self._on_stop}\n".encode())


def _explain(process: RankProcess, rank: int, log: Path, kills: int | None) -> str:
    """Return the message on a rank's failure. Rank 0 has already printed its own error on this terminal.

    Args:
        process: the rank's process, which has ended.
        rank: the rank.
        log: the rank's output.
        kills: what `memory_kills` returned before the start.
    """
    lines = []
    name = signal.Signals(-code).name if (code := process.poll() or 0) < 0 else ""
    if name:
        lines.append(f"rank {rank} was ended by {name}" + (why_killed(kills) if name == "SIGKILL" else ""))
    if rank and name != "SIGKILL":  # which leaves no last words
        tail = last_lines(log)
        lines += [f"rank {rank} failed. The last lines of {log}:", *(f"  {line}" for line in tail)]
    return "\n".join(lines)
