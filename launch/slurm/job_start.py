"""One start of a SLURM job, which may have several."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Start:
    """One start of a job by SLURM, which may restart it."""

    job: str
    restart: int

    @classmethod
    def this(cls) -> "Start":
        """Return the start of this process. The number of an array's element is the array's number and its own."""
        job = os.environ["SLURM_JOB_ID"]
        if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
            job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        return cls(job, int(os.environ.get("SLURM_RESTART_COUNT", "0")))

    def logs(self, run: Path) -> Path:
        """Return the folder of this start's output in a run's folder, with one file for each rank."""
        return run / "logs" / f"slurm_{self.job}_{self.restart}"


def start_line(restart: int | str) -> str:
    """Return the first line that a job's script prints at each start. SLURM appends the output of all starts to one
    file."""
    return f"all4one: start {restart} of this job"
