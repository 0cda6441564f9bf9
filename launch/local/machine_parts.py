"""Equal parts of this machine, for several runs at the same time."""

import os

from data_pipelines.cores import MOST_CORES, usable_cores
from data_pipelines.devices import count_gpus
from data_pipelines.errors import UserError

_DEVICES = "CUDA_VISIBLE_DEVICES"


def machine_parts(count: int, nproc: int) -> list[dict[str, str]]:
    """Return the environment variables that give each of some runs its part of this machine.

    A part has its own GPUs, one for each process, and its number of cores. The system places the processes on the
    cores.

    Args:
        count: number of runs at the same time.
        nproc: processes of each run.

    Raises:
        UserError: this machine has GPUs, but too few.
    """
    cores, gpus = usable_cores(), count_gpus()
    if 0 < gpus < count * nproc:
        raise UserError(
            f"{count} runs with {nproc} processes each need {count * nproc} GPUs, and this machine has {gpus}",
            where="--parallel",
            fix=f"use --parallel {gpus // nproc} or less" if gpus >= nproc else f"use --nproc {gpus} or less",
        )
    share = {MOST_CORES: str(max(1, cores // count))}
    if not gpus:
        return [share] * count
    visible = os.environ.get(_DEVICES, ",".join(map(str, range(gpus)))).split(",")
    starts = range(0, count * nproc, nproc)
    return [share | {_DEVICES: ",".join(visible[start : start + nproc])} for start in starts]
