"""The hang watch: a rank that makes no step for too long reports where it hangs and ends, so that its job restarts.

A Python thread writes the dump. It cannot run while the hanging thread holds the interpreter's lock. In that case a
timer of `faulthandler`, which needs no lock, prints the stacks to standard error and ends the process with code 1.

If a supervisor reads the rank's record, the thread also shows there that the process runs, and it writes the stacks
when the supervisor asks for them. SIGUSR1 then prints the stacks to standard error, even if the interpreter is held.
"""

import faulthandler
import os
import re
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from data_pipelines.cores import Throttling
from data_pipelines.errors import UserError
from data_pipelines.files import replacing, write_whole
from data_pipelines.log import LOGGER
from data_pipelines.shards.remote import num_retried_reads
from trainer.distributed.collective_trace import collective_trace
from trainer.distributed.rank_record import own_record
from trainer.distributed.record_layout import Phase
from trainer.runs.end_reasons import ExitCode
from trainer.runs.run_folder import RunFolder

SETTLE_SECONDS = 5.0
"""Time between a rank's dump and its end, seconds. When the first rank ends, srun, or the launcher on one machine,
kills the others. The ranks' clocks start at the same collective, so all ranks have written their dumps by then."""
_LOOK_SECONDS = 1.0
_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("trainer", "data_pipelines", "launch")
_COLLECTIVES = str(Path("torch") / "distributed" / "distributed_c10d.py")
_RECORDING = str(Path("trainer") / "distributed" / "message_recording.py")
"""The file whose functions only pass messages on. A stack is told without them."""


class HangWatch:
    """Context manager that ends this process once its rank has not met the others for too long.

    Args:
        run: the run's folder, where the dump is written.
        attempt: number of this attempt, as far as it is known before the ranks have met.
        rank: rank of this process.
        seconds: time without `met` that counts as a hang. 0: no watch.
    """

    def __init__(self, run: RunFolder, attempt: int, rank: int, seconds: float) -> None:
        self.attempt = attempt
        """Number of this attempt."""
        self.step = 0
        """Number of steps that this rank has done."""
        self._record, self._throttling = own_record(), Throttling()
        self._run, self._rank, self._seconds = run, rank, seconds
        self._doing, self._met = "starting", time.monotonic()
        self._released, self._found = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hang watch", daemon=True)

    def __enter__(self) -> "HangWatch":
        if self._seconds:
            # left by a start that ended before it was counted as an attempt
            self._run.stall_dump(self.attempt, self._rank).unlink(missing_ok=True)
            self.met()
            if self._record.is_read:
                faulthandler.register(signal.SIGUSR1, all_threads=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._seconds:
            self._released.set()
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def doing(self, what: str, phase: Phase = Phase.OTHER) -> None:
        """Set what this rank does from now on, and the phase in its record."""
        self._doing = what
        self._record.enter(phase)

    def stepped(self, step: int) -> None:
        """Set the number of steps that this rank has done."""
        self.step = step
        self._record.finish_step(step)

    def met(self) -> None:
        """Restart the clock, because the ranks have just met in a collective. The clocks of all ranks restart there."""
        self._met = time.monotonic()

    def wait_if_stalled(self) -> None:
        """If a stall was found, wait for the process to end. A failure after the stall is not its cause."""
        if self._found.is_set():
            time.sleep(2 * SETTLE_SECONDS)

    def _watch(self) -> None:
        while True:
            faulthandler.dump_traceback_later(self._seconds, exit=True)
            looked = time.monotonic()
            pause = min(_LOOK_SECONDS, self._seconds / 10)
            if self._released.wait(pause):
                return
            late = max(
                time.monotonic() - looked - pause, self._throttling.seconds() if self._record.is_read else 0.0
            )
            self._record.beat(num_retried_reads(), late)
            if self._record.takes_request():
                threading.Thread(
                    target=self._dump, args=(self._facts(),), name="stall dump", daemon=True
                ).start()
            now = time.monotonic()
            away = now - looked
            if away > self._seconds / 2:  # the process was suspended, it did not hang
                self._met += away
            if now - self._met >= self._seconds:
                self._end()

    def _end(self) -> None:
        self._found.set()
        faulthandler.dump_traceback_later(2 * SETTLE_SECONDS, exit=True)
        # A separate thread: a hung file system would block the dump, and must not block the end.
        threading.Thread(target=self._explain, name="stall dump", daemon=True).start()
        time.sleep(SETTLE_SECONDS)
        os._exit(ExitCode.STALLED)

    def _explain(self) -> None:
        facts = self._facts()
        self._dump(facts)
        problem = UserError(
            f"rank {self._rank} made no step for {self._seconds:g} s after step {facts['step']}: {_told(facts)}",
            where=self._run.stall_dump(self.attempt, self._rank),
            fix="read the stacks there, then run `all4one resume` to continue from the newest checkpoint",
        )
        print(f"error: {problem}", file=sys.stderr, flush=True)

    def _dump(self, facts: dict[str, Any]) -> None:
        """Write facts and the stacks of all threads to the run's folder, or to standard error if that fails. Torch's
        trace of collectives comes last, because the library that hangs makes it."""
        dump = self._run.stall_dump(self.attempt, self._rank)
        try:
            with replacing(dump) as temporary, temporary.open("w") as file:
                yaml.safe_dump(facts, file, sort_keys=False, allow_unicode=True, width=1000)
                print("---", *_names(), "", sep="\n", file=file, flush=True)
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            LOGGER.error("%s: %s", dump, error.strerror)
            faulthandler.dump_traceback(all_threads=True)
        if (trace := collective_trace()) is not None:
            with suppress(OSError):
                write_whole(self._run.collective_trace(self.attempt, self._rank), trace)

    def _facts(self) -> dict[str, Any]:
        return {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": os.uname().nodename,
            "process": os.getpid(),
            "rank": self._rank,
            "step": self.step,
            "doing": self._doing,
            "in": _place(),
            "seconds": round(time.monotonic() - self._met, 1),
        }


def stall_of(run: RunFolder, attempt: int, ranks: int, logs: Path) -> str | None:
    """Return where an attempt hung, with the smallest groups of ranks first. None: it did not stall.

    Args:
        run: the run's folder, which has the ranks' dumps.
        attempt: number of the attempt.
        ranks: number of its processes.
        logs: folder of their output.
    """
    dumps = {rank: _read(path) for rank in range(ranks) if (path := run.stall_dump(attempt, rank)).exists()}
    outputs = {rank: logs / f"rank_{rank}.log" for rank in range(ranks) if rank not in dumps}
    held = {rank: path for rank, path in outputs.items() if _was_held(path)}
    if not dumps and not held:
        return None
    told = defaultdict[str, list[str]](list)
    for rank, facts in dumps.items():
        told[_told(facts)].append(f"{rank} on {facts['host']}")
    for rank, path in outputs.items():
        sign = f"was suspended or held the interpreter's lock, see {path}" if rank in held else "gave no sign"
        told[sign].append(str(rank))
    groups = sorted(told.items(), key=lambda group: len(group[1]))
    said = "; ".join(f"{_listed(who)}: {what}" for what, who in groups)
    if not dumps:
        return said
    seconds, step = max(f["seconds"] for f in dumps.values()), min(f["step"] for f in dumps.values())
    return f"no step for {seconds:.0f} s after step {step}: {said}"


def _read(dump: Path) -> dict[str, Any]:
    facts: dict[str, Any] = yaml.safe_load(dump.read_text(errors="replace").partition("\n---\n")[0])
    return facts


def _was_held(output: Path) -> bool:
    """Whether a rank's output has the line that the timer of `faulthandler` prints."""
    return (
        output.exists()
        and re.search(r"^Timeout \([\d:.]+\)!$", output.read_text(errors="replace"), re.M) is not None
    )


def _told(facts: dict[str, Any]) -> str:
    return f"{facts['doing']}, in {facts['in']}"


def _listed(ranks: Sequence[str], most: int = 4) -> str:
    rest = f" and {len(ranks) - most} more" if len(ranks) > most else ""
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(ranks[:most]) + rest


def _names() -> list[str]:
    """Return the names of the threads, by the numbers that `faulthandler` prints."""
    return [f"thread 0x{thread.ident or 0:016x} is {thread.name}" for thread in threading.enumerate()]


def _place() -> str:
    """Return the collective in which a thread waits, with the line of this project that called it. If no thread waits
    in a collective, return the line of the main thread."""
    stacks = sys._current_frames()
    main = stacks.pop(threading.main_thread().ident or 0)
    for frame in (main, *stacks.values()):  # on GPUs, backward runs in a separate thread
        stack = list(_outwards(frame))
        inside = [i for i, f in enumerate(stack) if f.f_code.co_filename.endswith(_COLLECTIVES)]
        if inside:
            return f"{stack[inside[0]].f_code.co_name}, called by {_own_line(stack[inside[0] :])}"
    return _own_line(list(_outwards(main)))


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _own_line(stack: Sequence[FrameType]) -> str:
    """Return function and line of the innermost frame of this project, or of the innermost frame if there is none."""
    for frame in stack:
        path = Path(frame.f_code.co_filename)
        if frame.f_code.co_filename.endswith(_RECORDING):
            continue
        if path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in _PACKAGES:
            return f"{frame.f_code.co_qualname} ({path.relative_to(_ROOT)}:{frame.f_lineno})"
    return f"{stack[0].f_code.co_qualname} ({stack[0].f_code.co_filename}:{stack[0].f_lineno})"
