from pathlib import Path
from typing import Any

import pytest

from data_pipelines.errors import UserError
from launch.slurm.submission import SlurmSubmission, agents_warning, cpu_warning
from trainer.config.slurm_settings import SlurmSettings
from trainer.runs.run_folder import RunFolder


@pytest.mark.parametrize(
    ("gpus", "cores", "few"), [(0, 0, False), (0, 2, False), (8, 8, False), (8, 0, True)]
)
def test_jobs_of_gpus_should_say_how_many_cores_they_need(gpus: int, cores: int, few: bool) -> None:
    assert bool(cpu_warning(SlurmSettings(gpus_per_node=gpus, cpus_per_task=cores))) == few


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"extra": {"gpus_per_task": 1}}, "--gpus-per-task"),
        ({"srun_args": ("--tres-per-task=gpu:1", "--mpi=none")}, "--tres-per-task"),
        ({"extra": {"mail-type": "END"}, "srun_args": ("--mpi=none",)}, ""),
        ({"extra": {"gpus-per-task": 1}, "recovery": "requeue"}, ""),
    ],
)
def test_resources_of_each_task_leave_no_place_for_agents(settings: dict[str, Any], named: str) -> None:
    assert named in agents_warning(SlurmSettings(**settings))
    assert bool(agents_warning(SlurmSettings(**settings))) == bool(named)


@pytest.mark.parametrize("setting", ["spares", "check_nodes"])
def test_what_only_agents_can_do_is_refused_without_them(tmp_path: Path, setting: str) -> None:
    settings = SlurmSettings(recovery="requeue", **{setting: 1})
    submission = SlurmSubmission([RunFolder(tmp_path)], settings, tmp_path)
    with pytest.raises(UserError, match=f"slurm.{setting}=.* needs an agent on each node") as refused:
        submission.script()
    assert "slurm.recovery=in_place" in str(refused.value.fix)


@pytest.mark.parametrize(
    ("spares", "recovery", "asked"), [(0, "in_place", "4"), (2, "in_place", "4-6"), (0, "requeue", "4")]
)
def test_spares_are_the_upper_end_of_a_range_so_that_no_job_waits_for_them(
    tmp_path: Path, spares: int, recovery: str, asked: str
) -> None:
    settings = SlurmSettings(nodes=4, spares=spares, recovery=recovery)
    lines = SlurmSubmission([RunFolder(tmp_path)], settings, tmp_path).script().splitlines()
    assert f"#SBATCH --nodes={asked}" in lines
    # SLURM takes no more nodes than there are tasks, if it knows the tasks of each node.
    assert ("--ntasks-per-node" in "\n".join(lines).partition("srun")[0]) == (not spares)
