"""The environment in which jobs are submitted, also from inside of a job or an interactive shell.

`sbatch` takes options from variables such as SBATCH_PARTITION, which it prefers to the options in a script, and passes
the whole environment to the job. In a job's shell, this includes the number, the restarts and the rank of that job.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_OF_THE_CLUSTER = frozenset(
    {
        "SLURM_CONF",
        "SLURM_CONF_SERVER",
        "SLURM_JWT",
        "SLURM_CLUSTERS",
        "SLURM_DEBUG_FLAGS",
        "SLURM_TIME_FORMAT",
    }
)
"""Variables that say how to reach the cluster."""
_OF_SRUN = re.compile(
    r"SLURM_(MPI_TYPE|CPU_BIND|MEM_BIND|GPU_BIND|TASK_PROLOG|TASK_EPILOG|WAIT|KILL_BAD_EXIT|LABELIO|UNBUFFEREDIO|DEBUG|"
    r"COMPRESS|BCAST|BCAST_EXCLUDE|SEND_LIBS|DISABLE_STATUS|EXIT_ERROR|EXIT_IMMEDIATE|PMIX_\w+|PMI_KVS_\w+)$|"
    r"PMI_(FANOUT|FANOUT_OFF_HOST|TIME)$"
)
"""Settings of srun in a user's shell. In a job step, srun has set the same variables to describe that step. All others
that begin with SLURM describe a job or one of its steps."""
_OF_A_JOB = re.compile(
    r"SLURM_|SLURMD_|SRUN_|SALLOC_|SUBMITIT_|"
    # MPI's launchers. OMPI_MCA_ and PMIX_MCA_ are settings, except for those that mpirun sets for its processes.
    r"PMI_|PMIX_(?!MCA_)|PRTE_|OMPI_(?!MCA_)|OMPI_MCA_(orte_|ess(_|$)|initial_wdir$)|MPI_LOCAL(RANKID|NRANKS)$|"
    r"MV2_COMM_WORLD_|PALS_|"
    # torchrun, the launcher of DeepSpeed, and ours
    r"TORCHELASTIC_|((GROUP|ROLE|LOCAL|CROSS)_)?(RANK|WORLD_SIZE)$|ROLE_NAME$|(LOCAL|CROSS)_SIZE$|NODE_RANK$|"
    r"MASTER_(ADDR|PORT)$|ALL4ONE_(PARENT|STORE_SOCKET|QUEUED_BY)$"
)
"""Variables that identify a job, a step or a process, or describe it."""
_OPTIONS = {"TIMELIMIT": "time", "ARRAY_INX": "array", "MEM_PER_NODE": "mem", "ACCTG_FREQ": "acctg-freq"}
"""Options of sbatch whose variables have another name."""
_EXCLUDES = {"requeue": "no-requeue", "no-requeue": "requeue", "mem-per-cpu": "mem", "mem-per-gpu": "mem"}
"""Options that say the same as another one, or its opposite."""
_NEVER = frozenset({"SBATCH_WAIT", "SBATCH_ARRAY_INX"})
"""Variables that would change how the command itself works."""
_TOLD = set[str]()


def for_submission(environment: Mapping[str, str], script: str) -> tuple[dict[str, str], list[str]]:
    """Return the environment for submitting a script, and the options of the user's shell that apply to the job.

    Args:
        environment: the environment of the user's shell.
        script: the sbatch script. What it sets wins over the shell.
    """
    in_a_step = "SLURM_STEP_ID" in environment
    given = set(re.findall(r"^#SBATCH --([\w-]+)", script, flags=re.MULTILINE))
    kept: dict[str, str] = {}
    applied: list[str] = []
    for name, value in environment.items():
        if name in _OF_THE_CLUSTER or (_OF_SRUN.match(name) and not in_a_step):
            kept[name] = value
        elif name.startswith("SBATCH_"):
            option = name.removeprefix("SBATCH_")
            option = _OPTIONS.get(option, option.lower().replace("_", "-"))
            if name not in _NEVER and option not in given and _EXCLUDES.get(option) not in given:
                kept[name] = value
                applied.append(f"{name}={value}")
        elif not _OF_A_JOB.match(name):
            kept[name] = value
    return kept, applied


@contextmanager
def submission_environment(script: str) -> Iterator[None]:
    """Give this process the environment for submitting a script, for the duration of the block.

    Options of the user's shell that apply to the job are printed once.
    """
    before = dict(os.environ)
    kept, applied = for_submission(before, script)
    for option in applied:
        if option not in _TOLD:
            _TOLD.add(option)
            print(
                f"notice: {option} of this shell applies to the job, because the run does not set it",
                file=sys.stderr,
            )
    os.environ.clear()
    os.environ.update(kept)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
