import os
from collections.abc import Mapping

import pytest

from launch.slurm.submission_environment import for_submission, submission_environment

SCRIPT = """#!/bin/bash
#SBATCH --job-name=run
#SBATCH --partition=long
#SBATCH --time=120
#SBATCH --requeue
#SBATCH --mem=4G
srun --mem-per-cpu=1 python
"""


@pytest.mark.parametrize(
    ("shell", "kept"),
    [
        ({"SBATCH_PARTITION": "debug"}, False),
        ({"SBATCH_TIMELIMIT": "5"}, False),
        ({"SBATCH_NO_REQUEUE": "1"}, False),
        ({"SBATCH_MEM_PER_NODE": "1G"}, False),
        ({"SBATCH_MEM_PER_CPU": "1G"}, False),
        ({"SBATCH_WAIT": "1"}, False),
        ({"SBATCH_ARRAY_INX": "0-9"}, False),
        ({"SBATCH_ACCOUNT": "lab"}, True),
        ({"SBATCH_RESERVATION": "friday"}, True),
    ],
)
def test_options_of_the_shell_apply_only_where_the_run_sets_none(
    shell: Mapping[str, str], kept: bool
) -> None:
    environment, applied = for_submission(shell, SCRIPT)
    assert environment == (dict(shell) if kept else {})
    assert applied == ([f"{key}={value}" for key, value in shell.items()] if kept else [])


def test_a_job_passes_nothing_of_itself_to_a_job_that_is_submitted_inside_of_it() -> None:
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_RESTART_COUNT": "3",
        "SLURM_ARRAY_TASK_ID": "2",
        "SLURM_EXPORT_ENV": "NONE",
        "SLURMD_NODENAME": "a",
        "SUBMITIT_EXECUTOR": "slurm",
        "SLURM_STEP_ID": "0",
        "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
        "SLURM_MPI_TYPE": "none",
        "PMI_RANK": "1",
        "PMI_SIZE": "2",
        "PMIX_NAMESPACE": "x",
        "PMIX_SERVER_URI2": "x",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_UNIVERSE_SIZE": "2",
        "OMPI_MCA_orte_hnp_uri": "x",
        "OMPI_MCA_ess_base_vpid": "1",
        "PRTE_LAUNCHED": "1",
        "MV2_COMM_WORLD_RANK": "1",
        "MPI_LOCALRANKID": "1",
        "PMIX_RANK": "1",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "29500",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "ROLE_RANK": "1",
        "ROLE_NAME": "default",
        "ROLE_WORLD_SIZE": "2",
        "CROSS_RANK": "0",
        "CROSS_SIZE": "1",
        "LOCAL_SIZE": "2",
        "NODE_RANK": "0",
        "TORCHELASTIC_RUN_ID": "x",
    }
    user = {
        "PATH": "/bin",
        "SLURM_CONF": "/etc/slurm.conf",
        "RANKING": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HOME": "x",
        "ROLE_ARN": "arn:aws:iam::1:role/reader",
        "OMPI_MCA_btl_tcp_if_include": "ib0",
        "OMPI_MCA_pml": "ucx",
        "PMIX_MCA_gds": "hash",
    }
    assert for_submission(job | user, SCRIPT) == (user, [])


def test_settings_of_srun_in_the_shell_of_a_user_reach_the_job() -> None:
    user = {
        "SLURM_MPI_TYPE": "pmix",
        "SLURM_CPU_BIND": "none",
        "SLURM_TASK_PROLOG": "/etc/prolog",
        "SLURM_PMIX_DIRECT_CONN": "true",
        "PMI_FANOUT": "16",
    }
    allocation = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_MEM_PER_CPU": "1"}
    assert for_submission(user | allocation, SCRIPT) == (user, [])


def test_the_environment_is_as_before_after_the_block_also_after_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SBATCH_QOS", "fast")
    before = dict(os.environ)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            _fail_inside()
        assert dict(os.environ) == before
    assert capsys.readouterr().err.count("SBATCH_QOS=fast") == 1


def _fail_inside() -> None:
    with submission_environment(SCRIPT):
        assert "SLURM_JOB_ID" not in os.environ
        os.environ["NEW"] = "1"
        raise ZeroDivisionError
