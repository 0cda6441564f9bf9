"""A lock on a run folder. It keeps two jobs from training the same run, on one node or on several.

Holders are numbered files such as `lock/00000007.json`. The file with the highest number holds the lock, and lower ones
are void. To take over from holder n, which is dead or has released the lock, a process creates file n + 1. Exactly one
process can create it. No process ever takes a file from another one. Ages come from the time stamps of the file system,
so no clock of another node is trusted.
"""

import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from data_pipelines.errors import UserError
from trainer.runs.lock_holder import Holder, lock_file, lock_numbers, this_machine

STALE_AFTER_S = 60.0
"""Age of the last sign of life after which a holder on another node counts as dead, seconds."""
_POLL_S = 0.2
"""Time between attempts to take a lock while waiting for it, seconds."""


class RunLock:
    """Context manager that locks a run folder for one process and gives signs of life while it holds the lock.

    Args:
        folder: the run folder. It is created if it does not exist.
        attempt: number of this attempt at the run, for messages.
        stale_after_s: age of the last sign of life, seconds, after which a holder on another node counts as dead.
        heartbeat_s: time between signs of life, seconds. Must be below half of `stale_after_s`.
        wait_s: how long to wait for the lock, seconds. A job that moved to another node after its first node died must
            wait a little longer than `stale_after_s`.

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
        self._lost, self._silent = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

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
                fix="make the run folder writable, or choose another folder with run.folder=FOLDER",
            ) from error
        self._begin_to_beat()
        return self

    def __exit__(self, *_: object) -> None:
        self._end_beating()
        # The file stays and is marked as released, because a number must never be used twice.
        if self._own is not None and not self.lost:
            with suppress(OSError):
                holder = asdict(Holder.this_process(self._attempt)) | {"released": True}
                temporary = self._own.with_suffix(f".{os.getpid()}.tmp")
                temporary.write_text(json.dumps(holder))
                temporary.replace(self._own)

    @property
    def number(self) -> int:
        """Number of the held lock."""
        assert self._own is not None
        return int(self._own.stem)

    @contextmanager
    def without_thread(self) -> Iterator[None]:
        """Give no signs of life in this context, and have no thread, so that the process can fork."""
        self._end_beating()
        try:
            yield
        finally:
            self._begin_to_beat()

    def _begin_to_beat(self) -> None:
        self._silent.clear()
        self._thread = threading.Thread(target=self._beat_until_silent, name="run lock", daemon=True)
        self._thread.start()

    def _end_beating(self) -> None:
        self._silent.set()
        if self._thread is not None:
            self._thread.join(timeout=self._heartbeat_s)  # it may hang with the file system

    @property
    def lost(self) -> bool:
        """Whether another process has taken over the run. This process must then write nothing more into it."""
        # Check now: a process that was cut off or suspended may be asked before its next heartbeat.
        if not self._lost.is_set():
            self._beat()
        return self._lost.is_set()

    def require(self) -> None:
        """Raise a UserError if the lock is lost."""
        if self.lost:
            raise taken_over(self._run)

    def _try_to_take(self) -> UserError | None:
        """Create the next number if the highest one may be taken over. Otherwise return an error that names the
        holder."""
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
        except OSError:  # an empty file would block every process until it is stale
            own.unlink(missing_ok=True)
            raise
        if max(self._numbers(), default=0) != highest + 1:  # others took and left numbers meanwhile
            own.unlink(missing_ok=True)
            return self._try_to_take()
        for number in numbers:
            self._path(number).unlink(missing_ok=True)
        self._own = own
        return None

    def _held_by_another(self, path: Path) -> UserError | None:
        try:
            with path.open("rb") as file:
                content = file.read()
                beat = os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None
        holder = Holder.read(content)  # None: just created, or its process died before it wrote its name
        if holder is not None and (
            holder.released or holder.is_dead() or holder.has_successor(Holder.this_process(self._attempt))
        ):
            return None
        age = max(0.0, self._file_system_now() - beat)
        here = holder is not None and holder.machine == this_machine()
        if not here and age > self._stale_after_s:
            return None
        end = (
            f"cancel it with `scancel {holder.job_id}`"
            if holder is not None and holder.job_id and not holder.interactive
            else "end that process"
        )
        later = (
            ""
            if here
            else f". A process that died loses the lock {self._stale_after_s:g} s after its last sign of life"
        )
        return UserError(
            f"the run is being trained by {holder or 'a process that has not recorded its name yet'}, "
            f"whose last sign of life is {age:.0f} s old",
            where=self._run,
            fix=f"wait until it has ended, or {end} and start again{later}",
        )

    def _beat_until_silent(self) -> None:
        while not self._silent.wait(self._heartbeat_s) and not self._lost.is_set():
            self._beat()

    def _beat(self) -> None:
        assert self._own is not None
        try:
            os.utime(self._own)
            if max(self._numbers(), default=0) > self.number:
                self._lost.set()
        except FileNotFoundError:
            self._lost.set()
        except OSError:
            pass  # the file system is not available: a takeover shows when it is back

    def _numbers(self) -> list[int]:
        return lock_numbers(self._run)

    def _path(self, number: int) -> Path:
        return lock_file(self._run, number)

    def _file_system_now(self) -> float:
        with tempfile.TemporaryFile(dir=self._folder) as probe:
            return os.fstat(probe.fileno()).st_mtime


def taken_over(run: Path) -> UserError:
    """Return the error of a process whose run another one has taken over."""
    return UserError(
        "another process has taken over this run, because this process gave no sign of life for too long",
        where=run,
        fix="no action is needed. The other process resumes from the last checkpoint",
    )


def is_held(folder: Path) -> bool:
    """Whether a process that seems alive from this node holds the run's folder."""
    return living_holder(folder) is not None


def living_holder(folder: Path) -> Holder | None:
    """Return the holder of a run's folder if it seems alive from this node. None: there is no such holder."""
    newest = max((folder / "lock").glob("*.json"), default=None)
    if newest is None:
        return None
    try:
        holder, beat = Holder.read(newest.read_bytes()), newest.stat().st_mtime
    except OSError:
        return None
    alive = (
        holder is not None
        and not holder.released
        and not holder.is_dead()
        and time.time() - beat < STALE_AFTER_S
    )
    return holder if alive else None
