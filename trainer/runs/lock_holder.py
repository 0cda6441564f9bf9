"""The holder of a run's lock, as recorded in the lock's file, and whether it lives."""

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Holder:
    """The holder of a lock, as recorded in its file."""

    host: str
    machine: str
    """Identifies the boot and the container. It differs between two hosts with one name."""
    pid: int
    process_start: str
    attempt: int
    job_id: str | None
    restart: int = 0
    """How often SLURM had restarted the job."""
    released: bool = False
    interactive: bool = False
    """Whether a user started the process inside of the job, such as in a shell of salloc or `srun --pty`. The end
    of the job would end more than the process."""

    @classmethod
    def this_process(cls, attempt: int) -> "Holder":
        """Return this process as a holder. Job and restart come from SLURM, if it runs under SLURM."""
        pid = os.getpid()
        start = process_start(pid) or ""
        job, restart = os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        interactive = job is not None and "SUBMITIT_EXECUTOR" not in os.environ
        return cls(
            socket.gethostname(), this_machine(), pid, start, attempt, job, restart, interactive=interactive
        )

    @classmethod
    def read(cls, content: bytes) -> "Holder | None":
        """Return the holder in the content of a lock's file. None: it is empty or damaged."""
        try:
            found = cls(**json.loads(content))
        except (ValueError, TypeError, RecursionError):
            return None
        numbers, texts = (
            (found.pid, found.attempt, found.restart),
            (found.host, found.machine, found.process_start),
        )
        sound = all(type(number) is int for number in numbers) and all(
            isinstance(text, str) for text in texts
        )
        flags = isinstance(found.released, bool) and isinstance(found.interactive, bool)
        return found if sound and flags else None

    def is_dead(self) -> bool:
        """Whether the process is known to have ended. This can be known only if it ran on this node."""
        return self.machine == this_machine() and process_start(self.pid) != self.process_start

    def has_successor(self, other: "Holder") -> bool:
        """Whether the other holder belongs to a later start of the same job. SLURM restarts a job once it has given up
        the first start, even if a node that is cut off still runs it."""
        return self.job_id is not None and self.job_id == other.job_id and self.restart < other.restart

    def __str__(self) -> str:
        job = f" of job {self.job_id}" if self.job_id else ""
        return f"process {self.pid} on {self.host}{job} (attempt {self.attempt})"


def lock_numbers(run: Path) -> list[int]:
    """Return the numbers of the locks in a run folder. The highest one holds."""
    return [int(path.stem) for path in (run / "lock").glob("*.json") if path.stem.isdecimal()]


def lock_file(run: Path, number: int) -> Path:
    """Return the file of the lock with a number in a run folder."""
    return run / "lock" / f"{number:08d}.json"


def process_start(pid: int) -> str | None:
    """Return the start time of a process in clock ticks since boot. None if it does not exist or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def this_machine() -> str:
    """Return the scope in which a process id is unique: one boot of one kernel and one namespace of process ids."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
