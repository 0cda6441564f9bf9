"""Settings of SLURM jobs: the `slurm:` section of a recipe."""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from data_pipelines.settings import Settings

_UNITS = {"": 1, "m": 1, "h": 60, "d": 24 * 60}
_MOUNT = re.compile(r"/[^:,]*(:/[^:,]*(:(ro|rw))?)?")
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
    """Resources and behavior of a SLURM job. None of these settings changes what is learned."""

    first_names = {"signal_before": "signal_lead_seconds"}
    several_lines = frozenset({"setup"})

    nodes: int = Field(1, ge=1)
    """Number of nodes."""
    gpus_per_node: int = Field(0, ge=0)
    """GPUs on each node. 0: the job runs on CPUs."""
    tasks_per_node: int = Field(0, ge=0)
    """Processes on each node. 0: one for each GPU, or one if there is no GPU."""
    cpus_per_task: int = Field(0, ge=0)
    """CPU cores for each process. 0: the cluster's default."""
    time: str = "60m"
    """Time limit of each attempt: minutes, hours or days (`90m`, `12h`, `2d`), or a format of sbatch in quotes."""
    partition: str = ""
    """SLURM partition. Empty: the cluster's default."""
    account: str = ""
    """Account to charge. Empty: the user's default."""
    qos: str = ""
    """Quality of service. Empty: the user's default."""
    constraint: str = ""
    """Features that the nodes must have."""
    exclude: str = ""
    """Nodes to exclude, such as `node[3-5],node9`."""
    mem: str = Field("", pattern=r"^(\d+[KMGT]?)?$")
    """Memory of each node, such as `64G`. Empty: the cluster's default. 0: all memory."""
    setup: tuple[str, ...] = ()
    """Shell lines that run on the first node before the processes start (`module load cuda`)."""
    srun_args: tuple[str, ...] = ()
    """Additional arguments of srun."""
    extra: dict[str, str | int | bool] = Field(default_factory=dict)
    """Additional sbatch options by name, without leading dashes (`mail-type: END`)."""
    container: str = ""
    """Image in which the processes run: a file (`images/all4one.sif`), a folder, or the address of an image that the
    runtime understands (`docker://…` for Apptainer). It must hold this package. Empty: no container."""
    container_runtime: Literal["pyxis", "apptainer", "none"] = "none"
    """What runs the container: the command `apptainer` on the nodes, or Pyxis, a plugin that gives srun the option
    `--container-image`. `none`: the cluster has neither, and `container` must be empty."""
    container_mounts: tuple[str, ...] = ()
    """Additional folders of the host that the processes see, as `FOLDER` or `FOLDER:TARGET[:ro]`. The folders of the
    run, of the sets and of the cache, and files that settings name, are mounted anyway."""
    signal_lead_seconds: int = Field(120, ge=10, le=65535)
    """Seconds before the time limit at which the run saves a checkpoint and requests its own requeue."""
    max_requeues: int = Field(100, ge=0)
    """Maximum number of restarts of one job, for any reason. After that it requests no requeue."""
    recovery: Literal["in_place", "requeue"] = "in_place"
    """What happens if a rank is lost. `in_place`: an agent on each node starts the ranks again within seconds, from a
    step that another rank has saved. If the agent or the node is lost too, the job requests its restart. `requeue`:
    the job ends and requests its restart, which redoes the steps since the last checkpoint."""
    spares: int = Field(0, ge=0)
    """Most additional nodes that wait. With `recovery: in_place`, one of them takes the place of a node that fails. The
    job starts without them if they are not free."""
    shrink: bool | None = None
    """Whether a run without a spare goes on with the nodes that are left after the loss of one, if
    `train.global_batch` can be split over their ranks. Empty: only if its loss does not depend on the number of ranks.
    Sums of a smaller number of ranks differ in their last bits."""
    check_nodes: bool | None = None
    """Whether a job checks its nodes before its processes start: devices, memory, JPEG decode, the disk of the set and
    the links between nodes. A spare takes the place of a bad node. Empty: only if the job has two or more nodes, spares
    included. With `recovery: requeue` there is no check."""
    check_tolerance: float = Field(0.2, gt=0, lt=1)
    """Fraction of the median of all nodes by which a rate of a node may be lower in a check of nodes, at the start of a
    job or by `all4one doctor --nodes`."""
    chain: int = Field(1, ge=1, le=1000)
    """Number of jobs to queue one after the other. Each job resumes the run. Use it on clusters that forbid requeues.
    Above 1, no job requests a requeue."""

    @field_validator("time", mode="before")
    @classmethod
    def _with_unit(cls, value: Any) -> Any:
        # To sbatch a bare number is minutes, but hours are what most users mean.
        if isinstance(value, int):
            raise ValueError(f"needs a unit, such as {value}m or 12h, or a format of sbatch, such as 1:30:00")
        return value

    @field_validator("container")
    @classmethod
    def _at_one_place(cls, image: str) -> str:
        """Return an image that is a file under a path that means the same in every working directory."""
        if not image or "://" in image or not (image.startswith(("/", ".", "~")) or Path(image).exists()):
            return image
        return str(Path(image).expanduser().absolute())

    @model_validator(mode="after")
    def _fits(self) -> "SlurmSettings":
        if self.signal_lead_seconds >= 60 * self.minutes:
            raise ValueError(
                f"signal_lead_seconds ({self.signal_lead_seconds} s) must be below the time limit ({self.time})"
            )
        if self.container and self.container_runtime == "none":
            raise ValueError(
                "container needs container_runtime: apptainer or pyxis, whichever the cluster has"
            )
        if odd := next((one for one in self.container_mounts if not _MOUNT.fullmatch(one)), None):
            raise ValueError(
                f"container_mounts must have absolute paths, as /data or /data:/mnt:ro, not {odd!r}"
            )
        if 0 < self.gpus_per_node < self.tasks_per_node:
            raise ValueError(
                f"tasks_per_node ({self.tasks_per_node}) must not exceed gpus_per_node ({self.gpus_per_node}): each "
                "process needs its own GPU"
            )
        if taken := sorted(name for name in self.extra if name.replace("_", "-") in _OWN_OPTIONS):
            raise ValueError(
                f"extra must not set {', '.join(taken)}: use the setting of that name, or leave it out"
            )
        return self

    @property
    def minutes(self) -> int:
        """Return the time limit in minutes, rounded up."""
        if match := re.fullmatch(r"(\d+)([mhd]?)", self.time):
            minutes = int(match[1]) * _UNITS[match[2]]
        elif match := re.fullmatch(r"(?:(\d+)-(\d+)|(\d+)):(\d\d)(?::(\d\d))?", self.time):
            days, *parts = (int(part or 0) for part in (match[1], match[2] or match[3], match[4], match[5]))
            if match[1] is None and match[5] is None:  # MM:SS
                parts = [0, *parts[:2]]
            minutes = days * 24 * 60 + parts[0] * 60 + parts[1] + (parts[2] > 0)
        else:
            raise ValueError(f"time must look like 90m, 12h, 2d, 12:00:00 or 1-00:00:00, not {self.time!r}")
        if minutes == 0:
            raise ValueError("time must not be 0")
        return minutes

    @property
    def tasks(self) -> int:
        """Number of processes on each node."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def requeues(self) -> int:
        """Number of restarts that a job may request."""
        return self.max_requeues if self.chain == 1 else 0

    @property
    def ranks(self) -> int:
        """Total number of processes."""
        return self.nodes * self.tasks
