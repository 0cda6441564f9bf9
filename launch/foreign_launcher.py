"""Tells users who start `all4one` through torchrun, srun or mpirun what to run instead. Loads no torch."""

import os
import sys
from collections.abc import Mapping

from data_pipelines.errors import UserError
from trainer.runs.end_reasons import ExitCode


def refuse_foreign_launcher() -> None:
    """Raise a UserError if another launcher has started this command several times.

    Each copy would start its own processes, so that N copies would train the same run N times. The first copy raises,
    and the others exit without a word, so that the message appears once.
    """
    found = _launcher(os.environ)
    if found is None:
        return
    name, rank = found
    if rank != "0":
        sys.exit(ExitCode.USER_ERROR)
    raise UserError(
        f"{name} has started several copies of all4one, but all4one starts its own processes",
        fix="run the command once: `all4one train CONFIG --nproc N` on this machine, or `all4one submit CONFIG "
        "--nodes N --gpus-per-node G` on a cluster; resume, eval, profile and study take the same options",
    )


def _launcher(environment: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the launcher that has started several copies, and the rank of this copy. None: there is none."""
    if "TORCHELASTIC_RUN_ID" in environment:
        return "torchrun", environment.get("RANK", "0")
    for name, size, rank in (
        ("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
        (_of_pmi(environment), "PMI_SIZE", "PMI_RANK"),
        ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ):
        # `srun --pty` opens a shell, which is one process whatever the step has.
        if int(environment.get(size) or 0) > 1 and "SLURM_PTY_PORT" not in environment:
            return name, environment.get(rank, "0")
    return None


def _of_pmi(environment: Mapping[str, str]) -> str:
    """Return the launcher that has set the variables of PMI: `srun --mpi=pmi2` sets them too, with the step's values.

    In an allocation, mpirun starts its own daemons through srun, whose step has another number of tasks.
    """
    pairs = (("PMI_SIZE", "SLURM_STEP_NUM_TASKS"), ("PMI_RANK", "SLURM_PROCID"))
    return "srun" if all(environment.get(one) == environment.get(other) for one, other in pairs) else "mpirun"
