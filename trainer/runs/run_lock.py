"""A lock on a run folder, so that two jobs cannot train into the same run, on one machine or on many.

Holders are numbered files `lock/00000007.json`; the highest number holds. To take over from number n, dead or
released, is to create the file n + 1, which exactly one process can do; a file below somebody else's is worth
nothing. So no file is ever taken from another process, and no clock of another machine is trusted: ages are told
by the file system's own time stamps.
"""

import json
import os
import socket
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from data_pipelines.errors import UserError

STALE_AFTER_S = 60.0
"""Age of the last sign of life after which a holder on another machine counts as dead, seconds."""
_POLL_S = 0.2
"""Time between looks while waiting for a lock, seconds."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as its file says."""

    host: str
    machine: str
    """What tells two hosts of one name, a reboot, or two containers apart."""
    pid: int
    process_start: str
    attempt: int
    job_id: str | None
    restart: int = 0
    """How often SLURM had started the job again."""
    released: bool = False

    @classmethod
    def this_process(cls, attempt: int) -> "Holder":
        """This process as a holder; job and restart are SLURM's where there are any."""
        pid = os.getpid()
        start = _process_start(pid) or ""
        job, restart = os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        return cls(socket.gethostname(), _machine(), pid, start, attempt, job, restart)

    def is_dead(self) -> bool:
        """Whether the process is known to have ended: only where it ran on this machine can that be known."""
        return self.machine == _machine() and _process_start(self.pid) != self.process_start

    def has_successor(self, other: "Holder") -> bool:
        """Whether the other belongs to a later start of the same job: SLURM starts a job again once it has given the
        first attempt up, even where a machine that is cut off still runs it."""
        return self.job_id is not None and self.job_id == other.job_id and self.restart < other.restart

    def __str__(self) -> str:
        job = f" of job {self.job_id}" if self.job_id else ""
        return f"process {self.pid} on {self.host}{job} (attempt {self.attempt})"


class RunLock:
    """Context manager that holds a run folder for one process and shows signs of life while it does.

    Args:
        folder: the run folder; it is made if it is not there.
        attempt: number of this attempt at the run, for messages.
        stale_after_s: age of the last sign of life, seconds, after which a holder on another machine counts as dead.
        heartbeat_s: time between signs of life, seconds; well below `stale_after_s`.
        wait_s: how long to wait for the lock, seconds. A job that was moved to another machine after its first one
            died waits a little longer than `stale_after_s`.

    Raises:
        UserError: on entering, if another process holds the run.
    """

    def __init__(
        self,
        folder: Path,
        *,
        attempt: int = 0,
        stale_after_s: float = STALE_AFTER_S,
        heartbeat_s: float = 5,
        wait_s: float = 0,
    ) -> None:
        if not 0 < heartbeat_s * 2 < stale_after_s:
            raise ValueError(
                f"heartbeat_s ({heartbeat_s}) must be below half of stale_after_s ({stale_after_s})"
            )
        self._run, self._folder = folder, folder / "lock"
        self._attempt, self._stale_after_s, self._heartbeat_s = attempt, stale_after_s, heartbeat_s
        self._wait_s = wait_s
        self._own: Path | None = None
        self._lost, self._released = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat_until_released, name="run lock", daemon=True)

    def __enter__(self) -> "RunLock":
        deadline = time.monotonic() + self._wait_s
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            while (problem := self._try_to_take()) is not None:
                if time.monotonic() >= deadline:
                    raise problem
                time.sleep(_POLL_S)
        except OSError as error:
            raise UserError(
                f"the run cannot be locked: {error.strerror or error}",
                where=self._folder,
                fix="make the run folder writable, or choose another with run.folder=FOLDER",
            ) from error
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._thread.join(timeout=self._heartbeat_s)  # it may hang with the file system
        # The file stays, marked as released: numbers must never be used twice.
        if self._own is not None and not self.lost:
            with suppress(OSError):
                holder = asdict(Holder.this_process(self._attempt)) | {"released": True}
                temporary = self._own.with_suffix(f".{os.getpid()}.tmp")
                temporary.write_text(json.dumps(holder))
                temporary.replace(self._own)

    @property
    def lost(self) -> bool:
        """Whether another process has taken the run over: this one must write nothing more into it."""
        # looked up at once: a process that was cut off or stopped may be asked before its heartbeat has run again
        if not self._lost.is_set():
            self._beat()
        return self._lost.is_set()

    def _try_to_take(self) -> UserError | None:
        """Create the next number if the highest may be taken over; else say who holds it."""
        numbers = self._numbers()
        highest = max(numbers, default=0)
        if highest and (problem := self._held_by_another(self._path(highest))) is not None:
            return problem
        own = self._path(highest + 1)
        try:
            handle = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return self._held_by_another(own) or self._try_to_take()
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(asdict(Holder.this_process(self._attempt)), file)
        except OSError:  # an empty file would keep everybody out until it is stale
            own.unlink(missing_ok=True)
            raise
        if max(self._numbers(), default=0) != highest + 1:  # others took and left numbers since we looked
            own.unlink(missing_ok=True)
            return self._try_to_take()
        for number in numbers:
            self._path(number).unlink(missing_ok=True)
        self._own = own
        return None

    def _held_by_another(self, path: Path) -> UserError | None:
        try:
            with path.open() as file:
                content = file.read()
                beat = os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None
        try:
            holder = Holder(**json.loads(content))
        except (ValueError, TypeError):  # created this moment, or its process died before it wrote its name
            holder = None
        if holder is not None and (
            holder.released or holder.is_dead() or holder.has_successor(Holder.this_process(self._attempt))
        ):
            return None
        age = max(0.0, self._file_system_now() - beat)
        here = holder is not None and holder.machine == _machine()
        if not here and age > self._stale_after_s:
            return None
        end = f"`scancel {holder.job_id}`" if holder is not None and holder.job_id else "end that process"
        later = (
            ""
            if here
            else f"; a holder that died counts as gone {self._stale_after_s:g} s after its last sign"
        )
        return UserError(
            f"the run is being trained by {holder or 'a process that has not said its name yet'}, "
            f"whose last sign of life is {age:.0f} s old",
            where=self._run,
            fix=f"wait for it, or {end} and start again{later}",
        )

    def _beat_until_released(self) -> None:
        while not self._released.wait(self._heartbeat_s) and not self._lost.is_set():
            self._beat()

    def _beat(self) -> None:
        assert self._own is not None
        try:
            os.utime(self._own)
            if max(self._numbers(), default=0) > int(self._own.stem):
                self._lost.set()
        except FileNotFoundError:
            self._lost.set()
        except OSError:
            pass  # the file system is away for now: whether anybody took over shows when it is back

    def _numbers(self) -> list[int]:
        return [int(path.stem) for path in self._folder.glob("*.json") if path.stem.isdigit()]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.json"

    def _file_system_now(self) -> float:
        with tempfile.TemporaryFile(dir=self._folder) as probe:
            return os.fstat(probe.fileno()).st_mtime


def _process_start(pid: int) -> str | None:
    """Start time of a live process in clock ticks since boot; None if there is none or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def _machine() -> str:
    """What a process id is unique in: one boot of one kernel, one namespace of process ids."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def is_held(folder: Path) -> bool:
    """Whether a run's folder is held by a process that is alive as far as can be told from here."""
    return living_holder(folder) is not None


def living_holder(folder: Path) -> Holder | None:
    """Who holds a run's folder and is alive as far as can be told from here; None: nobody."""
    newest = max((folder / "lock").glob("*.json"), default=None)
    if newest is None:
        return None
    try:
        holder, beat = Holder(**json.loads(newest.read_text())), newest.stat().st_mtime
    except (OSError, ValueError, TypeError):
        return None
    alive = not holder.released and not holder.is_dead() and time.time() - beat < STALE_AFTER_S
    return holder if alive else None
