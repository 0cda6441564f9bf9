"""What commands that evaluate the backbones of a run have in common: their arguments, results file and processes."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import field_validator

from data_pipelines.cores import cores_per_process
from data_pipelines.files import require_writable
from data_pipelines.settings import Settings
from launch.local.preflight import require_devices
from launch.local.processes import launch
from trainer.networks.hub_weights import download_weights, hub_address
from trainer.runs.named_checkpoint import checkpoint_path


class BackboneJob(Settings):
    """The arguments that all these commands have."""

    command: ClassVar[str]
    """Name of the command."""
    results: ClassVar[str]
    """Name of the file of results, without `.json`."""
    worker: ClassVar[str]
    """Module that each process runs. Its argument is the job as JSON."""

    source: Path
    """Folder of a run or of a checkpoint, or an exported file. `RUN@STEP` and `RUN@best` name a checkpoint of a run,
    and `hf://ORG/NAME` an exported file on the Hugging Face hub."""
    backbone: str | None = None
    """The backbone to evaluate. None: all backbones."""
    out: Path | None = None
    """File for the results. None: `RESULTS.json` in a run's folder, `NAME.RESULTS.json` beside a file or checkpoint, or
    `NAME.RESULTS.json` in the working folder for a model on the hub."""

    @field_validator("source")
    @classmethod
    def _named(cls, source: Path) -> Path:
        address = hub_address(source)
        if address is None:
            return checkpoint_path(source)
        # All processes of the job then read one commit from the cache, without a network.
        return Path(str(download_weights(address).address))

    @property
    def source_name(self) -> str:
        """The source as the user writes it. A model on the hub has its commit."""
        return str(hub_address(self.source) or self.source)

    @property
    def place(self) -> Path:
        """File for the results."""
        if self.out is not None:
            return self.out
        if address := hub_address(self.source):
            return Path(f"{address.name}.{self.results}.json")
        if (self.source / "config.yaml").is_file():
            return self.source / f"{self.results}.json"
        # the full name, because step_00000014.1 and step_00000014 are two checkpoints
        path = self.source.resolve()
        return path.with_name(f"{path.name}.{self.results}.json")


def run_in_processes(job: BackboneJob, nproc: int) -> int:
    """Do a job in processes of its own, which print their errors themselves. Return the exit code.

    Raises:
        UserError: the results cannot be written, or there are more processes than GPUs.
    """
    require_writable(job.place)
    require_devices(nproc)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    logs = job.place.parent / "logs" / f"{job.command}_{stamp}_{os.getpid()}"
    return launch(job.worker, [job.model_dump_json()], nproc=nproc, logs=logs)


def use_own_cores() -> None:
    """Let torch use the cores of this process."""
    if "OMP_NUM_THREADS" not in os.environ:  # torch already uses this variable
        torch.set_num_threads(cores_per_process())
