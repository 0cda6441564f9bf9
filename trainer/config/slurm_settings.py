"""Settings of jobs on a SLURM cluster: what a recipe's `slurm:` section may say."""

import re
from typing import Any

from pydantic import Field, field_validator, model_validator

from data_pipelines.settings import Settings

_UNITS = {"": 1, "m": 1, "h": 60, "d": 24 * 60}
_OWN_OPTIONS = {
    "nodes",
    "gpus-per-node",
    "ntasks-per-node",
    "cpus-per-task",
    "time",
    "partition",
    "account",
    "qos",
    "constraint",
    "exclude",
    "mem",
    "signal",
    "requeue",
    "output",
    "error",
    "open-mode",
    "job-name",
    "array",
}


class SlurmSettings(Settings):
    """What a job asks of the cluster, and how it behaves there. Nothing of it changes what is learned."""

    first_names = {"signal_before": "signal_lead_seconds"}

    nodes: int = Field(1, ge=1)
    """Machines."""
    gpus_per_node: int = Field(0, ge=0)
    """GPUs of each machine; 0: the job runs on CPUs."""
    tasks_per_node: int = Field(0, ge=0)
    """Processes on each machine; 0: one for each GPU, or one where there is none."""
    cpus_per_task: int = Field(0, ge=0)
    """Cores of each process; 0: the cluster's default."""
    time: str = "60m"
    """Time limit of an attempt: minutes, hours or days (`90m`, `12h`, `2d`), or sbatch's own forms in quotes."""
    partition: str = ""
    """Partition; empty: the cluster's default."""
    account: str = ""
    """Account that is charged; empty: the user's default."""
    qos: str = ""
    """Quality of service; empty: the user's default."""
    constraint: str = ""
    """Features that the machines must have."""
    exclude: str = ""
    """Machines that are left out, such as `node[3-5],node9`."""
    mem: str = Field("", pattern=r"^(\d+[KMGT]?)?$")
    """Memory of each machine, such as `64G`; empty: the cluster's default; 0: all of it."""
    setup: tuple[str, ...] = ()
    """Shell lines that run before the processes, on the first machine (`module load cuda`)."""
    srun_args: tuple[str, ...] = ()
    """Further arguments of srun."""
    extra: dict[str, str | int | bool] = Field(default_factory=dict)
    """Further options of sbatch by name, without dashes before it (`mail-type: END`)."""
    signal_lead_seconds: int = Field(120, ge=10, le=65535)
    """Seconds before the time limit at which the run saves and asks for its own requeue."""
    max_requeues: int = Field(100, ge=0)
    """Restarts of one job, for whatever reason, after which it asks for no more."""
    chain: int = Field(1, ge=1, le=1000)
    """Jobs that are queued one after the other, each going on with the run; for clusters that forbid requeues. Above 1,
    no job asks for its requeue."""

    @field_validator("time", mode="before")
    @classmethod
    def _with_unit(cls, value: Any) -> Any:
        # YAML reads 1:30:00 as a number in base 60, which nobody can tell from minutes afterwards
        if isinstance(value, int):
            raise ValueError(f"needs a unit, such as {value}m or 12h; sbatch's own forms need quotes")
        return value

    @model_validator(mode="after")
    def _fits(self) -> "SlurmSettings":
        if self.signal_lead_seconds >= 60 * self.minutes:
            raise ValueError(
                f"signal_lead_seconds ({self.signal_lead_seconds} s) must be below the time limit ({self.time})"
            )
        if 0 < self.gpus_per_node < self.tasks_per_node:
            raise ValueError(
                f"tasks_per_node ({self.tasks_per_node}) must not exceed gpus_per_node ({self.gpus_per_node}): each "
                "process has a GPU of its own"
            )
        if taken := sorted(name for name in self.extra if name.replace("_", "-") in _OWN_OPTIONS):
            raise ValueError(f"extra may not hold {', '.join(taken)}: use the setting of that name, or none")
        return self

    @property
    def minutes(self) -> int:
        """The time limit in minutes, rounded up."""
        if match := re.fullmatch(r"(\d+)([mhd]?)", self.time):
            minutes = int(match[1]) * _UNITS[match[2]]
        elif match := re.fullmatch(r"(?:(\d+)-(\d+)|(\d+)):(\d\d)(?::(\d\d))?", self.time):
            days, *parts = (int(part or 0) for part in (match[1], match[2] or match[3], match[4], match[5]))
            if match[1] is None and match[5] is None:  # MM:SS
                parts = [0, *parts[:2]]
            minutes = days * 24 * 60 + parts[0] * 60 + parts[1] + (parts[2] > 0)
        else:
            raise ValueError(f"time must be such as 90m, 12h, 2d, 12:00:00 or 1-00:00:00, not {self.time!r}")
        if minutes == 0:
            raise ValueError("time must not be 0")
        return minutes

    @property
    def tasks(self) -> int:
        """Processes on each machine."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def requeues(self) -> int:
        """Restarts that a job may ask for."""
        return self.max_requeues if self.chain == 1 else 0

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return self.nodes * self.tasks
